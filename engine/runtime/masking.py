"""Which output voxels are wanted: those that meet a wanted cell of the plan's mask, whatever the blocks and tiles."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np
from numpy.typing import NDArray

from engine.geometry.region import Region
from engine.plan import OutputFacts, Plan
from engine.storage.ledger import Ledger, State

Cells = NDArray[np.bool_]
"""Over the mask's grid: whether a cell is wanted."""

Coverage = {"pending": 0, "computed": 1, "background": 2, "failed": 3}
"""What became of a cell, as the coverage of an output stores it."""


@dataclass(frozen=True)
class Mask:
    """The cells of a plan, and what they say of its blocks.

        cells        |  0  |  1  |  0  |
        input voxels |.....|#####|.....|
        output, 1/2  | . .|# # #|# . . |      an output voxel is wanted if any voxel of its footprint is
    """

    plan: Plan
    cells: Cells

    def wanted(self, index: tuple[int, ...], level: int = 0) -> dict[str, Cells]:
        """Return, per output, which voxels over space of a block are wanted; of a coarser level, at level 0."""
        return {output.name: self.meets(output, self._space(output, index, level)) for output in self.plan.outputs}

    def is_wanted(self, index: tuple[int, ...], level: int = 0) -> bool:
        """Say whether anything of a block is wanted."""
        return any(found.any() for found in self._coarse(index, level))

    def _coarse(self, index: tuple[int, ...], level: int) -> list[Cells]:
        spaces = [(o, self._space(o, index, level)) for o in self.plan.outputs]
        return [self.cells[self._cells_of(o, space).slices] for o, space in spaces if space.n_voxels]

    def _space(self, output: OutputFacts, index: tuple[int, ...], level: int) -> Region:
        """Return the voxels of level 0, over space, that a block of a level stands for."""
        n = len(self.plan.tilings)
        region = self.plan.block_region(output, index, level)
        factors = [int(np.prod([f[i] for f in self.plan.factors[:level]], dtype=int)) for i in range(n)]
        start = tuple(a * f for a, f in zip(region.start[-n:], factors, strict=True))
        whole = self.plan.level_shape(output, 0)[-n:]
        stop = tuple(min(b * f, m) for b, f, m in zip(region.stop[-n:], factors, whole, strict=True))
        return Region(start, stop)

    def _cells_of(self, output: OutputFacts, space: Region) -> Region:
        """Return the cells that a box of output voxels meets."""
        spans = [self._spans(output, axis, space) for axis in range(len(self.plan.tilings))]
        return Region(
            tuple(int(low.min(initial=n)) for (low, _), n in zip(spans, self.cells.shape, strict=True)),
            tuple(int(high.max(initial=0)) for _, high in spans),
        )

    def _spans(self, output: OutputFacts, axis: int, space: Region) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, per output voxel along an axis, the first cell that it meets, and one beyond the last."""
        assert self.plan.mask is not None
        tiling, cell = self.plan.tilings[axis], self.plan.mask.cell[axis]
        per_voxel = 1 / tiling.program.scale(output.name)
        first_edge = tiling.first_edge(output.name)
        numbers = np.arange(space.start[axis], space.stop[axis], dtype=np.int64)
        low = _floors(numbers, step=per_voxel / cell, offset=first_edge / cell)
        high = -_floors(-numbers - 1, step=per_voxel / cell, offset=-first_edge / cell)
        n = self.cells.shape[axis]
        return np.minimum(low, n - 1), np.minimum(high, n)

    def meets(self, output: OutputFacts, space: Region) -> Cells:
        """Return which voxels of a box of an output meet a wanted cell: counts of them, by a summed-area table."""
        if not space.n_voxels:
            return np.zeros(space.shape, np.bool_)
        box = self._cells_of(output, space)
        sums = np.pad(self.cells[box.slices].astype(np.int64), [(1, 0)] * len(box.shape))
        lows, highs, spread = [], [], []
        for axis, origin in enumerate(box.start):
            sums = sums.cumsum(axis)
            pairs = np.stack(self._spans(output, axis, space), axis=1) - origin
            unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
            lows.append(unique[:, 0])
            highs.append(unique[:, 1])
            spread.append(inverse.reshape(-1))
        n_axes = len(lows)
        count = np.zeros(tuple(len(low) for low in lows), np.int64)
        for corner in product((0, 1), repeat=n_axes):
            at = [highs[i] if is_high else lows[i] for i, is_high in enumerate(corner)]
            count += (-1) ** (n_axes - sum(corner)) * sums[np.ix_(*at)]
        return np.asarray((count > 0)[np.ix_(*spread)])


def _floors(numbers: NDArray[np.int64], *, step: Fraction, offset: Fraction) -> NDArray[np.int64]:
    """Return ``floor(number * step + offset)``, exactly."""
    bottom = step.denominator * offset.denominator
    a, b = step.numerator * offset.denominator, offset.numerator * step.denominator
    return np.asarray((numbers * a + b) // bottom)


def blank(voxels: Mapping[str, NDArray[np.generic]], wanted: Mapping[str, Cells]) -> dict[str, NDArray[np.generic]]:
    """Return the outputs (item, [channel,] *space) of a block with 0 where nothing is wanted; in place if it can be."""
    found = {}
    for name, array in voxels.items():
        keep = wanted[name]
        if not keep.all():
            array = array if array.flags.writeable else array.copy()  # noqa: PLW2901
            array[..., ~keep] = 0
        found[name] = array
    return found


def coverage(mask: Mask, ledger: Ledger) -> NDArray[np.uint8]:
    """Return what became of each cell: a value of :data:`Coverage`, uint8 over the mask's grid.

    A cell over several blocks has the worst of their states: failed, then pending, then computed.
    """
    plan, cells = mask.plan, mask.cells
    graph = plan.graph
    states = ledger.states(0, graph.n_blocks).reshape(graph.counts)
    worst = {State.DONE: 0, State.SKIPPED: 0, State.PENDING: 1, State.FAILED: 2}
    rank = np.vectorize(worst.__getitem__, otypes=[np.uint8])(states)
    rank = rank.max(axis=tuple(range(len(plan.batches)))) if plan.batches else rank
    for axis, n_cells in enumerate(cells.shape):
        rank = _worst_along(rank, axis, _block_spans(plan, axis, n_cells))
    values = np.array([Coverage["computed"], Coverage["pending"], Coverage["failed"]], np.uint8)
    return np.where(cells, values[rank], np.uint8(Coverage["background"])).astype(np.uint8)


def _block_spans(plan: Plan, axis: int, n_cells: int) -> NDArray[np.int64]:
    """Return the first block that decides an input voxel of each cell along an axis, and one beyond the last."""
    assert plan.mask is not None
    tiling, cell = plan.tilings[axis], plan.mask.cell[axis]
    first = np.arange(n_cells, dtype=np.int64) * cell
    ends = np.stack([first, np.minimum(first + cell, tiling.extent.size) - 1], axis=1) // tiling.block
    return np.asarray(np.minimum(ends, tiling.n_blocks - 1) + np.array([0, 1]))


def _worst_along(rank: NDArray[np.uint8], axis: int, spans: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the largest rank within each span along an axis."""
    longer = np.pad(rank, [(0, int(i == axis)) for i in range(rank.ndim)])  # so that an end may lie beyond the last
    return np.asarray(np.maximum.reduceat(longer, spans.reshape(-1), axis=axis).take(range(0, spans.size, 2), axis))
