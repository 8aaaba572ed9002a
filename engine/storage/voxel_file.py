"""The voxels of a scan that lie in one stretch of a file, plain or deflated, and how any region of them is read."""

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import IO, Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.region import Region
from engine.storage import arrays

_READ = 1 << 20
_MOST_UNPACKED = 1 << 22
_GZIP = b"\x1f\x8b"
_ANY_HEADER = 32 + zlib.MAX_WBITS  # gzip's or zlib's, told apart by zlib itself


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where in a file the voxels lie, the last axis fastest."""

    path: Path
    offset: int
    """Byte of the file at which they, or what is deflated, begin."""
    skipped: int
    """Bytes of what is deflated before the first voxel; 0 of a plain file."""
    is_packed: bool
    """Whether they are deflated, with the header of gzip or of zlib."""
    dtype: np.dtype[Any]
    """As stored, byte order included."""
    shape: tuple[int, ...]
    """Voxels per axis, slowest first."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all voxels, unpacked."""
        return prod(self.shape) * self.dtype.itemsize


class VoxelFile:
    """Voxels in a file, open for reading by any number of threads.

    A plain file is read where the region lies: no more than whole rows. What is deflated has no random access:
    the first read unpacks all of it, 4 MiB at a time, into an unlinked temporary file that lasts as long as this
    object, so each process needs room on disk (not in memory, unless its folder for temporary files is there) for
    the whole scan. ``TMPDIR`` says where.
    """

    def __init__(self, stretch: Stretch) -> None:
        """Open the file.

        Raises:
            IngestError: If it may not be read, or a plain one is too short.
        """
        self._stretch = stretch
        self._lock = Lock()
        file = stretch.path.open("rb")
        self._files: list[IO[bytes]] = [file]
        self._close = finalize(self, _close_all, self._files)
        self._plain: IO[bytes] | None = None if stretch.is_packed else file
        if not stretch.is_packed:
            there = max(0, os.fstat(file.fileno()).st_size - stretch.offset)
            if there < stretch.n_bytes:
                self.close()
                raise _damaged(stretch, f"{there} of {stretch.n_bytes} bytes of voxels are there")

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of ``region`` as stored, in native byte order.

        Raises:
            IngestError: If the file ends too early, does not unpack, or there is no room to unpack it.
        """
        stretch = self._stretch
        voxels = np.empty(region.shape, stretch.dtype.newbyteorder("="))
        if region.n_voxels == 0:
            return voxels
        file, first = self._unpacked()
        *_, n_x = stretch.shape
        (y0, x0), (y1, x1) = region.start[-2:], region.stop[-2:]
        rows = np.empty((y1 - y0, n_x), stretch.dtype)
        for place in np.ndindex(region.shape[:-2]):
            plane = tuple(a + i for a, i in zip(region.start, place, strict=False))
            number = int(np.ravel_multi_index((*plane, y0), stretch.shape[:-1]))
            self._fill(rows, file, first + number * n_x * stretch.dtype.itemsize)
            voxels[place] = rows[:, x0:x1]
        return voxels

    def close(self) -> None:
        """Let go of the file, and of what was unpacked."""
        self._close()

    def _fill(self, rows: NDArray[Any], file: IO[bytes], offset: int) -> None:
        view = memoryview(rows.reshape(-1).view(np.uint8))
        try:
            n = os.preadv(file.fileno(), [view], offset)
        except OSError as error:
            raise _damaged(self._stretch, arrays.first_line(error)) from error
        if n < len(view):
            raise _damaged(self._stretch, f"it ends at byte {offset + n}")

    def _unpacked(self) -> tuple[IO[bytes], int]:
        """Return a file that holds plain voxels, and its byte at which they begin."""
        with self._lock:
            if self._plain is None:
                self._plain = self._unpack(self._files[0])
                self._files.append(self._plain)
        return self._plain, 0 if self._stretch.is_packed else self._stretch.offset

    def _unpack(self, packed: IO[bytes]) -> IO[bytes]:
        stretch, there = self._stretch, -self._stretch.skipped
        with ExitStack() as stack:
            target = stack.enter_context(_temporary(stretch))
            try:
                packed.seek(stretch.offset)
                for part in inflated(packed):
                    _write(target, part[max(0, -there) : max(0, stretch.n_bytes - there)], stretch)
                    there += len(part)
            except (zlib.error, EOFError, OSError) as error:
                raise _damaged(stretch, arrays.first_line(error)) from error
            if there < stretch.n_bytes:
                raise _damaged(stretch, f"{max(0, there)} of {stretch.n_bytes} bytes of voxels are there")
            _write(target, b"", stretch)
            stack.pop_all()
        return target


def _close_all(files: list[IO[bytes]]) -> None:
    for file in files:
        file.close()


def inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what gzip or zlib deflated from here to the file's end, 4 MiB at most at a time, checksums checked.

    Several gzip members that follow each other are one stream; what follows that is no member is left alone.

    Raises:
        zlib.error: If it is damaged.
        EOFError: If it ends too early.
    """
    unpacker, tail = zlib.decompressobj(_ANY_HEADER), b""
    while True:
        data = tail or file.read(_READ)
        part = unpacker.decompress(data, _MOST_UNPACKED)
        yield part
        tail = unpacker.unconsumed_tail
        if unpacker.eof:
            tail = unpacker.unused_data if len(unpacker.unused_data) > 1 else unpacker.unused_data + file.read(_READ)
            if not tail.startswith(_GZIP):
                return
            unpacker = zlib.decompressobj(_ANY_HEADER)
        elif not data and not part:
            raise EOFError("what is compressed stops before its end")


def _temporary(stretch: Stretch) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise _no_room(stretch, error) from error


def _write(target: IO[bytes], data: bytes, stretch: Stretch) -> None:
    """Write ``data``, or where there is none, what is still held back."""
    try:
        if data:
            target.write(data)
        else:
            target.flush()
    except OSError as error:
        raise _no_room(stretch, error) from error


def _no_room(stretch: Stretch, error: OSError) -> IngestError:
    folder = tempfile.tempdir or "none found"
    return IngestError(
        f"'{stretch.path}' must be unpacked to be read, {stretch.n_bytes} bytes, and the folder for temporary files "
        f"'{folder}' does not take them ({arrays.first_line(error)}). Free some room, or set TMPDIR to a folder that "
        "has it."
    )


def _damaged(stretch: Stretch, reason: str) -> IngestError:
    return IngestError(
        f"{' x '.join(map(str, stretch.shape))} voxels of {stretch.dtype.name} are wanted from '{stretch.path}', and "
        f"it is truncated or damaged ({reason}). Copy or export it again."
    )
