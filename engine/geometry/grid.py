"""Regular grids of cells over an array: chunks, shards and blocks are all this."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from engine.errors import RegionError
from engine.geometry.region import Region


@dataclass(frozen=True, slots=True)
class Grid:
    """An array of ``shape`` cut into cells of ``cell`` voxels, the last ones clipped.

    Cells are numbered in row-major order, by arithmetic: nothing is ever listed.

    >>> grid = Grid(shape=(100, 64), cell=(64, 64))
    >>> grid.n_cells, grid.region(1)
    (2, Region(start=(64, 0), stop=(100, 64)))
    """

    shape: tuple[int, ...]
    """Voxels per axis of the whole array."""

    cell: tuple[int, ...]
    """Voxels per axis of one cell; the last cell of an axis may be cut short."""

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.cell) or min(self.cell, default=1) < 1 or min(self.shape, default=0) < 0:
            raise RegionError(f"a grid needs one positive cell size per axis: {self.shape=}, {self.cell=}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Cells per axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.cell, strict=True))

    @property
    def n_cells(self) -> int:
        """Cells in all."""
        return prod(self.counts)

    def index(self, number: int) -> tuple[int, ...]:
        """Return the position, per axis, of cell ``number``.

        >>> Grid((4, 6), (2, 2)).index(4)
        (1, 1)

        Raises:
            RegionError: If there is no such cell.
        """
        if not 0 <= number < self.n_cells:
            raise RegionError(f"cell number must be in [0, {self.n_cells}), not {number}")
        position = []
        for count in reversed(self.counts):
            number, i = divmod(number, count)
            position.append(i)
        return tuple(reversed(position))

    def number(self, index: Sequence[int]) -> int:
        """Return the number of the cell at ``index``; inverse of :meth:`index`.

        >>> Grid((4, 6), (2, 2)).number((1, 1))
        4
        """
        number = 0
        for i, count in zip(index, self.counts, strict=True):
            number = number * count + i
        return number

    def region(self, number: int) -> Region:
        """Return the voxels of cell ``number``, clipped to the array."""
        index = self.index(number)
        start = tuple(i * c for i, c in zip(index, self.cell, strict=True))
        stop = tuple(min(a + c, n) for a, c, n in zip(start, self.cell, self.shape, strict=True))
        return Region(start, stop)

    def meeting(self, region: Region) -> Iterator[int]:
        """Yield, in order, the numbers of the cells that share a voxel with ``region``.

        >>> list(Grid((4, 6), (2, 2)).meeting(Region((0, 1), (1, 3))))
        [0, 1]
        """
        inside = region.meet(Region.whole(self.shape))
        if inside is None:
            return
        spans = [range(a // c, -(-b // c)) for a, b, c in zip(inside.start, inside.stop, self.cell, strict=True)]
        for index in product(*spans):
            yield self.number(index)

    def is_whole(self, region: Region) -> bool:
        """Say whether ``region`` is made of whole cells (a clipped last cell is whole)."""
        starts = all(a % c == 0 for a, c in zip(region.start, self.cell, strict=True))
        ends = zip(region.stop, self.cell, self.shape, strict=True)
        return starts and all(b % c == 0 or b == n for b, c, n in ends)
