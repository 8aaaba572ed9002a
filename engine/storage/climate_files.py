"""The files of a climate source, as xarray opens them: NetCDF, GRIB, or a Zarr store with coordinates."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from engine.errors import IngestError, MissingError
from engine.storage import arrays, ngff, record
from engine.storage.climate_grib import open_grib
from engine.storage.climate_grid import says
from engine.storage.source import check_file

NETCDF = (".nc", ".nc3", ".nc4", ".cdf", ".netcdf")
GRIB = (".grib", ".grb", ".grib1", ".grib2", ".grb1", ".grb2")
SUFFIXES = (*NETCDF, *GRIB)
"""File name endings of NetCDF and GRIB; Zarr is told by what is in it."""

DIMS = 4
"""Axes that a variable may have: time, level, lat, lon."""

_MOST_OPEN = 8
_OPEN_ERRORS = (*arrays.READ_ERRORS, AttributeError, NotImplementedError)


class ClimateFiles:
    """The files of one source, in the order of their times; any thread may read.

    Files are opened when they are first read, and at most eight are kept open.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self.places = tuple(places)
        self._lock = RLock()
        self._open: dict[int, xr.Dataset] = {}

    def dataset(self, number: int) -> xr.Dataset:
        """Return an open file.

        Raises:
            IngestError: If it is missing, damaged, or not what its ending says.
        """
        with self._lock:
            if number not in self._open:
                if len(self._open) >= _MOST_OPEN:
                    self._open.pop(next(iter(self._open))).close()
                self._open[number] = _opened(self.places[number])
            return self._open[number]

    def read(self, number: int, variable: str, dims: Sequence[str | None], index: Sequence[slice]) -> NDArray[Any]:
        """Return a box of a variable, unpacked, missing values as NaN, one axis for each of ``dims``.

        Args:
            number: The file.
            variable: Its name there.
            dims: The file's names of the axes, in the order that is wanted; None for one that the variable lacks.
            index: What of each.

        Raises:
            IngestError: If the file is damaged there.
        """
        place = {dim: one for dim, one in zip(dims, index, strict=True) if dim is not None}
        with self._lock if is_file(self.places[number]) else _unlocked():
            try:
                values = np.asarray(self.dataset(number)[variable].isel(place).transpose(*place).values)
            except _OPEN_ERRORS as error:
                raise IngestError(
                    f"variable '{variable}' of '{self.places[number]}' cannot be read at {place}: the file is damaged "
                    f"there ({arrays.first_line(error)}). Copy or download it again."
                ) from error
        return values.reshape([1 if dim is None else n for dim, n in _sizes(dims, values.shape)])

    def stored_chunk(self, number: int, variable: str, dims: Sequence[str | None]) -> tuple[int, ...] | None:
        """Return the chunk in which a variable is stored, in the order of ``dims``; None where it is one piece."""
        array, place = self.dataset(number)[variable], self.places[number].lower()
        if place.endswith(GRIB):
            fields = [1 if i < DIMS - 2 or dim is None else array.sizes[dim] for i, dim in enumerate(dims)]
            return tuple(fields)
        chunks = array.encoding.get("chunks") or array.encoding.get("chunksizes")
        if chunks is None or len(chunks) != array.ndim:
            return None
        along = dict(zip(array.dims, chunks, strict=True))
        return tuple(1 if dim is None else int(along[dim]) for dim in dims)

    @property
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Name, size and time of change of each file on this machine, to tell a file that was replaced."""
        found = []
        for place in self.places:
            path = Path(arrays.local_path(place))
            for name in ("", ".zmetadata", "zarr.json"):
                one = path / name
                if one.is_file():
                    found.append((str(one.absolute()), one.stat().st_size, one.stat().st_mtime_ns))
        return tuple(found) or tuple((place, 0, 0) for place in self.places)

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for dataset in self._open.values():
                dataset.close()
            self._open.clear()


def is_file(place: str) -> bool:
    """Say whether a place is a NetCDF or GRIB file, by its ending."""
    return place.lower().endswith(SUFFIXES)


def is_climate(place: str) -> bool:
    """Say whether a source is a climate one: NetCDF or GRIB by its ending, or Zarr with a latitude or a longitude.

    Groups that the engine wrote, and OME-Zarr, are none.
    """
    if is_file(place):
        return True
    local = arrays.local_path(place)
    if arrays.is_local(place) and not Path(local).is_dir():
        return False
    try:
        group = zarr.open_group(store=local, mode="r")
        attributes = dict(group.attrs)
        if record.KEY in attributes or ngff.is_multiscales(attributes):
            return False
        return any(says(name, dict(array.attrs), kind) for name, array in group.arrays() for kind in ("lat", "lon"))
    except (*arrays.READ_ERRORS, ImportError):
        return False


def places_of(place: str) -> list[str]:
    """Return the files that a place names, in the order of their names: itself, or what a pattern with ``*`` matches.

    Raises:
        MissingError: If a pattern matches nothing.
    """
    path = Path(local := arrays.local_path(place))
    if not (arrays.is_local(place) and set(path.name) & set("*?[")) or path.exists():
        return [local]
    found = sorted(str(one) for one in path.parent.glob(path.name))
    if not found:
        raise MissingError(f"climate files are wanted, and nothing matches '{place}'. Check the pattern.")
    return found


def _opened(place: str) -> xr.Dataset:
    if place.lower().endswith(NETCDF):
        check_file(Path(place), wanted="a NetCDF file")
        return _with_xarray(place, what="a NetCDF file", advice="check it with ncdump -h")
    if place.lower().endswith(GRIB):
        check_file(Path(place), wanted="a GRIB file")
        return open_grib(place)
    store = _with_xarray(place, what="a Zarr store with coordinates", advice="write it with xarray", engine="zarr")
    return store[sorted(map(str, store.data_vars))]  # a store lists its arrays in any order


def _with_xarray(place: str, *, what: str, advice: str, **options: Any) -> xr.Dataset:  # noqa: ANN401 -- xarray's own
    try:
        with unwarned():
            return xr.open_dataset(place, decode_times=False, decode_timedelta=False, cache=False, **options)
    except _OPEN_ERRORS as error:
        raise IngestError(
            f"{what} is wanted, and '{place}' does not open as one ({arrays.first_line(error)}). "
            f"Copy or download it again, or {advice}."
        ) from error


def _sizes(dims: Sequence[str | None], shape: Sequence[int]) -> Iterator[tuple[str | None, int]]:
    sizes = iter(shape)
    return ((dim, 1 if dim is None else next(sizes)) for dim in dims)


@contextmanager
def _unlocked() -> Iterator[None]:
    yield


@contextmanager
def unwarned() -> Iterator[None]:
    """Keep quiet about what is no fault: two fill values, which both become NaN, and metadata not consolidated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
