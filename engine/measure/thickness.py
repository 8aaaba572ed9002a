"""How thick a layer of a segmentation is: a map of it in millimetre, and its statistics.

Two definitions, since two are in use. *Local* thickness (:mod:`engine.measure.balls`) asks for no more than the layer.
*Height* (:mod:`engine.measure.height`) is measured from a second label that the layer lies on, as the cap of an
osteochondroma is measured from its bone. Both are computed block by block, and no bit depends on the blocks.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.geometry.grid import Grid
from engine.geometry.region import Region
from engine.measure.alike import check_labels
from engine.measure.confusion import Progress
from engine.measure.edt import FloatArray
from engine.measure.height import layer_height
from engine.measure.local import local_thickness
from engine.measure.space import Space, space_of
from engine.measure.spread import Spread
from engine.measure.table import written
from engine.storage.create import create_volume, remove
from engine.storage.orientation import KEY
from engine.storage.stored import Volume
from engine.storage.volume import open_volume

BLOCK = 64
"""Voxels of a block, and of a chunk of the map, along each axis."""

Measured = tuple[FloatArray, NDArray[np.bool_]]
"""The thickness at each voxel of a box, and which of its voxels the statistics are of."""


@dataclass(frozen=True)
class Thickness:
    """How thick a layer is, in millimetre."""

    labels: str
    """Where the labels are."""
    layer: int
    beneath: int | None
    """The label that height is measured from; None of local thickness."""
    map_url: str
    """Where the map is."""
    n_voxels: int
    """Of the layer."""
    n_measured: int
    """Voxels that the statistics are of: the ridge of local thickness, the outer face of height."""
    minimum_mm: float
    percentile_5_mm: float
    median_mm: float
    mean_mm: float
    percentile_95_mm: float
    maximum_mm: float
    volume_mean_mm: float | None
    """Mean local thickness over all voxels of the layer, as in trabecular morphometry; None of height."""

    @property
    def method(self) -> str:
        """Which definition it is."""
        return "local thickness" if self.beneath is None else "height"


def thickness(
    labels_url: str,
    map_url: str,
    *,
    layer: int,
    beneath: int | None = None,
    max_mm: float = 20.0,
    axes: str | None = None,
    spacing: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Thickness:
    """Measure the thickness of a layer, and write a map of it.

    The map is a volume on the grid of the labels: float32, millimetre, 0 where nothing is measured.

    Args:
        labels_url: A volume of labels, of 2 or 3 space axes.
        map_url: Where the map goes; nothing may be there. If the measurement fails, nothing is left there.
        layer: Label of the layer.
        beneath: Label that height is measured from; None measures local thickness.
        max_mm: What is thicker is refused: memory grows with its third power, but only where the layer is so thick.
        axes: Names for the axes of a bare array, as "zyx".
        spacing: Millimetre per space axis, for a volume that does not say.
        progress: Told blocks done and in all.

    Raises:
        UsageError: If the volume holds no labels of one scan, its steps are not known, the layer is not in it, nothing
            of it can be measured, or it is thicker than ``max_mm``.
        VolumeError: If the labels cannot be read, or the map cannot be written.
    """
    volume = open_volume(labels_url, axes=axes)
    check_labels(volume)
    space = space_of(volume, spacing=spacing)
    _check(space, layer=layer, beneath=beneath, max_mm=max_mm)

    def measured(region: Region) -> Measured:
        if beneath is None:
            return local_thickness(space, region, layer=layer, max_mm=max_mm)
        return layer_height(space, region, layer=layer, beneath=beneath, max_mm=max_mm)

    with _map(map_url, space, layer=layer, beneath=beneath) as target:
        every, chosen = _filled(space, target, measured, layer=layer, progress=progress)
        if not chosen.n:
            there = "it is nowhere" if not every.n else f"none of its {every.n} voxels is on an outer face"
            raise UsageError(
                f"a layer of label {layer} is wanted in '{labels_url}', and {there}. Name another label, or check them."
            )
    facts = {"labels": labels_url, "layer": layer, "beneath": beneath, "map_url": map_url}
    return Thickness(**facts, **_statistics(every, chosen, is_local=beneath is None))  # type: ignore[arg-type]


def save_thickness(path: Path, found: Thickness) -> None:
    """Write the statistics: as JSON where the name ends so, else as CSV of one row.

    Raises:
        UsageError: If the file cannot be written.
    """
    row = {"method": found.method, **asdict(found)}
    text = StringIO()
    if path.suffix.lower() == ".json":
        text.write(json.dumps(row, indent=1) + "\n")
    else:
        csv.writer(text, lineterminator="\n").writerows([row.keys(), row.values()])
    written(path, lambda: path.write_text(text.getvalue(), encoding="utf-8"))


def _statistics(every: Spread, chosen: Spread, *, is_local: bool) -> dict[str, Any]:
    return {
        "n_voxels": every.n,
        "n_measured": chosen.n,
        "minimum_mm": chosen.minimum,
        "percentile_5_mm": chosen.quantile(0.05),
        "median_mm": chosen.quantile(0.5),
        "mean_mm": chosen.mean,
        "percentile_95_mm": chosen.quantile(0.95),
        "maximum_mm": chosen.maximum,
        "volume_mean_mm": every.mean if is_local else None,
    }


def _filled(
    space: Space, target: Volume, measured: Callable[[Region], Measured], *, layer: int, progress: Progress | None
) -> tuple[Spread, Spread]:
    """Write the map block by block; return the thickness of all voxels of the layer, and of those that are chosen."""
    every = chosen = Spread.one(0.0, 0)
    grid = Grid(space.shape, target.levels[0].object_shape)
    for number in range(grid.n_cells):
        region = grid.region(number)
        inside = space.where(region, layer)
        if inside.any():
            part = _bounds(inside)
            values, is_chosen = measured(part.shift(region.start))
            found = np.zeros(region.shape, np.float32)
            found[part.slices] = values
            target.write(region, found)
            every = every.plus(Spread.of(found[inside]))
            chosen = chosen.plus(Spread.of(values[is_chosen]))
        if progress is not None:
            progress(number + 1, grid.n_cells)
    return every, chosen


def _bounds(mask: NDArray[np.bool_]) -> Region:
    """Return the least box that holds all of a mask."""
    places = [np.flatnonzero(mask.any(tuple(i for i in range(mask.ndim) if i != axis))) for axis in range(mask.ndim)]
    return Region(tuple(int(p[0]) for p in places), tuple(int(p[-1]) + 1 for p in places))


@contextmanager
def _map(url: str, space: Space, *, layer: int, beneath: int | None) -> Iterator[Volume]:
    """Describe the map, and take it away again unless it is filled."""
    attributes: dict[str, Any] = {"thickness": {"labels": space.volume.url, "layer": layer, "unit": "millimeter"}}
    if beneath is not None:
        attributes["thickness"]["beneath"] = beneath
    if KEY in space.volume.attributes:
        attributes[KEY] = space.volume.attributes[KEY]
    target = create_volume(
        url,
        axes=space.placed_axes,
        dtype=np.float32,
        shape=space.shape,
        chunk_shape=[min(BLOCK, n) for n in space.shape],
        origin=space.origin,
        attributes=attributes,
    )
    is_filled = False
    try:
        yield target
        is_filled = True
    finally:
        if not is_filled:
            remove(target.url)


def _check(space: Space, *, layer: int, beneath: int | None, max_mm: float) -> None:
    where = f"'{space.volume.url}'"
    if len(space.shape) not in (2, 3):
        raise UsageError(f"thickness is of 2 or 3 space axes, not {len(space.shape)} as in {where}. Give such labels.")
    if not (isfinite(max_mm) and max_mm > 0):
        raise UsageError(f"the largest thickness must be above 0 mm, not {max_mm}, for {where}. Give it as 20.")
    if layer == beneath:
        raise UsageError(
            f"a layer must lie on another label than its own, not on {beneath}, in {where}. Name what is beneath it, "
            "or leave it out."
        )
