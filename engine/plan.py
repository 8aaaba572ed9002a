"""The plan: everything that a run will do, as frozen integers that can be printed, saved and compared.

A plan is made from facts (a source, a model's geometry, what one call costs) and never touches a
voxel. It is arithmetic: block number n, its tiles and its place in every output are formulas, so a
plan of 10^9 blocks is as small as one of ten.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from engine.geometry.axes import STEP, Axis
from engine.geometry.block_graph import BlockGraph
from engine.geometry.canvas import CanvasTiling
from engine.geometry.model_geometry import ModelGeometry
from engine.geometry.region import Region
from engine.geometry.tiling import AxisTile, AxisTiling
from engine.memory import Projection


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The volume to be read."""

    url: str
    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    dtype: str
    fingerprint: str
    """Hash of what it holds, as far as it was looked at; see ``storage.fingerprint``."""
    flavour: str = "ngff"
    """What the output is to be: ``ngff`` (OME-Zarr) or ``cf`` (climate)."""
    translation: tuple[float, ...] | None = None
    """Physical position of the first voxel, per axis."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model to be run."""

    spec: str
    fingerprint: str
    precision: str
    """float32, float64 or bfloat16 (autocast)."""
    precision_error: float = 0.0
    """Largest difference from float32 seen on the probe tile, where the precision is bfloat16."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Statistics that were fitted to the source before the run, by module and buffer; see ``models/fitted.py``."""


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """Which part of the source is wanted: a coarse grid of cells over its space axes, kept beside the output."""

    method: str
    """What made it: ``auto``, or the place of a polygon file, a volume or a model."""
    cell: tuple[int, ...]
    """Input voxels of one cell, per space axis."""
    shape: tuple[int, ...]
    """Cells per space axis."""
    n_wanted: int
    """Cells that are wanted."""
    fingerprint: str
    """SHA-256 of the cells."""

    @property
    def share(self) -> float:
        """Wanted cells, as a share of all."""
        return self.n_wanted / prod(self.shape)


