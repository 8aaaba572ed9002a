"""More steps at the end of a climate volume: voxels first, then the shape that shows them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.axes import Role
from engine.geometry.grid import Grid
from engine.geometry.region import Region
from engine.storage import arrays, cf, record
from engine.storage.climate import Climate
from engine.storage.climate_coordinates import CHANNEL_NAMES
from engine.storage.create import Coordinate, read_coordinates
from engine.storage.source_file import open_source, own_urls, source_identity
from engine.storage.source_url import SourceUrl
from engine.storage.stored import Volume, open_stored

TIME = "time"

_SLACK = 1e-4


def append(
    source_paths: str | Path | Sequence[str | Path],
    target_url: str,
    *,
    variables: Sequence[str] | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> Volume:
    """Add the steps of climate files behind those of a volume that was made by ingest.

    Objects that hold only new steps are written first, unseen; the one that the last old step shares with them is
    replaced whole by one that holds the same old voxels; then the times, and last the shape. A reader sees all the
    new steps or none. After a kill the same call does it again and leaves the same bits. One writer at a time.

    Args:
        source_paths: Files that go on where the volume ends, with the same choice as it was made by.
        target_url: The volume.
        variables: Names of the climate variables; those of the URL, or the volume's own, by default.
        progress: Told after each object: objects done, objects in all, bytes of voxels that the last one held.

    Raises:
        IngestError: If a source is no climate grid, lies on another one, holds other channels, or starts too early.
        VolumeError: If the target is no finished volume, or cannot be written.
    """
    given = (source_paths,) if isinstance(source_paths, str | Path) else tuple(source_paths)
    urls, volume = own_urls(given), open_stored(target_url)
    source = _opened(urls, volume, variables=variables)
    try:
        times = _times(source, volume)
        shape = (volume.shape[0] + len(times), *volume.shape[1:])
        _fill(source, volume, shape, progress=progress)
        _grow(f"{volume.url}/{TIME}", shape[:1], values=times)
        _grow(volume.level_url(0), shape)
        _note(volume, {"files": [Path(url.place).name for url in urls], "sha256": source_identity(source, urls)})
    except OSError as error:
        raise arrays.write_error(error, where=f"'{target_url}'") from error
    finally:
        source.close()
    return open_stored(target_url)


def _opened(urls: Sequence[SourceUrl], volume: Volume, *, variables: Sequence[str] | None) -> Climate:
    """Open climate files that may be appended to a volume, as far as their axes go."""
    own = tuple(dict.fromkeys(channel["variable"] for channel in volume.attributes.get("channels", ())))
    source = open_source(urls, variables=variables or urls[0].climate.variables or own)
    names = [axis.name for axis in source.axes]
    if isinstance(source, Climate) and names[0] == TIME and names == [axis.name for axis in volume.axes]:
        return source
    source.close()
    raise IngestError(
        f"steps are appended to a volume with a time axis, from climate files with the same axes, and '{urls[0]}' has "
        f"{names}, '{volume.url}' {[axis.name for axis in volume.axes]}. Ingest the source into a target of its own."
    )


def _times(source: Climate, volume: Volume) -> NDArray[Any]:
    """Return the new times in the volume's units, once the source is known to fit behind it."""
    known = read_coordinates(volume)
    _check_grid(source, volume, known)
    times, n = known[TIME], volume.shape[0]
    new = _new_times(source, volume, times.attributes)
    if not new[0] > times.values[n - 1]:
        raise IngestError(
            f"steps are appended behind the last, {times.values[n - 1]} {times.attributes.get('units', '')} of "
            f"'{volume.url}', and '{source.url}' starts at {new[0]}. Choose later ones (#time=), or ingest anew."
        )
    return new.astype(times.values.dtype)


def _new_times(source: Climate, volume: Volume, attributes: Mapping[str, Any]) -> NDArray[Any]:
    own = source.coordinates[TIME]
    try:
        return cf.in_units(own.values, own.attributes, attributes)
    except (ValueError, KeyError) as error:
        raise IngestError(
            f"times must be counted in units that fit those of '{volume.url}', and those of '{source.url}' do not "
            f"({arrays.first_line(error)}). Set their units and calendar."
        ) from error


def _check_grid(source: Climate, volume: Volume, known: Mapping[str, Coordinate]) -> None:
    """Refuse a source with other channels, another dtype, or on another grid."""
    own = source.coordinates
    for axis in volume.axes[1:]:
        name = CHANNEL_NAMES if axis.role is Role.CHANNEL else axis.name
        a, b = (c[name].values if name in c else np.zeros(0) for c in (known, own))
        is_number = a.dtype.kind in "iuf" and b.dtype.kind in "iuf"
        if a.shape != b.shape or not (np.allclose(a, b, rtol=0, atol=_SLACK) if is_number else list(a) == list(b)):
            raise IngestError(
                f"steps that are appended must lie on the volume's own grid, and axis '{axis.name}' of '{source.url}' "
                f"has {_ends(b)}, that of '{volume.url}' {_ends(a)}. Choose the same variables, levels and box."
            )
    if source.dtype != volume.dtype:
        raise IngestError(
            f"steps that are appended must be {volume.dtype}, as '{volume.url}' is, and '{source.url}' holds "
            f"{source.dtype}. Convert it first."
        )


def _ends(values: NDArray[Any]) -> str:
    return f"{len(values)} ({values[0]} to {values[-1]})" if len(values) else "none"


def _fill(
    source: Climate, volume: Volume, shape: tuple[int, ...], *, progress: Callable[[int, int, int], None] | None
) -> None:
    """Write each object that holds new steps, whole; a reader of the volume sees no change."""
    n_old, array = volume.shape[0], _enlarged(volume.level_url(0), shape)
    grid = Grid(shape, volume.levels[0].object_shape)
    new = list(grid.meeting(Region((n_old, *(0,) * (len(shape) - 1)), shape)))
    for done, number in enumerate(new, start=1):
        region = grid.region(number)
        first, *rest = region.start
        voxels = np.empty(region.shape, volume.dtype)
        n_before = max(0, n_old - first)
        if n_before:
            voxels[:n_before] = volume.read(Region(region.start, (n_old, *region.stop[1:])))
        start = (first + n_before - n_old, *rest)
        voxels[n_before:] = source.read(Region(start, (region.stop[0] - n_old, *region.stop[1:])))
        array[region.slices] = voxels
        if progress is not None:
            progress(done, len(new), voxels.nbytes)


def _enlarged(url: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """Return an array as it will be, to write to, while what is stored keeps its shape."""
    array = arrays.open_array(url, is_writable=True)
    larger = replace(array.async_array, metadata=array.metadata.update_shape(shape))
    return zarr.Array(larger)


def _grow(url: str, shape: tuple[int, ...], *, values: NDArray[Any] | None = None) -> None:
    """Store the new shape of an array, and before it the values that become seen; nothing where it has that shape."""
    array = arrays.open_array(url, is_writable=True)
    if values is not None:
        _enlarged(url, shape)[shape[0] - len(values) :] = values
    if array.shape != shape:
        array.resize(shape)


def _note(volume: Volume, origin: Mapping[str, Any]) -> None:
    group = zarr.open_group(store=arrays.local_path(volume.url), mode="r+", use_consolidated=False)
    before = volume.attributes[record.KEY].get("appended", [])
    record.note(group, appended=[*before, dict(origin)])
