"""What a fitted module is told of a channel of a volume: its moments, its quantiles, its histogram."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, nan

import numpy as np
from numpy.typing import NDArray

from engine.models.moments import exact_squares, exact_sum, mean_and_std

LONGEST_TABLE = 1 << 22
"""Span of whole numbers that are counted in a table; wider ones are sorted."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Every value that there is, and how often: nothing is lost of the voxels but their places.

    >>> Histogram.of(np.array([3, 1, 3], np.int16)).merge(Histogram.of(np.array([2, 3], np.int16)))
    Histogram(values=array([1, 2, 3], dtype=int16), counts=array([1, 1, 3]))
    """

    values: NDArray[np.generic]
    """Ascending, each once."""
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, voxels: NDArray[np.generic]) -> "Histogram":
        """Return the histogram of an array of any shape and any real dtype; all NaN are one value."""
        flat = voxels.reshape(-1)
        is_whole = np.can_cast(flat.dtype, np.int64) and flat.dtype.kind != "b"
        low, high = (int(flat.min()), int(flat.max())) if is_whole and flat.size else (0, LONGEST_TABLE)
        if high - low >= LONGEST_TABLE:
            return cls(*np.unique(flat, return_counts=True))
        counts = np.bincount(flat.astype(np.int64) - low)
        there = np.flatnonzero(counts)
        return cls((there + low).astype(flat.dtype), counts[there].astype(np.int64))

    @classmethod
    def weighted(cls, values: NDArray[np.generic], counts: NDArray[np.int64]) -> "Histogram":
        """Return the histogram of values in any order, each of which comes so often as its count says."""
        found, place = np.unique(values, return_inverse=True)
        sums = np.zeros(len(found), np.int64)
        np.add.at(sums, place.reshape(-1), counts)
        return cls(found, sums)

    def merge(self, other: "Histogram") -> "Histogram":
        """Return the histogram of both."""
        return self.weighted(np.concatenate([self.values, other.values]), np.concatenate([self.counts, other.counts]))

    @property
    def n(self) -> int:
        """Voxels."""
        return int(self.counts.sum())

    @property
    def shares(self) -> NDArray[np.float64]:
        """For each value, the share of the voxels that are not above it: the cumulative histogram."""
        shares: NDArray[np.float64] = np.cumsum(self.counts) / self.n
        return shares


@dataclass(frozen=True, eq=False)
class Summary:
    """The finite voxels of one channel that count for a module, as they reach it. All values are float64."""

    n: int
    """Voxels; where there are none, all values are NaN."""
    low: float
    high: float
    mean: float
    std: float
    """Divided by ``n``."""
    quantiles: Mapping[float, float] = field(default_factory=dict)
    """Those that the module asked for, by their share; see :func:`quantile`."""
    histogram: Histogram | None = None
    """Of float64 values; None where there are too many different ones to keep."""

    @classmethod
    def of(cls, histogram: Histogram, shares: Sequence[float]) -> "Summary":
        """Return the summary of what a histogram of finite values counts, with the quantiles at ``shares``."""
        values, n = histogram.values.astype(np.float64), histogram.n
        if not n:
            return NOTHING
        mean, std = mean_and_std(n, exact_sum(values, histogram.counts), exact_squares(values, histogram.counts))
        ranks = np.cumsum(histogram.counts)

        def at(rank: int) -> float:
            return float(values[np.searchsorted(ranks, rank, side="right")])

        found = {share: quantile(n, share, at) for share in shares}
        return cls(n, float(values[0]), float(values[-1]), mean, std, found, Histogram(values, histogram.counts))


NOTHING = Summary(0, nan, nan, nan, nan)
"""Of no voxel."""


def quantile(n: int, share: float, at: Callable[[int], float]) -> float:
    """Return the quantile of ``n`` values at a share of 0 to 1, interpolated as ``numpy.quantile`` does by default.

    >>> quantile(4, 0.5, [1.0, 2.0, 4.0, 8.0].__getitem__)
    3.0

    Args:
        n: How many values there are.
        share: Share of them that lie below.
        at: Gives the value of a rank, 0 for the smallest.
    """
    place = (n - 1) * share
    lower = floor(place)
    low, high, part = at(lower), at(min(lower + 1, n - 1)), place - lower
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part
