"""One pass over a volume: every block is read once, and what is made of them is merged, as Dask schedules it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from math import prod
from typing import Any, TypeVar

import numpy as np
from dask import threaded
from dask._task_spec import Task, TaskRef
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import Role, positions
from engine.geometry.grid import Grid
from engine.geometry.region import Region
from engine.memory import n_cpus
from engine.models.summary import Histogram
from engine.storage.volume import Readable

T = TypeVar("T")

BLOCK_BYTES = 1 << 25
"""Of the source that one task reads, about: whole chunks. As many tasks are held at once as there are threads."""

N_BLOCKS_PER_WAVE = 4096
"""Blocks that are planned at a time: a tenth of a second of Dask's planning."""

N_MERGED = 8
"""Results that one task merges."""

MOST_VALUES = 1 << 20
"""Different values up to which a volume's histogram is kept whole: 16 MiB."""

N_AT_ONCE = 1 << 20
"""Voxels of a block that are counted at once, at some 30 bytes each."""


class _TooManyError(Exception):
    """A volume has more different values than a histogram may."""


def over_blocks(
    volume: Readable,
    do: Callable[[NDArray[Any]], T],
    merge: Callable[[T, T], T],
    *,
    nan: str = "refuse",
    block_bytes: int = BLOCK_BYTES,
) -> T:
    """Return what ``do`` makes of all blocks of level 0, merged.

    The graph of a wave is one task per block, which reads it and keeps only what ``do`` gives, and a tree of tasks
    that merge. It runs on threads, as many as this process may use.

    Args:
        volume: Read once, block by block.
        do: Takes the voxels of a block, (channel, n), in the source's dtype.
        merge: Must give the same in any order.
        nan: ``refuse`` or ``keep``: what to do with voxels that are not finite.
        block_bytes: What a block holds, about, unless a chunk holds more.

    Raises:
        VolumeError: If the source cannot be read, or holds NaN or infinity where that is refused.
    """
    grid = _grid(volume, block_bytes)

    def done(number: int) -> T:
        return do(_read(volume, grid.region(number), nan=nan))

    found: list[T] = []
    with ThreadPoolExecutor(n_cpus(), thread_name_prefix="statistics") as pool:
        for first in range(0, grid.n_cells, N_BLOCKS_PER_WAVE):
            nodes, last = _wave(range(first, min(first + N_BLOCKS_PER_WAVE, grid.n_cells)), done, merge)
            found.append(threaded.get(nodes, last, pool=pool))
            found = [merge(*found)] if len(found) == 2 else found
    return found[0]


def histogram(volume: Readable, *, nan: str = "refuse", block_bytes: int = BLOCK_BYTES) -> Histogram | None:
    """Return the histogram of all voxels of a volume, in one pass; None where it has more than 2^20 different values.

    Raises:
        VolumeError: As :func:`over_blocks`.
    """

    def few(found: Histogram) -> Histogram:
        if len(found.values) > MOST_VALUES:
            raise _TooManyError
        return found

    def merged(ours: Histogram, theirs: Histogram) -> Histogram:
        return few(ours.merge(theirs))

    def counted(voxels: NDArray[Any]) -> Histogram:
        flat = voxels.reshape(-1)
        pieces = (flat[start : start + N_AT_ONCE] for start in range(0, flat.size, N_AT_ONCE))
        return reduce(merged, (few(Histogram.of(piece)) for piece in pieces))

    try:
        return over_blocks(volume, counted, merged, nan=nan, block_bytes=block_bytes)
    except _TooManyError:
        return None


def _wave(
    numbers: range, done: Callable[[int], T], merge: Callable[[T, T], T]
) -> tuple[dict[tuple[int, int], Task], tuple[int, int]]:
    """Return the Dask graph over some blocks, by (height in the tree, place there), and the key of its root."""
    nodes = {(0, i): Task((0, i), done, number) for i, number in enumerate(numbers)}
    height, n = 0, len(numbers)

    def merged(*results: T) -> T:
        found, *others = results
        for other in others:
            found = merge(found, other)
        return found

    while n > 1:
        height, below, n = height + 1, n, -(-n // N_MERGED)
        for i in range(n):
            parts = [TaskRef((height - 1, j)) for j in range(i * N_MERGED, min((i + 1) * N_MERGED, below))]
            nodes[height, i] = Task((height, i), merged, *parts)
    return nodes, (height, 0)


def _grid(volume: Readable, block_bytes: int) -> Grid:
    """Return blocks of whole chunks with all channels, grown along the last axes first."""
    channel = positions(volume.axes, Role.CHANNEL)
    chunk = volume.levels[0].chunk_shape
    cell = [n if i in channel else min(n, c) for i, (n, c) in enumerate(zip(volume.shape, chunk, strict=True))]
    for axis in reversed(range(len(cell))):
        n_more = block_bytes // (prod(cell) * volume.dtype.itemsize)
        cell[axis] = min(volume.shape[axis], cell[axis] * max(1, n_more))
    return Grid(volume.shape, tuple(cell))


def _read(volume: Readable, region: Region, *, nan: str) -> NDArray[Any]:
    """Return the voxels of a region as (channel, n)."""
    block = volume.read(region)
    if nan == "refuse" and block.dtype.kind == "f" and not np.isfinite(block).all():
        raise VolumeError(_not_finite(block, region, volume))
    channel = positions(volume.axes, Role.CHANNEL)
    moved = np.moveaxis(block, channel[0], 0) if channel else block[None]
    return np.ascontiguousarray(moved).reshape(len(moved), -1)


def _not_finite(block: NDArray[Any], region: Region, volume: Readable) -> str:
    bad = ~np.isfinite(block)
    first = np.argwhere(bad)[0] + region.start
    where = ", ".join(f"{axis.name} {int(i)}" for axis, i in zip(volume.axes, first, strict=True))
    return (
        f"the source must be finite for its statistics, and {int(bad.sum())} of {bad.size} voxels of a block are NaN "
        f"or infinite, the first at {where} in {volume.url}. Fill them first, or let them through with --nan keep."
    )
