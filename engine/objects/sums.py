"""The facts of objects as rows of integers that add up: exact, so that no bit depends on how a volume was cut.

A mean is the quotient of two exact sums, rounded once. A value v is cut into four limbs of 24 bits,

    v = a + b / 2^24 + c / 2^48 + d / 2^72,    a, b, c, d whole, of v's sign

so that float64 sums of limbs are sums of whole numbers below 2^53, which are exact in any order. Every float32 between
2^-48 and 2^24 is held exactly; below 2^-73 a value counts as 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.region import Region

IntArray = NDArray[np.int64]

FIRST, CLASS, SIZE, PLACE = 0, 1, 2, 3
"""Columns: first voxel in raster order, class, voxels; from PLACE on the sums of the coordinates."""

LIMB_BITS = 24
N_LIMBS = 4
N_PER_LAYER = N_LIMBS + 1
"""Columns of a measured volume: its limbs, then the voxels that are not finite."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where each fact stands in a row: place, box and measured volumes come after the first three.

    >>> columns = Columns(n_axes=2, n_layers=1)
    >>> columns.start, columns.stop, columns.layer(0), columns.n
    (slice(5, 7, None), slice(7, 9, None), slice(9, 14, None), 14)
    """

    n_axes: int
    n_layers: int

    @property
    def place(self) -> slice:
        """Sums of the coordinates, per axis."""
        return slice(PLACE, PLACE + self.n_axes)

    @property
    def start(self) -> slice:
        """First voxel of the box, per axis."""
        return slice(PLACE + self.n_axes, PLACE + 2 * self.n_axes)

    @property
    def stop(self) -> slice:
        """First voxel past the box, per axis."""
        return slice(PLACE + 2 * self.n_axes, PLACE + 3 * self.n_axes)

    @property
    def n(self) -> int:
        """Columns in all."""
        return PLACE + 3 * self.n_axes + N_PER_LAYER * self.n_layers

    def layer(self, number: int) -> slice:
        """Return the columns of one measured volume."""
        first = PLACE + 3 * self.n_axes + N_PER_LAYER * number
        return slice(first, first + N_PER_LAYER)

    def empty(self) -> IntArray:
        """Return a table without rows."""
        return np.empty((0, self.n), np.int64)


def measure(
    objects: NDArray[np.int32],
    *,
    n: int,
    classes: NDArray[Any],
    region: Region,
    shape: Sequence[int],
    layers: Mapping[str, NDArray[Any]],
) -> IntArray:
    """Return the rows of objects 1 to ``n``, each of which has a voxel, of a box.

    Args:
        objects: Number of the object at each voxel of the box; 0 for none.
        n: Objects.
        classes: Class at each voxel of the box.
        region: Where the box lies.
        shape: Of the volume: voxels are numbered in its raster order.
        layers: What is averaged, by name; on the same box.

    Raises:
        VolumeError: If a value is so large that its sum would not be exact.
    """
    columns = Columns(objects.ndim, len(layers))
    rows = np.zeros((n, columns.n), np.int64)
    if n == 0:
        return rows
    inside = np.flatnonzero(objects)
    which = objects.ravel()[inside] - 1
    first = _first_inside(which, inside, n)
    rows[:, FIRST] = _in_volume(first, region=region, shape=shape)
    rows[:, CLASS] = classes.ravel()[first]
    rows[:, SIZE] = np.bincount(which, minlength=n)
    _add_places(rows, columns, which, np.unravel_index(inside, objects.shape), region=region)
    for number, (name, layer) in enumerate(layers.items()):
        rows[:, columns.layer(number)] = _layer_sums(which, layer.ravel()[inside], n, name=name)
    return rows


def firsts(objects: NDArray[np.int32], *, n: int, region: Region, shape: Sequence[int]) -> IntArray:
    """Return the first voxel of objects 1 to ``n`` of a box, numbered in the raster order of the volume."""
    inside = np.flatnonzero(objects)
    first = _first_inside(objects.ravel()[inside] - 1, inside, n)
    return _in_volume(first, region=region, shape=shape)


def merge(rows: IntArray, groups: IntArray, n_groups: int, *, n_axes: int) -> IntArray:
    """Return one row per group of rows: pieces of one object, whose facts are added up."""
    columns = Columns(n_axes, (rows.shape[1] - PLACE - 3 * n_axes) // N_PER_LAYER)
    merged = np.zeros((n_groups, rows.shape[1]), np.int64)
    np.add.at(merged, groups, rows)
    for least in (slice(FIRST, SIZE), columns.start):
        merged[:, least] = np.iinfo(np.int64).max
        np.minimum.at(merged[:, least], groups, rows[:, least])
    merged[:, columns.stop] = 0
    np.maximum.at(merged[:, columns.stop], groups, rows[:, columns.stop])
    return merged


def means(rows: IntArray, columns: Columns, number: int) -> NDArray[np.float64]:
    """Return the mean of one measured volume over each object, rounded once; NaN where a voxel is not finite."""
    found = np.empty(len(rows))
    limbs = rows[:, columns.layer(number)].tolist()
    for i, ((*parts, n_strange), n) in enumerate(zip(limbs, rows[:, SIZE].tolist(), strict=True)):
        total = 0
        for part in parts:
            total = (total << LIMB_BITS) + part
        found[i] = np.nan if n_strange else total / (n << LIMB_BITS * (N_LIMBS - 1))
    return found


def _add_places(
    rows: IntArray, columns: Columns, which: NDArray[Any], index: tuple[NDArray[Any], ...], *, region: Region
) -> None:
    """Fill in the sums of the coordinates and the boxes."""
    n = len(rows)
    for axis, (along, offset) in enumerate(zip(index, region.start, strict=True)):
        low, high = np.full(n, np.iinfo(np.int64).max), np.zeros(n, np.int64)
        np.minimum.at(low, which, along)
        np.maximum.at(high, which, along)
        rows[:, columns.place][:, axis] = _whole_sums(which, along, n) + rows[:, SIZE] * offset
        rows[:, columns.start][:, axis] = low + offset
        rows[:, columns.stop][:, axis] = high + offset + 1


def _first_inside(which: NDArray[Any], inside: NDArray[Any], n: int) -> IntArray:
    first = np.empty(n, np.int64)
    first[which[::-1]] = inside[::-1]  # the last assignment, of the smallest index, stays
    return first


def _in_volume(inside: IntArray, *, region: Region, shape: Sequence[int]) -> IntArray:
    """Return where voxels of a box stand in the raster order of the volume."""
    at = [index + a for index, a in zip(np.unravel_index(inside, region.shape), region.start, strict=True)]
    return np.asarray(np.ravel_multi_index(at, tuple(shape)), np.int64)


def _whole_sums(which: NDArray[Any], values: NDArray[Any], n: int) -> IntArray:
    return np.bincount(which, weights=values, minlength=n).astype(np.int64)


def _layer_sums(which: NDArray[Any], values: NDArray[Any], n: int, *, name: str) -> IntArray:
    sums = np.zeros((n, N_PER_LAYER), np.int64)
    rest = values.astype(np.float64)
    strange = ~np.isfinite(rest)
    if strange.any():
        sums[:, N_LIMBS] = np.bincount(which[strange], minlength=n)
        rest[strange] = 0.0
    largest = float(np.abs(rest).max(initial=0.0))
    if largest * len(rest) >= 2.0**53:
        raise VolumeError(
            f"values of '{name}' must stay below {2.0**53 / len(rest):.3g} to be summed exactly, and one is "
            f"{largest:.6g}. Store it in another unit, or use smaller blocks."
        )
    for limb in range(N_LIMBS):
        whole = np.rint(rest) if limb == N_LIMBS - 1 else np.trunc(rest)
        if whole.any():
            sums[:, limb] = _whole_sums(which, whole, n)
        rest = (rest - whole) * 2.0**LIMB_BITS
        if not rest.any():
            break
    return sums
