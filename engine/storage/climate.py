"""Climate grids from NetCDF, through xarray: (time, channel, lat, lon), or (channel, lat, lon) of one moment.

Each variable, or level of one, is a channel. Coordinates and CF attributes are kept beside the voxels.
"""

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.storage import arrays, cf
from engine.storage.climate_channels import Channel, find_channels
from engine.storage.climate_grid import check_same_grid, find_grid
from engine.storage.create import Coordinate, Flavour
from engine.storage.source import Layout, check_file

SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf")
"""File name endings of NetCDF."""

_CHUNK_BYTES = 8 * 1024 * 1024
_SHARD_BYTES = 64 * 1024 * 1024


class Climate:
    """NetCDF files open for reading, by any number of threads, one at a time; see ``source.Source``."""

    def __init__(self, paths: Sequence[Path], *, variables: Sequence[str] | None = None) -> None:
        """Open one file, or several that follow each other in time.

        Args:
            paths: Files on one grid, in the order of their times.
            variables: Which to keep, in this order; all that lie on the grid by default.

        Raises:
            IngestError: If a file is unreadable, a variable is not there, or the files do not fit together.
        """
        self._lock = threading.RLock()
        self._open: dict[Path, xr.Dataset] = {}
        self._paths = tuple(paths)
        first = self._dataset(self._paths[0])
        self.grid = find_grid(first, path=self._paths[0])
        self.channels = find_channels(first, self.grid, path=self._paths[0], variables=variables)
        self._times = [self._checked_times(path) for path in self._paths]
        self._starts = np.cumsum([0, *(len(times) for times in self._times)])
        self._check_order()
        self._check_cyclic_column()
        self.dtype = np.dtype(np.result_type(*(first[channel.variable].dtype for channel in self.channels)))
        self.is_sequential = False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        inner = (len(self.channels), len(self.grid.latitudes), len(self.grid.longitudes))
        return inner if self.grid.time is None else (int(self._starts[-1]), *inner)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Latitude and longitude in degrees: the mean step, where rows are not evenly spaced."""
        inner = (
            Axis("channel", Role.CHANNEL),
            Axis("lat", Role.SPACE, spacing=cf.mean_step(self.grid.latitudes), unit="degree"),
            Axis("lon", Role.SPACE, spacing=cf.mean_step(self.grid.longitudes), unit="degree"),
        )
        if self.grid.time is None:
            return inner
        return Axis("time", Role.BATCH, spacing=cf.mean_step(np.concatenate(self._times))), *inner

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The first file's global attributes, and what each channel is."""
        dataset = self._dataset(self._paths[0])
        channels = [{k: v for k, v in asdict(channel).items() if v is not None} for channel in self.channels]
        return {**cf.plain(dataset.attrs), "channels": channels}

    @property
    def notes(self) -> tuple[str, ...]:
        """Says where a doubled column was left out."""
        if not self.grid.has_cyclic_column:
            return ()
        return ("the last longitude repeats the first; it was left out",)

    @property
    def layout(self) -> Layout:
        """The whole globe in a chunk where it is at most 8 MiB; shards of at most 64 MiB."""
        *_, n_channels, n_lat, n_lon = self.shape
        row = n_lon * n_channels * self.dtype.itemsize
        rows = max(1, min(n_lat, _CHUNK_BYTES // row))
        n_chunks = max(1, min(-(-n_lat // rows), _SHARD_BYTES // (rows * row)))
        chunk: tuple[int, ...] = (n_channels, rows, n_lon)
        shard: tuple[int, ...] = (n_channels, rows * n_chunks, n_lon)
        n_times = max(1, min(self.shape[0], _SHARD_BYTES // (rows * n_chunks * row)))
        if self.grid.time is not None:
            chunk, shard = (1, *chunk), (n_times, *shard)
        edges = {"lon": Edge(EdgeKind.WRAP)} if self.grid.is_periodic else {}
        return Layout(chunk, shard, 1, Flavour.CF, edges, self._coordinates())

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of ``region``, unpacked, missing values as NaN.

        Raises:
            IngestError: If a file is damaged there.
        """
        voxels = np.empty(region.shape, self.dtype)
        *times, (c0, c1), (y0, y1), (x0, x1) = zip(region.start, region.stop, strict=True)
        place = {self.grid.lat: slice(y0, y1), self.grid.lon: slice(x0, x1)}
        for number in range(c0, c1):
            if self.grid.time is None:
                voxels[number - c0] = self._field(self._paths[0], self.channels[number], place)
                continue
            for path, local, target in self._files(*times[0]):
                index = {**place, self.grid.time: local}
                voxels[target, number - c0] = self._field(path, self.channels[number], index)
        return voxels

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for dataset in self._open.values():
                dataset.close()
            self._open.clear()

    def _files(self, start: int, stop: int) -> Iterator[tuple[Path, slice, slice]]:
        """Yield the files that hold time steps [start, stop), which of theirs, and where these land."""
        for path, first, last in zip(self._paths, self._starts, self._starts[1:], strict=False):
            low, high = max(start, int(first)), min(stop, int(last))
            if low < high:
                yield path, slice(low - int(first), high - int(first)), slice(low - start, high - start)

    def _field(self, path: Path, channel: Channel, index: Mapping[str, slice]) -> NDArray[Any]:
        """Return one channel of one file as (time?, lat, lon)."""
        place: dict[str, Any] = dict(index)
        order = [name for name in (self.grid.time, self.grid.lat, self.grid.lon) if name in place]
        if channel.axis is not None:
            place[channel.axis] = channel.index
        with self._lock:
            try:
                array = self._dataset(path)[channel.variable].isel(place, missing_dims="ignore")
                if self.grid.time is not None and self.grid.time not in array.dims:
                    array = array.expand_dims(
                        {self.grid.time: place[self.grid.time].stop - place[self.grid.time].start}
                    )
                return np.asarray(array.transpose(*order).values)
            except (OSError, RuntimeError, ValueError, IndexError) as error:
                raise IngestError(
                    f"variable '{channel.variable}' of '{path}' cannot be read at {place}: the file is damaged there "
                    f"({arrays.first_line(error)}). Copy or download it again."
                ) from error

    def _dataset(self, path: Path) -> xr.Dataset:
        """Return an open file; at most eight are kept open."""
        with self._lock:
            if path not in self._open:
                if len(self._open) >= 8:
                    self._open.pop(next(iter(self._open))).close()
                self._open[path] = _opened(path)
            return self._open[path]

    def _checked_times(self, path: Path) -> NDArray[Any]:
        """Return the times of a file in the first file's units, once it is known to fit that one."""
        dataset, first = self._dataset(path), self._dataset(self._paths[0])
        if path != self._paths[0]:
            check_same_grid(self.grid, find_grid(dataset, path=path), paths=(self._paths[0], path))
            wanted = list(dict.fromkeys(channel.variable for channel in self.channels))
            found = find_channels(dataset, self.grid, path=path, variables=wanted)
            if found != self.channels:
                differing = [b.name for a, b in zip(self.channels, found, strict=False) if a != b] or len(found)
                raise IngestError(
                    f"files that are joined in time must hold the same channels, and those of '{path}' differ from "
                    f"those of '{self._paths[0]}' ({differing}). Choose common ones with --variables."
                )
        name = self.grid.time
        if name is None:
            return np.zeros(1)
        if name not in dataset.variables:
            return np.arange(dataset.sizes[name], dtype=np.float64) + (0 if path == self._paths[0] else np.nan)
        try:
            return cf.times_in_units(dataset[name], first[name].attrs)
        except (ValueError, KeyError) as error:
            raise IngestError(
                f"files that are joined in time must count it in units that fit, and those of '{path}' and "
                f"'{self._paths[0]}' do not ({arrays.first_line(error)}). Set units and calendar of '{name}'."
            ) from error

    def _check_order(self) -> None:
        for i in range(1, len(self._paths)):
            before, after = self._times[i - 1], self._times[i]
            if not (len(before) and len(after) and after[0] > before[-1]):
                raise IngestError(
                    f"files must follow each other in time, and '{self._paths[i]}' starts at {after[:1]}, "
                    f"'{self._paths[i - 1]}' ends at {before[-1:]}. Give them in order, and none twice."
                )

    def _check_cyclic_column(self) -> None:
        """Refuse a doubled longitude whose last column is not a copy of the first."""
        if not self.grid.has_cyclic_column:
            return
        n = len(self.grid.longitudes)
        for channel in self.channels:
            at = {self.grid.lat: slice(None)} | ({self.grid.time: slice(0, 1)} if self.grid.time else {})
            first, last = (self._field(self._paths[0], channel, {**at, self.grid.lon: slice(i, i + 1)}) for i in (0, n))
            if not np.array_equal(first, last, equal_nan=first.dtype.kind == "f"):
                raise IngestError(
                    f"longitude '{self.grid.lon}' of '{self._paths[0]}' ends where it began, so its last column must "
                    f"repeat the first, and that of '{channel.name}' does not. Remove the last column."
                )

    def _coordinates(self) -> dict[str, Coordinate]:
        """Return latitudes, longitudes, times, channel names, and what else lies along these axes alone."""
        dataset, grid = self._dataset(self._paths[0]), self.grid
        renamed = {grid.lat: "lat", grid.lon: "lon"}
        lats, lons = dataset[grid.lat].attrs, dataset[grid.lon].attrs
        found = {
            "lat": Coordinate(
                ("lat",), grid.latitudes, cf.described(lats, standard_name="latitude", units="degrees_north")
            ),
            "lon": Coordinate(
                ("lon",), grid.longitudes, cf.described(lons, standard_name="longitude", units="degrees_east")
            ),
            "channel": Coordinate(("channel",), np.array([c.name for c in self.channels], object), {}),
        }
        if grid.time is not None and grid.time in dataset.variables:
            values = np.concatenate(self._times)
            found["time"] = Coordinate(("time",), values, cf.plain(dataset[grid.time].attrs))
        for name in map(str, dataset.variables):
            array = dataset[name]
            is_beside = set(array.dims) < {grid.lat, grid.lon} and array.dtype.kind in "biuf"
            if is_beside and name not in (grid.lat, grid.lon) and name not in found:
                at_most = {grid.lon: slice(0, len(grid.longitudes))}
                values = np.asarray(array.isel(at_most, missing_dims="ignore").values)
                found[name] = Coordinate(tuple(renamed[str(d)] for d in array.dims), values, cf.plain(array.attrs))
        return found


def _opened(path: Path) -> xr.Dataset:
    check_file(path, wanted="a NetCDF file")
    try:
        with _unwarned():
            dataset = xr.open_dataset(path, decode_times=False, decode_timedelta=False, cache=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise IngestError(
            f"a NetCDF file is wanted, and '{path}' does not open as one ({arrays.first_line(error)}). "
            "Copy or download it again, or check it with ncdump -h."
        ) from error
    return dataset


@contextmanager
def _unwarned() -> Iterator[None]:
    """Keep quiet about variables with two fill values: both become NaN, which is what they mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)
        yield
