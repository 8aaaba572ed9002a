"""A volume stored as Zarr: an N-d array with axes, spacing and levels, whatever made it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from engine.errors import AxisError, VolumeError
from engine.geometry.axes import Axis, Role, axes_from_names
from engine.geometry.edges import Edge
from engine.geometry.region import Region
from engine.storage import arrays, ngff, record
from engine.storage.readable import Level

T = TypeVar("T")


@dataclass(frozen=True)
class Volume:
    """An open volume. Arrays are opened on first use, once per process; it may be pickled."""

    url: str
    """Local path or fsspec URL of the group or array."""
    levels: tuple[Level, ...]
    """Finest first; at least one."""
    axes: tuple[Axis, ...]
    """In storage order, with the spacing of level 0."""
    dtype: np.dtype[Any]
    """Of every level, in native byte order."""
    edges: Mapping[str, Edge] = field(default_factory=dict)
    """What the volume itself knows of its borders, per space axis: longitude wraps."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the group, or of the bare array."""
    order: tuple[int, ...] = ()
    """Where each axis is stored, where that is another order; see :meth:`in_order`."""
    _open: dict[tuple[int, bool, Any], zarr.Array[Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _lock: list[threading.Lock] = field(
        default_factory=lambda: [threading.Lock()], init=False, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_lock": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_lock": [threading.Lock()]})

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis of level 0."""
        return self.levels[0].shape

    @property
    def n_bytes(self) -> int:
        """Bytes of level 0, uncompressed."""
        return prod(self.shape) * self.dtype.itemsize

    def in_order(self, names: Sequence[str]) -> "Volume":
        """Return this volume with its axes in the order of ``names``, to read and to write; it is stored as it was."""
        own = [axis.name for axis in self.axes]
        order = tuple(own.index(name) for name in names)
        if list(names) == own:
            return self
        stored = tuple(self.order[i] for i in order) if self.order else order
        levels = tuple(level.in_order(order) for level in self.levels)
        return replace(self, levels=levels, axes=tuple(self.axes[i] for i in order), order=stored)

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return a copy of the voxels of ``region``, C-contiguous, in storage order and native bytes.

        Raises:
            VolumeError: If the region leaves the level, or a stored object of it is damaged.
        """
        self._check_inside(region, level=level)
        if region.n_voxels == 0:
            return np.empty(region.shape, self.dtype)
        self._check_stored(region, level=level)
        try:
            voxels = np.asarray(self._array(level, is_writable=False)[self._as_stored(region.slices)])
        except arrays.READ_ERRORS as error:
            raise VolumeError(
                f"cannot read {self._where(region, level=level)}: a stored object is damaged or missing "
                f"({arrays.first_line(error)}). Restore it, or make the volume again."
            ) from error
        return np.ascontiguousarray(voxels.transpose(self.order) if self.order else voxels, dtype=self.dtype)

    def write(self, region: Region, voxels: NDArray[Any], *, level: int = 0) -> None:
        """Store the voxels of ``region``; each stored object is renamed into place whole. Idempotent.

        Raises:
            VolumeError: If the region is not whole shards of the level, ``voxels`` has another shape
                or dtype, or the store refuses (no space left, read-only).
        """
        self._check_inside(region, level=level)
        grid, where = self.levels[level].grid, self._where(region, level=level)
        if not grid.is_whole(region):
            raise VolumeError(
                f"a write must be whole shards of {grid.cell}, not {where}: two writers would share one object. "
                "Start and end on multiples of the shard, or at the volume's end."
            )
        if voxels.shape != region.shape or voxels.dtype != self.dtype:
            raise VolumeError(
                f"a write to {where} wants {self.dtype} voxels of {region.shape}, not {voxels.dtype} of "
                f"{voxels.shape}. Cast or crop them first."
            )
        if region.n_voxels == 0:
            return
        try:
            held = voxels.transpose(np.argsort(self.order)) if self.order else voxels
            self._array(level, is_writable=True)[self._as_stored(region.slices)] = held
        except arrays.READ_ERRORS as error:
            raise arrays.write_error(error, where=where) from error

    def level_url(self, level: int) -> str:
        """Return where the array of a level is."""
        path = self.levels[level].path
        return f"{self.url}/{path}" if path else self.url

    def _as_stored(self, values: tuple[T, ...]) -> tuple[T, ...]:
        """Return values per axis in the order in which the axes are stored."""
        return tuple(values[i] for i in np.argsort(self.order)) if self.order else values

    def _array(self, level: int, *, is_writable: bool) -> zarr.Array[Any]:
        key = (level, is_writable, zarr.config.get("threading.max_workers"))
        with self._lock[0]:
            if key not in self._open:
                self._open[key] = arrays.open_array(self.level_url(level), is_writable=is_writable)
            return self._open[key]

    def _check_stored(self, region: Region, *, level: int) -> None:
        """Refuse a lost object of a finished local volume: Zarr would read it as zeros."""
        if not (record.has_all_objects(self.attributes) and arrays.is_local(self.url)):
            return
        grid, metadata = self.levels[level].grid, self._array(level, is_writable=False).metadata
        for number in grid.meeting(region):
            path = f"{self.level_url(level)}/{metadata.encode_chunk_key(self._as_stored(grid.index(number)))}"
            if not arrays.exists(path):
                raise VolumeError(
                    f"cannot read {self._where(region, level=level)}: its stored object '{path}' is missing. "
                    "Restore it, or make the volume again."
                )

    def _check_inside(self, region: Region, *, level: int) -> None:
        if not 0 <= level < len(self.levels):
            raise VolumeError(f"'{self.url}' has levels 0 to {len(self.levels) - 1}, not {level}. Ask for one of them.")
        shape = self.levels[level].shape
        if len(region.start) != len(shape) or not Region.whole(shape).holds(region):
            raise VolumeError(
                f"a region must lie inside {shape}, not {self._where(region, level=level)}. Clip it, or fill the rest "
                "by an edge rule."
            )

    def _where(self, region: Region, *, level: int) -> str:
        spans = ", ".join(
            f"{axis.name} {a}:{b}" for axis, a, b in zip(self.axes, region.start, region.stop, strict=False)
        )
        return f"[{spans}] of '{self.level_url(level)}'"


def open_stored(url: str, *, axes: str | None = None) -> Volume:
    """Open a Zarr array or group as a volume; nothing but metadata is read.

    Args:
        url: A bare Zarr array (v2 or v3), an OME-Zarr group (0.4 or 0.5), a group that the engine
            wrote, or a path inside one such as ``out.zarr/probability``.
        axes: Names for the axes of a bare array, as "zyx", "t,c,y,x" or "lat,lon"; they go before its own.

    Raises:
        VolumeError: If nothing is there, it is not Zarr, its axes are unknown, an axis is empty, its dtype is not
            a number, or its ingest was not finished.
    """
    url = arrays.local_path(url)
    node = arrays.open_node(url)
    attributes = record.unpacked(node.attrs)
    if isinstance(node, zarr.Array):
        named = _bare_axes(node, axes=axes, where=url)
        ones, zeros = (1.0,) * node.ndim, (0.0,) * node.ndim
        return _assembled(url, axes=named, datasets=(ngff.Dataset("", ones, zeros),), attributes=attributes)
    if record.is_unfinished(attributes):
        raise VolumeError(
            f"a finished volume is wanted, and the ingest of '{url}' was broken off. "
            "Give the same engine ingest command again: it goes on where it stopped."
        )
    return open_group(url)


def open_group(url: str) -> Volume:
    """Open a group with a record, finished or not, as a volume; see :func:`open_stored`.

    Raises:
        VolumeError: If the group has no record of a volume.
    """
    node = arrays.open_node(url)
    attributes = record.unpacked(node.attrs)
    if own := record.parse(attributes, where=url):
        return _assembled(url, axes=own[0], datasets=own[1], attributes=attributes)
    if ngff.is_multiscales(attributes):
        named, datasets = ngff.parse(attributes, where=url)
        return _assembled(url, axes=named, datasets=datasets, attributes=attributes)
    names = sorted(name for name, _ in node.members()) if isinstance(node, zarr.Group) else []
    raise VolumeError(
        f"one volume is wanted, and the group '{url}' has no multiscales record; it holds {names or 'nothing'}. "
        + (f"Add the inner path, as '{url}/{names[0]}'." if names else "Check the path.")
    )


def _bare_axes(array: zarr.Array[Any], *, axes: str | None, where: str) -> tuple[Axis, ...]:
    stored: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    names = _split(axes) if axes else stored
    if not names or None in names:
        raise VolumeError(
            f"the array '{where}' of shape {array.shape} does not name its axes. "
            f"Name all {array.ndim} of them, as --axes {'tczyx'[-array.ndim :] or 'zyx'}."
        )
    if len(names) != array.ndim:
        raise VolumeError(
            f"'{where}' has {array.ndim} axes of shape {array.shape}, not {len(names)} as in {tuple(names)}. "
            "Give one name per axis, as --axes zyx or --axes t,c,y,x."
        )
    try:
        return axes_from_names(str(name).lower() for name in names)
    except AxisError as error:
        raise VolumeError(f"the axes of '{where}' are not all known: {error} Name them with --axes.") from error


def _split(names: str) -> tuple[str, ...]:
    """Return axis names, one letter each unless commas part them.

    >>> _split("zyx"), _split("lat, lon"), _split("lat")
    (('z', 'y', 'x'), ('lat', 'lon'), ('lat',))
    """
    if "," in names:
        return tuple(name.strip() for name in names.split(","))
    return (names,) if names in ("lat", "lon", "time", "item", "channel") else tuple(names)


def _assembled(
    url: str, *, axes: tuple[Axis, ...], datasets: tuple[ngff.Dataset, ...], attributes: dict[str, Any]
) -> Volume:
    """Return the volume whose levels are these datasets, each array's metadata read and checked."""
    levels, dtypes = [], []
    for dataset in datasets:
        where = f"{url}/{dataset.path}" if dataset.path else url
        try:
            array = arrays.open_array(where)
        except arrays.READ_ERRORS as error:
            raise VolumeError(
                f"level '{dataset.path}' of '{url}' must be a Zarr array, and does not open "
                f"({arrays.first_line(error)}). Restore it, or make the volume again."
            ) from error
        _check_array(array, axes=axes, where=where)
        shards = tuple(array.shards) if array.shards else None
        levels.append(
            Level(dataset.path, array.shape, tuple(array.chunks), shards, dataset.spacing, dataset.translation)
        )
        dtypes.append(array.dtype.newbyteorder("="))
    edges = record.edges(attributes, where=url)
    return Volume(url, tuple(levels), axes, dtypes[0], edges, attributes)


def _check_array(array: zarr.Array[Any], *, axes: tuple[Axis, ...], where: str) -> None:
    if array.dtype.kind not in "biuf":
        raise VolumeError(
            f"voxels must be whole or real numbers, not {array.dtype} as in '{where}'. "
            "Convert the array, or split real and imaginary parts into channels."
        )
    if array.ndim != len(axes):
        raise VolumeError(
            f"'{where}' has shape {array.shape}, and its axes are {tuple(axis.name for axis in axes)}: one name is "
            "wanted per axis. Correct its metadata."
        )
    for axis, n in zip(axes, array.shape, strict=True):
        if n == 0:
            raise VolumeError(
                f"axis '{axis.name}' of '{where}' must have at least one voxel, not 0, in shape {array.shape}. "
                f"Check what wrote it{'' if axis.role is not Role.SPACE else ', or crop less'}."
            )
