"""Some tiles, or boxes over a canvas, computed once more on another grid: what the seam certificate compares."""

import random
from collections.abc import Iterator
from dataclasses import replace
from math import ceil, prod

import numpy as np

from engine.canvas_plan import box_work
from engine.geometry.canvas import PAINTED, CanvasTiling
from engine.geometry.region import Region
from engine.geometry.tile_job import TileJob, tile_jobs
from engine.geometry.tiling import AxisTile
from engine.models.canvas import Painter
from engine.models.forward import Forward
from engine.plan import OutputFacts, Plan
from engine.runtime.stitch import read_region
from engine.search import Tiling
from engine.storage.output import Output
from engine.storage.volume import Readable

LENGTHS = {1: 65536, 2: 640, 3: 112}
"""About how long a recomputed tile is along each axis, by number of space axes, unless the halo asks for more."""

BOX_LENGTHS = {1: 16384, 2: 192, 3: 48}
"""About how long a recomputed box over a canvas is along each axis."""

WINDOWED_BOX = 4
"""Voxels of it along each axis under a sliding window: each costs all the windows that meet it."""

WINDOWS_SHARE = 20
"""At most one window in so many is recomputed, but those of one box always."""


def other_tiling(tiling: Tiling, longest: int) -> Tiling:
    """Return the axis with a tile of another length, about ``longest`` at most; the same where no other is legal."""
    step, shortest = tiling.program.step, tiling.shortest_tile
    wanted = max(shortest, min(tiling.tile, max(longest, shortest + 2 * step)))
    for length in (wanted - step, wanted, wanted - 2 * step, wanted + step, wanted + 2 * step):
        legal = tiling.legal_tile(length)
        if legal != tiling.tile and shortest <= legal:
            return replace(tiling, tile=legal)
    return tiling


def affordable(plan: Plan, n_tiles: int) -> int:
    """Return how many of ``n_tiles`` places are recomputed: under a sliding window each costs several windows."""
    canvas = plan.geometry.canvas
    if canvas is None or canvas.windows is None:
        return n_tiles
    per_box = prod(ceil(1 / (1 - overlap)) for overlap in canvas.windows.overlap)
    return min(n_tiles, max(1, plan.n_tiles // (WINDOWS_SHARE * per_box)))


def place(tiling: Tiling, planned: Tiling, block: int, chance: random.Random) -> AxisTile:
    """Return one tile whose core lies about a seam of a block of the plan, with all that it may decide."""
    if isinstance(tiling, CanvasTiling):
        return _box_about_a_seam(tiling, block, chance)
    tiles = planned.tiles(block)
    name, kept = max(tiling.kept.items(), key=lambda pair: pair[1])
    cut = chance.choice(tiles).cores[name][0] if tiles else 0
    last_start = tiling.extent.extended - tiling.tile
    reach = tiling.valid_at(min(tiling.program.step, last_start))
    back = chance.randrange(max(1, (reach[name][1] - reach[name][0]) // 2))
    first = min(max(0, cut - back), kept - 1)
    (tile,) = tiling.tiles_over({name: (first, first + 1)})
    cores = {
        output: (max(low, 0), min(high, tiling.kept[output]))
        for output, (low, high) in tiling.valid_at(tile.start).items()
    }
    return tiling.tile_at(tile.start, cores)


def _box_about_a_seam(tiling: CanvasTiling, block: int, chance: random.Random) -> AxisTile:
    """Return a stretch of source voxels about a seam of a block, as the core of every output."""
    length = WINDOWED_BOX if tiling.starts is not None else BOX_LENGTHS[3]
    size = tiling.extent.size
    painted = chance.choice(tiling.tiles(block)).cores[PAINTED][0]
    cut = painted * size // tiling.grid.size
    first = min(max(0, cut - chance.randrange(length)), max(0, size - length))
    return AxisTile(0, dict.fromkeys(tiling.kept, (first, min(first + length, size))), {})


def recompute(
    plan: Plan,
    forward: Forward,
    source: Readable,
    output: Output,
    *,
    tiles: tuple[AxisTile, ...],
    item: tuple[int, ...],
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Yield, per output, the recomputed voxels of one tile and the stored ones."""
    run = _painted if isinstance(forward, Painter) else _tiled
    computed = run(plan, forward, source, tiles=tiles, item=item)  # type: ignore[arg-type]
    for facts in plan.outputs:
        if facts.name in computed:
            yield facts.name, (computed[facts.name], output.volumes[facts.name].read(_stored(plan, facts, tiles, item)))


def _tiled(
    plan: Plan, forward: Forward, source: Readable, *, tiles: tuple[AxisTile, ...], item: tuple[int, ...]
) -> dict[str, np.ndarray]:
    start = tuple(tile.start for tile in tiles)
    region = Region(start, tuple(a + n for a, n in zip(start, plan.tile_shape, strict=True)))
    befores = [-tiling.extent.before for tiling in plan.tilings]
    block = read_region(plan, source, Region(item, tuple(i + 1 for i in item)), region.shift(befores))
    starts = {facts.name: tuple(tile.cores[facts.name][0] for tile in tiles) for facts in plan.outputs}
    jobs: list[TileJob] = tile_jobs(
        [(tile,) for tile in tiles], tile_shape=plan.tile_shape, read_start=start, block_starts=starts, n_items=1
    )
    return forward.download(forward.run(forward.upload(block), jobs, _shapes(plan, tiles)))


def _painted(
    plan: Plan, forward: Painter, source: Readable, *, tiles: tuple[AxisTile, ...], item: tuple[int, ...]
) -> dict[str, np.ndarray]:
    spans = [next(iter(tile.cores.values())) for tile in tiles]
    work = box_work(plan, Region(tuple(low for low, _ in spans), tuple(high for _, high in spans)))
    block = read_region(plan, source, Region(item, tuple(i + 1 for i in item)), work.read)
    return forward.download(forward.paint(forward.upload(block), work, _shapes(plan, tiles)))


def _shapes(plan: Plan, tiles: tuple[AxisTile, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
    shapes = {}
    for facts in plan.outputs:
        space = tuple(tile.cores[facts.name][1] - tile.cores[facts.name][0] for tile in tiles)
        lead = (facts.shape[len(plan.batches)],) if facts.has_channels else ()
        if prod(space):
            shapes[facts.name] = ((1, *lead, *space), facts.dtype)
    return shapes


def _stored(plan: Plan, facts: OutputFacts, tiles: tuple[AxisTile, ...], item: tuple[int, ...]) -> Region:
    lead = ((0, facts.shape[len(plan.batches)]),) if facts.has_channels else ()
    spans = [*((i, i + 1) for i in item), *lead, *(tile.cores[facts.name] for tile in tiles)]
    return Region(tuple(a for a, _ in spans), tuple(b for _, b in spans))


