"""The front door of reading: from a source URL to a volume, whatever holds it."""

from pathlib import Path

from engine.errors import VolumeError
from engine.storage import arrays
from engine.storage.climate import open_climate
from engine.storage.climate_choice import ClimateChoice
from engine.storage.climate_files import is_climate
from engine.storage.members import members
from engine.storage.placed import with_place
from engine.storage.readable import Level, Readable
from engine.storage.rolled import rolled
from engine.storage.scaled import scaled
from engine.storage.scan import is_scan, open_scan
from engine.storage.slices import sliced
from engine.storage.slide import SUFFIXES
from engine.storage.slide_file import open_slide
from engine.storage.source_url import SourceUrl, parse_source
from engine.storage.stored import Volume, open_group, open_stored

__all__ = ["Level", "Readable", "Volume", "open_group", "open_stored", "open_volume"]


def open_volume(url: str, *, axes: str | None = None) -> Readable:
    """Open a source as a volume; nothing but metadata is read.

    Args:
        url: A bare Zarr array (v2 or v3), an OME-Zarr group (0.4 or 0.5), a group that the engine wrote, a path
            inside one such as ``out.zarr/probability``, a slide or TIFF file, a scan (NIfTI, MetaImage, NRRD) or
            the folder of a DICOM series, a climate grid (NetCDF, GRIB, or Zarr as xarray writes it), or several files
            of one that follow each other in time, as ``era5_*.nc``; behind a ``#``, how it is to be read, as
            ``slide.svs#mpp=0.5``: see :mod:`engine.storage.source_url`.
        axes: Names for the axes of a bare array, as "zyx", "t,c,y,x" or "lat,lon"; they go before its own.

    Raises:
        VolumeError: If nothing is there, it is no volume, its axes are unknown, an axis is empty, its dtype is not
            a number, its ingest was not finished, or it cannot be read as the URL wants.
    """
    source = parse_source(url)
    if is_scan(source.place):
        base = _scan(source)
    elif is_climate(source.place):
        base = _climate(source)
    else:
        base = _other(source, axes=axes)
    return _seen(base if source.slices is None else sliced(base, source), source)


def _seen(base: Readable, wanted: SourceUrl) -> Readable:
    """Return a volume as members, step by step, and with its place, as its URL wants it."""
    url, views = str(wanted), wanted.views
    if views.members is not None:
        base = members(base, url=url, n=views.members)
    if views.steps is not None:
        base = rolled(base, url=url, n_steps=views.steps, state=views.state)
    return with_place(base, url=url, names=views.place) if views.place else base


def _scan(source: SourceUrl) -> Readable:
    if source.mpp is not None:
        raise VolumeError(
            f"'mpp' is the resolution of a slide, and '{source.place}' is a scan: it is read at its own spacing. Leave "
            "it out; a model that wants another spacing resamples for itself (Resampled)."
        )
    return open_scan(source)


def _climate(source: SourceUrl) -> Readable:
    if source.mpp is not None or source.spacing is not None or source.series is not None:
        raise VolumeError(
            f"'mpp', 'spacing' and 'series' are of slides and scans, and '{source.place}' is a climate grid, read at "
            "its own latitudes and longitudes. Leave them out."
        )
    return open_climate(source)


def _other(source: SourceUrl, *, axes: str | None) -> Readable:
    if source.series is not None or len(source.spacing or ()) > 2:
        raise VolumeError(
            f"'series', and a spacing along z, y and x, are of scans and folders of DICOM, and '{source.place}' is "
            "none, or is not there. Leave them out, or correct the path."
        )
    if source.climate != ClimateChoice():
        raise VolumeError(
            f"'{source.climate.options[0]}' is of climate grids (NetCDF, GRIB, or Zarr as xarray writes it), and "
            f"'{source.place}' is none, or is not there. Leave it out, or correct the path."
        )
    place = arrays.local_path(source.place)
    if place.lower().endswith(SUFFIXES) and arrays.is_local(place) and not Path(place).is_dir():
        base: Readable = open_slide(Path(place), spacing=source.spacing)
    else:
        base = open_stored(source.place, axes=axes)
    if source.mpp is not None or source.spacing is not None:
        base = scaled(base, source)
    return base
