"""From a field's own file to a volume: shard by shard, in bounded memory, resumable, the same bits each time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.region import Region
from engine.storage import arrays, record
from engine.storage.create import create_volume, remove, remove_partial
from engine.storage.pyramid import finer_region, reduce_mean
from engine.storage.source import Source
from engine.storage.source_file import open_source, own_urls, source_identity
from engine.storage.stored import Volume, open_group, open_stored

Progress = Callable[[int, int, int], None]
"""Told after each shard: shards done, shards in all, bytes of voxels that the last one held."""

_DONE = "haloengine/done"
_DONE_CHUNK = 4096


def ingest(
    source_paths: str | Path | Sequence[str | Path],
    target_url: str,
    *,
    progress: Progress | None = None,
    chunk_shape: Sequence[int] | None = None,
    shard_shape: Sequence[int] | None = None,
    n_levels: int | None = None,
    spacing: Sequence[float] | None = None,
    variables: Sequence[str] | None = None,
    n_threads: int = 2,
) -> Volume:
    """Make a volume from a slide, from one or several scans of a patient, or from climate files in time.

    Shards are written whole and recorded one by one. After a kill, the same call goes on where it
    stopped and leaves the same bits as an undisturbed one. A finished volume of the same source is
    opened as it is.

    Args:
        source_paths: One slide; one or more scans, files or folders of DICOM, which become channels on the first's
            grid; or one or more NetCDF files. Behind a ``#``, which series, as ``folder#series=1.2.840``.
        target_url: Local path or fsspec URL of the volume.
        progress: Called in this thread after each shard.
        chunk_shape: Voxels per axis of a chunk; the domain's own by default.
        shard_shape: Voxels per axis of a shard, whole chunks; the domain's own by default.
        n_levels: Levels of the pyramid; the domain's own by default.
        spacing: Step per space axis in storage order, for a file that does not say; one value serves all.
        variables: Names of the climate variables to keep; all on the grid by default.
        n_threads: Shards in work at a time. Each holds one shard, and a slab of the finer level.

    Raises:
        IngestError: If a source is missing, damaged, or of a format that the engine does not know, or the target was
            made from another source or with other options.
        VolumeError: If the target cannot be written.
    """
    given = (source_paths,) if isinstance(source_paths, str | Path) else tuple(source_paths)
    urls = own_urls(given)
    source = open_source(urls, spacing=spacing, variables=variables)
    try:
        options = {"chunk_shape": chunk_shape, "shard_shape": shard_shape, "n_levels": n_levels}
        asked = {name: _listed(value) for name, value in {**options, "spacing": spacing}.items() if value is not None}
        files = [str(replace(url, place=Path(url.place).name)) for url in urls]
        origin = {"files": files, "sha256": source_identity(source, urls), "options": asked}
        origin |= {"notes": list(source.notes)} if source.notes else {}
        volume, is_new = _target(source, target_url, origin=origin, variables=variables)
        if record.is_unfinished(volume.attributes):
            try:
                _fill(_Work(source, volume, progress=progress, n_threads=n_threads))
            except IngestError:
                if is_new:
                    remove(target_url)
                raise
        _finish(volume)
    finally:
        source.close()
    return open_stored(target_url)


def _listed(value: Any) -> Any:  # noqa: ANN401 -- an option as JSON has it
    return list(value) if isinstance(value, Sequence) else value


def _target(
    source: Source, url: str, *, origin: Mapping[str, Any], variables: Sequence[str] | None
) -> tuple[Volume, bool]:
    """Return the volume to fill, and whether it was made now; refuse one that was made from something else."""
    origin = {**origin, "variables": list(variables)} if variables else dict(origin)
    if not arrays.exists(url):
        return _described(source, url, origin=origin), True
    found = record.unpacked(arrays.open_node(url).attrs).get(record.KEY)
    before = found.get("source") if isinstance(found, Mapping) else None
    if before != origin:
        keys = [key for key in origin if not isinstance(before, Mapping) or before.get(key) != origin[key]]
        differs = ", ".join(keys) or "source"
        raise IngestError(
            f"the target '{url}' exists and was made from another source or with other options ({differs} differ). "
            "Name another target, or remove it first."
        )
    remove_partial(url)
    return open_group(url), False


def _described(source: Source, url: str, *, origin: Mapping[str, Any]) -> Volume:
    layout, options = source.layout, origin["options"]
    return create_volume(
        url,
        axes=source.axes,
        dtype=source.dtype,
        shape=source.shape,
        chunk_shape=options.get("chunk_shape", layout.chunk_shape),
        shard_shape=options.get("shard_shape", layout.shard_shape),
        n_levels=options.get("n_levels", layout.n_levels),
        origin=layout.origin,
        edges=layout.edges,
        attributes={**source.attributes, record.KEY: {"source": dict(origin), "is_finished": False}},
        flavour=layout.flavour,
        coordinates=layout.coordinates,
    )


@dataclass(frozen=True)
class _Work:
    """What one call of ingest has to do."""

    source: Source
    volume: Volume
    progress: Progress | None
    n_threads: int

    @property
    def n_shards(self) -> int:
        """Shards of all levels; they are numbered through, finest level first."""
        return sum(level.grid.n_cells for level in self.volume.levels)


def _fill(work: _Work) -> None:
    """Write the shards that the record lacks, one level after another."""
    done = _open_record(work)
    is_done = np.asarray(done[...], np.bool_)
    with ThreadPoolExecutor(max_workers=work.n_threads) as pool:
        first = 0
        for level, described in enumerate(work.volume.levels):
            missing = [n for n in range(described.grid.n_cells) if not is_done[first + n]]
            running: dict[Future[int], int] = {}
            for number in missing:
                running[_submit(work, pool, level=level, number=number)] = first + number
                if len(running) > work.n_threads:
                    _record(work, done, is_done, running, at_least=1)
            _record(work, done, is_done, running, at_least=len(running))
            first += described.grid.n_cells


def _submit(work: _Work, pool: ThreadPoolExecutor, *, level: int, number: int) -> Future[int]:
    region = work.volume.levels[level].grid.region(number)
    if level:
        return pool.submit(lambda: _write(work.volume, region, _reduced(work.volume, region, level=level), level=level))
    if work.source.is_sequential:
        voxels = work.source.read(region)
        return pool.submit(lambda: _write(work.volume, region, voxels, level=0))
    return pool.submit(lambda: _write(work.volume, region, work.source.read(region), level=0))


def _write(volume: Volume, region: Region, voxels: NDArray[Any], *, level: int) -> int:
    volume.write(region, voxels, level=level)
    return voxels.nbytes


def _reduced(volume: Volume, region: Region, *, level: int) -> NDArray[Any]:
    """Return the mean of the finer level, made slab by slab so that at most one slab of it is held."""
    finer, coarser = volume.levels[level - 1], volume.levels[level]
    factors = tuple(round(b / a) for a, b in zip(finer.spacing, coarser.spacing, strict=True))
    axis = next(i for i, factor in enumerate(factors) if factor > 1)
    voxels = np.empty(region.shape, volume.dtype)
    for slab in _slabs(region, axis=axis, step=coarser.chunk_shape[axis]):
        read = volume.read(finer_region(slab, factors=factors, finer_shape=finer.shape), level=level - 1)
        inside = slab.shift([-a for a in region.start])
        voxels[inside.slices] = reduce_mean(read, factors)
    return voxels


def _slabs(region: Region, *, axis: int, step: int) -> Iterator[Region]:
    for low in range(region.start[axis], region.stop[axis], step):
        high = min(low + step, region.stop[axis])
        start, stop = list(region.start), list(region.stop)
        start[axis], stop[axis] = low, high
        yield Region(tuple(start), tuple(stop))


def _record(
    work: _Work, done: zarr.Array[Any], is_done: NDArray[np.bool_], running: dict[Future[int], int], *, at_least: int
) -> None:
    """Wait for at least so many shards, and record each one that is stored."""
    while at_least > 0:
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            number = running.pop(future)
            n_bytes = future.result()
            is_done[number] = done[number] = True
            at_least -= 1
            if work.progress is not None:
                work.progress(int(is_done.sum()), work.n_shards, n_bytes)


def _open_record(work: _Work) -> zarr.Array[Any]:
    url = arrays.local_path(work.volume.url)
    if arrays.exists(f"{url}/{_DONE}/zarr.json"):
        return arrays.open_array(f"{url}/{_DONE}", is_writable=True)
    group = zarr.open_group(store=url, mode="r+", use_consolidated=False)
    n = work.n_shards
    return group.create_array(_DONE, shape=(n,), dtype=np.bool_, chunks=(min(n, _DONE_CHUNK),), compressors=None)


def _finish(volume: Volume) -> None:
    """Mark the volume finished, then drop the record; a second time, nothing happens."""
    url = arrays.local_path(volume.url)
    own = dict(volume.attributes[record.KEY])
    if own.get("is_finished") is False:
        group = zarr.open_group(store=url, mode="r+", use_consolidated=False)
        record.note(group, is_finished=True)
    remove(f"{url}/{_DONE.split('/', maxsplit=1)[0]}")
