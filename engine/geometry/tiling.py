"""How one axis is cut into blocks and tiles so that every tile's core equals the whole run.

    axis       0                                              extended
    read        |-------- tile --------|
    read              |step|--------- tile --------|
    cores       |ccccccccccccccccc|ccccccccccccccccc|            of one block
    block       |=================================|=======...

Every tile of a plan has one length. A tile's read starts on a multiple of the model's step; at a
border it slides inward and touches the true edge. The valid intervals of a tile that touches the
left border, the right one, both or neither are worked out once; all else is a formula, so tile n
of block m is found without the others.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from engine.errors import PlanError
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.extent import Extent
from engine.geometry.nodes import Interval
from engine.geometry.receptive_field import AxisProgram


@dataclass(frozen=True, slots=True)
class AxisTile:
    """One tile along one axis."""

    start: int
    """First voxel that it reads, in the extended axis; a multiple of the step."""
    cores: Mapping[str, Interval]
    """Per output, the half-open interval of kept voxels that this tile decides; it may be empty."""
    locals: Mapping[str, int]
    """Per output, where the core begins in the tile's own output."""


@dataclass(frozen=True)
class AxisTiling:
    """One space axis of a plan: its extent, tile length and block length.

    Tiles of block ``i`` are a formula (:meth:`tiles`); so are the totals.
    """

    name: str
    program: AxisProgram
    edge: Edge
    extent: Extent
    tile: int
    """Input voxels of every tile."""
    block: int
    """Input voxels of a block's core; a multiple of the step and of every output's scale denominator."""

    def __post_init__(self) -> None:
        step, extended = self.program.step, self.extent.extended
        if self.tile > extended or (extended - self.tile) % step or self.program.sizes(self.tile) is None:
            raise PlanError(
                f"tile length {self.tile} along '{self.name}' must be a legal length that differs from {extended} by "
                f"a multiple of the step {step}. Use {self.legal_tile(self.tile)}."
            )
        if self.block % step and self.n_blocks > 1:
            raise PlanError(f"block length {self.block} along '{self.name}' must be a multiple of the step {step}.")

    def legal_tile(self, at_least: int) -> int:
        """Return the shortest legal tile of at least this length; the whole axis at most."""
        return legal_tile(self.program, self.extent, at_least)

    @cached_property
    def kept(self) -> dict[str, int]:
        """Voxels of each output along this axis."""
        return dict(self.extent.kept)

    @cached_property
    def _crops(self) -> dict[str, int]:
        return dict(self.extent.crops)

    @cached_property
    def _scales(self) -> dict[str, Fraction]:
        return {output: self.program.scale(output) for output in self.kept}

    def first_edge(self, output: str) -> Fraction:
        """Return where an output's first voxel begins, in input voxels from the volume's border.

        Where nothing is padded, it is centred on what it sees: on the first patch of an encoder, however these overlap.
        """
        scale = self._scales[output]
        if self.edge.kind is EdgeKind.MODEL and self.program.demand(output, 0, 0)[0] >= 0:
            voxels = range(int(self.program.jump(output) * scale))
            seen = [sum(self.program.demand(output, g, g)) + 1 - (2 * g + 1) / scale for g in voxels]
            return sum(seen, Fraction(0)) / (2 * len(seen))
        shrunk = (self.extent.extended * scale - self.kept[output]) / 2
        is_shrunk = self.edge.kind is EdgeKind.MODEL and not self.extent.far_extension and shrunk >= 1
        return shrunk / scale if is_shrunk else Fraction(0)

    @cached_property
    def block_sizes(self) -> dict[str, int]:
        """Voxels of each output in a block that is not the last."""
        return {output: int(self.block * scale) for output, scale in self._scales.items()}

    @cached_property
    def n_blocks(self) -> int:
        """Blocks along this axis."""
        return max(-(-kept // max(int(self.block * self._scales[o]), 1)) for o, kept in self.kept.items())

    def block_interval(self, output: str, block: int) -> Interval:
        """Return the half-open interval of an output's voxels that ``block`` decides."""
        length, kept = self.block_sizes[output], self.kept[output]
        last = kept if block == self.n_blocks - 1 else min((block + 1) * length, kept)
        return min(block * length, kept), last

    @cached_property
    def _valid(self) -> dict[tuple[bool, bool], dict[str, Interval]]:
        """Valid interval less ``start * scale``, per output, by which borders the tile touches."""
        extended, tile, step = self.extent.extended, self.tile, self.program.step
        n_steps = (extended - tile) // step
        starts = {(True, n_steps == 0): 0, (n_steps == 0, True): extended - tile}
        if n_steps > 1:
            starts[(False, False)] = step * (n_steps // 2)
        table = {}
        for touches, start in starts.items():
            spans = self.program.valid(size=extended, start=start, stop=start + tile)
            shifts = {o: int(start * self._scales[o]) for o in spans}
            table[touches] = {o: (span.start - shifts[o], span.stop - shifts[o]) for o, span in spans.items()}
        return table

    def valid_at(self, start: int) -> dict[str, Interval]:
        """Return, per output, the half-open interval of kept voxels that a tile at ``start`` may decide."""
        touches = (start == 0, start + self.tile == self.extent.extended)
        found = {}
        for output, (low, high) in self._valid[touches].items():
            shift = int(start * self._scales[output]) - self._crops[output]
            found[output] = low + shift, high + shift
        return found

    def tiles(self, block: int) -> tuple[AxisTile, ...]:
        """Return the fewest tiles whose cores cover ``block`` exactly once, from left to right.

        Raises:
            PlanError: If the tile is too short to get ahead.
        """
        intervals = {output: self.block_interval(output, block) for output in self.kept}
        return self.tiles_over(intervals)

    def tiles_over(self, intervals: Mapping[str, Interval]) -> tuple[AxisTile, ...]:
        """Return the fewest tiles whose cores cover these intervals of kept voxels exactly once."""
        done = {output: first for output, (first, _) in intervals.items()}
        found: list[AxisTile] = []
        while unfinished := [o for o, (_, last) in intervals.items() if done[o] < last]:
            start = min(self._start_for(output, done[output]) for output in unfinished)
            reach = self.valid_at(start)
            cores = {}
            for output, (_, last) in intervals.items():
                stop = (
                    max(done[output], min(reach[output][1], last)) if reach[output][0] <= done[output] else done[output]
                )
                cores[output] = (done[output], stop)
            if all(low == high for low, high in cores.values()):
                raise PlanError(self._why_stuck(done))
            found.append(self.tile_at(start, cores))
            done = {output: high for output, (_, high) in cores.items()}
        return tuple(found)

    def _why_stuck(self, done: Mapping[str, int]) -> str:
        if self.program.is_circular and self.edge.kind is EdgeKind.MODEL:
            return (
                f"axis '{self.name}' has the edge '{self.edge.kind}', and the model's circular padding takes what lies "
                f"beyond a border from the far side: no tile short of all {self.extent.extended} voxels equals the "
                f"whole run, and this one has {self.tile}. Use the edge 'wrap' (--edge {self.name}=wrap), or one tile."
            )
        return (
            f"tile length {self.tile} along '{self.name}' is too short: no output voxel at {dict(done)} sees all it "
            f"needs. Use at least {self.shortest_tile}."
        )

    def _start_for(self, output: str, first: int) -> int:
        """Return the rightmost start whose tile may decide kept voxel ``first``."""
        last_start = self.extent.extended - self.tile
        low = self._valid.get((False, False), {}).get(output, (0, 0))[0]
        if (False, False) not in self._valid and last_start:
            low = self._valid[(False, True)][output][0]
        wanted = (first + self._crops[output] - low) / self._scales[output]
        start = wanted.numerator // wanted.denominator // self.program.step * self.program.step
        return min(max(start, 0), last_start)

    def tile_at(self, start: int, cores: Mapping[str, Interval]) -> AxisTile:
        """Return the tile that reads from ``start`` and decides ``cores``, which lie in :meth:`valid_at`."""
        shifts = {o: self._crops[o] - int(start * self._scales[o]) for o in cores}
        return AxisTile(start, cores, {o: low + shifts[o] for o, (low, _) in cores.items()})

    @property
    def shortest_tile(self) -> int:
        """Shortest tile that gets ahead by one step wherever it lies."""
        return shortest_tile(self.program, self.extent)

    def read(self, block: int) -> Interval:
        """Return the half-open interval of the extended axis that the tiles of ``block`` read."""
        tiles = self.tiles(block)
        starts = [tile.start for tile in tiles] or [0]
        return min(starts), max(starts) + self.tile

    @cached_property
    def totals(self) -> tuple[int, int]:
        """Tiles along this axis, and input voxels that blocks read: sums over all blocks, by formula.

        Blocks far from both borders are alike, so one of them stands for all.
        """
        near = 2 + -(-self.tile // max(self.block, 1))
        n = self.n_blocks
        if n <= 2 * near + 1:
            chosen: Sequence[tuple[int, int]] = [(block, 1) for block in range(n)]
        else:
            ends = [*range(near), *range(n - near, n)]
            chosen = [*((block, 1) for block in ends), (near, n - 2 * near)]
        n_tiles = sum(len(self.tiles(block)) * times for block, times in chosen)
        n_read = sum((self.read(block)[1] - self.read(block)[0]) * times for block, times in chosen)
        return n_tiles, n_read


def legal_tile(program: AxisProgram, extent: Extent, at_least: int) -> int:
    """Return the shortest legal tile of at least this length; the whole axis at most."""
    step, extended = program.step, extent.extended
    length = extended - max(0, (extended - at_least) // step) * step
    while length < extended and program.sizes(length) is None:
        length += step
    return min(length, extended)


def shortest_tile(program: AxisProgram, extent: Extent) -> int:
    """Return the shortest tile that decides one step of every output wherever it lies; the whole axis at most."""
    lengths = range(legal_tile(program, extent, 1), extent.extended, program.step)
    found = bisect_left(lengths, True, key=lambda length: _gets_ahead(program, extent, length))
    return lengths[found] if found < len(lengths) else extent.extended


def _gets_ahead(program: AxisProgram, extent: Extent, length: int) -> bool:
    """Say whether a tile far from the borders decides a step, and the first and last tile all up to theirs."""
    step, extended, crops = program.step, extent.extended, dict(extent.crops)
    far = extended + (4 * length // step + 4) * step
    if program.sizes(length) is None or program.sizes(far) is None:
        return False
    middle = (far - length) // step // 2 * step
    inner = program.valid(size=far, start=middle, stop=middle + length)
    first = program.valid(size=extended, start=0, stop=length)
    last = program.valid(size=extended, start=extended - length, stop=extended)
    return all(
        inner[output].stop - inner[output].start >= step * program.scale(output)
        and first[output].start <= crops[output]
        and last[output].stop >= crops[output] + kept
        for output, kept in extent.kept
    )
