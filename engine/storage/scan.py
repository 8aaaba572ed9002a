"""NIfTI scans: (z, y, x), or (t, z, y, x), in the file's own voxel order, read forward slab by slab."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.create import Flavour
from engine.storage.source import Layout, check_file

SUFFIXES = (".nii", ".nii.gz")
"""File name endings of single-file NIfTI."""

_UNITS = {"unknown": "millimeter", "mm": "millimeter", "meter": "meter", "micron": "micrometer"}
_TIME_UNITS = {"sec": "second", "msec": "millisecond", "usec": "microsecond"}
_N_HEADER = 540
_SLAB_BYTES = 256 * 1024 * 1024
_CHUNK = 64
_SMALLEST_SIDE = 128


class Scan:
    """A NIfTI file open for reading in order; see :class:`engine.storage.source.Source`.

    NIfTI stores x fastest, so a slab of whole z planes is one stretch of the file: a compressed scan is
    decompressed once, forward, and one slab (at most 256 MiB or 64 planes) is held at a time.
    """

    def __init__(self, path: Path, *, spacing: Sequence[float] | None = None) -> None:
        """Open a scan; only its header is read.

        Args:
            path: A .nii or .nii.gz file.
            spacing: Millimetre per voxel along z, y and x, for a scan that does not say; one value serves all.

        Raises:
            IngestError: If it is no NIfTI, has other than 3 or 4 axes, or its spacing is unknown.
        """
        check_file(path, wanted="a NIfTI scan")
        self._path = path
        self._header = _header(path)
        self.shape = tuple(int(n) for n in reversed(self._header.get_data_shape()))
        self._stored = self._header.get_data_dtype()
        self._scaling = _scaling(self._header)
        self._check_kind()
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self._scaling else self._stored.newbyteorder("=")
        self.axes = _axes(self._header, path=path, spacing=spacing)
        self.notes: tuple[str, ...] = () if spacing is None else ("spacing was given by hand",)
        self.is_sequential = True
        self._file: gzip.GzipFile | IO[bytes] | None = None
        self._slab: tuple[tuple[int, ...], NDArray[Any]] | None = None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Affine (voxel x, y, z to scanner millimetre), its codes and the direction that each file axis points to."""
        affine = self._header.get_best_affine()
        return {
            "nifti": {
                "affine": np.asarray(affine, float).tolist(),
                "axcodes": list(_directions(affine)),
                "qform_code": int(self._header["qform_code"]),
                "sform_code": int(self._header["sform_code"]),
                "xyzt_units": int(self._header["xyzt_units"]),
            }
        }

    @property
    def layout(self) -> Layout:
        """Chunks of 64^3 in shards of 256^3, fewer planes where a slab of 256 would not fit in 256 MiB."""
        *first, _, y, x = self.shape
        n_planes = max(1, min(4, _SLAB_BYTES // (_CHUNK * y * x * self.dtype.itemsize))) * _CHUNK
        n_levels, side = 1, max(self.shape[-3:])
        while side > _SMALLEST_SIDE:
            n_levels, side = n_levels + 1, -(-side // 2)
        ones = (1,) * len(first)
        return Layout((*ones, *(_CHUNK,) * 3), (*ones, n_planes, 256, 256), n_levels, Flavour.NGFF)

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of ``region``; going back to an earlier slab starts the file again.

        Raises:
            IngestError: If the file ends too early or does not decompress.
        """
        *times, (z0, z1), (y0, y1), (x0, x1) = zip(region.start, region.stop, strict=True)
        frames = [self._planes((t, z0, z1))[:, y0:y1, x0:x1] for t in (range(*times[0]) if times else (0,))]
        voxels = np.stack(frames) if times else frames[0]
        if self._scaling:
            voxels = apply_read_scaling(voxels, *self._scaling)
        return np.ascontiguousarray(voxels, dtype=self.dtype)

    def close(self) -> None:
        """Let go of the file and the slab."""
        if self._file is not None:
            self._file.close()
        self._file, self._slab = None, None

    def _planes(self, span: tuple[int, int, int]) -> NDArray[Any]:
        """Return planes [z0, z1) of one time step, as stored."""
        if self._slab is None or self._slab[0] != span:
            self._slab = None
            self._slab = span, self._read_planes(span)
        return self._slab[1]

    def _read_planes(self, span: tuple[int, int, int]) -> NDArray[Any]:
        (t, z0, z1), (n_z, *plane) = span, self.shape[-3:]
        n_bytes = prod(plane) * self._stored.itemsize
        offset = max(self._header.get_data_offset(), self._header.single_vox_offset)
        try:
            if self._file is None:
                self._file = _open(self._path)
            self._file.seek(offset + (t * n_z + z0) * n_bytes)
            data = self._file.read((z1 - z0) * n_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise self._damaged(span, arrays.first_line(error)) from error
        if len(data) < (z1 - z0) * n_bytes:
            raise self._damaged(span, f"{len(data)} of {(z1 - z0) * n_bytes} bytes are there")
        return np.frombuffer(data, self._stored).reshape(z1 - z0, *plane)

    def _damaged(self, span: tuple[int, int, int], reason: str) -> IngestError:
        t, z0, z1 = span
        return IngestError(
            f"planes z {z0}:{z1} of time step {t} cannot be read from '{self._path}': it is truncated or damaged "
            f"({reason}). Copy or export it again."
        )

    def _check_kind(self) -> None:
        if len(self.shape) not in (3, 4) or min(self.shape) < 1:
            raise IngestError(
                f"a scan must have 3 or 4 axes of at least one voxel, not {self.shape} (slowest first), as "
                f"'{self._path}' has. Split or squeeze it first."
            )
        if self._stored.kind not in "biuf":
            raise IngestError(
                f"voxels must be whole or real numbers, not {self._stored}, as in '{self._path}'. "
                "Split colours or real and imaginary parts into several files."
            )


def _directions(affine: NDArray[Any]) -> tuple[str, ...]:
    return tuple(aff2axcodes(affine))  # type: ignore[no-untyped-call]


def _open(path: Path) -> gzip.GzipFile | IO[bytes]:
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_compressed else path.open("rb")


def _header(path: Path) -> Any:  # noqa: ANN401 -- nibabel has no types
    """Return the header as it is stored: nibabel's own loader would mend a missing spacing to 1, and only log it."""
    try:
        with _open(path) as file:
            block = file.read(_N_HEADER)
        is_second = block[4:7] == b"n+2"
        kind: Any = Nifti2Header if is_second else Nifti1Header
        n_bytes = kind.template_dtype.itemsize
        if len(block) < n_bytes or not (is_second or block[344:347] == b"n+1"):
            raise HeaderDataError("its first bytes hold no magic n+1 or n+2")
        header = kind(block[:n_bytes], check=False)
        header.get_data_dtype(), header.get_data_shape(), header.get_slope_inter(), header.get_xyzt_units()
    except (OSError, EOFError, zlib.error, HeaderDataError, ValueError, KeyError) as error:
        raise IngestError(
            f"a single-file NIfTI scan is wanted, and '{path}' has no such header ({arrays.first_line(error)}). "
            "Convert it with nibabel or dcm2niix."
        ) from error
    return header


def _scaling(header: Any) -> tuple[float, float] | None:  # noqa: ANN401 -- nibabel has no types
    slope, inter = header.get_slope_inter()
    if slope is None or (slope == 1 and not inter):
        return None
    return float(slope), float(inter or 0)


def _axes(header: Any, *, path: Path, spacing: Sequence[float] | None) -> tuple[Axis, ...]:  # noqa: ANN401
    steps = [abs(float(step)) for step in header["pixdim"][3:0:-1]]
    unit, time_unit = header.get_xyzt_units()
    if spacing is not None:
        steps = list(spacing) * 3 if len(spacing) == 1 else list(spacing)
        unit = "mm"
    if len(steps) != 3 or not all(isfinite(step) and step > 0 for step in steps):
        raise IngestError(
            f"a scan must say its spacing along z, y and x, and '{path}' says {steps}. "
            "Find it in the scan's record and give --spacing Z,Y,X in millimetre."
        )
    space = [
        Axis(name, Role.SPACE, spacing=step, unit=_UNITS.get(unit, "millimeter"))
        for name, step in zip("zyx", steps, strict=True)
    ]
    if len(header.get_data_shape()) == 3:
        return tuple(space)
    step = float(header["pixdim"][4])
    is_known = isfinite(step) and step > 0
    time = Axis("t", Role.BATCH, spacing=step if is_known else 1.0, unit=_TIME_UNITS.get(time_unit))
    return time, *space
