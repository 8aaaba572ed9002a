"""The values of a DICOM series by region: slices read in part where they are plain, decoded and kept where not."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.dicom_codecs import DECODE_ERRORS, decoded
from engine.storage.dicom_file import PLAIN_SYNTAXES
from engine.storage.dicom_slice import Slice

_KEPT_BYTES = 128 * 1024 * 1024


class SeriesPixels:
    """The rescaled values of sorted slices, read by any number of threads; no file stays open.

    Of a plain file only the rows that a region meets are read. A compressed slice is decoded whole, and the last
    128 MiB of them are kept: a region of more slices than that decodes them again for its neighbour.
    """

    def __init__(self, slices: Sequence[Slice]) -> None:
        self.dtype = _value_dtype(slices)
        self._slices = tuple(slices)
        self._lock = Lock()
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        n_bytes = int(np.prod(slices[0].shape)) * self.dtype.itemsize
        self._n_kept = max(1, _KEPT_BYTES // n_bytes)

    def read(self, region: Region) -> NDArray[Any]:
        """Return the values of ``region`` along z, y and x.

        Raises:
            IngestError: If a file is gone, truncated or damaged.
        """
        voxels = np.empty(region.shape, self.dtype)
        (z0, y0, x0), (z1, y1, x1) = region.start, region.stop
        for z in range(z0, z1):
            one = self._slices[z]
            if one.file.syntax in PLAIN_SYNTAXES:
                voxels[z - z0] = self._values(_plain_rows(one, y0, y1)[:, x0:x1], one)
            else:
                voxels[z - z0] = self._decoded(z)[y0:y1, x0:x1]
        return voxels

    def close(self) -> None:
        """Let go of what is kept."""
        with self._lock:
            self._kept.clear()

    def _decoded(self, z: int) -> NDArray[Any]:
        with self._lock:
            if z in self._kept:
                self._kept.move_to_end(z)
                return self._kept[z]
        values = self._values(_decoded(self._slices[z]), self._slices[z])
        with self._lock:
            self._kept[z] = values
            while len(self._kept) > self._n_kept:
                self._kept.popitem(last=False)
        return values

    def _values(self, stored: NDArray[Any], one: Slice) -> NDArray[Any]:
        """Return values of unsigned integers as they are stored: sign extended, rescaled, in our dtype."""
        unused = 8 * stored.dtype.itemsize - one.n_bits
        bits = stored.astype(stored.dtype.newbyteorder("="))
        own = bits.view(f"i{bits.dtype.itemsize}") if one.is_signed else bits
        own = own << unused >> unused if unused else own
        if (one.slope, one.intercept) == (1, 0):
            return own.astype(self.dtype)
        if self.dtype.kind == "i":
            return (own.astype(np.int32) * int(one.slope) + int(one.intercept)).astype(self.dtype)
        return (own * np.float64(one.slope) + one.intercept).astype(self.dtype)


def _value_dtype(slices: Sequence[Slice]) -> np.dtype[Any]:
    """Return int16 where all values that slices could hold are whole and fit, else float32."""
    is_whole = all(one.slope.is_integer() and one.intercept.is_integer() for one in slices)
    ranges = [one.value_range for one in slices]
    limits = np.iinfo(np.int16)
    fits = min(low for low, _ in ranges) >= limits.min and max(high for _, high in ranges) <= limits.max
    return np.dtype(np.int16 if is_whole and fits else np.float32)


def _plain_rows(one: Slice, y0: int, y1: int) -> NDArray[Any]:
    assert one.file.pixels is not None
    (n_y, n_x), dtype = one.shape, one.stored_dtype
    n_row = n_x * dtype.itemsize
    offset = one.file.pixels.pieces[0][0] + (one.frame * n_y + y0) * n_row
    return np.frombuffer(_bytes(one.file.path, offset, (y1 - y0) * n_row), dtype).reshape(y1 - y0, n_x)


def _decoded(one: Slice) -> NDArray[Any]:
    data = b"".join(_bytes(one.file.path, offset, n) for offset, n in _pieces(one))
    try:
        return decoded(data, syntax=one.file.syntax, shape=one.shape, dtype=one.stored_dtype)
    except DECODE_ERRORS as error:
        raise IngestError(
            f"{one.name} must be decoded as '{one.file.syntax_name}', and is damaged ({arrays.first_line(error)}), in "
            f"'{one.file.path.parent}'. Copy or export it again."
        ) from error


def _pieces(one: Slice) -> tuple[tuple[int, int], ...]:
    """Return where the compressed bytes of one frame lie."""
    assert one.file.pixels is not None
    pieces, starts = one.file.pixels.pieces, one.file.pixels.starts
    if one.file.n_frames == 1:
        return pieces
    if len(pieces) == one.file.n_frames:
        return pieces[one.frame : one.frame + 1]
    return pieces[starts[one.frame] : (*starts, len(pieces))[one.frame + 1]]


def _bytes(path: Path, offset: int, n_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), n_bytes, offset)
    except OSError as error:
        raise IngestError(
            f"slice '{path}' must be read, and cannot be ({arrays.first_line(error)}). Check that the folder is as it "
            "was."
        ) from error
    if len(data) < n_bytes:
        raise IngestError(
            f"{n_bytes} bytes of pixels are wanted from '{path}', and {len(data)} are there: it is truncated. Copy or "
            "export it again."
        )
    return data
