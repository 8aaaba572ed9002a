"""What a plan holds in memory, block by block, and the next smaller tile where that turns out too much."""

from dataclasses import replace
from math import prod

import numpy as np

from engine.canvas_plan import canvas_bytes
from engine.geometry.model_geometry import ModelGeometry
from engine.memory import Projection, tile_bytes
from engine.plan import Plan, SourceFacts


def source_bytes(source: SourceFacts, geometry: ModelGeometry) -> int:
    """Return the bytes of one voxel of the source, all channels."""
    return np.dtype(source.dtype).itemsize * geometry.n_channels


def project(plan: Plan, *, base_bytes: int, is_on_device: bool = False) -> Projection:
    """Return the bytes that one worker will hold at its peak."""
    items = prod(axis.block for axis in plan.batches)
    last = tuple(n - 1 for n in plan.graph.counts)
    middle = tuple(n // 2 for n in plan.graph.counts)
    reads = max(plan.read_region(index).n_voxels for index in {last, middle, (0,) * len(last)})
    source = source_bytes(plan.source, plan.geometry)
    block_out = sum(prod(output.shard_shape) * np.dtype(output.dtype).itemsize for output in plan.outputs)
    voxels = prod(plan.tile_shape)
    tile = tile_bytes(
        bytes_per_voxel=plan.cost.bytes_per_voxel,
        tile_voxels=voxels,
        batch_size=plan.batch_size,
    )
    tile += canvas_bytes(plan)
    block_in = reads * items * source
    if is_on_device:
        on_device = tile + plan.n_in_flight * (block_in + block_out)
        return Projection(base_bytes, 0, block_in, block_out, plan.n_in_flight, 2 * block_out, on_device)
    return Projection(base_bytes, tile, block_in, block_out, plan.n_in_flight, 2 * block_out)


def shrink_tile(plan: Plan) -> Plan | None:
    """Return the plan with the tile's longest axis about halved, blocks unchanged; None if it is shortest already."""
    order = sorted(range(len(plan.tilings)), key=lambda i: -plan.tilings[i].tile)
    for i in order:
        tiling = plan.tilings[i]
        smaller = tiling.legal_tile(max(tiling.shortest_tile, tiling.tile // 2))
        if smaller < tiling.tile:
            shrunk = replace(tiling, tile=smaller)
            return replace(plan, tilings=(*plan.tilings[:i], shrunk, *plan.tilings[i + 1 :]))
    return None
