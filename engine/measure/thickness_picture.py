"""A map of thickness as a picture: the layer seen along each axis, shaded, and a slice through it, in millimetre."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from engine.geometry.grid import Grid
from engine.geometry.region import Region
from engine.measure.edt import FloatArray
from engine.measure.space import Space, space_of
from engine.measure.table import written
from engine.measure.thickness import Thickness
from engine.storage.volume import open_volume

COLOURS = colormaps["viridis"]
LONGEST = 1024
"""Voxels of a view along an axis; of longer volumes only every n-th is drawn."""

INCHES = 3.0
"""Of a view's longer side."""

MARGIN = 6
"""Voxels drawn around the layer."""

LIGHT = (-0.35, -0.35, 0.87)
"""Where it comes from: from above, from the left, and most of all from the viewer."""

NOWHERE = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class View:
    """What is measured, as it is seen along an axis."""

    thickness: FloatArray
    """Of the first voxel that is met, 0 where none is."""
    depth: NDArray[np.int64]
    """Where along the axis it is; :data:`NOWHERE` where none is."""
    counts: NDArray[np.int64]
    """Measured voxels in each plane across the axis."""


@dataclass(frozen=True)
class Scene:
    """What all panels share."""

    labels: Space
    thickness: Space
    strides: tuple[int, ...]
    """Voxels from one that is drawn to the next, per axis."""
    views: tuple[View, ...]
    """Along each axis."""
    scale: Normalize

    def box(self, axis: int) -> slice:
        """Return what is drawn along an axis: the layer and a margin."""
        places = np.flatnonzero(self.views[axis].counts)
        return slice(max(int(places[0]) - MARGIN, 0), int(places[-1]) + 1 + MARGIN)

    def step(self, axis: int) -> float:
        """Return the millimetre from one drawn voxel to the next."""
        return self.thickness.spacing_mm[axis] * self.strides[axis]

    def plane(self, space: Space, axis: int, place: int) -> NDArray[Any]:
        """Return the drawn voxels of a plane across an axis, or of the whole of what has two axes."""
        start, stop = [0] * len(space.shape), list(space.shape)
        if len(space.shape) == 3:
            start[axis], stop[axis] = place * self.strides[axis], place * self.strides[axis] + 1
        voxels = space.read(Region(tuple(start), tuple(stop)))[tuple(slice(None, None, n) for n in self.strides)]
        return np.asarray(voxels.take(0, axis) if len(space.shape) == 3 else voxels)


