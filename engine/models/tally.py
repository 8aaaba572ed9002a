"""What one pass keeps of values that are too many to keep: exact sums, the ends, and where every rank must lie.

Quantiles of any number of values take two passes. As 32 bits, floats sort like whole numbers once their sign is
turned round: the first pass counts the upper 16 bits of each, the second counts the lower 16 bits of those in the few
buckets that hold a wanted rank. So a quantile is that of the values as float32, exactly, whatever their spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, inf

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.models.moments import exact_squares, exact_sum, mean_and_std
from engine.models.summary import NOTHING, Summary, quantile

LARGEST = 3e38
"""Magnitude that float32, in which statistics are kept, can hold."""

N_HALF = 1 << 16
"""Values of 16 bits."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Of the finite values of one channel; tallies are merged in any order, to the same bits."""

    n: int
    low: float
    high: float
    total: Fraction
    """Sum of the values."""
    squares: Fraction
    """Sum of the squares."""
    upper: NDArray[np.int64] | None
    """How many values have each upper half, (65536,); None where no quantile is wanted."""

    @classmethod
    def of(cls, values: NDArray[np.float64], *, has_ranks: bool) -> "Tally":
        """Return the tally of finite values (n,).

        Raises:
            ModelError: If one is too large.
        """
        low, high = float(values.min(initial=inf)), float(values.max(initial=-inf))
        if values.size and max(-low, high) > LARGEST:
            raise ModelError(f"statistics need values up to {LARGEST:g}, not {low:g} to {high:g}. Clip them before.")
        upper = _counted(_keys(values) >> 16) if has_ranks else None
        return cls(len(values), low, high, exact_sum(values), exact_squares(values), upper)

    def merge(self, other: "Tally") -> "Tally":
        """Return the tally of the values of both."""
        return Tally(
            self.n + other.n,
            min(self.low, other.low),
            max(self.high, other.high),
            self.total + other.total,
            self.squares + other.squares,
            None if self.upper is None or other.upper is None else self.upper + other.upper,
        )

    def buckets(self, shares: Sequence[float]) -> tuple[int, ...]:
        """Return the upper halves of the values that quantiles at ``shares`` are made of, ascending."""
        assert self.upper is not None
        places = [(self.n - 1) * share for share in shares] if self.n else []
        ranks = [min(rank, self.n - 1) for place in places for rank in (floor(place), floor(place) + 1)]
        return tuple(sorted({int(i) for i in np.searchsorted(np.cumsum(self.upper), ranks, side="right")}))

    def summary(self, shares: Sequence[float] = (), lower: NDArray[np.int64] | None = None) -> Summary:
        """Return the summary, with the quantiles at ``shares``, for which :func:`lower_halves` was counted."""
        if not self.n:
            return NOTHING
        mean, std = mean_and_std(self.n, self.total, self.squares)
        if lower is None or self.upper is None:
            return Summary(self.n, self.low, self.high, mean, std)
        upper, ends, buckets = self.upper, np.cumsum(self.upper), self.buckets(shares)

        def at(rank: int) -> float:
            bucket = int(np.searchsorted(ends, rank, side="right"))
            inside = rank - int(ends[bucket] - upper[bucket])
            half = int(np.searchsorted(np.cumsum(lower[buckets.index(bucket)]), inside, side="right"))
            return _value(bucket << 16 | half)

        found = {share: quantile(self.n, share, at) for share in shares}
        return Summary(self.n, self.low, self.high, mean, std, found)


def lower_halves(values: NDArray[np.float64], buckets: Sequence[int]) -> NDArray[np.int64]:
    """Return, for each of ascending ``buckets``, how many of its values have each lower half: (bucket, 65536)."""
    keys = _keys(values)
    row = np.full(N_HALF, -1)
    row[list(buckets)] = np.arange(len(buckets))
    rows = row[keys >> 16]
    places = rows[rows >= 0] * N_HALF + (keys[rows >= 0] & (N_HALF - 1))
    counts: NDArray[np.int64] = np.bincount(places, minlength=len(buckets) * N_HALF).reshape(-1, N_HALF)
    return counts


def _counted(halves: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(halves, minlength=N_HALF)


def _keys(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return whole numbers below 2^32 that sort as the values do as float32; -0 counts as 0."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    return (bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))).astype(np.int64)


def _value(key: int) -> float:
    """Return the value of a key.

    >>> [_value(int(key)) for key in _keys(np.array([-1.5, -0.0, 3.25]))]
    [-1.5, 0.0, 3.25]
    """
    bits = key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)
    return float(np.array(bits, np.uint32).view(np.float32))
