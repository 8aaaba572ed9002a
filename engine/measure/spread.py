"""How often each value was found: exact counts, so that quantiles and means are those of all values at once."""

from dataclasses import dataclass
from math import floor, fsum
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Spread:
    """Distinct values with their counts; merging in any order gives the same bits.

    Values are kept as float32: what differs by the rounding of its arithmetic alone counts as one.

    >>> found = Spread.of(np.array([1, 4, 1, 2])).plus(Spread.of(np.array([9.0])))
    >>> found.n, found.mean, found.quantile(0.5), found.share_within(2)
    (5, 3.4, 2.0, 0.6)
    """

    values: NDArray[np.float32]
    """Rising, each once."""
    counts: NDArray[np.int64]
    """How often each was found."""

    @classmethod
    def of(cls, values: NDArray[np.generic]) -> Self:
        """Return the counts of an array's values."""
        found, counts = np.unique(values.astype(np.float32), return_counts=True)
        return cls(found, counts.astype(np.int64))

    @classmethod
    def one(cls, value: float, n: int) -> Self:
        """Return one value, ``n`` times; none for 0 times."""
        return cls(np.full(min(n, 1), value, np.float32), np.full(min(n, 1), n, np.int64))

    def plus(self, *others: Self) -> Self:
        """Return the counts of all together."""
        parts = (self, *others)
        values, place = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, place, np.concatenate([part.counts for part in parts]))
        return type(self)(values, counts)

    @property
    def n(self) -> int:
        """Values in all."""
        return int(self.counts.sum())

    @property
    def minimum(self) -> float:
        """The least; NaN of none."""
        return float(self.values[0]) if self.n else float("nan")

    @property
    def maximum(self) -> float:
        """The greatest; NaN of none."""
        return float(self.values[-1]) if self.n else float("nan")

    @property
    def mean(self) -> float:
        """The mean, rounded once; NaN of none."""
        return fsum((self.values.astype(np.float64) * self.counts).tolist()) / self.n if self.n else float("nan")

    def quantile(self, share: float) -> float:
        """Return the value below which ``share`` of all lie, interpolated between neighbours as NumPy does by default.

        NaN of none.
        """
        if not self.n:
            return float("nan")
        rank = share * (self.n - 1)
        below = floor(rank)
        ends, ranks = np.cumsum(self.counts), (below, min(below + 1, self.n - 1))
        low, high = (float(self.values[np.searchsorted(ends, i, side="right")]) for i in ranks)
        return low if low == high else low + (high - low) * (rank - below)

    def share_within(self, limit: float) -> float:
        """Return the share of values of at most ``limit``, compared as float32; NaN of none."""
        return int(self.counts[self.values <= np.float32(limit)].sum()) / self.n if self.n else float("nan")
