"""Climate grids: (time, channel, lat, lon), or (time, level, channel, lat, lon); no time axis for one moment.

NetCDF, GRIB, or Zarr as xarray writes it, read as they are. Each variable, or level of one, is a channel.
Coordinates and CF attributes are kept beside the voxels.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.storage import cf
from engine.storage.climate_channels import find_channels
from engine.storage.climate_choice import ClimateChoice
from engine.storage.climate_chunks import LEAST_BYTES, shared_chunks
from engine.storage.climate_coordinates import find_coordinates
from engine.storage.climate_fields import Field
from engine.storage.climate_files import ClimateFiles, places_of
from engine.storage.climate_grib import BEGAN
from engine.storage.climate_grid import POLE, find_grid, pole_facts
from engine.storage.climate_join import check_alike, check_cyclic_column
from engine.storage.climate_reader import Reader, find_fields
from engine.storage.climate_times import read_times
from engine.storage.create import Coordinate, Flavour
from engine.storage.readable import Level
from engine.storage.source import Layout, check_inside
from engine.storage.source_url import SourceUrl

_CHUNK_BYTES = 8 * 1024 * 1024
_SHARD_BYTES = 64 * 1024 * 1024
_COPIES_DECODING = 3
"""A chunk as stored, unpacked, and cut to what is read of it."""


class Climate:
    """Climate files open for reading by any number of threads: a source to ingest, and a volume that may be run.

    See :class:`engine.storage.source.Source` and :class:`engine.storage.readable.Readable`. Stored chunks are decoded
    once and kept while they are needed; all readers of one source in a process share them.
    """

    def __init__(self, places: Sequence[str], *, choice: ClimateChoice | None = None, url: str | None = None) -> None:
        """Open one source; metadata and coordinates are read.

        Args:
            places: One file or Zarr store, or several on one grid, in the order of their times.
            choice: What of it is read.
            url: What opens it again; the first place and the choice by default.

        Raises:
            IngestError: If a file is unreadable, the choice is not there, or the files do not fit together.
        """
        self.choice = choice or ClimateChoice()
        self.url = url or str(SourceUrl(places[0], climate=self.choice))
        self.files = ClimateFiles(places)
        first, path = self.files.dataset(0), self.files.places[0]
        self.grid = find_grid(first, path=path, variables=self.choice.variables, box=self.choice.box)
        self.channels = find_channels(first, self.grid, path=path, choice=self.choice)
        check_alike(self.files, self.grid, self.channels, choice=self.choice)
        check_cyclic_column(self.files, self.grid, self.channels)
        self.times = read_times(self.files, self.grid.time, self.choice.time)
        self.fields = find_fields(self.files, self.grid, self.channels)
        self.dtype: np.dtype[Any] = np.dtype(np.result_type(*(field.dtype for field in self.fields)))
        self.is_sequential = False
        self._chunks = shared_chunks((self.url, self.files.stamp))
        self._reader = Reader(self.files, self.times, self._chunks)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.files.places, self.choice, self.url)

    @property
    def n_decoded(self) -> int:
        """Stored chunks that readers of this source decoded in this process, while one of them was open."""
        return self._chunks.n_decoded

    def held_bytes(self, n_steps: int = 1) -> int:
        """Return the most bytes that chunks of this source take while blocks of so many time steps are read.

        Kept are the chunks of one step more, so that blocks on either side of a step may be read in any order; beside
        them one chunk is decoded at a time.
        """
        kept = sum(field.bytes_of(n_steps + 1) for field in self.fields)
        return max(LEAST_BYTES, kept) + _COPIES_DECODING * max(field.decoded_bytes for field in self.fields)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Latitude and longitude in degrees: the mean step, where rows are not evenly spaced."""
        times, levels = self.times, self.channels.levels
        found = [Axis("time", Role.BATCH, spacing=cf.mean_step(times.chosen))] if times is not None else []
        found += [Axis("level", Role.BATCH)] if levels is not None else []
        return (
            *found,
            Axis("channel", Role.CHANNEL),
            Axis("lat", Role.SPACE, spacing=cf.mean_step(self.grid.latitudes), unit="degree"),
            Axis("lon", Role.SPACE, spacing=cf.mean_step(self.grid.longitudes), unit="degree"),
        )

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        times = () if self.times is None else (self.times.stop - self.times.start,)
        levels = () if self.channels.levels is None else (len(self.channels.levels.levels),)
        return *times, *levels, len(self.channels.channels), len(self.grid.rows), len(self.grid.columns)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The grid as it is, in the chunks of the first variable."""
        field, n_batch = self.fields[0], len(self.shape) - 3
        space = tuple(min(a, n) for a, n in zip(field.chunk[2:], self.shape[-2:], strict=True))
        spacing, zeros = tuple(axis.spacing for axis in self.axes), (0.0,) * len(self.axes)
        kept = [axis for axis, one in enumerate((self.times, self.channels.levels)) if one is not None]
        together = tuple(min(field.chunk[axis], n) for axis, n in zip(kept, self.shape[:n_batch], strict=True))
        chunk, decoded = (*(1,) * n_batch, self.shape[-3], *space), (*together, self.shape[-3], *space)
        return (Level("", self.shape, chunk, None, spacing, zeros, decoded),)

    @property
    def edges(self) -> Mapping[str, Edge]:
        """Longitude wraps where it goes once round the globe."""
        return {"lon": Edge(EdgeKind.WRAP)} if self.grid.is_periodic else {}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The first file's global attributes, and under three names what the engine knows beyond.

        ``channels``: what each channel is; see :class:`engine.storage.climate_channels.Channel`. ``levels``: what each
        level is, where they are an axis. ``pole``: see :func:`engine.storage.climate_grid.pole_facts`.
        """
        channels = self.channels.channels
        said = cf.plain(self.files.dataset(0).attrs)
        names = ", ".join(place.rpartition("/")[2] for place in self.files.places[:3])
        history = f"{said.get('history', '')}\nhaloengine: channels of {names}".strip()
        found = {**said, "Conventions": cf.CONVENTIONS, "history": history}
        found["channels"] = [channel.to_json() for channel in channels]
        if self.channels.levels is not None:
            found["levels"] = [level.to_json() for level in self.channels.levels.levels]
        found[POLE] = pole_facts(self.grid.latitudes, [(c.standard_name, c.variable) for c in channels])
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Says where a doubled column was left out."""
        if not self.grid.has_cyclic_column:
            return ()
        return ("the last longitude repeats the first; it was left out",)

    @cached_property
    def coordinates(self) -> Mapping[str, Coordinate]:
        """What stands beside the voxels."""
        first = self.files.dataset(0)
        beside = first if len(self.files.places) == 1 else first.drop_vars(BEGAN, errors="ignore")
        return find_coordinates(beside, self.grid, self.channels, self.times)

    @property
    def layout(self) -> Layout:
        """The whole globe in a chunk where it is at most 8 MiB; shards of at most 64 MiB."""
        *batch, n_channels, n_lat, n_lon = self.shape
        row = n_lon * n_channels * self.dtype.itemsize
        rows = max(1, min(n_lat, _CHUNK_BYTES // row))
        n_chunks = max(1, min(-(-n_lat // rows), _SHARD_BYTES // (rows * row)))
        room, together = max(1, _SHARD_BYTES // (rows * n_chunks * row)), []
        for n in reversed(batch):
            together.append(min(n, room))
            room = max(1, room // together[-1])
        chunk = (1,) * len(batch) + (n_channels, rows, n_lon)
        shard = (*reversed(together), n_channels, rows * n_chunks, n_lon)
        return Layout(chunk, shard, 1, Flavour.CF, self.edges, self.coordinates)

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``, unpacked, missing values as NaN.

        Raises:
            IngestError: If the region leaves the volume, or a file is damaged there.
        """
        check_inside(region, level=level, shapes=[self.shape], path=Path(self.url))
        voxels = np.empty(region.shape, self.dtype)
        start, stop = list(region.start), list(region.stop)
        n_steps = stop[0] - start[0] if self.times is not None else 1
        self._chunks.reserve(sum(field.bytes_of(n_steps + 1) for field in self.fields))
        whole = voxels
        if self.times is None:
            start, stop, whole = [0, *start], [1, *stop], voxels[None]
        for field, box, part in self._parts(Region(tuple(start), tuple(stop)), whole):
            self._reader.read(field, box, part)
        return voxels

    def close(self) -> None:
        """Let go of all files."""
        self.files.close()

    def _parts(self, region: Region, whole: NDArray[Any]) -> Iterator[tuple[Field, Region, NDArray[Any]]]:
        """Yield each variable of a region: its box over (time, level, lat, lon), and where that goes."""
        (t0, *_), (t1, *_), channel = region.start, region.stop, len(region.shape) - 3
        (y0, x0), (y1, x1) = region.start[-2:], region.stop[-2:]
        first, last = region.start[channel], region.stop[channel]
        place = 0
        for field in self.fields:
            n = 1 if self.channels.levels is not None else len(field.picks[0].indices)
            low, high = max(first, place), min(last, place + n)
            if low < high and self.channels.levels is not None:
                part, (l0, l1) = whole[:, :, low - first], (region.start[1], region.stop[1])
                yield field, Region((t0, l0, y0, x0), (t1, l1, y1, x1)), part
            elif low < high:
                part = whole[:, low - first : high - first]
                yield field, Region((t0, low - place, y0, x0), (t1, high - place, y1, x1)), part
            place += n


def open_climate(source: SourceUrl) -> Climate:
    """Open a climate source: NetCDF, GRIB, or Zarr as xarray writes it; several files in time by a pattern with ``*``.

    Raises:
        IngestError: If it is none, or not what the URL chooses of it.
    """
    url = SourceUrl(source.place, climate=source.climate)
    return Climate(places_of(source.place), choice=source.climate, url=str(url))


def _reopened(places: Sequence[str], choice: ClimateChoice, url: str) -> Climate:
    return Climate(places, choice=choice, url=url)
