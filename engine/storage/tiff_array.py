"""The voxels of a TIFF: a page or a level of it as an array that is read in part, by any number of threads."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from imagecodecs import DelayedImportError
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.storage import arrays

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
READ_ERRORS = (*arrays.READ_ERRORS, tifffile.TiffFileError, DelayedImportError, NotImplementedError)
"""What tifffile, zarr and the codecs raise on damaged or unknown pages."""


def is_tiff(path: Path) -> bool:
    """Say whether a file begins as a TIFF or BigTIFF does."""
    with path.open("rb") as file:
        return file.read(4) in _SIGNATURES


def opened(page: Any, *, fill_value: int = 0) -> Any:  # noqa: ANN401 -- tifffile has no types
    """Return a page, or one level of a series, as an array; tiles that the file leaves out hold ``fill_value``.

    Pages that lie in the file uncompressed and in one piece are mapped; of others, a read decodes the tiles
    or strips that it meets.
    """
    place = getattr(page, "dataoffset", None)
    is_striped = not page.keyframe.is_tiled
    if place is not None and is_striped and page.keyframe.compression == 1:
        handle = page.keyframe.parent.filehandle
        dtype = page.dtype.newbyteorder(page.keyframe.parent.byteorder)
        return np.memmap(handle.path, dtype=dtype, mode="r", offset=place, shape=page.shape)
    return arrays.open_store(page.aszarr(level=0, fillvalue=fill_value))


def read(array: Any, where_in: tuple[slice, ...], *, where: str) -> NDArray[Any]:  # noqa: ANN401
    """Return part of an array in native byte order.

    Raises:
        IngestError: If it cannot be decoded.
    """
    try:
        voxels = np.asarray(array[where_in])
    except READ_ERRORS as error:
        spans = ", ".join(f"{part.start}:{part.stop}" for part in where_in)
        raise IngestError(
            f"voxels [{spans}] of {where} cannot be decoded: the file is damaged there, or compressed in a way that is "
            f"not known ({arrays.first_line(error)}). Copy or export it again."
        ) from error
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
