"""NIfTI: the header as it is stored, its affine (sform before qform), and voxels read by region."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import IO, Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.scan_file import ScanFile, check_voxels, oriented, steps_of
from engine.storage.source import check_file
from engine.storage.voxel_file import Stretch, VoxelFile

SUFFIXES = (".nii", ".nii.gz")
"""File name endings of single-file NIfTI."""

_MILLIMETRES = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_TIME_UNITS = {"sec": "second", "msec": "millisecond", "usec": "microsecond"}
_N_HEADER = 540
_CLOSE = 1e-3


def open_nifti(path: Path, *, spacing: Sequence[float] | None = None) -> ScanFile:
    """Open a NIfTI scan; only its header is read. How voxels are read: :class:`VoxelFile`.

    Args:
        path: A .nii or .nii.gz file.
        spacing: Millimetre per voxel along z, y and x, for a scan that does not say; one value serves all. Its
            directions stay as the affine has them.

    Raises:
        IngestError: If it is no NIfTI, has other than 3 or 4 axes, its spacing is unknown, or its affine is flat.
    """
    check_file(path, wanted="a NIfTI scan")
    header = _header(path)
    shape = tuple(int(n) for n in reversed(header.get_data_shape()))
    stored, scaling = header.get_data_dtype(), _scaling(header)
    check_voxels(shape, stored, path=path)
    millimetres = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    said = [abs(float(step)) * (1.0 if spacing else millimetres) for step in header["pixdim"][3:0:-1]]
    steps = steps_of(said, given=spacing, path=path)
    affine, notes = _affine(header, steps=steps, millimetres=millimetres, is_given=spacing is not None)
    orientation = oriented(affine, path=path)
    if not np.allclose(orientation.spacing, steps, rtol=_CLOSE):
        notes = (*notes, f"its pixdim says {said} millimetre along z, y and x; the sform's steps were taken")
        steps = orientation.spacing
    first = int(max(header.get_data_offset(), header.single_vox_offset))
    is_packed = _is_packed(path)
    offset, skipped = (0, first) if is_packed else (first, 0)
    voxels = VoxelFile(Stretch(path, offset, skipped, is_packed, stored, shape))

    def read(region: Region) -> NDArray[Any]:
        found = voxels.read(region)
        return found if scaling is None else np.asarray(apply_read_scaling(found, *scaling), np.float32)

    return ScanFile(
        format="nifti",
        files=(path,),
        shape=shape,
        dtype=stored.newbyteorder("=") if scaling is None else np.dtype(np.float32),
        orientation=orientation,
        spacing=steps,
        read=read,
        close=voxels.close,
        time=_time(header) if len(shape) == 4 else None,
        described=_described(header),
        notes=notes,
    )


def _affine(
    header: Any,  # noqa: ANN401 -- nibabel has no types
    *,
    steps: Sequence[float],
    millimetres: float,
    is_given: bool,
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the affine to millimetre that nibabel would take; by steps given by hand where there are any."""
    mended = header.copy()
    scale = 1.0 if is_given else millimetres
    mended["pixdim"][1:4] = [step / scale for step in reversed(steps)]
    affine = np.array(mended.get_best_affine(), np.float64)
    affine[:3] *= scale
    if not is_given:
        return affine, ()
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        affine[:3, :3] *= np.asarray(steps[::-1]) / lengths
    return affine, ("spacing was given by hand",)


def _described(header: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- nibabel has no types
    return {name: int(header[name]) for name in ("qform_code", "sform_code", "xyzt_units")}


def _time(header: Any) -> Axis:  # noqa: ANN401 -- nibabel has no types
    step = float(header["pixdim"][4])
    is_known = isfinite(step) and step > 0
    return Axis("t", Role.BATCH, spacing=step if is_known else 1.0, unit=_TIME_UNITS.get(header.get_xyzt_units()[1]))


def _scaling(header: Any) -> tuple[float, float] | None:  # noqa: ANN401 -- nibabel has no types
    slope, inter = header.get_slope_inter()
    if slope is None or (slope == 1 and not inter):
        return None
    return float(slope), float(inter or 0)


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _open(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path, "rb") if _is_packed(path) else path.open("rb")


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
