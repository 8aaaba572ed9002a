"""Zarr arrays and groups by URL: which codec pipeline opens them, and what to say when nothing opens."""

import difflib
import errno
import json
import threading
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import fsspec
import zarr
from zarr.codecs import ZstdCodec

from engine.errors import VolumeError

# Measured with zarr 3.1.6 and zarrs 0.2.3, zstd level 1: CPU milliseconds a call (wall time on two free cores).
#                                                              default     zarrs
# halo read of 176^3 int16 from 64^3 chunks in a 256^3 shard   54 (31)    43 (22)
# halo read of 576^2 RGB from 256^2 chunks in a 2048^2 shard    6 (4)      2 (2)
# write of one 256^3 int16 shard                              154 (91)   154 (133)
# write of one 3 x 2048^2 uint8 shard                          45 (52)    25 (27)
# So zarrs reads: it is 1.3 to 3 times cheaper, and notices an emptied shard. The default writes: it is as fast on
# scans and renames whole files into place, where zarrs leaves half a shard when killed, and loses the error number.
_READ_PIPELINES = tuple(
    path
    for path in ("zarrs.ZarrsCodecPipeline", "zarr.core.codec_pipeline.BatchedCodecPipeline")
    if find_spec(path.split(".")[0])
)
_WRITE_PIPELINES = _READ_PIPELINES[-1:]

_opening = threading.Lock()

READ_ERRORS = (ValueError, RuntimeError, OSError, KeyError, IndexError, TypeError, EOFError, zlib.error)
"""What zarr, zarrs and the codecs raise on damaged objects; they share no root of their own."""


def configure_codecs(n_threads: int | None) -> None:
    """Bound the threads that compress and decompress arrays in this process; None means all cores.

    Arrays that are opened afterwards keep the bound; call it before the first read. Idempotent.
    """
    zarr.config.set({"threading.max_workers": n_threads})


# zstd's own checksum, not a crc32c codec behind blosc: zarrs skips that one where it decodes a chunk of a shard,
# and a turned byte was read as voxels. Shuffled blosc-zstd would be a tenth to a fifth smaller on scans.
COMPRESSOR = ZstdCodec(level=1, checksum=True)
"""How each chunk is stored: a turned byte in it is always noticed."""


def open_array(url: str, *, is_writable: bool = False) -> zarr.Array[Any]:
    """Open the array at ``url`` with the fastest codec pipeline that takes it.

    Raises:
        ValueError, OSError: As zarr raises them, where there is no array.
    """
    pipelines = _READ_PIPELINES if is_local(url) and not is_writable else _WRITE_PIPELINES
    for pipeline in pipelines[:-1]:
        try:
            return _open_with(pipeline, url)
        except FileNotFoundError:
            raise
        except Exception:  # noqa: BLE001 -- whatever zarrs refuses, the last pipeline decides
            continue
    return _open_with(pipelines[-1], url, mode="r+" if is_writable else "r")


def _open_with(pipeline: str, url: str, *, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any]:
    settings = {
        "codec_pipeline.path": pipeline,
        "codec_pipeline.strict": True,
        # A stored shard of zeros is a computed one; a missing shard is one that nobody wrote.
        "array.write_empty_chunks": True,
    }
    with _opening, zarr.config.set(settings):
        array = zarr.open_array(store=local_path(url), mode=mode)
    if pipeline.startswith("zarrs") and not array.dtype.isnative:
        raise TypeError("zarrs reads native byte order only")
    return array


def open_store(store: Any) -> zarr.Array[Any]:  # noqa: ANN401 -- whatever zarr takes for a store
    """Open the array of a store that is no place, such as the pages of a TIFF, for reading."""
    with _opening, zarr.config.set({"codec_pipeline.path": _WRITE_PIPELINES[0]}):
        return zarr.open_array(store=store, mode="r")


def open_node(url: str) -> zarr.Array[Any] | zarr.Group:
    """Open the array or group at ``url`` for reading.

    Raises:
        VolumeError: If nothing is there, or it is not Zarr.
    """
    if not exists(url):
        raise VolumeError(f"a Zarr volume is wanted, and nothing is at '{url}'. {did_you_mean(url)}")
    try:
        return zarr.open_group(store=local_path(url), mode="r", use_consolidated=False)
    except json.JSONDecodeError as error:
        raise VolumeError(
            f"Zarr metadata is wanted at '{url}', and what is there is not JSON ({error}). "
            "Restore the file, or make the volume again."
        ) from error
    except READ_ERRORS:
        pass
    try:
        return open_array(url)
    except READ_ERRORS as error:
        raise VolumeError(
            f"a Zarr array or group is wanted, and '{url}' is none ({first_line(error)}). "
            "Give a .zarr folder, or make one with: engine ingest SOURCE TARGET."
        ) from error


def local_path(url: str) -> str:
    """Return a local path without its ``file://``, and any other URL as it is.

    >>> local_path("file:///data/a.zarr"), local_path("s3://bucket/a.zarr")
    ('/data/a.zarr', 's3://bucket/a.zarr')
    """
    return url.removeprefix("file://").rstrip("/")


def store_of(url: str) -> tuple[Any, str]:
    """Return the fsspec file system that holds ``url``, and the path in it."""
    file_system, path = fsspec.core.url_to_fs(local_path(url))  # type: ignore[no-untyped-call]
    return file_system, str(path)


def is_local(url: str) -> bool:
    """Say whether ``url`` is a path of this machine."""
    return "://" not in local_path(url)


def exists(url: str) -> bool:
    """Say whether anything is at ``url``."""
    if is_local(url):
        return Path(local_path(url)).exists()
    file_system, path = store_of(url)
    return bool(file_system.exists(path))


def array_around(url: str) -> str | None:
    """Return the local array that ``url`` lies inside of, or None: whatever is written there mixes with its objects."""
    if not is_local(url):
        return None
    for folder in Path(local_path(url)).absolute().parents:
        try:
            metadata = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            metadata = {}
        if (folder / ".zarray").is_file() or (isinstance(metadata, dict) and metadata.get("node_type") == "array"):
            return str(folder)
    return None


def did_you_mean(url: str) -> str:
    """Return a sentence that names the nearest sibling of a missing path, or says to check it."""
    parent, _, name = local_path(url).rpartition("/")
    try:
        file_system, path = store_of(parent or ".")
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in file_system.ls(path, detail=False)]
    except (OSError, ValueError, ImportError):
        return f"Check the path: its folder '{parent}' is not there either."
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean '{parent}/{near[0]}'?" if near and parent else _or_check(near)


def _or_check(near: list[str]) -> str:
    return f"Did you mean '{near[0]}'?" if near else "Check the path."


def write_error(error: BaseException, *, where: str) -> VolumeError:
    """Return a refused write in clear words; raise it ``from`` its cause."""
    number = error.errno if isinstance(error, OSError) else None
    reasons = {
        errno.ENOSPC: "no space left on the device. Free some, then resume",
        errno.EDQUOT: "the disk quota is used up. Free some, then resume",
        errno.EROFS: "it is a read-only file system. Choose another target",
        errno.EACCES: "it is read-only for this user. Change its permissions, or choose another target",
        errno.EPERM: "it is read-only for this user. Change its permissions, or choose another target",
    }
    reason = reasons.get(number or 0, f"{type(error).__name__}: {first_line(error)}. Check the target, then resume")
    return VolumeError(f"cannot write {where}: {reason}.")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, for use within a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")
