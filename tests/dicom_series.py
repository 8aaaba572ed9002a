"""DICOM series made up for tests: one file a slice under shuffled names, or one enhanced file, stored in any syntax."""

from collections.abc import Callable, Sequence
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIGIN = (-31.5, 42.25, -120.0)
SPACING = (2.5, 0.8, 0.7)
Alter = Callable[[int, Dataset], None]

GDCM_SYNTAXES = {
    "rle": gdcm.TransferSyntax.RLELossless,
    "jpeg lossless, first-order": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "jpeg lossless": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "jpeg-ls": gdcm.TransferSyntax.JPEGLSLossless,
    "jpeg-ls near-lossless": gdcm.TransferSyntax.JPEGLSNearLossless,
    "jpeg 2000 lossless": gdcm.TransferSyntax.JPEG2000Lossless,
    "jpeg 2000": gdcm.TransferSyntax.JPEG2000,
    "jpeg baseline": gdcm.TransferSyntax.JPEGBaselineProcess1,
    "big endian": gdcm.TransferSyntax.ExplicitVRBigEndian,
    "implicit": gdcm.TransferSyntax.ImplicitVRLittleEndian,
    "deflated": gdcm.TransferSyntax.DeflatedExplicitVRLittleEndian,
}
"""What GDCM can write, by name."""


def stored_values(shape: Sequence[int] = (12, 16, 20), *, n_bits: int = 12, seed: int = 0) -> np.ndarray:
    """Return whole numbers from 0 to all that ``n_bits`` hold, neighbours alike; uint16, or uint8 where that is enough."""
    walk = np.cumsum(np.random.default_rng(seed).integers(-40, 41, shape), axis=-1).astype(float)
    scaled = (walk - walk.min()) / (walk.max() - walk.min()) * ((1 << n_bits) - 1)
    return scaled.astype("uint8" if n_bits <= 8 else "uint16")


def write_series(
    folder: Path,
    values: np.ndarray | None = None,
    *,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    directions: Sequence[float] = AXIAL,
    rescale: Sequence[tuple[float, float]] | tuple[float, float] = (1, -1024),
    n_bits: int = 12,
    seed: int = 0,
    prefix: str = "IM",
    series: str | None = None,
    alter: Alter | None = None,
    **said: object,
) -> list[Path]:
    """Write one file per slice of ``values`` (z, y, x) as they are stored; return the paths in the order of z.

    Args:
        folder: Made where it is missing.
        values: uint16, or int16 for signed ones.
        spacing: Millimetre along z, y and x; z along the normal.
        origin: Of the first slice, as ImagePositionPatient has it.
        directions: As ImageOrientationPatient has them.
        rescale: Slope and intercept, of all or of each slice.
        n_bits: Bits stored.
        seed: Of names and numbers, which are shuffled.
        prefix: Of file names.
        series: SeriesInstanceUID.
        alter: Is given each slice's number and data before it is written.
        said: Elements of every slice, by keyword.
    """
    values = stored_values(n_bits=n_bits) if values is None else values
    folder.mkdir(exist_ok=True)
    shuffled = np.random.default_rng(seed).permutation(len(values))
    normal = np.cross(directions[:3], directions[3:])
    uids = {"SeriesInstanceUID": series or generate_uid(), "StudyInstanceUID": generate_uid()}
    uids["FrameOfReferenceUID"] = generate_uid()
    paths = []
    for z, plane in enumerate(values):
        data = image(plane, n_bits=n_bits)
        slope, intercept = rescale if np.ndim(rescale) == 1 else rescale[z]
        data.update({**uids, "SeriesDescription": "made up", "InstanceNumber": int(shuffled[z])})
        data.ImagePositionPatient = [float(v) for v in np.asarray(origin) + z * spacing[0] * normal]
        data.ImageOrientationPatient = list(directions)
        data.PixelSpacing = list(spacing[1:])
        data.SliceThickness = spacing[0]
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.update(said)
        if alter is not None:
            alter(z, data)
        paths.append(folder / f"{prefix}{shuffled[z]:04}")
        save(data, paths[-1])
    return paths


def image(plane: np.ndarray, *, n_bits: int) -> Dataset:
    """Return an image of one plane, or of frames, without any place."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = CTImageStorage, generate_uid(), "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Rows, data.Columns = plane.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * plane.itemsize, n_bits, n_bits - 1
    data.PixelRepresentation = int(plane.dtype.kind == "i")
    data.PixelData = plane.tobytes()
    return data


def save(data: Dataset, path: Path) -> None:
    """Write a dataset as a file of its own."""
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    if "PixelData" in data:
        data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    data.save_as(path, enforce_file_format=True)


def write_enhanced(path: Path, values: np.ndarray, *, order: Sequence[int], rescale=(1, -1024), n_bits: int = 12) -> Path:
    """Write slices (z, y, x) as the frames of one enhanced CT, stored in ``order``, axial, at the usual place."""
    data = image(values[list(order)], n_bits=n_bits)
    data.SOPClassUID, data.NumberOfFrames = EnhancedCTImageStorage, len(values)
    data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    shared, measures, plane, transform = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING[1:]), SPACING[0]
    plane.ImageOrientationPatient = list(AXIAL)
    transform.RescaleSlope, transform.RescaleIntercept = rescale
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([plane])
    shared.PixelValueTransformationSequence = Items([transform])
    data.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for z in order:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[0]]
        frame.PlanePositionSequence = Items([place])
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    save(data, path)
    return path


def stored_as(paths: Sequence[Path], syntax: str) -> None:
    """Store files in another syntax, in place, by GDCM."""
    for path in paths:
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_SYNTAXES[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change(), syntax
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write(), syntax


def encapsulated(
    paths: Sequence[Path], encode: Callable[[np.ndarray], bytes], uid: str, *, n_pieces: int = 1, has_table: bool = True
) -> None:
    """Store files in a syntax that GDCM does not write, or in several pieces a frame, in place."""
    for path in paths:
        data = pydicom.dcmread(path)
        frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
        coded = [encode(frame) for frame in frames]
        data.PixelData = pydicom.encaps.encapsulate(coded, fragments_per_frame=n_pieces, has_bot=has_table)
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = uid
        data.save_as(path, enforce_file_format=True)
