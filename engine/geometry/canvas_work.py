"""What one block, or any box of the source, is made of on a canvas: what is read, shown, painted and brought back."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.geometry.canvas import PAINTED, CanvasTiling, Shown
from engine.geometry.nodes import Interval
from engine.geometry.region import Region
from engine.geometry.resampling import Resampling
from engine.geometry.tile_job import TileJob, tile_jobs
from engine.geometry.tiling import AxisTile


@dataclass(frozen=True, eq=False)
class Sight:
    """What tiles are shown of the network's grid along one axis, and what that is made of."""

    shown: Shown
    read: Interval
    """Source voxels."""
    there: Resampling


@dataclass(frozen=True, eq=False)
class AxisWork:
    """One space axis of what is decided."""

    interval: Interval
    """Source voxels."""
    needed: Interval
    """Voxels of the canvas that these are made of."""
    back: Resampling


@dataclass(frozen=True, eq=False)
class Row:
    """The tiles at one place of the first axis; their input is made for them together, and let go after them."""

    sights: tuple[Sight, ...]
    """What they are shown, per space axis."""
    jobs: tuple[TileJob, ...]
    """In canonical order, last axis fastest: where each lies in what is shown, and what it paints."""


@dataclass(frozen=True, eq=False)
class CanvasWork:
    """All of it."""

    axes: tuple[AxisWork, ...]
    rows: tuple[Row, ...]
    read: Region
    """Box of the source that is read, over space."""
    depth: int
    """Planes of the first axis that the canvas holds at once."""

    @property
    def canvas_shape(self) -> tuple[int, ...]:
        """Voxels of the canvas that are held at once."""
        return (self.depth, *(axis.needed[1] - axis.needed[0] for axis in self.axes[1:]))

    @property
    def n_tiles(self) -> int:
        """Tiles or windows in all."""
        return sum(len(row.jobs) for row in self.rows)


def canvas_work(tilings: Sequence[CanvasTiling], box: Region) -> CanvasWork:
    """Return what a box of the source, over space, is made of."""
    spans = list(zip(box.start, box.stop, strict=True))
    tiles = [tiling.tiles_for(span) for tiling, span in zip(tilings, spans, strict=True)]
    axes = tuple(
        AxisWork(span, tiling.needed(span), tiling.back) for tiling, span in zip(tilings, spans, strict=True)
    )
    others = [sight(tiling, found) for tiling, found in zip(tilings[1:], tiles[1:], strict=True)]
    rows = []
    for first in tiles[0]:
        sights = (sight(tilings[0], [first]), *others)
        jobs = tile_jobs(
            [[first], *tiles[1:]],
            tile_shape=[tiling.tile for tiling in tilings],
            read_start=[one.shown.start for one in sights],
            block_starts={PAINTED: [axis.needed[0] for axis in axes]},
            n_items=1,
        )
        rows.append(Row(sights, tuple(jobs)))
    firsts = [row.sights[0].read for row in rows]
    read = ((min(low for low, _ in firsts), max(high for _, high in firsts)), *(one.read for one in others))
    return CanvasWork(
        axes,
        tuple(rows),
        Region(tuple(low for low, _ in read), tuple(high for _, high in read)),
        tilings[0].painted_ahead(spans[0]),
    )


def sight(tiling: CanvasTiling, tiles: Sequence[AxisTile]) -> Sight:
    """Return what tiles are shown along one axis."""
    shown = tiling.shown(tiles)
    return Sight(shown, tiling.read_for(shown), tiling.there)
