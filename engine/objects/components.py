"""The connected components of one box, and which of them reach its faces."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from engine.geometry.region import Region


def components(classes: NDArray[Any], *, connectivity: int) -> tuple[NDArray[np.int32], int]:
    """Return the component at each voxel, 1 to n, 0 for background, and n; classes never join."""
    found, n = label(classes, background=0, connectivity=min(connectivity, classes.ndim), return_num=True)
    return found.astype(np.int32), int(n)


def inner_faces(region: Region, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the faces of a block beyond which the volume goes on: (axis, 0 for the near or -1 for the far one).

    >>> inner_faces(Region((0, 4), (4, 8)), (8, 8))
    [(0, -1), (1, 0)]
    """
    ends = product(range(len(shape)), (0, -1))
    return [(a, e) for a, e in ends if (region.start[a] > 0 if e == 0 else region.stop[a] < shape[a])]


def face(voxels: NDArray[Any], axis: int, end: int) -> NDArray[Any]:
    """Return the voxels of one face, without its axis."""
    return np.asarray(np.take(voxels, end, axis=axis))


def border_labels(found: NDArray[np.int32], region: Region, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return, ascending, the components that reach a face beyond which the volume goes on."""
    faces = [face(found, axis, end).ravel() for axis, end in inner_faces(region, shape)]
    there = np.unique(np.concatenate(faces)) if faces else np.empty(0, np.int32)
    return np.asarray(there[there > 0], np.int32)
