"""NIfTI: a volume as one .nii or .nii.gz on its own grid, written forward, slab by slab."""

import gzip
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.export.affine import GridAffine, check_scan, grid_affine
from engine.export.draft import Exported, appearing, check_target
from engine.export.planes import slab_spans
from engine.export.provenance import maker_of
from engine.geometry.axes import Role, positions
from engine.geometry.region import Region
from engine.storage.orientation import KEY
from engine.storage.readable import Readable
from engine.storage.volume import open_volume

ENDINGS = (".nii", ".nii.gz")

_OTHER_DTYPES = {"bool": "uint8", "float16": "float32"}
"""What NIfTI has no code for, and what holds it."""
_LONGEST = 2**15 - 1
"""Voxels along an axis that the short integers of NIfTI-1 can tell."""
_LEVEL = 1
"""Of gzip: labels shrink a hundredfold at any, and the higher ones take three times as long."""
_SCANNER, _ALIGNED = 1, 2
_TIME_UNITS = {"second": ("sec", 1.0), "millisecond": ("msec", 1.0), "microsecond": ("usec", 1.0)}


def export_nifti(volume_url: str, path: Path) -> Exported:
    """Write a volume's finest level as NIfTI, voxel for voxel, with the same dtype; two slabs are held at most.

    The affine is that of the scan, also where it is oblique or flipped: sform, and qform where it has no shear
    (a quaternion cannot tell one), with the codes of the source where they are known; see
    :func:`engine.export.affine.grid_affine`. NIfTI-1 keeps it in float32: an offset of 300 mm within 2e-5 mm.

    Axes are as the field has them, x first in the file: (z, y, x) becomes (x, y, z); channels (c, z, y, x) and times
    (t, z, y, x) become the fourth axis, (t, c, z, y, x) becomes (x, y, z, t, c); an axis of one channel or time is
    left out. bool is stored as uint8 and float16 as float32.

    Raises:
        UsageError: If the file exists, has another ending, or cannot be written.
        VolumeError: If the volume is no scan, or a stored object of it is damaged.
    """
    check_target(path, endings=ENDINGS, what="a NIfTI file")
    volume = open_volume(volume_url)
    check_scan(volume)
    times, channels = _leading(volume)
    shape = tuple(n for n in (times, channels) if n > 1)
    affine = grid_affine(volume)
    dtype = np.dtype(_OTHER_DTYPES.get(volume.dtype.name, volume.dtype.name)).newbyteorder("<")
    header = _header(volume, shape=(*reversed(volume.shape[-3:]), *shape), dtype=dtype, affine=affine)
    with appearing(path) as draft:
        if not path.name.lower().endswith(".gz"):
            with draft.open("wb") as file:
                _fill(file, volume, header=header, dtype=dtype)
        elif channels == 1:
            with draft.open("wb") as raw, _compressed(raw) as file:
                _fill(file, volume, header=header, dtype=dtype)
        else:
            _fill_in_two_steps(draft, volume, header=header, dtype=dtype)
    told = " x ".join(map(str, header.get_data_shape()))
    notes = (*affine.notes, *_dtype_notes(volume.dtype, dtype), *_version_notes(header))
    return Exported(path, f"NIfTI, {told} (x, y, z{', ...' if shape else ''}), {dtype.name}", notes)


def _compressed(raw: IO[bytes]) -> gzip.GzipFile:
    """Return a writer that leaves no name and no time in the file: the same voxels are the same bytes."""
    return gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=raw, mtime=0)


def _fill_in_two_steps(draft: Path, volume: Readable, *, header: Any, dtype: np.dtype[Any]) -> None:  # noqa: ANN401
    """Write channels side by side into a plain file, then compress it: a chunk holds all channels, and is read once."""
    with appearing(draft.with_name(f"{draft.name}.nii")) as plain:
        with plain.open("wb") as file:
            _fill(file, volume, header=header, dtype=dtype)
        with plain.open("rb") as file, draft.open("wb") as raw, _compressed(raw) as packed:
            shutil.copyfileobj(file, packed, 2**20)


