"""The front door of reading: from a source URL to a volume, whatever holds it."""

from pathlib import Path

from engine.storage import arrays
from engine.storage.readable import Level, Readable
from engine.storage.scaled import scaled
from engine.storage.slices import sliced
from engine.storage.slide import SUFFIXES
from engine.storage.slide_file import open_slide
from engine.storage.source_url import parse_source
from engine.storage.stored import Volume, open_group, open_stored

__all__ = ["Level", "Readable", "Volume", "open_group", "open_stored", "open_volume"]


def open_volume(url: str, *, axes: str | None = None) -> Readable:
    """Open a source as a volume; nothing but metadata is read.

    Args:
        url: A bare Zarr array (v2 or v3), an OME-Zarr group (0.4 or 0.5), a group that the engine wrote, a path
            inside one such as ``out.zarr/probability``, or a slide or TIFF file; behind a ``#``, how it is to be
            read, as ``slide.svs#mpp=0.5``: see :mod:`engine.storage.source_url`.
        axes: Names for the axes of a bare array, as "zyx", "t,c,y,x" or "lat,lon"; they go before its own.

    Raises:
        VolumeError: If nothing is there, it is no volume, its axes are unknown, an axis is empty, its dtype is not
            a number, its ingest was not finished, or it cannot be read as the URL wants.
    """
    source = parse_source(url)
    place = arrays.local_path(source.place)
    if place.lower().endswith(SUFFIXES) and arrays.is_local(place) and not Path(place).is_dir():
        base: Readable = open_slide(Path(place), spacing=source.spacing)
    else:
        base = open_stored(source.place, axes=axes)
    if source.mpp is not None or source.spacing is not None:
        base = scaled(base, source)
    return base if source.slices is None else sliced(base, source)
