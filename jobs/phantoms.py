"""Scans that are made up, with the truth beside them: a head as T1 shows it, and a trunk as CT shows it.

Ellipsoids and cylinders, told in millimetres and looked at on any grid, with noise of a fixed seed. They show that a
pipeline runs and that its numbers are right; they teach no anatomy.
"""

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Scan = NDArray[np.int16]
"""(z, y, x): z to the head, y to the front, x to the right (RAS+)."""
Labels = NDArray[np.uint8]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
"""Millimetre per voxel along z, y and x."""

SEED = 0
WHITE, GREY = 1, 2
GAS, BONE = 1, 2
LEAST = -1024
"""HU that scanners cut off at."""
HU = {"room": -1000, "fat": -90, "organs": 45, "gas": -920, "cortex": 650, "marrow": 130, "table": 60, "stone": 700}


def head(shape: Shape, spacing: Spacing) -> tuple[Scan, Labels]:
    """Return a T1 of a head, 0 to 255, and its tissue: white and grey matter; fluid, skull and scalp are 0."""
    z, y, x = millimetres(shape, spacing)
    away = np.sqrt((x / 68) ** 2 + (y / 82) ** 2 + (z / 66) ** 2)
    folds = np.sin(x / 5.5) * np.sin(y / 6.5) + np.sin(y / 5 + 1) * np.sin(z / 6)
    ventricles = ((np.abs(x) - 12) / 7) ** 2 + (y / 28) ** 2 + ((z - 6) / 11) ** 2 < 1
    is_brain, is_white = (away < 1 + 0.02 * folds) & ~ventricles, away < 0.8 + 0.09 * folds
    tissue = np.select([is_brain & is_white, is_brain], [WHITE, GREY]).astype(np.uint8)
    shells = [tissue == WHITE, tissue == GREY, away < 1.07, away < 1.16, away < 1.25]
    values = np.select(shells, [130.0, 92.0, 28.0, 10.0, 50.0], 2.0)
    return noisy(values, 4.0).clip(0, 255), tissue


def trunk(shape: Shape, spacing: Spacing) -> tuple[Scan, Labels]:
    """Return a CT of a trunk on a table in HU, and its labels: gas inside the body, and bone with its marrow.

    A spine, ribs, gas in the bowel, the tips of the lungs; and what is no organ, though as bright or dark: a
    stone in a kidney, and the room.
    """
    z, y, x = millimetres(shape, spacing)
    skin, muscle = np.hypot(x / 150, y / 105), np.hypot(x / 135, y / 90)
    values = np.select([muscle < 1, skin < 1], [HU["organs"], HU["fat"]], HU["room"]).astype(float)
    values[(np.abs(y + 118) < 4) & (np.abs(x) < 170)] = HU["table"]
    values[np.sqrt((x + 55) ** 2 + (y + 25) ** 2 + (z + 10) ** 2) < 4] = HU["stone"]
    high = z + 20 * np.sin(np.arctan2(y, x))
    ribs = (np.abs(np.hypot(x / 128, y / 84) - 1) < 0.045) & (np.abs((high % 30) - 15) < 5) & (z > 0) & (np.abs(x) > 40)
    spine = np.hypot(x / 20, (y + 58) / 16)
    arch = (np.abs(x) < 5) & (y > -88) & (y < -70) & ((z % 30) < 18)
    is_vertebra = (spine < 1) & ((z % 30) < 24)
    bone = is_vertebra | arch | ribs
    cortex = ribs | arch | (is_vertebra & ((spine > 0.82) | ((z % 30) < 3) | ((z % 30) > 21)))
    bowel = [(-60, 52, -20, 30, 14), (10, 60, -5, 36, 12), (70, 45, 10, 22, 16)]
    gas = np.zeros(shape, bool)
    for cx, cy, cz, wide, deep in bowel:
        gas |= ((x - cx) / wide) ** 2 + ((y - cy) / deep) ** 2 + ((z - cz) / 16) ** 2 < 1
    gas |= (((np.abs(x) - 70) / 42) ** 2 + (y / 62) ** 2 + ((z - 145) / 60) ** 2 < 1) & ~ribs
    values[gas] = HU["gas"]
    values[bone] = HU["marrow"]
    values[cortex] = HU["cortex"]
    return noisy(values, 18.0).clip(LEAST, None), np.select([bone, gas], [BONE, GAS]).astype(np.uint8)


def millimetres(shape: Shape, spacing: Spacing) -> list[NDArray[np.float64]]:
    """Return z, y and x of the voxels' centres from the middle of the scan, each (z, y, x); views."""
    steps = zip(shape, spacing, strict=True)
    return list(np.meshgrid(*((np.arange(n) - (n - 1) / 2) * step for n, step in steps), indexing="ij", copy=False))


def noisy(values: NDArray[np.float64], deviation: float) -> Scan:
    """Return values with noise, rounded."""
    return (values + np.random.default_rng(SEED).normal(0, deviation, values.shape)).round().astype(np.int16)


def affine_of(shape: Shape, spacing: Spacing) -> NDArray[np.float64]:
    """Return the matrix from voxel (x, y, z) to millimetre, its origin in the middle of the scan."""
    steps = np.array(spacing[::-1])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(shape[::-1]) - 1) / 2
    return affine


def write_nifti(path: Path, voxels: NDArray[np.generic], spacing: Spacing) -> None:
    """Write a scan as NIfTI."""
    nibabel.save(nibabel.Nifti1Image(voxels.T, affine_of(voxels.shape, spacing)), path)


def write_dicom(folder: Path, hu: Scan, spacing: Spacing) -> None:
    """Write a CT as a DICOM series, an image a plane: columns to the patient's left, rows to the back."""
    folder.mkdir(parents=True)
    rows = hu[:, ::-1, ::-1]
    corner = affine_of(hu.shape, spacing)[:3, 3]  # of the first row and column in LPS: the scan's middle is its origin
    uids = {name: generate_uid(entropy_srcs=[name, str(hu.shape)]) for name in ("series", "study", "frame")}
    for z, plane in enumerate(rows):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["image", str(hu.shape), str(z)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID = uids["study"], uids["series"]
        one.FrameOfReferenceUID, one.PositionReferenceIndicator = uids["frame"], ""
        one.Modality, one.Manufacturer, one.SeriesNumber, one.InstanceNumber = "CT", "made up", 1, z + 1
        one.SeriesDescription, one.PatientID, one.PatientName = "made up", "phantom", "Phantom^Trunk"
        one.PatientBirthDate = one.PatientSex = one.StudyDate = one.StudyTime = one.StudyID = one.AccessionNumber = ""
        one.ImagePositionPatient = [float(corner[0]), float(corner[1]), float(corner[2] + z * spacing[0])]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        one.Rows, one.Columns = plane.shape
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 0
        one.BitsAllocated, one.BitsStored, one.HighBit, one.RescaleSlope, one.RescaleIntercept = 16, 16, 15, 1, LEAST
        one.PixelData = (plane - LEAST).astype("<u2").tobytes()
        one.save_as(folder / f"{z:04d}.dcm", enforce_file_format=True)