def draw(path: Path, found: Thickness, *, axes: str | None = None, spacing: Sequence[float] | None = None) -> None:
    """Write the picture as PNG: of three axes three views and three slices, of two axes the map over the labels.

    Args:
        path: The file.
        found: What was measured; its map is read block by block, and a plane of the labels per slice.
        axes: Names for the axes of bare labels.
        spacing: Millimetre per space axis, where the labels do not say.

    Raises:
        VolumeError: If the map or the labels cannot be read.
        UsageError: If the file cannot be written.
    """
    scene = _scene(found, axes=axes, spacing=spacing)
    is_solid = len(scene.strides) == 3
    n_rows, n_columns = (2, 3) if is_solid else (1, 1)
    size = (n_columns * INCHES + 1.4, n_rows * INCHES + 0.8)
    figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in range(n_columns):
        if is_solid:
            _draw_view(panels[0, axis], scene, axis)
        _draw_slice(panels[-1, axis], scene, axis)
    bar = figure.colorbar(ScalarMappable(scene.scale, COLOURS), ax=panels.ravel().tolist(), shrink=0.8, pad=0.02)
    bar.set_label(f"{found.method}, mm", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(_title(found), fontsize=10, ha="left", x=0.02)
    written(path, lambda: figure.savefig(path, format="png"))


def _scene(found: Thickness, *, axes: str | None, spacing: Sequence[float] | None) -> Scene:
    thickness = space_of(open_volume(found.map_url))
    strides = tuple(-(-n // LONGEST) for n in thickness.shape)
    return Scene(
        labels=space_of(open_volume(found.labels, axes=axes), spacing=spacing),
        thickness=thickness,
        strides=strides,
        views=_views(thickness, strides),
        scale=Normalize(0, found.maximum_mm),
    )


def _views(thickness: Space, strides: Sequence[int]) -> tuple[View, ...]:
    """Return what is seen along each axis, from its low end, block after block."""
    shape = tuple(-(-n // stride) for n, stride in zip(thickness.shape, strides, strict=True))
    views = []
    for axis, n in enumerate(shape):
        across = shape[:axis] + shape[axis + 1 :]
        views.append(View(np.zeros(across, np.float32), np.full(across, NOWHERE), np.zeros(n, np.int64)))
    grid = Grid(thickness.shape, thickness.volume.levels[0].object_shape)
    for number in range(grid.n_cells):
        region = grid.region(number)
        first = [-a % n for a, n in zip(region.start, strides, strict=True)]
        values = thickness.read(region)[tuple(slice(a, None, n) for a, n in zip(first, strides, strict=True))]
        if values.any():
            start = [(a + b) // n for a, b, n in zip(region.start, first, strides, strict=True)]
            for axis, view in enumerate(views):
                _see(view, values, axis=axis, start=start)
    return tuple(views)


def _see(view: View, values: FloatArray, *, axis: int, start: Sequence[int]) -> None:
    """Add a block to what is seen along an axis, where it lies before what was seen so far."""
    is_there = values > 0
    other = tuple(i for i in range(values.ndim) if i != axis)
    view.counts[start[axis] : start[axis] + values.shape[axis]] += is_there.sum(other)
    place = tuple(slice(start[i], start[i] + values.shape[i]) for i in other)
    met = np.expand_dims(is_there.argmax(axis), axis)
    depth = np.where(is_there.any(axis), met.squeeze(axis) + start[axis], NOWHERE)
    found, is_first = np.take_along_axis(values, met, axis).squeeze(axis), depth < view.depth[place]
    view.depth[place] = np.where(is_first, depth, view.depth[place])
    view.thickness[place] = np.where(is_first, found, view.thickness[place])


def _draw_view(panel: Axes, scene: Scene, axis: int) -> None:
    """Draw the layer as lit from the side, so that its form is seen under its colours."""
    view, others = scene.views[axis], [i for i in range(3) if i != axis]
    crop = tuple(scene.box(i) for i in others)
    is_there = view.depth[crop] != NOWHERE
    depth = np.where(is_there, view.depth[crop], np.nan) * scene.step(axis)
    slopes = np.gradient(depth, *(scene.step(i) for i in others))
    normal = np.stack([*np.nan_to_num(slopes), np.ones(depth.shape)])
    light = np.tensordot(np.array(LIGHT), normal / np.sqrt((normal**2).sum(0)), 1)
    colours = COLOURS(scene.scale(view.thickness[crop]))[..., :3] * np.clip(0.55 + 0.5 * light, 0, 1)[..., None]
    _show(panel, scene, np.where(is_there[..., None], colours, 1.0), others)
    panel.set_title(f"seen along {scene.thickness.axes[axis].name}", fontsize=9)


def _draw_slice(panel: Axes, scene: Scene, axis: int) -> None:
    """Draw the map over the labels, in the plane with most of it."""
    others = [i for i in range(len(scene.strides)) if i != axis or len(scene.strides) == 2]
    place = int(scene.views[axis].counts.argmax())
    crop = tuple(scene.box(i) for i in others)
    labels, values = (scene.plane(space, axis, place)[crop] for space in (scene.labels, scene.thickness))
    known, rank = np.unique(labels, return_inverse=True)
    grey = np.where(labels == 0, 1.0, 0.9 - 0.4 * rank.reshape(labels.shape) / len(known))
    colours = COLOURS(scene.scale(values))[..., :3]
    _show(panel, scene, np.where((values > 0)[..., None], colours, grey[..., None]), others)
    name, number = scene.thickness.axes[axis].name, place * scene.strides[axis]
    panel.set_title(f"slice {name} {number}" if len(scene.strides) == 3 else "map", fontsize=9)


def _show(panel: Axes, scene: Scene, colours: NDArray[np.float64], axes: Sequence[int]) -> None:
    down, right = axes
    starts, steps = [scene.box(i).start for i in axes], [scene.step(i) for i in axes]
    (top, left), (tall, wide) = starts, colours.shape[:2]
    extent = (left * steps[1], (left + wide) * steps[1], (top + tall) * steps[0], top * steps[0])
    panel.imshow(np.clip(colours, 0, 1), extent=extent, interpolation="nearest")
    panel.set_xlabel(f"{scene.thickness.axes[right].name}, mm", fontsize=8)
    panel.set_ylabel(f"{scene.thickness.axes[down].name}, mm", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.spines[:].set_color("#bbbbbb")


def _title(found: Thickness) -> str:
    over = "" if found.beneath is None else f" over label {found.beneath}"
    return (
        f"label {found.layer}{over}: minimum {found.minimum_mm:.2f}, median {found.median_mm:.2f}, maximum "
        f"{found.maximum_mm:.2f} mm"
    )
