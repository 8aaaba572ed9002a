"""Whole-slide images, as OpenSlide reads them: (c, y, x), uint8 RGB on white, spacing in micrometre."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from engine.errors import IngestError, ResolutionError
from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge
from engine.geometry.grid import Grid
from engine.geometry.region import Region
from engine.storage import arrays, icc
from engine.storage.readable import Level
from engine.storage.slide_levels import slide_levels
from engine.storage.slide_pages import SlidePages
from engine.storage.source import Layout, check_file, check_inside, picture_layout
from engine.storage.source_url import pair

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm")
"""File name endings of the formats that OpenSlide and tifffile read."""

_SLAB_PIXELS = 1 << 22
_CELL = 1024
_NAMES = ("vendor", "objective-power", "quickhash-1", "mpp-x", "mpp-y")
_BOUNDS = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")


class Slide:
    """A slide open for reading: a :class:`engine.storage.source.Source`, and a volume that may be run as it is.

    Only what lies inside the slide's bounds, where it has them, is the volume.
    """

    def __init__(self, path: Path, *, spacing: Sequence[float] | None = None) -> None:
        """Open a slide.

        Args:
            path: A file that OpenSlide reads.
            spacing: Micrometre per pixel along y and x, for a slide that does not say; one value serves both.

        Raises:
            IngestError: If it is no slide, it is damaged, or its resolution is unknown.
        """
        check_file(path, wanted="a slide")
        self._path, self._spacing = path, spacing
        try:
            self._slide = openslide.OpenSlide(str(path))
            profile = self._slide.color_profile
        except (openslide.OpenSlideError, OSError) as error:
            raise IngestError(
                f"a slide that OpenSlide reads is wanted, and '{path}' is unreadable, damaged, or of another format "
                f"({arrays.first_line(error)}). Open it in its scanner's viewer; if it opens there, export it again."
            ) from error
        mpp = _mpp(self._slide.properties, path=path, spacing=spacing)
        self._levels = slide_levels(self._slide)
        self._pages = SlidePages(path, self._slide, self._levels)
        self._profile = None if profile is None else profile.tobytes()
        self.url = str(path)
        self.levels: tuple[Level, ...] = tuple(one.described(i, mpp=mpp) for i, one in enumerate(self._levels))
        self.shape = self.levels[0].shape
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.axes = picture_axes(mpp)
        self.edges: Mapping[str, Edge] = {}
        self.notes: tuple[str, ...] = () if spacing is None else ("spacing was given by hand",)
        self.is_sequential = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._path, self._spacing)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Scanner, objective power, OpenSlide's own hash of the slide, its bounds and its colour profile."""
        found = {name: self._slide.properties.get(f"openslide.{name}") for name in (*_NAMES, *_BOUNDS)}
        said: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        said["offset"] = list(self._levels[0].first)  # level-0 pixels of the file left out above and to the left
        said["background"] = "white"
        return {"slide": said | icc.described(self._profile)}

    @property
    def layout(self) -> Layout:
        """Chunks of 256 x 256 in shards of 2048 x 2048, and levels down to 512 pixels."""
        return picture_layout(self.shape, origin=self.levels[0].translation)

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the pixels of ``region``; where the scanner saw nothing, white.

        Raises:
            IngestError: If the region leaves the level, or the slide is damaged there.
        """
        check_inside(region, level=level, shapes=[one.shape for one in self.levels], path=self._path)
        channels = slice(region.start[0], region.stop[0])
        voxels = np.empty(region.shape, np.uint8)
        for part in self._parts(region):
            inside = part.shift([-a for a in region.start[1:]])
            pixels = self._pixels(part.shift(self._levels[level].first), level=level)
            voxels[(slice(None), *inside.slices)] = pixels[:, :, channels].transpose(2, 0, 1)
        return voxels

    def _parts(self, region: Region) -> Iterator[Region]:
        """Cut a region (c, y, x) into boxes over (y, x) that are read one by one, about 4 million pixels at most."""
        (_, y0, x0), (_, y1, x1) = region.start, region.stop
        if min(y1 - y0, x1 - x0) < 1:
            return
        n_rows = max(1, _SLAB_PIXELS // (x1 - x0))
        for low in range(y0, y1, n_rows):
            yield Region((low, x0), (min(y1, low + n_rows), x1))

    def _pixels(self, region: Region, *, level: int) -> NDArray[np.uint8]:
        """Return (y, x, RGB) of a box of the whole level; see :mod:`engine.storage.slide_pages` for unaligned ones."""
        one = self._levels[level]
        try:
            if one.is_aligned:
                return self._composited(region, level=level)
            if (found := self._pages.read(region, level=level)) is not None:
                return found
            return self._from_cells(region, level=level)
        except openslide.OpenSlideError as error:
            (y0, x0), (y1, x1) = region.start, region.stop
            raise IngestError(
                f"pixels [y {y0}:{y1}, x {x0}:{x1}] of level {level} of '{self._path}' cannot be decoded: the slide is "
                f"damaged there ({arrays.first_line(error)}). Copy or scan it again."
            ) from error

    def _from_cells(self, region: Region, *, level: int) -> NDArray[np.uint8]:
        """Return a box put together from whole cells of a fixed grid, so that its pixels do not depend on the box."""
        pixels = np.empty((*region.shape, 3), np.uint8)
        grid = Grid(self._levels[level].size, (_CELL, _CELL))
        for number in grid.meeting(region):
            cell = grid.region(number)
            shared = cell.meet(region)
            if shared is not None:
                found = self._composited(cell, level=level)[shared.shift([-a for a in cell.start]).slices]
                pixels[shared.shift([-a for a in region.start]).slices] = found
        return pixels

    def _composited(self, region: Region, *, level: int) -> NDArray[np.uint8]:
        """Return what OpenSlide reads, on white."""
        (y, x), (height, width) = region.start, region.shape
        downsample = self._levels[level].downsample
        read = self._slide.read_region((round(x * downsample), round(y * downsample)), level, (width, height))
        alpha = read.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return np.asarray(read)[:, :, :3]
        canvas = Image.new("RGB", read.size, "white")
        canvas.paste(read, mask=alpha)
        return np.asarray(canvas)

    def close(self) -> None:
        """Let go of the file."""
        self._slide.close()
        self._pages.close()


def _reopened(path: Path, spacing: Sequence[float] | None) -> Slide:
    return Slide(path, spacing=spacing)


def _mpp(properties: Mapping[str, str], *, path: Path, spacing: Sequence[float] | None) -> tuple[float, float]:
    steps: Sequence[Any] = [properties.get(f"openslide.mpp-{name}", "") for name in "yx"]
    return checked_mpp(steps, path=path, spacing=spacing)


def checked_mpp(steps: Sequence[Any], *, path: Path, spacing: Sequence[float] | None) -> tuple[float, float]:
    """Return micrometre per pixel along y and x: what was given, else what the file says.

    Raises:
        ResolutionError: If neither is two positive numbers.
    """
    said = list(steps) if spacing is None else list(spacing)
    try:
        y, x = pair([float(step) for step in said])
    except ValueError:
        y = x = float("nan")
    if not all(isfinite(step) and step > 0 for step in (y, x)):
        raise ResolutionError(
            f"a slide must say its micrometre per pixel along y and x, and '{path}' says {[str(one) for one in said]}. "
            "Find it in the scan's record and give --spacing 0.5 (one value for both, or y,x) to engine ingest, or run "
            f"'{path}#spacing=0.5'."
        )
    return y, x


def picture_axes(mpp: tuple[float, float]) -> tuple[Axis, ...]:
    """Return axes (c, y, x) with these micrometre per pixel along y and x."""
    y, x = mpp
    return (
        Axis("c", Role.CHANNEL),
        Axis("y", Role.SPACE, spacing=y, unit="micrometer"),
        Axis("x", Role.SPACE, spacing=x, unit="micrometer"),
    )
