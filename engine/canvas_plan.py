"""The part of a plan that a canvas needs: the network's grid over this source, its tiles or windows, its bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

from engine.errors import PlanError
from engine.geometry.axes import Role, positions
from engine.geometry.canvas import PAINTED, CanvasTiling
from engine.geometry.canvas_work import CanvasWork, canvas_work, sight
from engine.geometry.edges import MODEL_EDGE, Edge, EdgeKind
from engine.geometry.extent import Extent, extend
from engine.geometry.model_geometry import Canvas, ModelGeometry
from engine.geometry.receptive_field import AxisProgram
from engine.geometry.region import Region
from engine.geometry.resampling import Resampling, grid_size
from engine.plan import Plan, SourceFacts
from engine.search import AxisFacts, Tiling

SLAB_BYTES = 64 * 2**20
"""See ``models/canvas.py``: all classes on the source's grid, a few planes at a time."""

COPIES = 3
"""Of a plane or a grid that is resampled axis by axis: what came, what goes, and a product."""


@dataclass(frozen=True, slots=True)
class CanvasAxis(AxisFacts):
    """What the search must know of one space axis over a canvas."""

    network: AxisProgram
    grid: Extent
    there: Resampling
    back: Resampling
    starts: tuple[int, ...] | None
    window: int | None
    is_first: bool
    """Whether it is the axis along which the canvas is rolled."""

    def tiling(self, *, tile: int, block: int) -> Tiling:
        """Return the axis cut so."""
        return CanvasTiling(
            name=self.name,
            program=self.program,
            extent=self.extent,
            network=self.network,
            grid=self.grid,
            there=self.there,
            back=self.back,
            starts=self.starts,
            tile=tile,
            block=block,
        )

    def tiles(self, block: int, longest_core: int | None) -> Iterator[int]:
        """Yield the tile lengths that are worth weighing: of the network's grid, or the one window."""
        if self.window is not None:
            yield self.window
            return
        needed = max(1, round(block * self.grid.size / self.extent.size))
        inner = AxisFacts(self.name, self.network, MODEL_EDGE, self.grid, self.unit)
        yield from inner.tiles(min(needed, self.grid.size), longest_core)

    @property
    def longest_tile(self) -> int:
        """Voxels of the one tile that sees all of the network's grid; a window has its own length."""
        return self.window or self.grid.extended

    def legal(self, at_least: int) -> int:
        """Return the shortest legal tile of at least this length."""
        if self.window is not None:
            return self.window
        return AxisFacts(self.name, self.network, MODEL_EDGE, self.grid, self.unit).legal(at_least)

    def shares(self, tiling: Tiling) -> tuple[int, ...]:
        """Return source voxels read, and voxels of the network's grid shown, of the canvas, and of one plane."""
        assert isinstance(tiling, CanvasTiling)
        found = [_shares(tiling, block, is_first=self.is_first) for block in _telling(tiling.n_blocks)]
        return tuple(max(column) for column in zip(*found, strict=True))


