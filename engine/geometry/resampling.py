"""One axis seen on two grids over the same stretch: which voxels of one a voxel of the other is made of.

The outer borders of the two grids coincide, as of an image that is stretched, so that the centre of voxel
``i`` of ``n_to`` lies at ``(i + 1/2) n_from / n_to - 1/2`` of the other (torch's ``align_corners=False``,
what scikit-image and nnU-Net do). Positions are exact fractions of global indices: no tile, block or
worker changes them.

    from   |  0  |  1  |  2  |  3  |  4  |     n_from = 5
    to     |    0    |    1    |    2    |     n_to = 3, voxel 1 lies at 2
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.errors import PlanError
from engine.geometry.nodes import Interval

Order = Literal["nearest", "linear", "cubic"]
"""How values between voxels are found."""

ORDERS: tuple[Order, ...] = get_args(Order)

FIRST_TAP: dict[Order, int] = {"nearest": 0, "linear": 0, "cubic": -1}
"""First voxel that takes part, from the one at or before the position."""

N_TAPS: dict[Order, int] = {"nearest": 1, "linear": 2, "cubic": 4}
"""Voxels that take part."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """From a grid of ``n_from`` voxels to one of ``n_to`` over the same stretch of an axis.

    >>> Resampling(5, 3, "linear").demand(1, 1), Resampling(4, 4, "cubic").demand(2, 3)
    ((2, 3), (2, 3))
    """

    n_from: int
    n_to: int
    order: Order

    def __post_init__(self) -> None:
        if min(self.n_from, self.n_to) < 1 or self.order not in ORDERS:
            raise PlanError(
                f"resampling needs two grids of at least one voxel and one of {', '.join(ORDERS)}, not {self.n_from} "
                f"to {self.n_to}, '{self.order}'. Check the spacing."
            )

    @property
    def is_identity(self) -> bool:
        """Whether the grids are one."""
        return self.n_from == self.n_to

    def taps(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what voxels of the grid ``to`` are made of.

        Args:
            indices: Voxels of the grid ``to``; one that is given twice comes twice.

        Returns:
            For each: the voxels of the grid ``from`` that take part (n, taps), the outermost repeated beyond a
            border; and how far it lies beyond the voxel before it, in parts of ``2 n_to`` of a voxel (n,).
        """
        if self.is_identity:
            return indices[:, None], np.zeros(len(indices), np.int64)
        place = (2 * indices + 1) * self.n_from
        if self.order == "nearest":
            return np.minimum(place // (2 * self.n_to), self.n_from - 1)[:, None], np.zeros(len(indices), np.int64)
        before, beyond = np.divmod(place - self.n_to, 2 * self.n_to)
        taps = before[:, None] + FIRST_TAP[self.order] + np.arange(N_TAPS[self.order])
        return np.clip(taps, 0, self.n_from - 1), beyond

    def demand(self, first: int, last: int) -> Interval:
        """Return the voxels of the grid ``from``, first and last, that voxels ``first..last`` are made of."""
        taps, _ = self.taps(np.array([first, last], np.int64))
        return int(taps[0, 0]), int(taps[1, -1])

    def n_ready(self, n: int) -> int:
        """Return how many voxels of the grid ``to`` are made of the first ``n`` of the grid ``from`` alone."""
        if n >= self.n_from:
            return self.n_to
        low, high = 0, self.n_to
        while low < high:
            middle = (low + high) // 2
            if self.demand(middle, middle)[1] < n:
                low = middle + 1
            else:
                high = middle
        return low


def grid_size(size: int, *, spacing: float, wanted: float) -> int:
    """Return how many voxels of about ``wanted`` cover ``size`` voxels of ``spacing``: rounded, at least 1.

    >>> grid_size(101, spacing=3.0, wanted=1.5), grid_size(101, spacing=3.0, wanted=3.0)
    (202, 101)
    """
    return max(1, round(size * spacing / wanted))
