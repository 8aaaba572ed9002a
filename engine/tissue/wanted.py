"""Which cells of a volume are wanted: found by colour, drawn as polygons, given as a volume, or told by a model."""

import hashlib
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from engine.errors import TissueError
from engine.geometry.axes import Role, positions
from engine.geometry.region import Region
from engine.models.load import load_model
from engine.models.whole import whole_pass
from engine.storage.readable import Readable
from engine.storage.view import at_mpp, without_mpp
from engine.storage.volume import open_volume
from engine.tissue.classical import find_tissue
from engine.tissue.polygons import rasterised

Cells = NDArray[np.bool_]

CELL_UM = 16.0
"""About the side of a cell, in micrometre."""

THUMBNAIL_MPP = 8.0
"""Micrometre per pixel at which tissue is looked for."""

MARGIN = 2
"""Cells by which what was found is widened, so that no border of tissue is cut."""

MOST_PIXELS = 100_000_000
"""Of a picture that is looked at in one piece."""


def cell_of(url: str) -> tuple[int, ...]:
    """Return the voxels of a cell per space axis: a power of two, about 16 micrometre; 32 where there is no mpp.

    Raises:
        VolumeError: If nothing is there.
    """
    volume = open_volume(url)
    axes = [volume.axes[i] for i in positions(volume.axes, Role.SPACE)]
    return tuple(_power_of_two(CELL_UM / axis.spacing) if axis.unit == "micrometer" else 32 for axis in axes)


def cell_sizes(volume: Readable, cell: tuple[int, ...]) -> tuple[float, ...]:
    """Return how long a cell of a volume is along each space axis, in its unit."""
    steps = (volume.axes[i].spacing for i in positions(volume.axes, Role.SPACE))
    return tuple(step * n for step, n in zip(steps, cell, strict=True))


def _power_of_two(wanted: float) -> int:
    """Return the power of two next to a number, at least 1.

    >>> _power_of_two(32.1), _power_of_two(0.3)
    (32, 1)
    """
    return int(2 ** max(0, round(log2(wanted))))


