"""Small files that appear whole: what tasks leave for each other, raw integers and numpy archives."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.storage import arrays

IntArray = NDArray[np.int64]


@contextmanager
def appearing(url: str) -> Iterator[IO[bytes]]:
    """Yield a file to fill; it takes its name when it is closed without an error, and leaves nothing otherwise.

    Raises:
        VolumeError: If the store refuses (no space left, read-only).
    """
    file_system, path = arrays.store_of(url)
    draft = f"{path}.{uuid4().hex}.partial"
    try:
        if not arrays.is_local(url):
            with file_system.open(path, "wb") as remote:  # an object store shows it when it is closed
                yield remote
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(draft).open("wb") as local:
            yield local
            local.flush()
            os.fsync(local.fileno())
        Path(draft).rename(path)
    except OSError as error:
        raise arrays.write_error(error, where=f"'{url}'") from error
    finally:
        if arrays.is_local(url):
            Path(draft).unlink(missing_ok=True)


def write_bytes(url: str, content: bytes) -> None:
    """Store a file whole."""
    with appearing(url) as file:
        file.write(content)


def read_bytes(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Return a file, or the bytes ``start`` to ``stop - 1`` of it.

    Raises:
        VolumeError: If it is not there.
    """
    file_system, path = arrays.store_of(url)
    try:
        content: bytes = file_system.cat_file(path, start=start, end=stop)
    except OSError as error:
        raise VolumeError(
            f"a part of the objects is wanted at '{url}', and does not open ({arrays.first_line(error)}). "
            "Remove its folder 'objects/<name>' and the label volume, and find the objects again."
        ) from error
    return content


def write_archive(url: str, **named: NDArray[Any]) -> None:
    """Store arrays in one file, by name."""
    buffer = BytesIO()
    np.savez(buffer, **named)  # type: ignore[arg-type, unused-ignore]
    write_bytes(url, buffer.getvalue())


def read_archive(url: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of one file, by name."""
    with np.load(BytesIO(read_bytes(url)), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_rows(url: str, rows: IntArray) -> None:
    """Store a table of integers, row after row, so that a span of rows can be read for itself."""
    write_bytes(url, np.ascontiguousarray(rows, "<i8").tobytes())


def read_rows(url: str, *, n_columns: int, start: int = 0, stop: int | None = None) -> IntArray:
    """Return rows ``start`` to ``stop - 1`` of a table, or all of them."""
    if stop is not None and stop <= start:
        return np.empty((0, n_columns), np.int64)
    row = 8 * n_columns
    content = read_bytes(url, start * row, None if stop is None else stop * row)
    return np.frombuffer(content, "<i8").astype(np.int64, copy=False).reshape(-1, n_columns)


def open_sorted(url: str) -> IntArray:
    """Return a column of integers, paged in as it is searched where the file is local."""
    file_system, path = arrays.store_of(url)
    if arrays.is_local(url) and file_system.size(path):
        return np.memmap(path, "<i8", mode="r")
    return np.frombuffer(read_bytes(url), "<i8").astype(np.int64, copy=False)
