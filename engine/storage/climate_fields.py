"""How a variable of a climate file is read: which of its chunks a box needs, and what of each goes where.

All boxes here are (time, level, lat, lon), whatever the order in the file. A volume's axis may take a file's indices
in any order, so levels by choice, a box across the date line and a globe that is rolled are all one thing:

    file's columns     0   1   2   3 | 4   5   6   7      chunks of 4
    volume's columns           6   7   0   1              columns 0 and 1 are cut from chunk 1, 2 and 3 from chunk 0
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry.region import Region

Places = NDArray[np.int64]

_LEAST_READ = 1 << 20
_MOST_PLAIN = 1 << 25


@dataclass(frozen=True, eq=False)
class Picked:
    """Which of a file's indices one axis of a volume is made of, where the file is stored in chunks.

    >>> picked = Picked(np.array([6, 7, 0, 1]), chunk=4, size=8)
    >>> picked.numbers(1, 3), picked.inside(1)
    ([0, 1], array([0, 1]))
    """

    indices: Places
    """The file's index of each of the volume's, none twice."""
    chunk: int
    """Indices of one chunk."""
    size: int
    """Indices in the file."""

    def numbers(self, start: int, stop: int) -> list[int]:
        """Return the chunks that hold the volume's ``[start, stop)``, each once."""
        return sorted({int(number) for number in self.indices[start:stop] // self.chunk})

    def inside(self, number: int) -> Places:
        """Return which of the volume's indices lie in a chunk, rising."""
        return np.flatnonzero(self.indices // self.chunk == number)

    def span(self, number: int) -> slice:
        """Return which of the file's indices a chunk holds."""
        return slice(number * self.chunk, min(self.size, (number + 1) * self.chunk))


@dataclass(frozen=True, eq=False)
class Share:
    """What of one chunk goes where in a box that is read."""

    number: tuple[int, ...]
    """The chunk, per axis."""
    source: tuple[slice, ...]
    """Of the chunk as it is kept; see :meth:`Field.kept`."""
    target: tuple[Places, ...]
    """Indices in the box, per axis."""

    def put(self, chunk: NDArray[Any], box: NDArray[Any]) -> None:
        """Copy this share of ``chunk`` into ``box``."""
        runs = [_as_run(places) for places in self.target]
        where = np.ix_(*self.target) if None in runs else tuple(run for run in runs if run is not None)
        box[where] = chunk[self.source]


@dataclass(frozen=True, eq=False)
class Field:
    """One variable: how it lies in its file, and what of it is read."""

    variable: str
    dims: tuple[str | None, ...]
    """The file's names of time, level, lat and lon; None where the variable lacks the axis."""
    picks: tuple[Picked, ...]
    """Along level, lat and lon; those along time differ by file."""
    stored: tuple[int, ...]
    """Indices of a stored chunk along time, level, lat and lon."""
    chunk: tuple[int, ...]
    """Indices of what is decoded at a time: whole stored chunks."""
    dtype: np.dtype[Any]

    def along(self, times: Places, *, n_steps: int) -> tuple[Picked, ...]:
        """Return the picks along all four axes.

        Args:
            times: The steps of the file that are read.
            n_steps: Steps in the file.
        """
        has_time = self.dims[0] is not None
        time = Picked(times, self.chunk[0], n_steps) if has_time else Picked(np.zeros(1, np.int64), 1, 1)
        return time, *self.picks

    def kept(self, chunk: NDArray[Any], number: Sequence[int], picks: Sequence[Picked]) -> NDArray[Any]:
        """Return what of a decoded chunk is read at all, in the volume's order: a copy where that is less."""
        found = chunk
        for axis, (pick, n) in enumerate(zip(picks, number, strict=True)):
            places = pick.indices[pick.inside(n)] - n * pick.chunk
            run = _as_run(places)
            found = found[(slice(None),) * axis + (places if run is None else run,)]
        return np.array(found, self.dtype, order="C", copy=True if found.size < chunk.size else None)

    def n_kept(self, number: Sequence[int], picks: Sequence[Picked]) -> int:
        """Return the bytes of what is kept of a chunk."""
        return self.dtype.itemsize * prod(len(pick.inside(n)) for pick, n in zip(picks, number, strict=True))

    def n_stored(self, number: Sequence[int], picks: Sequence[Picked]) -> int:
        """Return the stored chunks that are decoded with a chunk."""
        spans = (pick.span(n) for pick, n in zip(picks, number, strict=True))
        return prod(-(-(span.stop - span.start) // one) for span, one in zip(spans, self.stored, strict=True))

    def bytes_of(self, n_steps: int) -> int:
        """Return the most bytes that are kept of all chunks which meet ``n_steps`` steps."""
        unit = self.chunk[0]
        steps = 1 if self.dims[0] is None else (ceil((n_steps - 1) / unit) + 1) * unit
        return self.dtype.itemsize * steps * prod(len(pick.indices) for pick in self.picks)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of one chunk when it is decoded."""
        return self.dtype.itemsize * prod(self.chunk)


def shares(picks: Sequence[Picked], box: Region) -> Iterator[Share]:
    """Yield what each chunk that meets a box gives to it; together they fill it.

    >>> picks = [Picked(np.array([6, 7, 0, 1]), chunk=4, size=8)]
    >>> [(share.number, share.source, share.target[0].tolist()) for share in shares(picks, Region((1,), (3,)))]
    [((0,), (slice(0, 1, None),), [1]), ((1,), (slice(1, 2, None),), [0])]
    """
    cuts = []
    for pick, start, stop in zip(picks, box.start, box.stop, strict=True):
        along = []
        for number in pick.numbers(start, stop):
            places = pick.inside(number)
            low, high = (int(place) for place in np.searchsorted(places, (start, stop)))
            along.append((number, slice(low, high), places[low:high] - start))
        cuts.append(along)
    for cut in product(*cuts):
        numbers, sources, targets = zip(*cut, strict=True)
        yield Share(numbers, sources, targets)


def chunk_of(
    stored: Sequence[int] | None, sizes: Sequence[int], *, itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the chunk as stored, and what is decoded at a time, along time, level, lat and lon.

    Small chunks are decoded together, along lon and lat, to about a MiB. What is stored as one piece is read field by
    field, or by rows where a field has over 32 MiB.

    >>> chunk_of(None, (8, 37, 721, 1440), itemsize=4)
    ((1, 1, 721, 1440), (1, 1, 721, 1440))
    >>> chunk_of((1, 37, 100, 100), (8, 37, 721, 1440), itemsize=4)
    ((1, 37, 100, 100), (1, 37, 100, 100))
    >>> chunk_of((1, 1, 10, 10), (8, 37, 721, 1440), itemsize=4)
    ((1, 1, 10, 10), (1, 1, 180, 1440))
    """
    *_, n_lat, n_lon = sizes
    if stored is None:
        rows = max(1, min(n_lat, _MOST_PLAIN // (n_lon * itemsize)))
        return (1, 1, rows, n_lon), (1, 1, rows, n_lon)
    found = [min(a, n) for a, n in zip(stored, sizes, strict=True)]
    for axis in (3, 2):
        times = max(1, _LEAST_READ // (itemsize * prod(found)))
        found[axis] = min(sizes[axis], found[axis] * times)
    return tuple(min(a, n) for a, n in zip(stored, sizes, strict=True)), tuple(found)


def _as_run(places: Places) -> slice | None:
    """Return neighbouring, rising indices as a slice."""
    if not len(places) or (np.diff(places) != 1).any():
        return None
    return slice(int(places[0]), int(places[-1]) + 1)
