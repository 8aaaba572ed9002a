"""A volume described before it is filled: every array and attribute, and not one voxel."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from engine.errors import AxisError, VolumeError
from engine.geometry.axes import Axis, Role, check_axes
from engine.geometry.edges import Edge
from engine.storage import arrays, cf, ngff, record
from engine.storage.pyramid import level_shape
from engine.storage.readable import Readable, beneath
from engine.storage.source_url import parse_source
from engine.storage.stored import Volume, open_group


class Flavour(StrEnum):
    """Whose metadata the group carries."""

    NGFF = "ngff"
    """OME-Zarr 0.5: slides, scans, and what is computed from them."""

    CF = "cf"
    """Climate and Forecast conventions, opened by xarray; also any axes that OME-Zarr cannot name. One level."""


@dataclass(frozen=True)
class Coordinate:
    """A labelled array beside the voxels of a CF volume: latitudes, times, channel names."""

    axes: tuple[str, ...]
    """The axes it runs along; none for a scalar."""
    values: NDArray[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """CF attributes: units, standard_name, calendar."""


@runtime_checkable
class Labelled(Protocol):
    """A volume that is no Zarr of ours, and says its coordinates itself."""

    @property
    def coordinates(self) -> Mapping[str, Coordinate]:
        """Labelled arrays beside the voxels, by name."""


def create_volume(
    url: str,
    *,
    axes: Sequence[Axis],
    dtype: DTypeLike,
    shape: Sequence[int],
    chunk_shape: Sequence[int],
    shard_shape: Sequence[int] | None = None,
    n_levels: int = 1,
    downsampled: Sequence[str] | None = None,
    origin: Sequence[float] | None = None,
    edges: Mapping[str, Edge] | None = None,
    attributes: Mapping[str, Any] | None = None,
    flavour: Flavour | str = Flavour.NGFF,
    array_name: str = "values",
    coordinates: Mapping[str, Coordinate] | None = None,
) -> Volume:
    """Describe a new volume and open it; all its voxels are 0 until written.

    Args:
        url: Where; nothing may be there yet. Groups above it are made, from the first name that ends in .zarr.
        axes: In storage order, with the spacing and unit of level 0.
        dtype: Of every level.
        shape: Voxels per axis of level 0.
        chunk_shape: Voxels per axis of the unit of compression, clipped to each level.
        shard_shape: Voxels per axis of the stored object, whole chunks; None stores each chunk for itself.
        n_levels: Levels in all; each next one has ``ceil(n / 2)`` voxels along the downsampled axes.
        downsampled: Names of the axes that are halved; the space axes by default.
        origin: Physical place of the first voxel's centre per axis; 0 by default.
        edges: What the volume knows of its borders, per space axis.
        attributes: Group attributes besides the standard's.
        flavour: OME-Zarr or CF metadata.
        array_name: Path of the array in a CF group; OME-Zarr levels are called 0, 1, 2, ...
        coordinates: Labelled arrays of a CF group, written now.

    Raises:
        VolumeError: If something is at ``url``, its parent cannot be written, or the description makes no sense.
            Nothing is left behind then.
    """
    flavour, dtype = Flavour(flavour), np.dtype(dtype)
    _check(url, axes=axes, dtype=dtype, shape=shape, chunk=chunk_shape, shard=shard_shape)
    _check_flavour(url, flavour=flavour, axes=axes, n_levels=n_levels)
    halved = tuple(axis.name for axis in axes if axis.role is Role.SPACE) if downsampled is None else tuple(downsampled)
    datasets = _datasets(axes, n_levels=n_levels, halved=halved, origin=origin, name=array_name, flavour=flavour)
    own = record.described(axes=axes, datasets=datasets, edges=edges or {}, is_whole=flavour is Flavour.CF)
    standard: dict[str, Any] = {"Conventions": cf.CONVENTIONS}
    if flavour is Flavour.NGFF:
        standard = ngff.multiscales(_name(url), axes=axes, datasets=datasets)
    given = dict(attributes or {})
    given[record.KEY] = {**own, **given.get(record.KEY, {})}
    with _appearing(url) as draft:
        stored = record.packed(given) if flavour is Flavour.CF else given
        group = zarr.create_group(store=draft, zarr_format=3, attributes={**standard, **stored})
        level = tuple(shape)
        for dataset in datasets:
            chunks, *shards = clipped(level, chunk=chunk_shape, shard=shard_shape)
            _create_array(group, dataset.path, axes=axes, dtype=dtype, shape=level, chunks=chunks, shards=shards)
            level = level_shape(level, [2 if axis.name in halved else 1 for axis in axes])
        for name, coordinate in (coordinates or {}).items():
            _create_coordinate(group, name, coordinate)
        if flavour is Flavour.CF:
            beside = {name: (one.axes, one.attributes) for name, one in (coordinates or {}).items()}
            group[datasets[0].path].attrs.update(cf.of_array(array_name, beside, given.get("channels", ())))
    return open_group(url)


def read_coordinates(volume: Readable) -> dict[str, Coordinate]:
    """Return the labelled arrays beside a CF volume, read whole; none of a volume that has none.

    Raises:
        VolumeError: If the group does not open.
    """
    volume = beneath(volume)
    if isinstance(volume, Labelled):
        return dict(volume.coordinates)
    node = arrays.open_node(parse_source(volume.url).place)
    if not isinstance(node, zarr.Group):
        return {}
    paths = {level.path for level in volume.levels}
    found = {}
    for name, array in node.arrays():
        names = getattr(array.metadata, "dimension_names", None)
        if name not in paths and None not in (names or ()) and len(names or ()) == array.ndim:
            found[name] = Coordinate(tuple(names or ()), np.asarray(array[...]), dict(array.attrs))
    return found


def clipped(shape: Sequence[int], *, chunk: Sequence[int], shard: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
    """Return the chunk and, where there is one, the shard of a level that may be smaller than either.

    >>> clipped((3, 100, 700), chunk=(3, 256, 256), shard=(3, 2048, 2048))
    ((3, 100, 256), (3, 100, 768))
    """
    chunks = tuple(min(c, n) for c, n in zip(chunk, shape, strict=True))
    if shard is None:
        return (chunks,)
    whole = tuple(min(s // c * c, -(-n // c) * c) for s, c, n in zip(shard, chunks, shape, strict=True))
    return chunks, whole


def _create_array(
    group: zarr.Group,
    path: str,
    *,
    axes: Sequence[Axis],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: Sequence[tuple[int, ...]],
) -> None:
    group.create_array(
        path,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards[0] if shards else None,
        compressors=arrays.COMPRESSOR,
        fill_value=0,
        dimension_names=[axis.name for axis in axes],
    )


def _create_coordinate(group: zarr.Group, name: str, coordinate: Coordinate) -> None:
    is_text = coordinate.values.dtype.kind in "UOT"
    array = group.create_array(
        name,
        shape=coordinate.values.shape,
        dtype=str if is_text else coordinate.values.dtype,
        chunks=tuple(max(1, n) for n in coordinate.values.shape),
        dimension_names=coordinate.axes,
        attributes=dict(coordinate.attributes),
    )
    array[...] = coordinate.values.astype(object) if is_text else coordinate.values


def _datasets(
    axes: Sequence[Axis],
    *,
    n_levels: int,
    halved: tuple[str, ...],
    origin: Sequence[float] | None,
    name: str,
    flavour: Flavour,
) -> tuple[ngff.Dataset, ...]:
    found = []
    for level in range(n_levels):
        times = [2**level if axis.name in halved else 1 for axis in axes]
        spacing = tuple(axis.spacing * f for axis, f in zip(axes, times, strict=True))
        starts = origin or (0.0,) * len(axes)
        first = tuple(o + axis.spacing * (f - 1) / 2 for o, axis, f in zip(starts, axes, times, strict=True))
        found.append(ngff.Dataset(str(level) if flavour is Flavour.NGFF else name, spacing, first))
    return tuple(found)


def _check(
    url: str,
    *,
    axes: Sequence[Axis],
    dtype: np.dtype[Any],
    shape: Sequence[int],
    chunk: Sequence[int],
    shard: Sequence[int] | None,
) -> None:
    if arrays.exists(url):
        raise VolumeError(f"a new volume is wanted, and '{url}' exists. Name another target, or remove it first.")
    if around := arrays.array_around(url):
        raise VolumeError(
            f"a volume must lie beside arrays, and '{url}' is inside '{around}': their objects would mix. Name another "
            "target."
        )
    if dtype.kind not in "biuf":
        raise VolumeError(f"voxels must be whole or real numbers, not {dtype}, in '{url}'. Choose a numeric dtype.")
    try:
        check_axes(axes)
    except AxisError as error:
        raise VolumeError(f"cannot describe '{url}': {error}") from error
    lengths = {len(axes), len(shape), len(chunk), len(axes if shard is None else shard)}
    if len(lengths) > 1 or min((*shape, *chunk)) < 1:
        raise VolumeError(
            f"'{url}' needs one positive size per axis {tuple(a.name for a in axes)}, not shape {tuple(shape)}, chunk "
            f"{tuple(chunk)}, shard {shard}. Correct them."
        )
    for axis, s, c in zip(axes, chunk if shard is None else shard, chunk, strict=True):
        if s < c or s % c:
            raise VolumeError(
                f"shard {s} along '{axis.name}' must be whole chunks of {c}, in '{url}'. Use {max(s // c, 1) * c}."
            )


def _check_flavour(url: str, *, flavour: Flavour, axes: Sequence[Axis], n_levels: int) -> None:
    if n_levels < 1 or (flavour is Flavour.CF and n_levels > 1):
        raise VolumeError(f"'{url}' needs at least one level, and exactly one in CF flavour, not {n_levels}.")
    if flavour is Flavour.NGFF:
        ngff.check_ngff_axes(axes)


def _name(url: str) -> str:
    return Path(arrays.local_path(url)).name.removesuffix(".zarr")


@contextmanager
def _appearing(url: str) -> Iterator[str]:
    """Yield where to write, so that ``url`` appears whole or, not at all; on object stores, in part."""
    path = arrays.local_path(url)
    if not arrays.is_local(path):
        yield path
        return
    draft = Path(path).with_name(f".{Path(path).name}.{uuid4().hex}.partial")
    try:
        _create_parents(path)
        yield str(draft)
        draft.rename(path)
    except OSError as error:
        raise arrays.write_error(error, where=f"a new volume '{url}'") from error
    except (ValueError, TypeError) as error:
        raise VolumeError(f"cannot describe '{url}': {arrays.first_line(error)}. Correct the description.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _create_parents(path: str) -> None:
    """Make the groups above a volume, from the first name that ends in .zarr."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts[:-1]) if part.endswith(".zarr")), len(parts))
    Path("/".join(parts[: first + 1])).parent.mkdir(parents=True, exist_ok=True)
    for stop in range(first + 1, len(parts)):
        parent = "/".join(parts[:stop])
        if not arrays.exists(f"{parent}/zarr.json"):
            zarr.create_group(store=parent, zarr_format=3)


def remove_partial(url: str) -> None:
    """Delete the unfinished files that a killed writer left in a local volume; nobody may be writing. Idempotent."""
    if arrays.is_local(url):
        for path in Path(arrays.local_path(url)).rglob("*.partial"):
            path.unlink(missing_ok=True)


def remove(url: str) -> None:
    """Delete a volume and all in it; nothing happens where there is none."""
    file_system, path = arrays.store_of(url)
    if file_system.exists(path):
        file_system.rm(path, recursive=True)
