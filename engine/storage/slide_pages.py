"""Levels of a slide whose pixels OpenSlide cannot give one by one, read from the TIFF pages that hold them.

OpenSlide looks a place up in level-0 pixels. Where a level's downsample is no whole number (4.00012 for a
slide of 33,014 rows and a level of 8,253) most pixels of the level have no such place, and it blends each
with its neighbours, by another share in each region: 41 of 255 grey values off in our trial. The page of
the same size in the same file holds the very pixels. It is read instead, once the same decoder was seen
to give OpenSlide's pixels, bit for bit, on the fullest tile of level 0.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.region import Region
from engine.storage import tiff_array
from engine.storage.slide_levels import SlideLevel


class SlidePages:
    """The pages of a slide's unaligned levels; opened on first use."""

    def __init__(self, path: Path, slide: openslide.OpenSlide, levels: Sequence[SlideLevel]) -> None:
        self._path, self._slide, self._levels = path, slide, tuple(levels)
        self._close: Callable[[], object] = lambda: None
        self._arrays: dict[int, Any] | None = None
        self._lock = Lock()

    def read(self, region: Region, *, level: int) -> NDArray[np.uint8] | None:
        """Return (y, x, RGB) of a box of the whole level, or None where its page is not known to hold the same pixels.

        Raises:
            IngestError: If the page is damaged there.
        """
        with self._lock:
            if self._arrays is None:
                self._arrays = self._opened()
        if level not in self._arrays:
            return None
        return tiff_array.read(self._arrays[level], region.slices, where=f"level {level} of '{self._path}'")

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    def _opened(self) -> dict[int, Any]:
        """Return the array of each unaligned level whose page will do."""
        if not tiff_array.is_tiff(self._path):
            return {}
        file = tifffile.TiffFile(self._path)
        self._close = finalize(self, file.close)
        pages = [page for page in file.pages if _is_plain(page)]
        full = next((page for page in pages if page.shape[:2] == self._levels[0].size), None)
        if full is None or not self._is_same(full):
            return {}
        found = {}
        for number, level in enumerate(self._levels):
            alike = [
                page
                for page in pages
                if page.shape[:2] == level.size and page.compression == full.compression and all(page.databytecounts)
            ]
            if len(alike) == 1 and not level.is_aligned:
                found[number] = tiff_array.opened(alike[0])
        return found

    def _is_same(self, page: Any) -> bool:  # noqa: ANN401 -- tifffile has no types
        """Say whether the fullest tile of level 0 has OpenSlide's pixels."""
        index = int(np.argmax(page.databytecounts))
        n_across = -(-page.shape[1] // page.tilewidth)
        y, x = index // n_across * page.tilelength, index % n_across * page.tilewidth
        height, width = min(page.tilelength, page.shape[0] - y), min(page.tilewidth, page.shape[1] - x)
        theirs = np.asarray(self._slide.read_region((x, y), 0, (width, height)))
        try:
            ours = tiff_array.read(
                tiff_array.opened(page), (slice(y, y + height), slice(x, x + width)), where=f"'{self._path}'"
            )
        except IngestError:
            return False
        return bool((theirs[:, :, 3] == 255).all() and np.array_equal(theirs[:, :, :3], ours))


def _is_plain(page: Any) -> bool:  # noqa: ANN401
    """Say whether a page is tiled 8-bit RGB."""
    is_page = isinstance(page, tifffile.TiffPage) and page.is_tiled and page.dtype == np.uint8
    return is_page and page.axes == "YXS" and page.shape[2] == 3
