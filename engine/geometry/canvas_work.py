"""What one block, or any box of the source, is made of on a canvas: what is read, shown, painted and brought back."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.geometry.canvas import PAINTED, CanvasTiling, Shown
from engine.geometry.nodes import Interval
from engine.geometry.region import Region
from engine.geometry.resampling import Resampling
from engine.geometry.tile_job import TileJob, tile_jobs


@dataclass(frozen=True, eq=False)
class AxisWork:
    """One space axis of it."""

    interval: Interval
    """Source voxels that are decided."""
    needed: Interval
    """Voxels of the canvas that these are made of."""
    shown: Shown
    """What the tiles are shown of the network's grid."""
    read: Interval
    """Source voxels that this is made of."""
    there: Resampling
    back: Resampling


@dataclass(frozen=True, eq=False)
class CanvasWork:
    """All of it."""

    axes: tuple[AxisWork, ...]
    jobs: tuple[TileJob, ...]
    """Tiles in canonical order, last axis fastest: where each lies in what is shown, and what it paints."""
    depth: int
    """Planes of the first axis that the canvas holds at once."""

    @property
    def read(self) -> Region:
        """Box of the source that is read, over space."""
        return _box([axis.read for axis in self.axes])

    @property
    def canvas_shape(self) -> tuple[int, ...]:
        """Voxels of the canvas that are held at once."""
        return (self.depth, *(axis.needed[1] - axis.needed[0] for axis in self.axes[1:]))

    @property
    def shown_shape(self) -> tuple[int, ...]:
        """Voxels of the network's grid that the tiles are shown."""
        return tuple(len(axis.shown.voxels) + sum(axis.shown.zeros) for axis in self.axes)


def canvas_work(tilings: Sequence[CanvasTiling], box: Region) -> CanvasWork:
    """Return what a box of the source, over space, is made of."""
    axes, tiles = [], []
    for tiling, interval in zip(tilings, zip(box.start, box.stop, strict=True), strict=True):
        found = tiling.tiles_for(interval)
        shown = tiling.shown(found)
        needed, read = tiling.needed(interval), tiling.read_for(shown)
        axes.append(AxisWork(interval, needed, shown, read, tiling.there, tiling.back))
        tiles.append(found)
    jobs = tile_jobs(
        tiles,
        tile_shape=[tiling.tile for tiling in tilings],
        read_start=[axis.shown.start for axis in axes],
        block_starts={PAINTED: [axis.needed[0] for axis in axes]},
        n_items=1,
    )
    return CanvasWork(tuple(axes), tuple(jobs), tilings[0].painted_ahead((box.start[0], box.stop[0])))


def _box(spans: Sequence[Interval]) -> Region:
    return Region(tuple(low for low, _ in spans), tuple(high for _, high in spans))
