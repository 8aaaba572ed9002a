"""Which reader takes a slide file: OpenSlide, or tifffile for what OpenSlide does not open or would change."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide
import tifffile

from engine.storage import tiff_array
from engine.storage.slide import Slide
from engine.storage.source import check_file
from engine.storage.tiff import Tiff


def open_slide(path: Path, *, spacing: Sequence[float] | None = None) -> Slide | Tiff:
    """Open a slide file by what is in it.

    OpenSlide takes every scanner's own format. A TIFF of no scanner is taken by tifffile, unless it is what
    OpenSlide gives back unchanged: 8-bit colours, tiled, not OME. OpenSlide would read 16 bits as 8, and the
    first of many channels as grey.

    Raises:
        IngestError: If it is none, it is damaged, or its resolution is unknown.
    """
    check_file(path, wanted="a slide")
    vendor = openslide.OpenSlide.detect_format(str(path))
    is_plain = vendor in (None, "generic-tiff") and tiff_array.is_tiff(path)
    if is_plain and not (vendor and _is_colour(path)):
        return Tiff(path, spacing=spacing)
    return Slide(path, spacing=spacing)


def _is_colour(path: Path) -> bool:
    """Say whether a TIFF is an 8-bit colour picture that OpenSlide opens, and no OME-TIFF."""
    try:
        with tifffile.TiffFile(path) as file, openslide.OpenSlide(path):
            series = file.series[0]
            return series.axes == "YXS" and series.dtype == np.uint8 and not file.is_ome
    except (*tiff_array.READ_ERRORS, AttributeError, openslide.OpenSlideError):
        return False  # tifffile reads it, or says what is wrong with it