@dataclass(frozen=True, slots=True)
class TileCost:
    """What one call of the model costs, measured by a probe run."""

    bytes_per_voxel: float
    """Peak activations per input voxel of one tile, channels included."""
    speeds: tuple[tuple[int, float], ...]
    """(voxels of a batch, seconds per voxel) of each batch that was timed, from small to large: large tiles are
    slower per voxel on a CPU, where every large tensor is fresh memory."""

    def seconds_per_voxel(self, voxels: int) -> float:
        """Return the seconds per voxel of a batch of so many voxels, between the timed ones by interpolation.

        >>> round(TileCost(1.0, ((100, 2.0), (10000, 4.0))).seconds_per_voxel(1000), 6)
        3.0
        """
        sizes, seconds = zip(*self.speeds, strict=True)
        return float(np.interp(np.log(max(voxels, 1)), np.log(sizes), seconds))


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """One batch axis, cut into blocks of whole items."""

    name: str
    size: int
    block: int

    @property
    def is_chain(self) -> bool:
        """Whether each item is made from the one before."""
        return self.name == STEP

    @property
    def n_blocks(self) -> int:
        """Blocks along this axis."""
        return -(-self.size // self.block)


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """One named output: batch axes, then channel if it has one, then space axes."""

    name: str
    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    """Voxels of one block: each block writes whole shards that nobody else touches."""
    has_channels: bool
    translation: tuple[float, ...]

    @property
    def is_label(self) -> bool:
        """Whether voxels are classes: whole numbers without a channel axis. Its pyramid takes the mode."""
        return not self.has_channels and not self.dtype.startswith(("float", "bfloat"))


@dataclass(frozen=True)
class Plan:
    """What will be done, block by block."""

    source: SourceFacts
    model: ModelFacts
    geometry: ModelGeometry
    tilings: tuple[AxisTiling | CanvasTiling, ...]
    """One per space axis."""
    batches: tuple[BatchAxis, ...]
    batch_size: int
    """Tiles in every call of the model; the last batch is filled up."""
    outputs: tuple[OutputFacts, ...]
    factors: tuple[tuple[int, ...], ...]
    """Per pyramid level above 0, the factor of each space axis (1 or 2)."""
    nan: str
    """What NaN and infinity in a floating source mean: ``refuse`` or ``keep``."""
    n_workers: int
    n_in_flight: int
    """Blocks that one worker holds at once."""
    cost: TileCost
    projection: Projection
    memory_limit: int
    """Bytes that all workers of one machine may use."""
    mask: MaskFacts | None = None
    """What is wanted, where that is not everything: the rest is background, and stays 0."""
    notes: tuple[str, ...] = ()
    """What a reader of the result must know: extended sizes, probed geometry, ..."""

    @cached_property
    def graph(self) -> BlockGraph:
        """The numbering of blocks, level by level, and what depends on what."""
        counts = (*(axis.n_blocks for axis in self.batches), *(tiling.n_blocks for tiling in self.tilings))
        factors = tuple((1,) * len(self.batches) + factor for factor in self.factors)
        return BlockGraph(counts, factors, is_chain=any(axis.is_chain for axis in self.batches[:1]))

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """Input voxels of every tile, per space axis."""
        return tuple(tiling.tile for tiling in self.tilings)

    @property
    def n_items(self) -> int:
        """Items over all batch axes."""
        return prod(axis.size for axis in self.batches)

    @cached_property
    def n_tiles(self) -> int:
        """Tiles of the whole run, before batches are filled up."""
        return self.n_items * prod(tiling.totals[0] for tiling in self.tilings)

    @property
    def core_voxels(self) -> int:
        """Voxels of the source's space, over all items."""
        return self.n_items * prod(tiling.extent.size for tiling in self.tilings)

    @property
    def computed_voxels(self) -> int:
        """Voxels that the network sees, over all tiles."""
        return self.n_tiles * prod(self.tile_shape)

    @property
    def compute_ratio(self) -> float:
        """Computed voxels per core voxel."""
        return self.computed_voxels / self.core_voxels

    @property
    def read_ratio(self) -> float:
        """Voxels read per core voxel: the read amplification."""
        return prod(tiling.totals[1] / tiling.extent.size for tiling in self.tilings)

    @property
    def output_voxels(self) -> int:
        """Voxels of all outputs at all levels."""
        levels = range(self.graph.n_levels)
        return sum(prod(self.level_shape(output, level)) for output in self.outputs for level in levels)

    @property
    def n_seconds(self) -> float:
        """Projected seconds of computing, on all workers together."""
        return self.computed_voxels * self.seconds_per_voxel / self.n_workers

    def seconds_of(self, n_blocks: int) -> float:
        """Return the projected seconds of so many blocks of level 0, as part of :attr:`n_seconds`."""
        return self.n_seconds * n_blocks / self.graph.n_blocks

    @property
    def seconds_per_voxel(self) -> float:
        """Projected seconds that the model takes per input voxel, in batches of this plan's tiles."""
        return self.cost.seconds_per_voxel(prod(self.tile_shape) * self.batch_size)

    def split(self, index: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Split a block's index into its batch part and its space part."""
        return index[: len(self.batches)], index[len(self.batches) :]

    def items(self, index: tuple[int, ...]) -> Region:
        """Return the items of a level-0 block, as a box over the batch axes."""
        batch, _ = self.split(index)
        start = tuple(i * axis.block for i, axis in zip(batch, self.batches, strict=True))
        stop = tuple(min(a + axis.block, axis.size) for a, axis in zip(start, self.batches, strict=True))
        return Region(start, stop)

    def tiles(self, index: tuple[int, ...]) -> tuple[tuple[AxisTile, ...], ...]:
        """Return the tiles of a level-0 block, per space axis: its tiles are their product."""
        _, space = self.split(index)
        return tuple(tiling.tiles(i) for tiling, i in zip(self.tilings, space, strict=True))

    def read_region(self, index: tuple[int, ...]) -> Region:
        """Return what a level-0 block reads, in the source's space axes; it may leave the volume."""
        _, space = self.split(index)
        spans = [tiling.read(i) for tiling, i in zip(self.tilings, space, strict=True)]
        befores = [tiling.extent.before for tiling in self.tilings]
        start = tuple(a - before for (a, _), before in zip(spans, befores, strict=True))
        return Region(start, tuple(b - before for (_, b), before in zip(spans, befores, strict=True)))

    def level_shape(self, output: OutputFacts, level: int) -> tuple[int, ...]:
        """Return an output's shape at a pyramid level."""
        shape = output.shape
        for factor in self.factors[:level]:
            full = (1,) * (len(shape) - len(factor)) + factor
            shape = tuple(-(-n // f) for n, f in zip(shape, full, strict=True))
        return shape

    def block_region(self, output: OutputFacts, index: tuple[int, ...], level: int = 0) -> Region:
        """Return the voxels of an output, channels included, that block ``index`` of a level decides."""
        batch, space = self.split(index)
        full = (*batch, 0, *space) if output.has_channels else (*batch, *space)
        shape = self.level_shape(output, level)
        start = tuple(min(i * b, n) for i, b, n in zip(full, output.shard_shape, shape, strict=True))
        return Region(start, tuple(min(a + b, n) for a, b, n in zip(start, output.shard_shape, shape, strict=True)))

    def output(self, name: str) -> OutputFacts:
        """Return the output of that name."""
        return {output.name: output for output in self.outputs}[name]


def differences(ours: Mapping[str, object], theirs: Mapping[str, object], *, path: str = "") -> list[str]:
    """Return, one line each, where two JSON objects differ.

    >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    ['a.b: 1 here, 3 there']
    >>> differences({"axes": [{"name": "y", "tile": 8}]}, {"axes": [{"name": "y", "tile": 16}]})
    ['axes.y.tile: 8 here, 16 there']
    """
    found = []
    for key in sorted({*ours, *theirs}):
        mine, other = _keyed(ours.get(key)), _keyed(theirs.get(key))
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += differences(mine, other, path=f"{path}{key}.")
        elif mine != other:
            found.append(f"{path}{key}: {_short(mine)} here, {_short(other)} there")
    return found


def _keyed(value: object) -> object:
    """Return a list of objects that have names as an object of them; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {str(item["name"]): item for item in value}
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