def _telling(n_blocks: int) -> set[int]:
    """Return blocks that tell of all: the first, some in the middle, and the last."""
    return {0, n_blocks // 3, n_blocks // 2, n_blocks - 1}


def _shares(tiling: CanvasTiling, block: int, *, is_first: bool) -> tuple[int, ...]:
    interval = tiling.interval(block)
    tiles = tiling.tiles_for(interval)
    if is_first:  # its tiles are shown their input row by row
        reads = [sight(tiling, [tile]).read for tile in tiles]
        return max(high - low for low, high in reads), tiling.tile, tiling.painted_ahead(interval), 1
    one, needed = sight(tiling, tiles), tiling.needed(interval)
    n_shown = len(one.shown.voxels) + sum(one.shown.zeros)
    return one.read[1] - one.read[0], n_shown, needed[1] - needed[0], interval[1] - interval[0]


def bytes_per_share(geometry: ModelGeometry) -> tuple[float, ...]:
    """Return the bytes of a voxel of each kind of :meth:`CanvasAxis.shares`; none where there is no canvas."""
    canvas = geometry.canvas
    if canvas is None:
        return ()
    n_painted = canvas.network.outputs[0].n_channels or 1
    counted = 4 if canvas.windows is not None else 0
    return (
        2 * 4 * geometry.n_channels,
        COPIES * 4 * canvas.network.n_channels,
        4 * n_painted + 4 + counted,
        COPIES * 4 * n_painted,
    )


def canvas_bytes(plan: Plan) -> int:
    """Return what computing a block of the plan holds beside a batch of tiles, at most."""
    if plan.geometry.canvas is None:
        return 0
    tilings = cast(tuple[CanvasTiling, ...], plan.tilings)
    total = 0.0
    for kind, n_bytes in enumerate(bytes_per_share(plan.geometry)):
        lengths = [
            max(_shares(t, block, is_first=i == 0)[kind] for block in _telling(t.n_blocks))
            for i, t in enumerate(tilings)
        ]
        total += prod(lengths) * n_bytes
    return int(total) + SLAB_BYTES


def canvas_axes(
    source: SourceFacts, geometry: ModelGeometry, canvas: Canvas, *, edges: Sequence[Edge], units: Sequence[int]
) -> list[AxisFacts]:
    """Return what the search must know of each space axis.

    Args:
        source: The source.
        geometry: Of the pipeline.
        canvas: Its canvas.
        edges: Edge rule of each space axis: only the model's own can be kept.
        units: Source voxels that blocks of each axis are multiples of.

    Raises:
        PlanError: If an edge is not the model's own, or the network can take no such grid.
    """
    found: list[AxisFacts] = []
    space = positions(source.axes, Role.SPACE)
    sizes = grid_of(canvas, tuple(source.shape[i] for i in space), tuple(source.axes[i].spacing for i in space))
    for n, i in enumerate(space):
        name, size = source.axes[i].name, source.shape[i]
        if edges[n].kind is not EdgeKind.MODEL:
            raise PlanError(
                f"the edge of '{name}' must be the model's own where a network is resampled or windowed, not "
                f"'{edges[n].kind}'. Leave --edge {name} out."
            )
        grid = _grid_extent(canvas, n, sizes[n], name=name)
        found.append(
            CanvasAxis(
                name,
                geometry.programs[n],
                MODEL_EDGE,
                extend(geometry.programs[n], MODEL_EDGE, size=size, name=name),
                units[n],
                network=canvas.network.programs[n],
                grid=grid,
                there=Resampling(size, sizes[n], canvas.order),
                back=Resampling(sizes[n], size, canvas.back),
                starts=None if canvas.windows is None else canvas.windows.starts(n, sizes[n]),
                window=None if canvas.windows is None else canvas.windows.shape[n],
                is_first=n == 0,
            )
        )
    return found


def grid_of(canvas: Canvas, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the voxels of the network's grid over a source of ``shape`` and ``spacing``, per space axis."""
    wanted = canvas.spacing or (None,) * len(shape)
    steps = zip(shape, spacing, wanted, strict=True)
    return tuple(n if step is None else grid_size(n, spacing=own, wanted=step) for n, own, step in steps)


def _grid_extent(canvas: Canvas, axis: int, size: int, *, name: str) -> Extent:
    if canvas.windows is None:
        program, length = canvas.network.programs[axis], size
        while (program.sizes(length) or {PAINTED: 0})[PAINTED] < size:  # else it gives a voxel less than it was shown
            extent = extend(program, MODEL_EDGE, size=length + 1, name=name)
            length = extent.extended
        return Extent(size, 0, length, ((PAINTED, 0),), ((PAINTED, size),))
    before, after = canvas.windows.padded(axis, size)
    return Extent(size, before, before + size + after, ((PAINTED, before),), ((PAINTED, size),))


def box_work(plan: Plan, box: Region) -> CanvasWork:
    """Return what a box of the source, over space, is made of on the plan's canvas."""
    return canvas_work(cast(tuple[CanvasTiling, ...], plan.tilings), box)
