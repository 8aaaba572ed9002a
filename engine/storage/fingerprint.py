"""Whether a source is the one that it was: one hash of its metadata, its objects' sizes and a sample of their bytes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from engine.errors import VolumeError
from engine.storage import arrays, climate_files
from engine.storage.climate import Climate
from engine.storage.readable import Readable, beneath
from engine.storage.scan import Scan
from engine.storage.source import ends, sample
from engine.storage.source_url import parse_source
from engine.storage.stored import Volume

_N_SAMPLED = 64
_N_BYTES = 64 * 1024
_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup"}


def fingerprint(volume: Readable) -> str:
    """Return a SHA-256 over the volume as it is stored now, and how it is read, in hexadecimal.

    Of a file it covers the size, the first and last MiB, OpenSlide's own hash of the slide, and the names and
    sizes of the files that belong to it. Of a scan it covers its affine, the size of each file, the first and
    last MiB of up to 64 of them, evenly spaced along z, and which DICOM images they are, not what they are called.
    Of climate files it covers the same as of a file, for each of them; of a climate store, what it covers of Zarr, for
    the arrays that are read.
    Of Zarr it covers the metadata of every level's array, the name and size of every stored object, and the first
    and last 64 KiB of up to 64 objects of level 0, evenly spaced. It does not see a change that keeps a size,
    where nothing is sampled. Times, owners and the volume's place are left out, so a copy has the same fingerprint.

    Raises:
        VolumeError: If the store does not list its objects, or the file cannot be read.
    """
    source = parse_source(volume.url)
    base = beneath(volume)
    if isinstance(base, Scan):
        found = _of_scan(base)
    elif isinstance(base, Climate):
        found = _of_climate(base)
    else:
        found = _of_stored(base) if isinstance(base, Volume) else _of_file(base, Path(arrays.local_path(source.place)))
    return hashlib.sha256(f"{found}#{source.options}".encode()).hexdigest() if source.options else found


def _of_file(volume: Readable, path: Path) -> str:
    own = volume.attributes.get("slide", {}).get("quickhash-1", "")
    try:
        return hashlib.sha256(sample(path) + str(own).encode()).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _of_climate(source: Climate) -> str:
    """Return the hash of its files, or of the arrays of its stores."""
    digest = hashlib.sha256()
    names = sorted({*source.channels.variables, source.grid.lat, source.grid.lon, source.grid.time or source.grid.lat})
    for number, place in enumerate(source.files.places):
        if climate_files.is_file(place):
            digest.update(bytes.fromhex(_of_file(source, Path(place))))
            continue
        there = [name for name in names if name in source.files.dataset(number).variables]
        for i, name in enumerate(there):
            _add_array(digest, f"{place}/{name}", number=i, is_sampled=name in source.channels.variables)
    return digest.hexdigest()


def _of_scan(scan: Scan) -> str:
    files, digest = scan.file.files, hashlib.sha256()
    described = {key: value for key, value in scan.file.described.items() if key != "files"}
    facts = [scan.file.format, scan.shape, scan.dtype.name, scan.file.orientation.affine, described]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    n = min(_N_SAMPLED, len(files))
    sampled = {i * len(files) // n for i in range(n)}
    for number, path in enumerate(files):
        try:
            digest.update(ends(path).digest() if number in sampled else f"{path.stat().st_size}\0".encode())
        except OSError as error:
            raise _unreadable(path, error) from error
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> VolumeError:
    return VolumeError(
        f"'{path}' must be read for its fingerprint, and cannot be: {arrays.first_line(error)}. Check the path and "
        "its permissions."
    )


def _of_stored(volume: Volume) -> str:
    digest = hashlib.sha256()
    for number in range(len(volume.levels)):
        _add_array(digest, volume.level_url(number), number=number, is_sampled=number == 0)
    return digest.hexdigest()


def _add_array(digest: Any, root: str, *, number: int, is_sampled: bool) -> None:  # noqa: ANN401 -- hashlib's own
    """Add what is stored of one array, and where it is sampled a part of its voxels."""
    try:
        file_system, path = arrays.store_of(root)
        sizes = _sizes(file_system, path)
        digest.update(json.dumps([number, sizes]).encode())
        for name in [name for name, _ in sizes if name in _METADATA]:
            digest.update(file_system.cat_file(f"{path}/{name}"))
        if is_sampled:
            _add_sample(digest, file_system, path, sizes)
    except (OSError, NotImplementedError) as error:
        raise VolumeError(
            f"the objects of '{root}' must be listed and read for its fingerprint, and the store answers: "
            f"{arrays.first_line(error)}. Check the path and its permissions."
        ) from error


def _sizes(file_system: Any, path: str) -> list[tuple[str, int]]:  # noqa: ANN401 -- fsspec has no types
    """Return the name, inside ``path``, and size in bytes of every object, sorted by name."""
    found = file_system.find(path, detail=True)
    prefix = len(path.rstrip("/")) + 1
    return sorted((name[prefix:], int(entry["size"])) for name, entry in found.items())


def _add_sample(digest: Any, file_system: Any, path: str, sizes: list[tuple[str, int]]) -> None:  # noqa: ANN401
    stored = [(name, size) for name, size in sizes if name not in _METADATA]
    n = min(_N_SAMPLED, len(stored))
    for name, size in (stored[i * len(stored) // n] for i in range(n)):
        digest.update(file_system.cat_file(f"{path}/{name}", start=0, end=min(_N_BYTES, size)))
        if size > _N_BYTES:
            digest.update(file_system.cat_file(f"{path}/{name}", start=max(_N_BYTES, size - _N_BYTES), end=size))
