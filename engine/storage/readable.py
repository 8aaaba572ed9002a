"""What can be read as a volume, whatever holds it: axes, levels, and the voxels of a region."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.geometry.axes import Axis
from engine.geometry.edges import Edge
from engine.geometry.grid import Grid
from engine.geometry.region import Region

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Level:
    """One array of a volume; level 0 is the finest."""

    path: str
    """Array path inside the group; empty where the volume is a bare array. In a file, the level's number."""
    shape: tuple[int, ...]
    """Voxels per axis."""
    chunk_shape: tuple[int, ...]
    """Voxels per axis of the unit of compression."""
    shard_shape: tuple[int, ...] | None
    """Voxels per axis of Zarr's stored object, whole chunks; None where each chunk is an object."""
    spacing: tuple[float, ...]
    """Physical step per axis, in the axis's unit."""
    translation: tuple[float, ...]
    """Physical place of the first voxel's centre per axis."""
    decoded: tuple[int, ...] | None = None
    """Voxels per axis that a reader decodes at once and keeps for the next read, where these are other than a chunk."""

    @property
    def object_shape(self) -> tuple[int, ...]:
        """Voxels per axis of one stored object: what one writer must write whole."""
        return self.shard_shape or self.chunk_shape

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        """Voxels per axis that are decoded at once."""
        return self.decoded or self.chunk_shape

    @property
    def grid(self) -> Grid:
        """The stored objects, numbered."""
        return Grid(self.shape, self.object_shape)

    def in_order(self, order: Sequence[int | None]) -> "Level":
        """Return this level with other axes: axis i is its axis ``order[i]``, or a new one of one voxel."""
        return replace(
            self,
            shape=placed(self.shape, order, 1),
            chunk_shape=placed(self.chunk_shape, order, 1),
            shard_shape=None if self.shard_shape is None else placed(self.shard_shape, order, 1),
            spacing=placed(self.spacing, order, 1.0),
            translation=placed(self.translation, order, 0.0),
            decoded=None if self.decoded is None else placed(self.decoded, order, 1),
        )


def in_front(level: Level, n: int) -> Level:
    """Return a level with a new first axis of ``n`` voxels, each in chunks and objects of its own."""
    return replace(
        level,
        shape=(n, *level.shape),
        chunk_shape=(1, *level.chunk_shape),
        shard_shape=None if level.shard_shape is None else (1, *level.shard_shape),
        spacing=(1.0, *level.spacing),
        translation=(0.0, *level.translation),
        decoded=None if level.decoded is None else (1, *level.decoded),
    )


def placed(values: Sequence[T], order: Sequence[int | None], default: T) -> tuple[T, ...]:
    """Return values per axis in another order, and the default for an axis that is new.

    >>> placed((7, 8, 9), (1, None, 0, 2), 1)
    (8, 1, 7, 9)
    """
    return tuple(default if i is None else values[i] for i in order)


class Readable(Protocol):
    """A volume open for reading by any number of threads; it may be pickled."""

    @property
    def url(self) -> str:
        """All that it takes to open it again; see :mod:`engine.storage.source_url`."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Finest first; at least one."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """In storage order, with the spacing of level 0."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis of level 0."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of every level, in native byte order."""

    @property
    def edges(self) -> Mapping[str, Edge]:
        """What the volume itself knows of its borders, per space axis."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What its metadata says beyond axes and levels."""

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return a copy of the voxels of ``region``, C-contiguous, in storage order.

        Raises:
            VolumeError: If the region leaves the level, or what holds it is damaged there.
        """


@dataclass(frozen=True)
class View:
    """Another volume, seen otherwise: what a view does not say is as in its base. See :class:`Readable`."""

    url: str
    base: Readable
    """What is read."""
    axes: tuple[Axis, ...]
    levels: tuple[Level, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return self.levels[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""
        return self.base.dtype

    @property
    def edges(self) -> Mapping[str, Edge]:
        """What the volume knows of its borders."""
        return self.base.edges

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What its metadata says beyond axes and levels."""
        return self.base.attributes

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``."""
        raise NotImplementedError


def beneath(volume: Readable) -> Readable:
    """Return what all views of a volume are of: the volume itself where it is no view."""
    while isinstance(volume, View):
        volume = volume.base
    return volume


def held_bytes(volume: Readable) -> int:
    """Return what reading a volume holds in a process beside what is asked for: decoded chunks that are kept."""
    held = getattr(beneath(volume), "held_bytes", None)
    return int(held()) if held is not None else 0
