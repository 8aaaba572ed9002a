"""The search for a tile and block shape: the fewest computed voxels per core voxel that memory allows.

Along one axis a *cut* is a tile length with a block length; what it costs (tiles, voxels read) is exact,
from the tiling itself. Cuts of the axes are independent but for memory, so the search is a product of
short lists. The cost is not monotone in the tile: a tile slightly longer can save a whole row of tiles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np

from engine.errors import PlanError
from engine.geometry.canvas import CanvasTiling
from engine.geometry.edges import Edge
from engine.geometry.extent import Extent
from engine.geometry.receptive_field import AxisProgram
from engine.geometry.tiling import AxisTiling, legal_tile, shortest_tile
from engine.memory import format_bytes

UNITS = {1: 4096, 2: 256, 3: 64}
"""Voxels per axis that blocks are multiples of, by number of space axes: a chunk of most
outputs, half of one in 2-d."""

TILES_PER_BLOCK = (1, 2, 3, 4, 6)
"""How many tiles a block may be cut into along one axis."""

READ_SECONDS_PER_BYTE = 4e-9
"""Decoding blosc-zstd: 2.5 to 4 CPU seconds per GB here."""

WRITE_SECONDS_PER_BYTE = 3e-9
"""Encoding zstd at level 1: 2.6 CPU seconds per GB of noisy float32 here."""

NOISE = 1.2
"""Projected seconds this near to the least are taken for equal: two timings of one tile differ by so much."""


EVEN, EVEN_WHEN_LONG, LONG = 4, 16, 256
"""Tile lengths are multiples of these where the model can take that, the second from ``LONG`` voxels on: then a channel
has a multiple of 16 voxels, and each begins on 64 bytes. Measured with torch 2.13 on 2 cores, seconds per million
voxels of a dilated chain over 174^3 and 174 x 174 x 172: 0.63 and 0.28 with 11 channels, 2.05 and 1.35 with 20."""


Tiling = AxisTiling | CanvasTiling
"""One space axis of a plan."""


@dataclass(frozen=True, slots=True)
class AxisFacts:
    """What the search must know of one space axis."""

    name: str
    program: AxisProgram
    edge: Edge
    extent: Extent
    unit: int
    """Blocks are multiples of this many input voxels."""

    def tiling(self, *, tile: int, block: int) -> Tiling:
        """Return the axis cut so."""
        return AxisTiling(self.name, self.program, self.edge, self.extent, tile, block)

    def tiles(self, block: int, longest_core: int | None) -> Iterator[int]:
        """Yield the tile lengths that are worth weighing for a block."""
        program, extent = self.program, self.extent
        shortest = shortest_tile(program, extent)
        lost = shortest - program.step
        fewest = 1 if longest_core is None else max(1, -(-min(block, extent.size) // longest_core))
        if fewest == 1:
            yield extent.extended
        for parts in sorted({max(n, fewest) for n in TILES_PER_BLOCK}):
            core = -(-block // parts)
            core = -(-core // program.step) * program.step
            yield self._even(max(shortest, core + lost))
            yield self._even(core + shortest)
            if extent.size > block:
                continue
            yield self._even(max(shortest, core + -(-lost // 2)))

    def _even(self, at_least: int) -> int:
        """Return a legal tile of at least this length, and a multiple of 4 or 16 where it can be."""
        multiple = EVEN if at_least < LONG else EVEN_WHEN_LONG
        return self.legal(-(-at_least // multiple) * multiple)

    @property
    def longest_tile(self) -> int:
        """Voxels of the one tile that sees all of the axis."""
        return self.extent.extended

    def legal(self, at_least: int) -> int:
        """Return the shortest legal tile of at least this length; the whole axis at most."""
        return legal_tile(self.program, self.extent, at_least)

    def shares(self, tiling: Tiling) -> tuple[int, ...]:  # noqa: ARG002 -- a canvas holds more
        """Return what computing a block holds along this axis beside a batch of tiles: see :class:`Budget`."""
        return ()


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to cut one axis."""

    tile: int
    block: int
    n_tiles: int
    n_blocks: int
    n_read: int
    """Input voxels that all blocks read along this axis."""
    block_read: int
    """Input voxels that one block reads along this axis, at most."""
    tiles_per_block: int
    shares: tuple[int, ...] = ()
    """What computing a block holds along this axis beside a batch of tiles, by kind."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a cut may use, and what it costs."""

    tile_bytes: int
    """For the activations of one model call, and the blocks beside them."""
    block_bytes: int
    """For one block's input and output, at most."""
    bytes_per_tile_voxel: float
    """Of activations."""
    bytes_per_read_voxel: int
    """Of source, all channels of one item."""
    bytes_per_core_voxel: float
    """Of all outputs, all channels of one item."""
    speeds: tuple[tuple[int, float], ...]
    """(voxels of a batch, seconds per voxel) as timed."""
    batch_size: int
    """Tiles in one call of the model."""
    n_workers: int
    n_items: int
    """Items of the batch axes: they multiply blocks, not tiles."""
    n_blocks_beside: int = 0
    """Blocks, counted with the copies that storing makes, that share the tile's memory."""
    bytes_per_share: tuple[float, ...] = ()
    """Of each kind of ``Cut.shares``: the product over the axes costs so much."""


