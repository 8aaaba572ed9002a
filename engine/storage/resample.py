"""Means over areas: what a voxel of a coarser grid is, by whole numbers and global coordinates alone.

Voxel i of the coarse grid covers ``[i * ratio, (i + 1) * ratio)`` of the fine one; a voxel that is cut by
an end counts by the part that is inside, and what lies beyond the fine grid's end does not count.

    fine    |  0  |  1  |  2  |  3  |  4  |
    coarse  |     0      |     1      |  2'          ratio 2.1; 2' is the mean of what is left of 4

Every coarse voxel is a sum of the same terms in the same order, whichever region it is computed in: so
its bits do not depend on how the volume is cut into blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SLIVER = 1e-6
_EXACT_FLOAT32 = 1 << 24


@dataclass(frozen=True, slots=True)
class Shrink:
    """One axis made coarser.

    >>> Shrink(2.1, 5).size, Shrink(2.1, 5).covered(1, 3)
    (3, (2, 5))
    """

    ratio: float
    """Fine voxels per coarse voxel, at least 1."""
    length: int
    """Fine voxels in all."""

    @property
    def size(self) -> int:
        """Coarse voxels in all: a last one that has only part of its fine voxels counts, a sliver of one does not."""
        return max(1, ceil(self.length / self.ratio - _SLIVER))

    @property
    def n_terms(self) -> int:
        """Fine voxels that one coarse voxel may meet."""
        return int(self.ratio) if self.ratio.is_integer() else ceil(self.ratio) + 1

    def covered(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first fine voxel, and the first beyond the last, that coarse voxels ``start`` to ``stop`` need."""
        if stop <= start:
            return 0, 0
        return floor(start * self.ratio), min(ceil(stop * self.ratio), self.length)

    def weights(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return, per term and coarse voxel, which fine voxel it is and how much of it is inside, from 0 to 1.

        A term of weight 0 names a voxel that another term of the same coarse voxel counts.
        """
        number = np.arange(start, stop, dtype=np.float64)
        low = number * self.ratio
        high = np.minimum((number + 1) * self.ratio, self.length)
        first = np.floor(low)
        fine = first + np.arange(self.n_terms, dtype=np.float64)[:, None]
        inside = np.clip(np.minimum(high, fine + 1) - np.maximum(low, fine), 0.0, 1.0)
        last = np.maximum(first, np.ceil(high) - 1)
        return np.minimum(fine, last).astype(np.int64), inside


def snapped(ratio: float) -> float:
    """Return a ratio of two steps, whole where only rounding keeps it from it.

    >>> snapped(0.998 / 0.499), snapped(1 / 0.499)
    (2.0, 2.004008016032064)
    """
    return float(round(ratio)) if abs(ratio - round(ratio)) < 1e-9 * ratio else ratio


def area_mean(
    voxels: NDArray[Any], shrinks: Sequence[Shrink | None], *, starts: Sequence[int], stops: Sequence[int]
) -> NDArray[Any]:
    """Return the coarse voxels from ``starts`` to ``stops``, in the dtype of ``voxels``; whole numbers rounded to even.

    Args:
        voxels: The fine voxels that :meth:`Shrink.covered` names, and no others.
        shrinks: Per axis; None where the axis stays as it is.
        starts: First coarse voxel, per axis.
        stops: First coarse voxel not wanted, per axis.
    """
    dtype = _sum_dtype(voxels.dtype, shrinks)
    sums, total = voxels, np.ones((1,) * voxels.ndim, dtype)
    for axis, (shrink, start, stop) in enumerate(zip(shrinks, starts, stops, strict=True)):
        if shrink is None:
            continue
        index, inside = shrink.weights(start, stop)
        along = [-1 if i == axis else 1 for i in range(voxels.ndim)]
        weights = inside.astype(dtype).reshape(len(inside), *along)
        sums = _summed(sums, index - shrink.covered(start, stop)[0], weights, axis=axis)
        total = total * _in_order(weights)
    mean = sums / total
    if voxels.dtype.kind == "f":
        return np.ascontiguousarray(mean, dtype=voxels.dtype)
    return np.ascontiguousarray(np.rint(mean), dtype=voxels.dtype)


def _summed(
    voxels: NDArray[Any], index: NDArray[np.int64], weights: NDArray[np.floating[Any]], *, axis: int
) -> NDArray[Any]:
    """Return the weighted sum of each coarse voxel's terms along one axis, first to last, in the weights' dtype."""
    total: NDArray[Any] | None = None
    for which, weight in zip(index, weights, strict=True):
        term = voxels.take(which, axis=axis).astype(weights.dtype)
        with np.errstate(invalid="ignore"):
            term *= weight
        if voxels.dtype.kind == "f":
            term[np.broadcast_to(weight == 0, term.shape)] = 0  # infinity times 0 would be NaN
        if total is None:
            total = term
        else:
            total += term
    assert total is not None
    return total


def _in_order(weights: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of all terms, first to last: numpy's own sum takes another order where there is one voxel."""
    total = weights[0]
    for weight in weights[1:]:
        total = total + weight
    return np.asarray(total)


def _sum_dtype(dtype: np.dtype[Any], shrinks: Sequence[Shrink | None]) -> np.dtype[Any]:
    """Return float32 where it holds every sum of 8-bit voxels exactly (4 times faster), else float64."""
    most = 255 * prod(shrink.n_terms for shrink in shrinks if shrink is not None)
    is_small = dtype.itemsize == 1 and most < _EXACT_FLOAT32
    return np.dtype(np.float32 if is_small else np.float64)
