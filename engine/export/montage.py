"""A picture for the eye: slices through a segmentation with its contours, as a radiologist would look at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError, VolumeError
from engine.export.affine import GridAffine, grid_affine
from engine.export.census import take_census
from engine.export.draft import Exported, appearing, check_target
from engine.export.page import Legend, Page, Tile, draw_page
from engine.export.planes import Planes, label_planes
from engine.export.segments import Segment, segments_of
from engine.export.view import Plane, View
from engine.storage.orientation import KEY
from engine.storage.readable import Readable
from engine.storage.volume import open_volume

ENDINGS = (".png",)

SOFT_TISSUE = (40.0, 400.0)
"""Level and width in HU at which a CT is shown where none are given."""

_PERCENTILES = (1.0, 99.9)
_APART = 0.5
"""Voxels by which the corners of image and labels may differ."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which intensities are black and white."""

    low: float
    high: float
    told: str
    """In words."""


def montage(
    image_url: str,
    label_url: str,
    path: Path,
    *,
    n: int = 12,
    axis: str = "axial",
    window: tuple[float, float] | None = None,
    segments: Mapping[int, Segment] | None = None,
) -> Exported:
    """Draw slices of a scan with the contours of its labels, evenly spaced through the slices that hold any.

    Orientation, spacing and sides are those of the affine: the patient's right is at the left of the page. The labels
    are read once, slab by slab, for their volumes; of the image, only the slices that are drawn.

    Args:
        image_url: Any volume (z, y, x); of several channels or times, the first is shown.
        label_url: A label map on the same grid.
        path: The .png to write.
        n: Slices, or fewer where fewer hold labels.
        axis: What they are planes of: axial, coronal or sagittal.
        window: Level and width of the intensities; by default 40 and 400 HU for a CT that DICOM calls so, otherwise
            the percentiles 1 and 99.9 of the slices.
        segments: Names by label.

    Raises:
        UsageError: If the file exists or cannot be written, or an argument makes no sense.
        VolumeError: If the two lie on different grids, or there are no labels.
    """
    check_target(path, endings=ENDINGS, what="a montage")
    page = page_of(image_url, label_url, n=n, axis=axis, window=window, segments=segments or {})
    with appearing(path) as draft:
        draw_page(draft, page)
    return Exported(path, f"PNG, {len(page.tiles)} {axis} slices, {len(page.legend)} labels", page.notes)


def page_of(
    image_url: str,
    label_url: str,
    *,
    n: int,
    axis: str,
    window: tuple[float, float] | None,
    segments: Mapping[int, Segment],
) -> Page:
    """Return what a montage shows, before it is drawn; see :func:`montage`."""
    if n < 1 or axis not in tuple(Plane):
        raise UsageError(f"a montage shows 1 slice or more, {', '.join(Plane)}, not {n} {axis}. Name one of them.")
    image, labels = Planes(open_volume(image_url)), label_planes(open_volume(label_url))
    affine = _common_grid(image.volume, labels.volume)
    census = take_census(labels)
    view = View.of(affine, Plane(axis))
    found = np.flatnonzero(census.occupied[view.axes[0]])
    slices = _spread(found, n)[:: -1 if view.flips[0] else 1]
    tiles = [_tile(image, labels, view, index, affine=affine) for index in slices]
    shown = _window(image.volume, tiles, window)
    voxels = f"voxels {' x '.join(f'{step:.3g}' for step in affine.spacing)} mm (z, y, x)"
    return Page(
        title=Path(image_url.split("#", maxsplit=1)[0].rstrip("/")).name,
        subtitle=f"{axis}, {len(tiles)} of {len(found)} slices with labels, {voxels}, {shown.told}",
        notes=affine.notes,
        tiles=tiles,
        legend=[
            Legend(one.label, one.name, census.voxels[one.label] * affine.voxel_ml)
            for one in segments_of(census.voxels, segments)
        ],
        edges=view.edges,
        spacing=(affine.spacing[view.axes[1]], affine.spacing[view.axes[2]]),
        low=shown.low,
        high=shown.high,
    )


def _common_grid(image: Readable, labels: Readable) -> GridAffine:
    """Return the affine of image and labels.

    Raises:
        VolumeError: If they do not lie on one grid.
    """
    own, other = grid_affine(labels), grid_affine(image)
    if image.shape[-3:] != labels.shape[-3:]:
        raise VolumeError(
            f"image and labels must lie on one grid, and '{image.url}' is {image.shape[-3:]} voxels (z, y, x), "
            f"'{labels.url}' {labels.shape[-3:]}. Name the source of the labels."
        )
    if not (own.is_oriented and other.is_oriented):
        return own if own.is_oriented else other
    corners = np.array([(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    corners = corners * (np.array(labels.shape[:-4:-1]) - 1)
    away = float(np.sqrt(((own.points(corners) - other.points(corners)) ** 2).sum(axis=1)).max())
    if away > _APART * min(own.spacing):
        raise VolumeError(
            f"image and labels must lie on one grid, and corners of '{image.url}' and '{labels.url}' are {away:.3g} mm "
            "apart. Name the source of the labels."
        )
    return own


def _spread(found: NDArray[np.intp], n: int) -> list[int]:
    """Return n of the found indices, evenly spaced, each in the middle of its share.

    >>> _spread(np.arange(10, 20), 2), _spread(np.array([3, 4]), 9)
    ([12, 17], [3, 4])
    """
    if len(found) <= n:
        return [int(index) for index in found]
    return [int(found[(2 * i + 1) * len(found) // (2 * n)]) for i in range(n)]


def _tile(image: Planes, labels: Planes, view: View, index: int, *, affine: GridAffine) -> Tile:
    return Tile(
        voxels=view.arranged(image.plane(view.axes[0], index)),
        labels=view.arranged(labels.plane(view.axes[0], index)),
        place=view.place(affine, index, image.shape),
    )


def _window(volume: Readable, tiles: Sequence[Tile], given: tuple[float, float] | None) -> Window:
    """Return the window: as given, the soft tissue of a CT, or from the percentiles of what is drawn."""
    said: Mapping[str, Any] = (volume.attributes.get(KEY) or {}).get("dicom") or {}
    is_ct = said.get("modality") == "CT" and volume.dtype.kind in "if"
    if given is None and not is_ct:
        voxels = np.concatenate([tile.voxels[np.isfinite(tile.voxels)].ravel() for tile in tiles])
        low, high = np.percentile(voxels, _PERCENTILES) if voxels.size else (0.0, 1.0)
        high = high if high > low else low + 1
        return Window(float(low), float(high), f"intensities {low:.4g} to {high:.4g}")
    level, width = given or SOFT_TISSUE
    if not width > 0:
        raise UsageError(f"a window has a level and a width above 0, not {level:g} and {width:g}. Give it as 40,400.")
    return Window(level - width / 2, level + width / 2, f"level {level:g}, width {width:g}")
