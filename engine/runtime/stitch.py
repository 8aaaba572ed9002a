"""From a plan to the slices of one block: what it reads, which tiles it runs, and where their cores go."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import Role, positions
from engine.geometry.edges import Piece, pieces
from engine.geometry.region import Region
from engine.geometry.tile_job import TileJob, tile_jobs
from engine.plan import Plan
from engine.storage.volume import Readable


def block_jobs(
    plan: Plan, index: tuple[int, ...], wanted: Mapping[str, NDArray[np.bool_]] | None = None
) -> list[TileJob]:
    """Return the tiles of a level-0 block, in the order in which they are computed.

    Args:
        plan: The plan.
        index: The block.
        wanted: Per output, which voxels of the block are wanted, over space: tiles that decide none are left out.
    """
    read = plan.read_region(index)
    befores = [tiling.extent.before for tiling in plan.tilings]
    starts = {output.name: plan.block_region(output, index).start[-len(plan.tilings) :] for output in plan.outputs}
    jobs = tile_jobs(
        plan.tiles(index),
        tile_shape=plan.tile_shape,
        read_start=[a + before for a, before in zip(read.start, befores, strict=True)],
        block_starts=starts,
        n_items=plan.items(index).n_voxels,
    )
    if wanted is None:
        return jobs
    return [job for job in jobs if any(wanted[name][copy.target.slices].any() for name, copy in job.copies.items())]


def block_shapes(plan: Plan, index: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return, per output, a block's shape as (item, [channel,] *space) and its dtype; empty outputs are left out."""
    n_items = plan.items(index).n_voxels
    found = {}
    for output in plan.outputs:
        shape = plan.block_region(output, index).shape[len(plan.batches) :]
        if prod(shape):
            found[output.name] = ((n_items, *shape), output.dtype)
    return found


def read_block(plan: Plan, volume: Readable, index: tuple[int, ...]) -> np.ndarray:
    """Return a block's input; see :func:`read_region`."""
    return read_region(plan, volume, plan.items(index), plan.read_region(index))


def read_region(plan: Plan, volume: Readable, items: Region, read: Region) -> np.ndarray:
    """Return source voxels as (item, channel, *space) in the source's dtype, edges filled in.

    Args:
        plan: Says what lies beyond the volume.
        volume: The source.
        items: Box over the batch axes.
        read: Box over the space axes; it may leave the volume.

    Raises:
        VolumeError: If the source cannot be read, or holds NaN or infinity where the plan refuses them.
    """
    n_channels = plan.geometry.n_channels
    names = [tiling.name for tiling in plan.tilings]
    shape = [tiling.extent.size for tiling in plan.tilings]
    edges = [tiling.edge for tiling in plan.tilings]
    cut = list(pieces(edges, names=names, shape=shape, read=read))
    if len(cut) == 1 and cut[0].source is not None and not any(cut[0].flips) and not cut[0].is_odd:
        block = _read_source(plan, volume, items, cut[0].source)
    else:
        block = np.empty((items.n_voxels, n_channels, *read.shape), dtype=plan.source.dtype)
        for piece in cut:
            _fill(plan, volume, items, piece, block)
    if plan.nan == "refuse" and block.dtype.kind == "f" and not np.isfinite(block).all():
        raise VolumeError(_not_finite(block, read, names, plan.source.url))
    return block


def _fill(plan: Plan, volume: Readable, items: Region, piece: Piece, block: np.ndarray) -> None:
    target = block[(slice(None), slice(None), *piece.target.slices)]
    if piece.source is None:
        target[...] = next(tiling.edge.value for tiling in plan.tilings if tiling.edge.kind in ("constant", "fold"))
        return
    voxels = _read_source(plan, volume, items, piece.source)
    target[...] = np.flip(voxels, tuple(2 + i for i, is_flipped in enumerate(piece.flips) if is_flipped))
    if piece.is_odd:
        odd = {channel for tiling in plan.tilings for channel in tiling.edge.odd_channels}
        for channel in odd:
            target[:, channel] *= -1


def _read_source(plan: Plan, volume: Readable, items: Region, space: Region) -> np.ndarray:
    """Return source voxels as (item, channel, *space)."""
    axes = plan.source.axes
    batch, channel = positions(axes, Role.BATCH), positions(axes, Role.CHANNEL)
    spatial = positions(axes, Role.SPACE)
    start, stop = [0] * len(axes), list(plan.source.shape)
    for i, a, b in (
        *zip(batch, items.start, items.stop, strict=True),
        *zip(spatial, space.start, space.stop, strict=True),
    ):
        start[i], stop[i] = a, b
    voxels = volume.read(Region(tuple(start), tuple(stop))).transpose(*batch, *channel, *spatial)
    return np.ascontiguousarray(voxels.reshape(items.n_voxels, plan.geometry.n_channels, *space.shape))


def _not_finite(block: np.ndarray, read: Region, names: Sequence[str], url: str) -> str:
    bad = ~np.isfinite(block)
    at = tuple(int(i) for i in np.argwhere(bad)[0][2:])
    where = ", ".join(f"{name} {a + origin}" for name, a, origin in zip(names, at, read.start, strict=True))
    return (
        f"the source must be finite, and {int(bad.sum())} of {bad.size} voxels of this block are NaN or infinite, the "
        f"first at {where} in {url}. Fill them first, or let them through with --nan keep."
    )
