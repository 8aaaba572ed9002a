"""The slices of a DICOM series as one grid: sorted by where they lie, evenly spaced, or refused by what is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.storage.dicom_slice import Slice

SPACING_TOLERANCE = 0.01
"""Share of a step by which the next slice may lie off where even spacing has it."""

TILT_TOLERANCE = 0.01
"""Millimetre that slices may shift sideways per millimetre from slice to slice: about 0.6 degrees of gantry tilt."""

DRIFT_TOLERANCE = 0.1
"""Voxels by which any slice may lie off the grid that the first and the last one span."""

_SAME = 1e-3
_MOST_LISTED = 3
_DISTINGUISHING = (
    "AcquisitionNumber EchoTime TemporalPositionIdentifier TemporalPositionIndex TriggerTime DiffusionBValue "
    "AcquisitionTime ContentTime InstanceNumber"
).split()


@dataclass(frozen=True)
class Stack:
    """Slices in the order of z, and their grid.

         z = 2  |-------->  directions[:3]: x
         z = 1  |-------->       .
         z = 0  |-------->       step: z, along the normal to 0.6 degrees
                v
                directions[3:]: y
    """

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]
    """From voxel (x, y, z, 1) to millimetre in the patient: right, anterior and head positive (RAS+)."""
    spacing: tuple[float, float, float]
    """Millimetre per voxel along z, y and x."""


def stacked(slices: Sequence[Slice], *, place: Path, step: float | None) -> Stack:
    """Return the slices sorted along their normal, rows times columns, with the affine of their grid.

    Args:
        slices: Of one series, in any order; at least one.
        place: Where they lie, for messages.
        step: Millimetre along z, given by hand; needed of a single slice that does not say its thickness.

    Raises:
        IngestError: If slices differ in shape, direction, spacing or frame of reference, lie twice at one place, are
            missing, uneven or tilted, or a step that was given is not theirs.
    """
    _check_alike(slices, place=place)
    x, y = np.reshape(slices[0].directions, (2, 3))
    normal = np.cross(x, y)
    sorted_ = tuple(sorted(slices, key=lambda one: float(np.dot(one.position, normal))))
    places = np.array([one.position for one in sorted_])
    if len(sorted_) == 1:
        rise = normal * _single_step(sorted_[0], step=step, place=place)
    else:
        rise = (places[-1] - places[0]) / (len(sorted_) - 1)
        _check_even(sorted_, places @ normal, place=place)
        _check_straight(sorted_, places, normal, place=place)
    own = float(np.linalg.norm(rise))
    if step is not None and abs(step / own - 1) > SPACING_TOLERANCE:
        raise IngestError(
            f"a spacing given by hand must be the scan's, and {step:g} millimetre along z is not the {own:g} between "
            f"the slices of '{place}' as their positions say. Give it as {own:g}."
        )
    dy, dx = sorted_[0].spacing
    affine = np.eye(4)
    affine[:3] = np.stack([x * dx, y * dy, rise, places[0]], axis=1)
    affine[:2] *= -1  # DICOM's left and posterior to NIfTI's right and anterior
    return Stack(sorted_, affine, (own, dy, dx))


def _check_alike(slices: Sequence[Slice], *, place: Path) -> None:
    rules: tuple[tuple[str, Callable[[Slice], Any], str], ...] = (
        ("rows and columns", lambda one: " x ".join(map(str, one.shape)), "those that do not belong to it"),
        ("frame of reference", lambda one: one.file.text("FrameOfReferenceUID"), "those of the other one"),
        ("directions (ImageOrientationPatient)", lambda one: one.directions, "localizers and other planes"),
        ("spacing (PixelSpacing)", lambda one: one.spacing, "those of another reconstruction"),
    )
    first = slices[0]
    for what, value, advice in rules:
        for other in slices[1:]:
            if not _alike(value(first), value(other)):
                raise IngestError(
                    f"all slices of a series must have the same {what}, and {first.name} has {_short(value(first))}, "
                    f"{other.name} {_short(value(other))}, in '{place}'. Move {advice} out of the folder."
                )


def _alike(one: Any, other: Any) -> bool:  # noqa: ANN401 -- text, or numbers
    return bool(one == other or (not isinstance(one, str) and np.allclose(one, other, rtol=_SAME, atol=_SAME)))


def _short(value: Any) -> str:  # noqa: ANN401 -- text, or numbers
    return value or "none" if isinstance(value, str) else f"({', '.join(f'{part:g}' for part in value)})"


def _single_step(one: Slice, *, step: float | None, place: Path) -> float:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = one.file.numbers(name)
        if step is None and found and np.isfinite(found[0]) and found[0] > 0:
            return found[0]
    if step is None:
        raise IngestError(
            f"a series must say its step along z, and {one.name} is alone in '{place}' and says no thickness. Give "
            "--spacing Z,Y,X in millimetre to engine ingest, or run it as FOLDER#spacing=Z,Y,X."
        )
    return step


def _check_even(slices: Sequence[Slice], along: NDArray[np.float64], *, place: Path) -> None:
    """Refuse slices at one place, gaps, and uneven steps; ``along`` is in millimetre along the normal, ascending."""
    gaps = np.diff(along)
    twice = np.flatnonzero(gaps <= SPACING_TOLERANCE * min(slices[0].spacing))
    if len(twice):
        raise _twice(slices, along, twice, place=place)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    ratios = gaps / usual
    wrong = np.flatnonzero(np.abs(ratios - 1) > SPACING_TOLERANCE)
    if not len(wrong):
        return
    whole = np.rint(ratios)
    spans = "; ".join(_span(slices, along, i) for i in wrong[:_MOST_LISTED])
    more = f"; and {len(wrong) - _MOST_LISTED} more" if len(wrong) > _MOST_LISTED else ""
    if (np.abs(ratios - whole) <= SPACING_TOLERANCE * whole).all():
        n_lost = int((whole - 1).sum())
        raise IngestError(
            f"a slice is wanted every {usual:g} mm, and {n_lost} of {len(slices) + n_lost} are missing {spans}{more}, "
            f"in '{place}'. Find the files of the missing slices, or export the series again."
        )
    raise IngestError(
        f"slices must be evenly spaced to {SPACING_TOLERANCE:.0%}, every {usual:g} mm, and steps are {gaps.min():g} to "
        f"{gaps.max():g} mm: {spans}{more}, in '{place}'. Export one reconstruction, or resample it to even spacing."
    )


def _twice(slices: Sequence[Slice], along: NDArray[np.float64], twice: NDArray[Any], *, place: Path) -> IngestError:
    one, other = slices[twice[0]], slices[twice[0] + 1]
    at = f"{along[twice[0]]:g} mm along the normal ({len(twice)} such pair{'s' if len(twice) > 1 else ''})"
    where = f"{one.name} and {other.name} lie at one place, {at}"
    if one.file.text("SOPInstanceUID") == other.file.text("SOPInstanceUID") and one.frame == other.frame:
        return IngestError(
            f"each slice is wanted once, and {where}: they are one image twice (SOPInstanceUID), in '{place}'. Remove "
            "the copies."
        )
    pairs = [(name, one.file.text(name), other.file.text(name)) for name in _DISTINGUISHING]
    differ = ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b) or "nothing that is known here"
    return IngestError(
        f"one slice is wanted per place, and {where}: the series is repeated, of several echoes or over time, in "
        f"'{place}'. They differ in {differ}. Put each into a folder of its own, or convert it to a NIfTI of four axes."
    )


def _span(slices: Sequence[Slice], along: NDArray[np.float64], i: int) -> str:
    return f"between {slices[i].name} ({along[i]:g} mm) and {slices[i + 1].name} ({along[i + 1]:g} mm)"


def _check_straight(
    slices: Sequence[Slice], places: NDArray[np.float64], normal: NDArray[np.float64], *, place: Path
) -> None:
    """Refuse a gantry tilt, and slices that lie beside the line from the first to the last."""
    rise = (places[-1] - places[0]) / (len(slices) - 1)
    height = float(rise @ normal)
    sideways = float(np.linalg.norm(rise - height * normal))
    if sideways > TILT_TOLERANCE * height:
        raise IngestError(
            f"slices must lie right above each other, and in '{place}' each is shifted by {sideways:g} mm per "
            f"{height:g} mm: a gantry tilt of {np.degrees(np.arctan2(sideways, height)):.1f} degrees. Resample it to "
            "upright slices, as dcm2niix does, and give the NIfTI."
        )
    off = places - (places[0] + np.arange(len(slices))[:, None] * rise)
    upward = off @ normal
    aside = np.linalg.norm(off - upward[:, None] * normal, axis=1)
    shares = np.maximum(np.abs(upward) / height, aside / min(slices[0].spacing))
    worst = int(np.argmax(shares))
    if shares[worst] > DRIFT_TOLERANCE:
        raise IngestError(
            f"slices must lie on one grid to {DRIFT_TOLERANCE:g} voxel, and {slices[worst].name} lies "
            f"{upward[worst]:g} mm along the normal and {aside[worst]:g} mm sideways off its place, in '{place}'. "
            "Resample the series to a grid, as dcm2niix does, and give the NIfTI."
        )
