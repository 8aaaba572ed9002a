"""A source series of DICOM files: its headers by position, and which of them each plane of a label map lies on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from engine.errors import UsageError, VolumeError
from engine.export.affine import Affine, GridAffine
from engine.storage.orientation import KEY
from engine.storage.readable import Readable

NEAR = 0.15
"""Voxels, along each axis, by which corners may lie off the series' own: slices that are read as one grid lie off it by
up to a tenth."""

_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""DICOM counts millimetres to the left and to the back."""

_EMPTY_WHERE_ABSENT = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip
"""What every image must have, be it empty, and what some programs that strip names leave out altogether."""


@dataclass(frozen=True)
class OnSeries:
    """A label map laid on its source series, voxel for voxel."""

    headers: tuple[Dataset, ...]
    """Of the source image of each plane z, without pixels."""
    flips: tuple[bool, bool]
    """Whether y and x run against the rows and columns of the source images."""

    def laid(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return a plane (y, x) as rows and columns of its source image; a view."""
        return plane[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]


def read_series(folder: Path, *, uid: str | None, instances: Sequence[str] = ()) -> tuple[Dataset, ...]:
    """Return the headers of one series; pixels are not read.

    Args:
        folder: Where its files are, at any depth, among other files or not.
        uid: Of the series; None where the folder holds one alone.
        instances: The images that are wanted, in order; where it names none, or not all of them are there, all images
            are, by position along the normal of their planes.

    Raises:
        UsageError: If the folder holds no such series, several without a UID, or one that says not where it lies.
    """
    found = _by_series(folder)
    if uid is None and len(found) > 1:
        raise UsageError(
            f"one series is wanted, and '{folder}' holds {len(found)}: {_named(found)}; the label map does not say "
            "which is its own. Name a folder of that series alone."
        )
    if uid is not None and uid not in found:
        raise UsageError(
            f"the label map is of series {uid}, and '{folder}' holds {_named(found)}. Name the folder of its source."
        )
    by_uid = found[uid] if uid is not None else next(iter(found.values()))
    is_listed = bool(instances) and set(instances) <= set(by_uid)
    headers = [by_uid[one] for one in instances] if is_listed else list(by_uid.values())
    for header in headers:
        _check_header(header, where=str(folder))
    if is_listed:
        return tuple(headers)
    column, row = _directions(headers[0])
    return tuple(sorted(headers, key=lambda header: float(_position(header) @ np.cross(column, row))))


def _by_series(folder: Path) -> dict[str, dict[str, Dataset]]:
    """Return the headers of all images in a folder, by the UIDs of their series and of themselves."""
    if not folder.is_dir():
        raise UsageError(f"the folder of the source's DICOM files is wanted, and '{folder}' is none. Name another.")
    found: dict[str, dict[str, Dataset]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        except OSError as error:
            raise UsageError(f"'{path}' cannot be read: {error.strerror or error}. Copy it again.") from error
        if "Rows" in header and header.get("Modality") != "SEG":
            found.setdefault(str(header.SeriesInstanceUID), {})[str(header.SOPInstanceUID)] = header
    if not found:
        raise UsageError(f"DICOM images are wanted, and '{folder}' holds none. Name the folder of the source series.")
    return found


def _named(found: Mapping[str, Mapping[str, Dataset]]) -> str:
    """Return the series of a folder for a message, the first three of them."""
    told = [
        f"{uid} ({next(iter(headers.values())).get('Modality', '?')}, {len(headers)} images)"
        for uid, headers in found.items()
    ]
    return ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")


def _check_header(header: Dataset, *, where: str) -> None:
    wanted = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID")
    missing = [name for name in wanted if not header.get(name)]
    n_frames = int(header.get("NumberOfFrames") or 1)
    if missing or n_frames > 1:
        lack = f"holds {n_frames} frames" if n_frames > 1 else f"lacks {', '.join(missing)}"
        raise UsageError(
            f"a DICOM SEG refers to images of one frame each that say where they lie, and {header.SOPInstanceUID} in "
            f"'{where}' {lack}. Export NIfTI instead."
        )
    for name in _EMPTY_WHERE_ABSENT:
        if name not in header:
            setattr(header, name, "")


def laid_on_series(volume: Readable, affine: GridAffine, headers: Sequence[Dataset]) -> OnSeries:
    """Find the source image of each plane of a label map: those listed by its scan, in order, or else the nearest.

    Nothing is taken on trust: three corners of every plane must lie where the image says that they do, whichever
    way the volume's axes run; a label map that lies mirrored or shifted would be drawn on the wrong side.

    Raises:
        VolumeError: If the shapes, the frame of reference, or the places differ, or the label map has no place.
    """
    said = (volume.attributes.get(KEY) or {}).get("dicom") or {}
    if not affine.is_oriented:
        raise VolumeError(
            f"a label map that says where it lies is wanted, and '{volume.url}' has no attribute '{KEY}' with an "
            "affine. Run the model on a scan that was ingested from this series."
        )
    n_z, n_y, n_x = volume.shape[-3:]
    frame = said.get("frame_of_reference_uid")
    own = {str(header.FrameOfReferenceUID) for header in headers}
    if (frame and own != {frame}) or len(own) > 1:
        raise VolumeError(
            f"the label map '{volume.url}' has frame of reference {frame or 'unknown'}, and the series has "
            f"{', '.join(sorted(own))}. Name the series that it was computed from."
        )
    sizes = {(int(header.Rows), int(header.Columns)) for header in headers}
    if sizes != {(n_y, n_x)} or len(headers) < n_z:
        rows = ", ".join(f"{y} x {x}" for y, x in sorted(sizes))
        raise VolumeError(
            f"the label map '{volume.url}' is {n_z} x {n_y} x {n_x} (z, y, x), and the series has {len(headers)} "
            f"images of {rows}. Export the label map on the grid of its source, and name the whole series."
        )
    is_listed = [str(header.SOPInstanceUID) for header in headers] == list(said.get("instances") or ())
    chosen = tuple(headers) if is_listed and len(headers) == n_z else _nearest(affine, n_z, headers)
    column, row = _directions(chosen[0])
    flips = bool(affine.matrix[:3, 1] @ row < 0), bool(affine.matrix[:3, 0] @ column < 0)
    _check_places(volume, affine, chosen, flips=flips)
    return OnSeries(chosen, flips)


def _nearest(affine: GridAffine, n_z: int, headers: Sequence[Dataset]) -> tuple[Dataset, ...]:
    """Return, for each plane z, the image whose plane is nearest to it."""
    column, row = _directions(headers[0])
    normal = np.cross(column, row)
    places = np.array([_position(header) @ normal for header in headers])
    planes = affine.points(np.array([(0, 0, z) for z in range(n_z)])) @ normal
    return tuple(headers[int(abs(places - plane).argmin())] for plane in planes)


def _check_places(volume: Readable, affine: GridAffine, chosen: Sequence[Dataset], *, flips: tuple[bool, bool]) -> None:
    """Compare the corners of each plane with those of its image.

    Raises:
        VolumeError: If a corner lies elsewhere.
    """
    n_y, n_x = volume.shape[-2:]
    first_y, first_x = ((n - 1 if flip else 0) for n, flip in zip((n_y, n_x), flips, strict=True))
    inverse = np.linalg.inv(affine.matrix[:3, :3])
    for z, header in enumerate(chosen):
        step_y, step_x = (float(step) for step in header.PixelSpacing)
        column, row = _directions(header)
        origin = _position(header)
        wanted = np.array([origin, origin + column * step_x * (n_x - 1), origin + row * step_y * (n_y - 1)])
        voxels = [(first_x, first_y, z), (n_x - 1 - first_x, first_y, z), (first_x, n_y - 1 - first_y, z)]
        away = affine.points(np.array(voxels)) - wanted
        if float(abs(away @ inverse.T).max()) > NEAR:
            raise VolumeError(
                f"plane z {z} of the label map '{volume.url}' must lie on an image of the series, and lies "
                f"{np.sqrt((away**2).sum(axis=1)).max():.3g} mm away from {header.SOPInstanceUID}. Export the label "
                "map on the grid of its source."
            )


def _directions(header: Dataset) -> tuple[Affine, Affine]:
    """Return where the columns' number and the rows' number grow to, as unit vectors in RAS."""
    cosines = np.array([float(value) for value in header.ImageOrientationPatient])
    return cosines[:3] * _TO_RAS, cosines[3:] * _TO_RAS


def _position(header: Dataset) -> Affine:
    """Return the centre of an image's first voxel in millimetre, RAS."""
    position: Affine = np.array([float(value) for value in header.ImagePositionPatient]) * _TO_RAS
    return position
