"""Reads boxes of climate variables: finds the files and chunks that hold them, and decodes each chunk once."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry.region import Region
from engine.storage.climate_channels import ChannelSet
from engine.storage.climate_chunks import DecodedChunks
from engine.storage.climate_fields import Field, Picked, chunk_of, shares
from engine.storage.climate_files import ClimateFiles
from engine.storage.climate_grid import GlobeGrid
from engine.storage.climate_times import Times

Steps = NDArray[np.int64]


class Reader:
    """Reads the variables of one source; any thread may ask."""

    def __init__(self, files: ClimateFiles, times: Times | None, chunks: DecodedChunks) -> None:
        """Take an open source.

        Args:
            files: That hold it.
            times: Its steps, or None where it has no time axis.
            chunks: Where decoded chunks are kept.
        """
        self._files, self._times, self._chunks = files, times, chunks

    def read(self, field: Field, box: Region, target: NDArray[Any]) -> None:
        """Fill ``target`` with a box (time, level, lat, lon) of one variable.

        Raises:
            IngestError: If a file is damaged there.
        """
        if self._times is None:
            self._read_file(field, 0, np.zeros(1, np.int64), box, target)
            return
        for number, where, steps in self._times.files(box.start[0], box.stop[0]):
            first = box.start[0] + where.start - self._times.place(number)
            inside = Region((first, *box.start[1:]), (first + where.stop - where.start, *box.stop[1:]))
            self._read_file(field, number, steps, inside, target[where])

    def _read_file(self, field: Field, number: int, steps: Steps, box: Region, target: NDArray[Any]) -> None:
        """Fill ``target`` from one file; ``box`` counts those of its steps that are read.

        A variable without a time axis is the same at each step.
        """
        time = field.dims[0]
        picks = field.along(steps, n_steps=1 if time is None else self._files.dataset(number).sizes[time])
        if time is None:
            box = Region((0, *box.start[1:]), (1, *box.stop[1:]))
        filled = target[: box.shape[0]]
        for share in shares(picks, box):
            chunk = self._chunks.get(
                (number, field.variable, share.number),
                partial(self._decoded, field, number, share.number, picks),
                n_bytes=field.n_kept(share.number, picks),
                n_stored=field.n_stored(share.number, picks),
            )
            share.put(chunk, filled)
        target[box.shape[0] :] = filled[:1]

    def _decoded(self, field: Field, number: int, chunk: Sequence[int], picks: Sequence[Picked]) -> NDArray[Any]:
        spans = [pick.span(n) for pick, n in zip(picks, chunk, strict=True)]
        return field.kept(self._files.read(number, field.variable, field.dims, spans), chunk, picks)


def find_fields(files: ClimateFiles, grid: GlobeGrid, channels: ChannelSet) -> tuple[Field, ...]:
    """Return how each variable is read, each once, in the order of the channels."""
    return tuple(_fields(files, grid, channels))


def _fields(files: ClimateFiles, grid: GlobeGrid, channels: ChannelSet) -> Iterator[Field]:
    dataset = files.dataset(0)
    for variable in channels.variables:
        array = dataset[variable]
        own = (c.index for c in channels.channels if c.variable == variable and c.index is not None)
        levels = np.array(channels.level_indices or tuple(own) or (0,), np.int64)
        others = [str(dim) for dim in array.dims if dim not in (grid.time, grid.lat, grid.lon)]
        dims = (grid.time if grid.time in array.dims else None, others[0] if others else None, grid.lat, grid.lon)
        sizes = [1 if dim is None else array.sizes[dim] for dim in dims]
        itemsize = array.dtype.itemsize
        stored, chunk = chunk_of(files.stored_chunk(0, variable, dims), sizes, itemsize=itemsize)
        indices = (levels, grid.rows, grid.columns)
        picks = tuple(Picked(i, c, n) for i, c, n in zip(indices, chunk[1:], sizes[1:], strict=True))
        yield Field(variable, dims, picks, stored, chunk, array.dtype.newbyteorder("="))
