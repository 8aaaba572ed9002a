"""Coarser levels from finer ones: blockwise means for intensities, most frequent values for labels."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.region import Region


def level_shape(shape: Sequence[int], factors: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the next level: a last, shorter group of voxels still makes one.

    >>> level_shape((3, 7, 8), (1, 2, 2))
    (3, 4, 4)
    """
    return tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))


def finer_region(region: Region, *, factors: Sequence[int], finer_shape: Sequence[int]) -> Region:
    """Return the box of the finer level that ``region`` of the coarser one is made from.

    >>> finer_region(Region((0, 2), (2, 4)), factors=(2, 2), finer_shape=(4, 7))
    Region(start=(0, 4), stop=(4, 7))
    """
    start = tuple(a * f for a, f in zip(region.start, factors, strict=True))
    stop = tuple(min(b * f, n) for b, f, n in zip(region.stop, factors, finer_shape, strict=True))
    return Region(start, stop)


def reduce_mean(voxels: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """Return the mean of each group of ``factors`` voxels, in the same dtype.

    A group at the far edge is averaged over the voxels that exist. Integers are summed exactly and
    rounded half to even; floats are summed in float64. One NaN makes its group NaN. A box that
    starts on a multiple of ``factors`` gives the same values as the whole volume does.

    >>> reduce_mean(np.array([[0, 1, 5], [1, 0, 6]], np.uint8), (2, 2))
    array([[0, 6]], dtype=uint8)

    Raises:
        VolumeError: If there is not one positive factor per axis.
    """
    _check(voxels, factors)
    counts = _counts(voxels.shape, factors)
    if voxels.dtype.kind == "f":
        return np.asarray(_sums(voxels, factors, np.dtype(np.float64)) / counts, dtype=voxels.dtype)
    if voxels.dtype.kind == "b":
        return reduce_mean(voxels.view(np.uint8), factors).astype(np.bool_)
    if voxels.dtype.itemsize == 8:
        return _mean_of_wide(voxels, factors, counts)
    quotient, remainder = np.divmod(_sums(voxels, factors, np.dtype(np.int64)), counts)
    return _half_to_even(quotient, remainder, counts).astype(voxels.dtype)


def _half_to_even(quotient: NDArray[Any], remainder: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:
    twice = 2 * remainder
    is_up = (twice > counts) | ((twice == counts) & (quotient % 2 == 1))
    return np.asarray(quotient + is_up)


def _mean_of_wide(voxels: NDArray[Any], factors: Sequence[int], counts: NDArray[np.int64]) -> NDArray[Any]:
    """Return the means of 64-bit integers, whose sum may not fit: high and low halves are summed apart."""
    sums_high = _sums((voxels >> 32).astype(np.int64), factors, np.dtype(np.int64))
    sums_low = _sums((voxels & 0xFFFFFFFF).astype(np.int64), factors, np.dtype(np.int64))
    high, rest = np.divmod(sums_high, counts)
    low, remainder = np.divmod((rest << 32) + sums_low, counts)
    low = _half_to_even(low, remainder, counts)
    return np.asarray((high.astype(voxels.dtype) << 32) + low.astype(voxels.dtype))


def _sums(voxels: NDArray[Any], factors: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the sum of each group, one axis after another, in ``dtype``."""
    sums = voxels
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        moved = np.moveaxis(sums, axis, 0)
        total = moved[::factor].astype(dtype)
        for offset in range(1, factor):
            part = moved[offset::factor]
            total[: len(part)] += part
        sums = np.moveaxis(total, 0, axis)
    return np.ascontiguousarray(sums, dtype=dtype)


def _counts(shape: Sequence[int], factors: Sequence[int]) -> NDArray[np.int64]:
    """Return how many voxels each group has, ready to be broadcast."""
    counts = np.ones((1,) * len(shape), np.int64)
    for axis, (n, factor) in enumerate(zip(shape, factors, strict=True)):
        along = np.minimum(factor, n - np.arange(0, n, factor, dtype=np.int64))
        counts = counts * along.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return counts


def reduce_mode(voxels: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """Return the most frequent value of each group of ``factors`` voxels, in the same dtype.

    A tie goes to the smallest value; a group at the far edge counts the voxels that exist.

    >>> reduce_mode(np.array([[3, 3, 7], [1, 1, 7]], np.uint8), (2, 2))
    array([[1, 7]], dtype=uint8)

    Raises:
        VolumeError: If there is not one positive factor per axis.
    """
    _check(voxels, factors)
    shape = level_shape(voxels.shape, factors)
    pads = [(0, m * f - n) for n, m, f in zip(voxels.shape, shape, factors, strict=True)]
    padded = np.pad(voxels, pads, mode="edge")
    exists = np.pad(np.ones(voxels.shape, np.bool_), pads)
    corners = product(*map(range, factors))
    offsets = [tuple(slice(o, None, f) for o, f in zip(corner, factors, strict=True)) for corner in corners]
    counter = np.min_scalar_type(len(offsets))
    best, best_votes = padded[offsets[0]].copy(), np.zeros(shape, counter)
    for at in offsets:
        value = padded[at]
        votes = sum(((padded[other] == value) & exists[other]).astype(counter) for other in offsets)
        is_better = exists[at] & ((votes > best_votes) | ((votes == best_votes) & (value < best)))
        best, best_votes = np.where(is_better, value, best), np.where(is_better, votes, best_votes)
    return np.ascontiguousarray(best)


def _check(voxels: NDArray[Any], factors: Sequence[int]) -> None:
    if len(factors) != voxels.ndim or min(factors, default=1) < 1:
        raise VolumeError(
            f"a level needs one positive factor per axis, not {tuple(factors)} for {voxels.ndim} axes. "
            "Give 1 for an axis that is not reduced."
        )
