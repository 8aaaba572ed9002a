"""A plan as a lazy dask array: one task per block, that takes the source's chunks it needs and no others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, product
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph

from engine.geometry.edges import pieces
from engine.geometry.region import Region
from engine.plan import OutputFacts, Plan

Compute = Callable[[tuple[int, ...], "ChunkedVolume"], dict[str, np.ndarray]]
"""(block index, source) -> the block's outputs in their own axes. Picklable."""


@dataclass(frozen=True)
class ChunkedVolume:
    """The chunks of a source that a block needs, read as a volume."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[Region, np.ndarray], ...]

    def read(self, region: Region, *, level: int = 0) -> np.ndarray:
        """Return a copy of the voxels of ``region``; there is only level 0."""
        assert level == 0
        voxels = np.empty(region.shape, self.dtype)
        for place, chunk in self.chunks:
            shared = place.meet(region)
            if shared is not None:
                target = shared.shift([-a for a in region.start]).slices
                voxels[target] = chunk[shared.shift([-a for a in place.start]).slices]
        return voxels


LazyArray = da.Array
"""What a lazy volume is, for those who do not know dask."""


def as_lazy(array: "da.Array | np.ndarray") -> "da.Array":
    """Return a dask array as it is, and any other array behind one. Nothing is copied or computed."""
    return array if isinstance(array, da.Array) else da.from_array(array)


def lazy_outputs(plan: Plan, source: "da.Array", compute: Compute) -> dict[str, "da.Array"]:
    """Return every output as a dask array with the plan's blocks for chunks. Lazy: nothing is read.

    Args:
        plan: Its source has the axes and shape of ``source``.
        source: The input; only the chunks that a block reads become its dependencies.
        compute: What a task does.
    """
    name = f"engine-{uuid4().hex}"
    layer: dict[Any, Any] = {}
    empty = ChunkedVolume(source.shape, source.dtype, ())
    for index in np.ndindex(plan.graph.counts):
        places = list(_chunks_for(plan, source, index))
        refs = List(*(TaskRef((source.name, *number)) for number, _ in places))
        regions = [region for _, region in places]
        layer[(name, *index)] = Task((name, *index), _run, compute, index, empty, regions, refs)
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[source])  # type: ignore[list-item]
    return {output.name: _output(plan, output, graph, name) for output in plan.outputs}


def _run(
    compute: Compute, index: tuple[int, ...], empty: ChunkedVolume, regions: list[Region], chunks: list[np.ndarray]
) -> dict[str, np.ndarray]:
    return compute(index, replace(empty, chunks=tuple(zip(regions, chunks, strict=True))))


def _chunks_for(plan: Plan, source: "da.Array", index: tuple[int, ...]) -> list[tuple[tuple[int, ...], Region]]:
    """Return the number and place of every chunk that a block reads."""
    names = [tiling.name for tiling in plan.tilings]
    edges = [tiling.edge for tiling in plan.tilings]
    sizes = [tiling.extent.size for tiling in plan.tilings]
    cut = pieces(edges, names=names, shape=sizes, read=plan.read_region(index))
    spans = [piece.source for piece in cut if piece.source is not None]
    items = plan.items(index)
    batches = [axis.name for axis in plan.batches]
    found: dict[tuple[int, ...], Region] = {}
    for span in spans:
        boxes = []
        for axis, lengths in zip(plan.source.axes, source.chunks, strict=True):
            low, high = 0, sum(lengths)
            if axis.name in names:
                low, high = span.start[names.index(axis.name)], span.stop[names.index(axis.name)]
            elif axis.name in batches:
                low, high = items.start[batches.index(axis.name)], items.stop[batches.index(axis.name)]
            boxes.append(_meeting(lengths, low, high))
        for parts in product(*boxes):
            number = tuple(i for i, _, _ in parts)
            found[number] = Region(tuple(a for _, a, _ in parts), tuple(b for _, _, b in parts))
    return list(found.items())


def _meeting(lengths: tuple[int, ...], low: int, high: int) -> list[tuple[int, int, int]]:
    """Return the number, start and stop of the chunks of one axis that meet an interval."""
    stops = list(accumulate(lengths))
    return [
        (i, stop - n, stop)
        for i, (n, stop) in enumerate(zip(lengths, stops, strict=True))
        if stop > low and stop - n < high
    ]


def _output(plan: Plan, output: OutputFacts, graph: HighLevelGraph, blocks: str) -> "da.Array":
    name = f"{output.name}-{blocks}"
    layer: dict[Any, Any] = {}
    lengths: Mapping[int, dict[int, int]] = {axis: {} for axis in range(len(output.shape))}
    for index in np.ndindex(plan.graph.counts):
        region = plan.block_region(output, index)
        batch, space = plan.split(index)
        number = (*batch, 0, *space) if output.has_channels else (*batch, *space)
        for axis, (i, n) in enumerate(zip(number, region.shape, strict=True)):
            lengths[axis][i] = n
        layer[(name, *number)] = Task((name, *number), _pick, TaskRef((blocks, *index)), output.name)
    whole = HighLevelGraph(layers={**graph.layers, name: layer}, dependencies={**graph.dependencies, name: {blocks}})
    chunks = tuple(tuple(n for _, n in sorted(lengths[axis].items())) for axis in range(len(output.shape)))
    return da.Array(whole, name, chunks, dtype=np.dtype(output.dtype))


def _pick(outputs: dict[str, np.ndarray], name: str) -> np.ndarray:
    return outputs[name]
