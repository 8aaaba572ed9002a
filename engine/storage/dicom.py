"""A DICOM series as one scan: axes (z, y, x), in Hounsfield units or what else its slopes make of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.storage.dicom_folder import series_files
from engine.storage.dicom_pixels import SeriesPixels
from engine.storage.dicom_slice import Slice, slices_of
from engine.storage.dicom_stack import stacked
from engine.storage.scan_file import ScanFile, oriented, steps_of


def open_dicom(place: Path, *, spacing: Sequence[float] | None = None, series: str | None = None) -> ScanFile:
    """Open a series of CT, MR, PET or the like; headers are read, and no pixels.

    Slices are files, or frames of enhanced multi-frame files. They are sorted by where they lie, never by name or
    number. Values are int16 where all slopes and intercepts are whole and every value that could be stored fits,
    else float32.

    Args:
        place: The folder, or one of the files in it.
        spacing: Millimetre per voxel along z, y and x, for a scan that does not say.
        series: SeriesInstanceUID, where the folder holds several.

    Raises:
        IngestError: If it is not one series of evenly spaced slices on one grid; the message says what it is.
    """
    given = None if spacing is None else steps_of((), given=spacing, path=place)
    files, notes = series_files(place, series=series)
    slices = [one for file in files for one in slices_of(file, spacing=None if given is None else given[1:])]
    stack = stacked(slices, place=place, step=None if given is None else given[0])
    pixels = SeriesPixels(stack.slices)
    return ScanFile(
        format="dicom",
        files=tuple(dict.fromkeys(one.file.path for one in stack.slices)),
        shape=(len(stack.slices), *stack.slices[0].shape),
        dtype=pixels.dtype,
        orientation=oriented(stack.affine, path=place),
        spacing=stack.spacing,
        read=pixels.read,
        close=pixels.close,
        described=_described(stack.slices),
        notes=(*notes, *_notes(stack.slices), *(("spacing was given by hand",) if spacing is not None else ())),
    )


def _described(slices: Sequence[Slice]) -> dict[str, Any]:
    """Return what refers to the series and its slices, in the order of z; frames are counted from 1."""
    first = slices[0].file
    named = {
        "series_instance_uid": "SeriesInstanceUID",
        "study_instance_uid": "StudyInstanceUID",
        "frame_of_reference_uid": "FrameOfReferenceUID",
        "modality": "Modality",
        "sop_class_uid": "SOPClassUID",
    }
    said: dict[str, Any] = {key: first.text(name) for key, name in named.items()}
    said["units"] = first.text("Units") or first.text("RescaleType")
    said["instances"] = [one.file.text("SOPInstanceUID") for one in slices]
    said["files"] = [one.file.path.name for one in slices]
    if any(one.file.n_frames > 1 for one in slices):
        said["frames"] = [one.frame + 1 for one in slices]
    return said


def _notes(slices: Sequence[Slice]) -> list[str]:
    first, found = slices[0].file, []
    if first.text("PhotometricInterpretation") == "MONOCHROME1":
        found.append("it is meant to be shown inverted (MONOCHROME1); values were kept")
    if first.text("Modality") == "CT" and "RescaleIntercept" not in first.data and first.n_frames == 1:
        found.append("it says no rescale intercept: values are as stored, and may not be Hounsfield units")
    return found