def unit_for(program: AxisProgram, extent: Extent, n_space: int) -> int:
    """Return the voxels that blocks of this axis are multiples of: near a chunk, and whole steps."""
    unit = UNITS.get(n_space, 64)
    unit = min(unit, extent.size)
    granule = lcm(program.step, *(program.scale(output).denominator for output, _ in extent.kept))
    return -(-unit // granule) * granule


def cuts(
    facts: AxisFacts,
    *,
    tile: int | None,
    block: int | None,
    longest_block: int | None = None,
    longest_core: int | None = None,
) -> list[Cut]:
    """Return the ways to cut an axis that are worth weighing.

    Args:
        facts: The axis.
        tile: The only tile length to be weighed.
        block: The only block length.
        longest_block: No longer block is weighed, if a shorter one can be had.
        longest_core: No tile is weighed that decides more than about this, where a block is longer.

    Raises:
        PlanError: If the given tile or block cannot be kept.
    """
    blocks = [block] if block else _block_candidates(facts)
    if longest_block is not None:
        blocks = [length for length in blocks if length <= longest_block] or blocks[:1]
    found: dict[tuple[int, int], Cut] = {}
    for length in blocks:
        for candidate in [tile] if tile else facts.tiles(length, longest_core):
            if (candidate, length) not in found:
                found[candidate, length] = _weigh(facts, candidate, length)
    return list(found.values())


def _block_candidates(facts: AxisFacts) -> list[int]:
    whole = -(-facts.extent.size // facts.unit)
    counts = {n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if n < whole}
    counts |= {-(-whole // parts) for parts in (1, 2, 3, 4) if whole // parts <= 64}
    return sorted(n * facts.unit for n in counts)


def _weigh(facts: AxisFacts, tile: int, block: int) -> Cut:
    tiling = facts.tiling(tile=tile, block=block)
    n_tiles, n_read = tiling.totals
    middle = tiling.n_blocks // 2
    reads = [tiling.read(i) for i in {0, middle, tiling.n_blocks - 1}]
    per_block = max(len(tiling.tiles(i)) for i in {0, middle})
    longest = max(b - a for a, b in reads)
    return Cut(tile, block, n_tiles, tiling.n_blocks, n_read, longest, per_block, facts.shares(tiling))


def search(options: Sequence[Sequence[Cut]], budget: Budget) -> tuple[Cut, ...]:
    """Return one cut per axis: of the combinations that fit and are about the fastest, one that computes least.

    Raises:
        PlanError: If no combination fits the memory.
    """
    fields = {
        name: [np.array([getattr(cut, name) for cut in cuts_], dtype=np.float64) for cuts_ in options]
        for name in ("tile", "block", "n_tiles", "n_blocks", "n_read", "block_read", "tiles_per_block")
    }
    outer = {name: _outer(columns) for name, columns in fields.items()}
    tile_bytes = outer["tile"] * budget.bytes_per_tile_voxel
    for kind, n_bytes in enumerate(budget.bytes_per_share):
        columns = [np.array([cut.shares[kind] for cut in cuts_], dtype=np.float64) for cuts_ in options]
        tile_bytes = tile_bytes + _outer(columns) * n_bytes
    block_bytes = outer["block_read"] * budget.bytes_per_read_voxel + outer["block"] * budget.bytes_per_core_voxel
    together = tile_bytes + budget.n_blocks_beside * block_bytes
    fits = (together <= budget.tile_bytes) & (block_bytes <= budget.block_bytes)
    if not fits.any():
        raise PlanError(_too_small(tile_bytes, block_bytes, budget))
    seconds = np.where(fits, _seconds(outer, budget), np.inf)
    computed = np.where(seconds <= NOISE * seconds.min(), outer["n_tiles"] * outer["tile"], np.inf)
    best = np.unravel_index(int(np.argmin(np.where(computed == computed.min(), seconds, np.inf))), seconds.shape)
    return tuple(cuts_[int(i)] for cuts_, i in zip(options, best, strict=True))


def _outer(columns: Sequence[np.ndarray]) -> np.ndarray:
    product = np.ones((1,) * len(columns))
    for axis, column in enumerate(columns):
        shape = [1] * len(columns)
        shape[axis] = len(column)
        product = product * column.reshape(shape)
    return product


def _seconds(outer: dict[str, np.ndarray], budget: Budget) -> np.ndarray:
    """Return the projected seconds of each combination: stages overlap but for the first read and the last write."""
    n_blocks = outer["n_blocks"] * budget.n_items
    sizes, per_voxel = zip(*budget.speeds, strict=True)
    speed = np.interp(np.log(outer["tile"] * budget.batch_size), np.log(sizes), per_voxel)
    compute = outer["n_tiles"] * outer["tile"] * budget.n_items * speed
    read = outer["n_read"] * budget.n_items * budget.bytes_per_read_voxel * READ_SECONDS_PER_BYTE
    rounds = np.ceil(n_blocks / budget.n_workers) * budget.n_workers / n_blocks
    write = outer["block"] * n_blocks * budget.bytes_per_core_voxel * WRITE_SECONDS_PER_BYTE
    ends = (read + write) / n_blocks
    per_block = n_blocks * 2e-3
    return np.asarray(np.maximum(compute, read) * rounds + ends + per_block + 0.1 * read)


def _too_small(tile_bytes: np.ndarray, block_bytes: np.ndarray, budget: Budget) -> str:
    tile, block = int(tile_bytes.min()), int(block_bytes.min())
    return (
        f"the smallest tile needs {format_bytes(tile)} of {format_bytes(budget.tile_bytes)} and the smallest block "
        f"{format_bytes(block)} of {format_bytes(budget.block_bytes)} that the memory limit leaves one worker. "
        "Raise --memory, use fewer --workers, or give a smaller --block."
    )
