"""What a scanner shows of a made-up knee, and the files that it leaves: a DICOM series, or NIfTI."""

from pathlib import Path

import numpy as np
from knee import Grid, Knee, Points, Values, along, unit
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.ndimage import zoom

TONES = {"fat": 130, "muscle": 200, "fluid": 650, "cortex": 30, "cartilage": 420, "marrow": 90}
"""Magnitude of each tissue, about, in a fat-suppressed proton-density series."""

SOFTNESS = 0.6
"""Millimetre over which one tissue fades into the next: the scanner's point spread."""

BENDS = (12.0, 5.0, 1.2, 25.0)
"""Millimetre over which fat planes, flesh, marrow, and the coil's sensitivity change."""


def scanned(knee: Knee, grid: Grid) -> NDArray[np.uint16]:
    """Return the magnitudes of a knee on a grid, (z, y, x), 0 to about 1000; the same for the same knee and grid."""
    chance = np.random.default_rng((knee.seed, 2))
    tones = {name: tone * chance.uniform(0.9, 1.1) for name, tone in TONES.items()}
    planes, flesh, spongy, coil = (_smooth(grid, bend, chance) for bend in BENDS)
    shown = (tones["muscle"] * (1 + 0.08 * flesh)).astype(np.float32)
    _paint(shown, np.abs(planes) * 8 - 0.5, tones["fat"])
    _paint_knee(shown, knee, grid.points, tones=tones, flesh=flesh, spongy=spongy, chance=chance)
    shown *= np.exp(0.12 * coil)
    noise = np.float32(chance.uniform(8, 16))
    real, imaginary = (noise * chance.standard_normal(grid.shape, np.float32) for _ in range(2))
    return np.hypot(shown + real, imaginary).round().clip(0, 4095).astype(np.uint16)  # Rician, as magnitudes are


def _paint_knee(
    shown: Values,
    knee: Knee,
    points: Points,
    *,
    tones: dict[str, float],
    flesh: Values,
    spongy: Values,
    chance: np.random.Generator,
) -> None:
    """Lay over the flesh, one over the other: a bursa about the cap, its perichondrium, cartilage, cortex, marrow."""
    bone, cap = knee.distances(points)
    depth, normal = knee.depth(points)
    beside = 4 * along(unit(chance.normal(size=3)), normal)
    _paint(shown, np.maximum(cap - 1.8 * flesh, -1 - beside), tones["fluid"])
    _paint(shown, cap - 0.6, tones["cortex"])
    layers = 0.8 + 0.3 * np.clip(depth / knee.thickest, 0, 1) + 0.04 * spongy  # cartilage is brighter far from the bone
    _paint(shown, cap, tones["cartilage"] * layers)
    _paint(shown, bone, tones["cortex"])
    _paint(shown, bone + chance.uniform(0.8, 1.2), tones["marrow"] * (1 + 0.15 * spongy))


def _paint(shown: Values, distance: Values, tone: Values | float) -> None:
    """Lay a tissue over what is there, inside of its border, which is soft."""
    share = np.clip(0.5 - distance / SOFTNESS, 0, 1)
    shown += share * (tone - shown)


def _smooth(grid: Grid, bend: float, chance: np.random.Generator) -> Values:
    """Return noise that changes over ``bend`` millimetre, mostly from -1 to 1, float32."""
    knots = [max(4, round(n * step / bend) + 2) for n, step in zip(grid.shape, grid.spacing, strict=True)]
    coarse = chance.standard_normal(knots, np.float32)
    shares = [n / k for n, k in zip(grid.shape, knots, strict=True)]
    return np.asarray(zoom(coarse, shares, order=1, grid_mode=True, mode="nearest"))


# ---- the files ----------------------------------------------------------------------------------------------------


def write_series(folder: Path, voxels: NDArray[np.uint16], grid: Grid) -> None:
    """Write a DICOM series of magnitudes into a new folder, a file per slice, named without regard to their order."""
    folder.mkdir(parents=True)
    series, study, frame = (generate_uid(entropy_srcs=[what, str(grid)]) for what in ("series", "study", "frame"))
    order = np.random.default_rng(0).permutation(len(voxels))
    for name, index in enumerate(order):
        data = _slice(voxels[index], grid)
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.InstanceNumber = int(index) + 1
        place = (grid.affine @ (0, 0, index, 1))[:3] * (-1, -1, 1)  # DICOM is LPS+
        data.ImagePositionPatient = [f"{value:.10g}" for value in place]
        data.save_as(folder / f"IM{name:04}.dcm", enforce_file_format=True)


def _slice(pixels: NDArray[np.uint16], grid: Grid) -> Dataset:
    """Return a slice without its names and its place."""
    _, down, across = np.array(grid.axes) * (-1, -1, 1)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Made^Up", "KNEE", "", "O"
    data.Modality, data.SeriesDescription, data.BodyPartExamined = "MR", "sag pd fs 3d, made up", "KNEE"
    data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = data.Laterality = ""
    data.StudyDate, data.StudyTime, data.SeriesNumber, data.Manufacturer = "20260101", "120000", 1, "haloengine"
    data.ImageType, data.ScanningSequence, data.SequenceVariant = ["ORIGINAL", "PRIMARY"], "SE", "NONE"
    data.ScanOptions, data.MRAcquisitionType, data.RepetitionTime, data.EchoTime = "FS", "3D", "1200", "30"
    data.EchoTrainLength, data.PatientPosition, data.PositionReferenceIndicator = 40, "FFS", ""
    data.ImageOrientationPatient = [f"{value:.12g}" for value in (*across, *down)]
    data.PixelSpacing = [f"{step:.10g}" for step in grid.spacing[1:]]
    data.SliceThickness = data.SpacingBetweenSlices = f"{grid.spacing[0]:.10g}"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()
    return data


def write_nifti(path: Path, voxels: NDArray[np.generic], grid: Grid) -> None:
    """Write voxels (z, y, x) as NIfTI with the grid's affine."""
    file = Nifti1Image(voxels.transpose(2, 1, 0), grid.affine)
    file.header.set_xyzt_units("mm")
    file.to_filename(path)
