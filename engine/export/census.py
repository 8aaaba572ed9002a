"""What a label map holds: voxels per label, and the planes that any label touches, counted in one pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.export.planes import Planes

_COUNTED = 2**16
"""Labels below this are counted in a table; larger ones are sorted."""


@dataclass(frozen=True)
class Census:
    """The labels of a map; 0 is background and counts as none."""

    voxels: Mapping[int, int]
    """Per label that is there, ascending."""
    n_planes: Mapping[int, int]
    """Planes across z that hold the label, per label."""
    occupied: tuple[NDArray[np.bool_], ...]
    """Whether a plane holds any label, for the planes across z, y and x."""


def take_census(planes: Planes) -> Census:
    """Count the labels, slab by slab.

    Raises:
        VolumeError: If a label is negative, or there is none.
    """
    voxels: dict[int, int] = {}
    n_planes: dict[int, int] = {}
    occupied = tuple(np.zeros(n, bool) for n in planes.shape)
    for first, slab in planes.slabs():
        if slab.dtype.kind == "i" and int(slab.min()) < 0:
            raise VolumeError(
                f"labels must not be negative, and planes z {first}:{first + len(slab)} of '{planes.volume.url}' hold "
                f"{int(slab.min())}. Name a label map."
            )
        is_labelled = slab != 0
        for axis, found in enumerate(occupied):
            others = tuple({0, 1, 2} - {axis})
            span = slice(first, first + len(slab)) if axis == 0 else slice(None)
            found[span] |= is_labelled.any(axis=others)
        for plane in slab[is_labelled.any(axis=(1, 2))]:
            for label, n in _counted(plane):
                voxels[label] = voxels.get(label, 0) + n
                n_planes[label] = n_planes.get(label, 0) + 1
    if not voxels:
        raise VolumeError(
            f"a label map with labels is wanted, and '{planes.volume.url}' holds only background. Check the run that "
            "made it, or name another."
        )
    return Census(dict(sorted(voxels.items())), n_planes, occupied)


def _counted(plane: NDArray[Any]) -> list[tuple[int, int]]:
    """Return each label above 0 in a plane, with its voxels."""
    if int(plane.max()) < _COUNTED:
        counts = np.bincount(plane.ravel().astype(np.int64, copy=False))
        labels = counts.nonzero()[0]
        counts = counts[labels]
    else:
        labels, counts = np.unique(plane, return_counts=True)
    return [(int(label), int(n)) for label, n in zip(labels, counts, strict=True) if label]