def wanted_cells(url: str, method: str, *, cell: tuple[int, ...]) -> Cells:
    """Return which cells of the volume at ``url`` are wanted.

    Args:
        url: The source, as it is to be run.
        method: ``auto`` for tissue by colour; a ``.geojson`` file of polygons in level-0 pixels; a Zarr volume that
            is above 0 where wanted; or a model for thumbnails that gives a label, or a probability to be at least 0.5.
        cell: Voxels of a cell, per space axis.

    Raises:
        TissueError: If the volume is no slide, the method is none of these, or nothing is wanted.
    """
    volume = open_volume(url)
    space = positions(volume.axes, Role.SPACE)
    if len(space) != 2:
        raise TissueError(f"tissue is sought on slides, with axes y and x, and '{url}' has {len(space)} space axes.")
    shape = tuple(-(-volume.shape[i] // n) for i, n in zip(space, cell, strict=True))
    cell_size = cell_sizes(volume, cell)
    name = method.split("?", maxsplit=1)[0].lower()
    if name.endswith((".geojson", ".geojson.gz", ".json")):
        cells = _from_polygons(url, method, shape=shape, cell_size=cell_size)
    elif name.rstrip("/").endswith(".zarr") or ".zarr/" in name:
        cells = _from_volume(method, shape=shape, cell_size=cell_size)
    else:
        cells = _from_thumbnail(url, method, shape=shape, cell_size=cell_size)
    if not cells.any():
        raise TissueError(
            f"some of '{url}' must be wanted, and '{method}' finds no tissue on it. Look at the slide; run it without "
            "--tissue, or give polygons with --tissue regions.geojson."
        )
    return cells


def cells_fingerprint(cells: Cells) -> str:
    """Return the SHA-256 of cells and their shape, in hexadecimal."""
    return hashlib.sha256(repr(cells.shape).encode() + np.packbits(cells).tobytes()).hexdigest()


def _from_polygons(url: str, method: str, *, shape: tuple[int, ...], cell_size: tuple[float, ...]) -> Cells:
    """Return the cells that polygons touch; their pixels count from the corner of the scan, not of its bounds."""
    base = open_volume(without_mpp(url))
    space = positions(base.axes, Role.SPACE)
    steps = [base.axes[i].spacing for i in space]
    offset = tuple(base.levels[0].translation[i] / step for i, step in zip(space, steps, strict=True))
    pixels = tuple(size / step for size, step in zip(cell_size, steps, strict=True))
    return rasterised(method, shape=shape, cell=pixels, offset=offset)


def _from_thumbnail(url: str, method: str, *, shape: tuple[int, ...], cell_size: tuple[float, ...]) -> Cells:
    model = None if method == "auto" else load_model(method)
    picture, mpp = thumbnail(url, mpp=float(getattr(getattr(model, "module", None), "mpp", THUMBNAIL_MPP)))
    if model is None:
        found = find_tissue(picture, mpp=mpp[0])
    else:
        outputs = whole_pass(model, picture)
        found = _decided(outputs.get("label", next(iter(outputs.values()))))
    widened = binary_dilation(_at_cells(found, spacing=mpp, shape=shape, cell_size=cell_size), iterations=MARGIN)
    return np.asarray(widened, np.bool_)


def _decided(values: NDArray[Any]) -> Cells:
    """Return (y, x) where a label is above 0, or the last channel of a probability is at least 0.5."""
    if values.dtype.kind == "f":
        return np.asarray((values if values.ndim == 2 else values[-1]) >= 0.5)
    return np.asarray((values if values.ndim == 2 else values[-1]) > 0)


def thumbnail(url: str, *, mpp: float) -> tuple[NDArray[np.uint8], tuple[float, ...]]:
    """Return a slide as a small picture, (3, y, x) uint8 RGB, and its micrometre per pixel along y and x.

    Raises:
        TissueError: If it is no RGB slide, or the picture would not fit.
        SourceError: If the slide does not say its micrometre per pixel.
    """
    base = open_volume(without_mpp(url))
    finest = max(base.axes[i].spacing for i in positions(base.axes, Role.SPACE))
    volume = open_volume(at_mpp(url, max(mpp, finest)))
    names = tuple(axis.name for axis in volume.axes)
    if names != ("c", "y", "x") or volume.shape[0] != 3 or volume.dtype != np.uint8:
        raise TissueError(
            f"tissue is found by colour on 8-bit RGB slides (c, y, x), and '{url}' is {volume.dtype} of "
            f"{volume.shape} along {names}. Give polygons or a mask with --tissue."
        )
    if volume.shape[1] * volume.shape[2] > MOST_PIXELS:
        raise TissueError(
            f"a thumbnail of at most {MOST_PIXELS:,} pixels is wanted, and '{url}' at {volume.axes[1].spacing:g} "
            f"micrometre has {volume.shape[1]} x {volume.shape[2]}. Give polygons or a mask with --tissue."
        )
    picture = volume.read(Region.whole(volume.shape))
    return picture, (volume.axes[1].spacing, volume.axes[2].spacing)


def _from_volume(method: str, *, shape: tuple[int, ...], cell_size: tuple[float, ...]) -> Cells:
    volume = open_volume(method)
    if len(volume.shape) != 2 or volume.shape[0] * volume.shape[1] > MOST_PIXELS:
        raise TissueError(
            f"a mask is a volume (y, x) of at most {MOST_PIXELS:,} voxels, and '{method}' has {volume.shape}. "
            "Name a coarser level, as mask.zarr/3."
        )
    values = volume.read(Region.whole(volume.shape)) > 0
    spacing = tuple(axis.spacing for axis in volume.axes)
    return _at_cells(values, spacing=spacing, shape=shape, cell_size=cell_size)


def _at_cells(
    found: Cells, *, spacing: tuple[float, ...], shape: tuple[int, ...], cell_size: tuple[float, ...]
) -> Cells:
    """Return, per cell, whether any pixel of a picture whose centre lies in it was found; the nearest if none does."""
    for axis, (step, n, size) in enumerate(zip(spacing, shape, cell_size, strict=True)):
        edges = np.arange(n + 1) * size / step - 0.5
        low = np.clip(np.ceil(edges[:-1]).astype(np.int64), 0, found.shape[axis] - 1)
        high = np.maximum(np.clip(np.ceil(edges[1:]).astype(np.int64), 0, found.shape[axis]), low + 1)
        sums = np.insert(found.cumsum(axis, dtype=np.int64), 0, 0, axis=axis)
        found = np.take(sums, high, axis) > np.take(sums, low, axis)
    return found


def at_pixels(
    cells: Cells, *, cell_size: tuple[float, ...], shape: tuple[int, ...], spacing: tuple[float, ...]
) -> Cells:
    """Return, per pixel of a picture, whether the cell in which its centre lies is wanted."""
    index = [
        np.minimum(((np.arange(n) + 0.5) * step / size).astype(np.int64), m - 1)
        for n, step, size, m in zip(shape, spacing, cell_size, cells.shape, strict=True)
    ]
    return np.asarray(cells[np.ix_(*index)])
