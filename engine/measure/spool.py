"""Surface voxels by label and block, kept on disk: only a few blocks' worth is ever in memory."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.geometry.grid import Grid

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The surface voxels of one label in one block."""

    number: int
    """Of the block."""
    offset: int
    """Bytes before them in the file."""
    n_shared: int
    """How many of them, the first, are surface of that label in the other volume too."""
    n: int
    """All of them."""
    low: tuple[int, ...]
    """Least index of any, per axis."""
    high: tuple[int, ...]
    """Greatest index of any, per axis."""


class Spool:
    """The surface voxels of one volume, written once block by block, read bucket by bucket."""

    def __init__(self, path: Path, grid: Grid) -> None:
        self._path, self._grid, self._n_bytes = path, grid, 0
        self._buckets: dict[int, list[Bucket]] = defaultdict(list)
        path.touch()

    @property
    def buckets(self) -> Mapping[int, Sequence[Bucket]]:
        """Of each label that was found."""
        return self._buckets

    def add(self, label: int, number: int, *, own: IntArray, shared: IntArray) -> None:
        """Store the voxels of a label in a block: flat indices within the block, those shared with the other apart."""
        voxels = np.concatenate([shared, own])
        places = self._places(voxels, number)
        bucket = Bucket(
            number,
            self._n_bytes,
            len(shared),
            len(voxels),
            tuple(places.min(0).tolist()),
            tuple(places.max(0).tolist()),
        )
        with self._path.open("ab") as file:
            self._n_bytes += file.write(voxels.astype(np.int32).tobytes())
        self._buckets[label].append(bucket)

    def read(self, bucket: Bucket, *, only_own: bool = False) -> IntArray:
        """Return the voxels of a bucket, (n, axis), as indices into the volume; on request without the shared ones."""
        n_left = bucket.n_shared if only_own else 0
        voxels = np.fromfile(self._path, np.int32, bucket.n - n_left, offset=bucket.offset + 4 * n_left)
        return self._places(voxels.astype(np.int64), bucket.number)

    def _places(self, voxels: IntArray, number: int) -> IntArray:
        region = self._grid.region(number)
        places: IntArray = np.stack(np.unravel_index(voxels, region.shape), axis=-1) + np.array(region.start)
        return places
