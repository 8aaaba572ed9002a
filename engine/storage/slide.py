"""Whole-slide images, as OpenSlide reads them: (c, y, x), uint8 RGB on white, spacing in micrometre."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from engine.errors import IngestError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.create import Flavour
from engine.storage.source import Layout, check_file

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm")
"""File name endings of the formats that OpenSlide reads."""

_SMALLEST_SIDE = 512


class Slide:
    """A slide open for reading, by any number of threads; see :class:`engine.storage.source.Source`."""

    def __init__(self, path: Path, *, spacing: Sequence[float] | None = None) -> None:
        """Open a slide.

        Args:
            path: A file that OpenSlide reads.
            spacing: Micrometre per pixel along y and x, for a slide that does not say; one value serves both.

        Raises:
            IngestError: If it is no slide, it is damaged, or its resolution is unknown.
        """
        check_file(path, wanted="a slide")
        self._path = path
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise IngestError(
                f"a slide that OpenSlide reads is wanted, and '{path}' is unreadable, damaged, or of another format "
                f"({arrays.first_line(error)}). Open it in its scanner's viewer; if it opens there, export it again."
            ) from error
        width, height = self._slide.dimensions
        self.shape = (3, height, width)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.axes = _axes(self._slide.properties, path=path, spacing=spacing)
        self.notes: tuple[str, ...] = () if spacing is None else ("spacing was given by hand",)
        self.is_sequential = False

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Scanner, objective power and OpenSlide's own hash of the slide."""
        names = ("vendor", "objective-power", "quickhash-1", "mpp-x", "mpp-y", "bounds-x", "bounds-y")
        found = {name: self._slide.properties.get(f"openslide.{name}") for name in names}
        return {"slide": {name: value for name, value in found.items() if value is not None}}

    @property
    def layout(self) -> Layout:
        """Chunks of 256 x 256 in shards of 2048 x 2048, and levels down to 512 pixels."""
        n_levels, side = 1, max(self.shape[1:])
        while side > _SMALLEST_SIDE:
            n_levels, side = n_levels + 1, -(-side // 2)
        return Layout((3, 256, 256), (3, 2048, 2048), n_levels, Flavour.NGFF)

    def read(self, region: Region) -> NDArray[Any]:
        """Return the pixels of ``region`` of level 0; where the scanner saw nothing, white.

        Raises:
            IngestError: If the slide is damaged there.
        """
        (c0, y0, x0), (c1, y1, x1) = region.start, region.stop
        try:
            pixels = self._slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0))
        except openslide.OpenSlideError as error:
            raise IngestError(
                f"pixels [y {y0}:{y1}, x {x0}:{x1}] of '{self._path}' cannot be decoded: the slide is damaged there "
                f"({arrays.first_line(error)}). Copy or scan it again."
            ) from error
        canvas = Image.new("RGB", pixels.size, "white")
        canvas.paste(pixels, mask=pixels.getchannel("A"))
        return np.ascontiguousarray(np.asarray(canvas)[:, :, c0:c1].transpose(2, 0, 1))

    def close(self) -> None:
        """Let go of the file."""
        self._slide.close()


def _axes(properties: Mapping[str, str], *, path: Path, spacing: Sequence[float] | None) -> tuple[Axis, ...]:
    steps = [properties.get(f"openslide.mpp-{name}", "") for name in "yx"]
    if spacing is not None:
        steps = [str(step) for step in (tuple(spacing) * 2 if len(spacing) == 1 else spacing)]
    try:
        y, x = (float(step) for step in steps)
    except ValueError:
        y = x = float("nan")
    if not all(isfinite(step) and step > 0 for step in (y, x)):
        raise IngestError(
            f"a slide must say its micrometre per pixel along y and x, and '{path}' says {steps}. "
            "Find it in the scan's record and give --spacing 0.5 (one value for both, or y,x)."
        )
    return (
        Axis("c", Role.CHANNEL),
        Axis("y", Role.SPACE, spacing=y, unit="micrometer"),
        Axis("x", Role.SPACE, spacing=x, unit="micrometer"),
    )
