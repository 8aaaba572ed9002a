"""Whether two volumes lie on one grid, voxel for voxel: axes, shape, spacing, origin, and labels as voxels."""

from collections.abc import Sequence

from engine.errors import UsageError
from engine.geometry.axes import Axis
from engine.storage.volume import Readable

SPACING_TOLERANCE = 0.01
"""Share by which spacings may differ: writers round them."""


def check_alike(reference: Readable, result: Readable) -> None:
    """Refuse two volumes that cannot be compared voxel for voxel.

    A bare array with spacing 1 and no unit says nothing of its place, and is compared by shape alone.

    Raises:
        UsageError: If axes, shape, spacing or origin differ, or voxels are not labels.
    """
    for volume in (reference, result):
        check_labels(volume)
    names, others = _names(reference.axes), _names(result.axes)
    if names != others:
        raise UsageError(
            f"reference and result must have the same axes, not {names} in '{reference.url}' and {others} in "
            f"'{result.url}'. Give both with the same axes in the same order, as --axes names them for bare arrays."
        )
    _check_shape(reference, result)
    _check_place(reference, result)


def check_labels(volume: Readable) -> None:
    """Refuse a volume whose voxels are not labels.

    Raises:
        UsageError: If they are not whole numbers of at most 63 bits.
    """
    if volume.dtype.kind not in "biu" or volume.dtype.name == "uint64":
        raise UsageError(
            f"labels must be whole numbers of at most 63 bits, not {volume.dtype} as in '{volume.url}'. Compare "
            "volumes of labels: let the model end with an argmax or a threshold, or cast the array."
        )


def _check_shape(reference: Readable, result: Readable) -> None:
    if reference.shape == result.shape:
        return
    unlike = [
        f"{n} along '{axis.name}' where the result has {m}"
        for axis, n, m in zip(result.axes, reference.shape, result.shape, strict=True)
        if n != m
    ]
    raise UsageError(
        f"reference and result must have the same shape, not {reference.shape} in '{reference.url}' and "
        f"{result.shape} in '{result.url}': the reference has {', '.join(unlike)}. Bring one to the other's grid first."
    )


def _check_place(reference: Readable, result: Readable) -> None:
    origins = zip(reference.levels[0].translation, result.levels[0].translation, strict=True)
    for axis, other, (a, b) in zip(reference.axes, result.axes, origins, strict=True):
        if not (is_placed(axis) and is_placed(other)):
            continue
        unit, step = axis.unit or "", other.spacing
        if axis.unit != other.unit or abs(axis.spacing - step) > SPACING_TOLERANCE * step:
            raise UsageError(
                f"reference and result must have the same spacing, not {axis.spacing:g} {unit} in '{reference.url}' "
                f"and {step:g} {other.unit or ''} in '{result.url}' along '{axis.name}'. Resample one to the other's "
                "grid, or correct its metadata."
            )
        if abs(a - b) >= step / 2:
            raise UsageError(
                f"reference and result must start at the same place, not at {a:g} {unit} in '{reference.url}' and "
                f"{b:g} {unit} in '{result.url}' along '{axis.name}', {(a - b) / step:g} voxels apart. Crop or shift "
                "one, or correct its metadata."
            )


def is_placed(axis: Axis) -> bool:
    """Say whether an axis knows its physical step."""
    return axis.unit is not None or axis.spacing != 1


def _names(axes: Sequence[Axis]) -> tuple[str, ...]:
    return tuple(axis.name for axis in axes)