def _fill(file: IO[bytes] | gzip.GzipFile, volume: Readable, *, header: Any, dtype: np.dtype[Any]) -> None:  # noqa: ANN401
    """Write header and voxels; where there is one channel, every seek is to where the file ends already."""
    start = int(header["vox_offset"])
    file.write(header.binaryblock + bytes(4))
    for plane, voxels in _pieces(volume):
        file.seek(start + plane * prod(volume.shape[-2:]) * dtype.itemsize)
        file.write(np.ascontiguousarray(voxels, dtype).data)


def _pieces(volume: Readable) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield stretches of planes and the number of the first in the file: channels slowest, then times, then z."""
    times, channels = _leading(volume)
    names = [axis.role for axis in volume.axes[:-3]]
    n_z, n_y, n_x = volume.shape[-3:]
    for t in range(times):
        for z0, z1 in slab_spans(volume):
            spans = [(t, t + 1) if role is Role.BATCH else (0, channels) for role in names]
            region = Region((*(a for a, _ in spans), z0, 0, 0), (*(b for _, b in spans), z1, n_y, n_x))
            slab = volume.read(region).reshape(channels, z1 - z0, n_y, n_x)
            for c in range(channels):
                yield (c * times + t) * n_z + z0, slab[c]


def _leading(volume: Readable) -> tuple[int, int]:
    """Return the numbers of times and of channels.

    Raises:
        VolumeError: If there are more axes than these.
    """
    batch, channel = (positions(volume.axes[:-3], role) for role in (Role.BATCH, Role.CHANNEL))
    if len(batch) > 1 or len(batch) + len(channel) != len(volume.axes) - 3:
        names = ", ".join(axis.name for axis in volume.axes)
        raise VolumeError(
            f"a NIfTI file holds x, y, z, a time and a channel, and '{volume.url}' has {names}. Export a part of it."
        )
    return prod(volume.shape[i] for i in batch), prod(volume.shape[i] for i in channel)


def _header(volume: Readable, *, shape: tuple[int, ...], dtype: np.dtype[Any], affine: GridAffine) -> Any:  # noqa: ANN401
    kind: Any = Nifti1Header if max(shape) <= _LONGEST else Nifti2Header
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    step, unit = _time_step(volume)
    header.set_zooms([*reversed(affine.spacing), step, 1.0][: len(shape)])
    header.set_xyzt_units("mm", unit)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = kind.sizeof_hdr + 4
    header["descrip"] = maker_of(volume.url).told[:79].encode("ascii", "replace")
    sform, qform = _codes(volume, affine)
    try:
        header.set_qform(affine.matrix, qform, strip_shears=False)
    except HeaderDataError:
        header["qform_code"] = 0
    header.set_sform(affine.matrix, sform)
    return header


def _codes(volume: Readable, affine: GridAffine) -> tuple[int, int]:
    """Return the codes of sform and qform, which hold one matrix: that of the source's sform, or else its qform."""
    if not affine.is_oriented:
        return _ALIGNED, _ALIGNED
    nifti = volume.attributes[KEY].get("nifti") or {}
    if "sform_code" not in nifti:
        return _SCANNER, _SCANNER
    sform, qform = int(nifti["sform_code"]), int(nifti.get("qform_code", 0))
    return sform or qform, (sform or qform) if qform else 0


def _time_step(volume: Readable) -> tuple[float, str]:
    batch = positions(volume.axes[:-3], Role.BATCH)
    if not batch or volume.shape[batch[0]] == 1:
        return 1.0, "unknown"
    axis = volume.axes[batch[0]]
    unit, times = _TIME_UNITS.get(axis.unit or "", ("unknown", 1.0))
    return axis.spacing * times, unit


def _dtype_notes(own: np.dtype[Any], stored: np.dtype[Any]) -> tuple[str, ...]:
    return () if own.name == stored.name else (f"{own.name} is stored as {stored.name}, as NIfTI has no {own.name}",)


def _version_notes(header: Any) -> tuple[str, ...]:  # noqa: ANN401 -- nibabel has no types
    is_second = isinstance(header, Nifti2Header)
    return (f"an axis is longer than {_LONGEST}: it is NIfTI-2, which some programs do not read",) if is_second else ()
