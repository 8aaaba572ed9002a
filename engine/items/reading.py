"""What an item's columns say it is, and how it becomes an array (channel, *space)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IngestError, MissingError, UsageError
from engine.geometry.axes import Role, positions
from engine.geometry.region import Region
from engine.items.manifest import Item
from engine.items.pocket import pocket_shape, read_pocket
from engine.storage.volume import Readable, open_volume

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Reader:
    """How items of one kind are read. Called from several threads."""

    shape_of: Callable[[Item], tuple[int, ...]]
    """The shape (channel, *space) of an item's array, without reading its voxels."""
    read: Callable[[Item], Array]
    """The array, of any numeric dtype."""


def reader_of(item: Item) -> Reader:
    """Return what reads items that have the columns of this one.

    Raises:
        UsageError: If there is no such kind of item.
    """
    if "path" in item.row:
        return VOLUMES
    if "receptor" in item.row or "ligand" in item.row:
        return POCKETS
    raise UsageError(f"item '{item.id}' names neither a path nor a receptor and a ligand. Add a column of them.")


def volume_shape(item: Item) -> tuple[int, ...]:
    """Return the shape (channel, *space) of a volume, from its header."""
    if _is_numpy(item):
        return _with_channel(_numpy(item)).shape
    volume = open_volume(item.row["path"])
    return _shape(volume, item)


def read_volume(item: Item) -> Array:
    """Return the voxels (channel, *space) of an item's volume: .npy, or whatever the engine opens.

    A .npy file of two or three axes is space alone; of more, the first is the channel.

    Raises:
        IngestError: If it cannot be read, or has a batch axis longer than 1.
    """
    if _is_numpy(item):
        return np.array(_with_channel(_numpy(item)))
    volume = open_volume(item.row["path"])
    voxels = volume.read(Region.whole(volume.shape))
    order = (positions(volume.axes, role) for role in (Role.BATCH, Role.CHANNEL, Role.SPACE))
    return voxels.transpose(*sum(order, ())).reshape(_shape(volume, item))


def _shape(volume: Readable, item: Item) -> tuple[int, ...]:
    """Return (channel, *space) of a volume that has no batch axis, or one of 1."""
    if any(volume.shape[i] > 1 for i in positions(volume.axes, Role.BATCH)):
        raise IngestError(f"an item is one volume, and '{item.row['path']}' has {volume.shape}. Name its items apart.")
    channel, space = positions(volume.axes, Role.CHANNEL), positions(volume.axes, Role.SPACE)
    return tuple(volume.shape[i] for i in channel + space) if channel else (1, *(volume.shape[i] for i in space))


def _is_numpy(item: Item) -> bool:
    return item.row["path"].lower().endswith(".npy")


def _numpy(item: Item) -> Array:
    """Return the array of a .npy file as a view of the file."""
    path = item.row["path"]
    if not Path(path).is_file():
        raise MissingError(f"an item is read from a file, and '{path}' is none. Check the path.")
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = " ".join(str(error).split())[:200]
        raise IngestError(f"an array is wanted of '{path}', and cannot be read: {why}. Save it again.") from error
    return array


def _with_channel(array: Array) -> Array:
    """Return (channel, *space): arrays of two or three axes are space alone."""
    return array[None] if array.ndim in (2, 3) else array


VOLUMES = Reader(volume_shape, read_volume)
POCKETS = Reader(pocket_shape, read_pocket)
