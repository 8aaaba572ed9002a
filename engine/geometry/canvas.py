"""One axis of a plan whose network works on a grid of its own, or through a sliding window.

    source    |===== block =====|=====          what a task writes
    canvas   |--- needed ----|                  voxels of the network's grid that the block is made of
    tiles    |-- tile --|                       exact: cores cover what is needed once
                   |-- tile --|
    windows |-- window --|                      windowed: every window that meets it, to be blended
               |-- window --|
                  |-- window --|

Neighbouring blocks both paint the few voxels of the canvas that both are made of; no block hands
anything to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.geometry.edges import MODEL_EDGE, Edge
from engine.geometry.extent import Extent
from engine.geometry.nodes import Interval
from engine.geometry.receptive_field import AxisProgram
from engine.geometry.resampling import Resampling
from engine.geometry.tiling import AxisTile, AxisTiling

PAINTED = "output"
"""Name of the network's one output."""


@dataclass(frozen=True)
class CanvasTiling:
    """One space axis of a plan with a canvas; it answers what :class:`AxisTiling` answers, in source voxels."""

    name: str
    program: AxisProgram
    """Of the outputs on the source's grid: each is what lies under it."""
    extent: Extent
    """Of the source."""
    network: AxisProgram
    grid: Extent
    """Of the network's grid: its own voxels, and what is added for the network to take them."""
    there: Resampling
    """From the source's grid to the network's."""
    back: Resampling
    starts: tuple[int, ...] | None
    """First voxel of each window, in the extended grid; None for tiles."""
    tile: int
    """Voxels of a tile or a window."""
    block: int
    """Source voxels of a block."""

    @property
    def edge(self) -> Edge:
        """The model's own."""
        return MODEL_EDGE

    @cached_property
    def _inner(self) -> AxisTiling:
        return AxisTiling(self.name, self.network, MODEL_EDGE, self.grid, self.tile, self.grid.extended)

    @cached_property
    def kept(self) -> dict[str, int]:
        """Voxels of each output along this axis."""
        return dict(self.extent.kept)

    @cached_property
    def block_sizes(self) -> dict[str, int]:
        """Voxels of each output in a block that is not the last."""
        return dict.fromkeys(self.kept, self.block)

    @property
    def n_blocks(self) -> int:
        """Blocks along this axis."""
        return -(-self.extent.size // self.block)

    def first_edge(self, output: str) -> Fraction:  # noqa: ARG002 -- as AxisTiling is asked
        """Return where an output's first voxel begins: at the volume's border."""
        return Fraction(0)

    def interval(self, block: int) -> Interval:
        """Return the half-open interval of source voxels that ``block`` decides."""
        return min(block * self.block, self.extent.size), min((block + 1) * self.block, self.extent.size)

    def needed(self, interval: Interval) -> Interval:
        """Return the half-open interval of the canvas that source voxels are made of."""
        first, last = self.back.demand(interval[0], interval[1] - 1)
        return first, last + 1

    def tiles(self, block: int) -> tuple[AxisTile, ...]:
        """Return the tiles or windows that ``block`` is made of, from left to right."""
        return self.tiles_for(self.interval(block))

    def tiles_for(self, interval: Interval) -> tuple[AxisTile, ...]:
        """Return the tiles or windows that an interval of source voxels is made of, from left to right."""
        low, high = self.needed(interval)
        if self.starts is None:
            return self._inner.tiles_over({PAINTED: (low, high)})
        before, found = self.grid.before, []
        for start in self.starts:
            first, last = max(low, start - before), min(high, start - before + self.tile)
            if first < last:
                found.append(AxisTile(start, {PAINTED: (first, last)}, {PAINTED: first + before - start}))
        return tuple(found)

    def shown(self, tiles: Sequence[AxisTile]) -> "Shown":
        """Return what tiles are shown of the network's grid, together."""
        start, stop = tiles[0].start, max(tile.start for tile in tiles) + self.tile
        before, size = self.grid.before, self.grid.size
        zeros = (0, 0)
        if self.starts is not None:  # a window that is longer than the axis sees zeros about it
            zeros = max(before - start, 0), max(stop - before - size, 0)
        voxels = np.arange(start + zeros[0] - before, stop - zeros[1] - before, dtype=np.int64)
        return Shown(start, _mirrored(voxels, size), zeros)

    def read(self, block: int) -> Interval:
        """Return the half-open interval of source voxels that ``block`` reads."""
        return self.read_for(self.shown(self.tiles(block)))

    def read_for(self, shown: "Shown") -> Interval:
        """Return the half-open interval of source voxels that a stretch of the network's grid is made of."""
        first, last = self.there.demand(int(shown.voxels.min()), int(shown.voxels.max()))
        return first, last + 1

    @cached_property
    def totals(self) -> tuple[int, int]:
        """Tiles along this axis, and source voxels that blocks read: sums over all blocks."""
        reads = [self.read(block) for block in range(self.n_blocks)]
        return sum(len(self.tiles(block)) for block in range(self.n_blocks)), sum(high - low for low, high in reads)

    @property
    def shortest_tile(self) -> int:
        """Shortest tile that gets ahead; a window has its one length."""
        return self.tile if self.starts is not None else self._inner.shortest_tile

    def legal_tile(self, at_least: int) -> int:
        """Return the shortest legal tile of at least this length."""
        return self.tile if self.starts is not None else self._inner.legal_tile(at_least)

    def painted_ahead(self, interval: Interval) -> int:
        """Return how many voxels of the canvas an interval holds at once, when it is painted from left to right.

        What no later tile paints is brought back and let go, but for what later source voxels are made of.
        """
        done, most = interval[0], 1
        for tile in self.tiles_for(interval):
            low, high = tile.cores[PAINTED]
            done = max(done, min(self.back.n_ready(low), interval[1]))
            kept = min(self.needed((done, interval[1]))[0], low) if done < interval[1] else low
            most = max(most, high - kept)
        return most


@dataclass(frozen=True, eq=False)
class Shown:
    """A stretch of the network's grid that tiles are shown."""

    start: int
    """Its first voxel, in the extended grid."""
    voxels: NDArray[np.int64]
    """The grid's own voxels that are in it, mirrored beyond the far border where the network asks for more."""
    zeros: tuple[int, int]
    """Zeros before and after these."""


def _mirrored(voxels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return voxels of an axis of ``size``, those beyond its ends reflected, as ``edges.segments`` does it."""
    if size == 1:
        return np.zeros_like(voxels)
    phase = np.mod(voxels, 2 * (size - 1))
    return np.where(phase < size, phase, 2 * (size - 1) - phase)
