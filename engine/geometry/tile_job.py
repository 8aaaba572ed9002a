"""One tile of a block as slices: where it lies in what the block read, and where its cores go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from engine.geometry.region import Region
from engine.geometry.tiling import AxisTile


@dataclass(frozen=True, slots=True)
class CoreCopy:
    """A tile's part of one output, over space."""

    local: Region
    """In the tile's own output."""
    target: Region
    """In the block's output."""


@dataclass(frozen=True, slots=True)
class TileJob:
    """One tile of one item."""

    item: int
    """Number of the item in the block, row-major over its batch axes."""
    source: Region
    """In the block's input, over space."""
    copies: Mapping[str, CoreCopy]
    """Per output that this tile decides anything of."""


def tile_jobs(
    axes: Sequence[Sequence[AxisTile]],
    *,
    tile_shape: Sequence[int],
    read_start: Sequence[int],
    block_starts: Mapping[str, Sequence[int]],
    n_items: int,
) -> list[TileJob]:
    """Return the tiles of a block: the product of its tiles along each axis, item by item.

    Args:
        axes: Tiles along each space axis.
        tile_shape: Input voxels of a tile.
        read_start: First voxel that the block reads, in the extended axes.
        block_starts: Per output, the block's first voxel over space.
        n_items: Items in the block.
    """
    found = []
    for item in range(n_items):
        for tiles in product(*axes):
            start = tuple(tile.start - origin for tile, origin in zip(tiles, read_start, strict=True))
            source = Region(start, tuple(a + n for a, n in zip(start, tile_shape, strict=True)))
            copies = {name: copy for name, origin in block_starts.items() if (copy := _copy(tiles, name, origin))}
            if copies:
                found.append(TileJob(item, source, copies))
    return found


def _copy(tiles: Sequence[AxisTile], name: str, origin: Sequence[int]) -> CoreCopy | None:
    cores = [tile.cores[name] for tile in tiles]
    if any(low == high for low, high in cores):
        return None
    shape = tuple(high - low for low, high in cores)
    local = tuple(tile.locals[name] for tile in tiles)
    target = tuple(low - o for (low, _), o in zip(cores, origin, strict=True))
    return CoreCopy(
        Region(local, tuple(a + n for a, n in zip(local, shape, strict=True))),
        Region(target, tuple(a + n for a, n in zip(target, shape, strict=True))),
    )
