"""MetaImage and NRRD: geometry as SimpleITK reads it, voxels by region from where the header says that they lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- as everyone calls it
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.itk_header import Described, read_header
from engine.storage.scan_file import ScanFile, check_voxels, oriented, steps_of
from engine.storage.source import check_file
from engine.storage.voxel_file import Stretch, VoxelFile

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
"""File name endings of MetaImage and NRRD."""

_DTYPES: Mapping[int, str] = {
    sitk.sitkInt8: "int8",
    sitk.sitkUInt8: "uint8",
    sitk.sitkInt16: "int16",
    sitk.sitkUInt16: "uint16",
    sitk.sitkInt32: "int32",
    sitk.sitkUInt32: "uint32",
    sitk.sitkInt64: "int64",
    sitk.sitkUInt64: "uint64",
    sitk.sitkFloat32: "float32",
    sitk.sitkFloat64: "float64",
}


class WholeImage:
    """Voxels that SimpleITK alone decodes (text, bzip2): the first read takes the whole image into memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        self._voxels: NDArray[Any] | None = None

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of ``region``.

        Raises:
            IngestError: If the file is damaged.
        """
        with self._lock:
            if self._voxels is None:
                try:
                    self._voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(self._path)))
                except RuntimeError as error:
                    raise IngestError(
                        f"the voxels of '{self._path}' must be decoded, and are truncated or damaged "
                        f"({_reason(error)}). Copy or export it again."
                    ) from error
        return np.ascontiguousarray(self._voxels[region.slices])

    def close(self) -> None:
        """Let go of the voxels."""
        self._voxels = None


def open_itk_image(path: Path, *, spacing: Sequence[float] | None = None) -> ScanFile:
    """Open a MetaImage or NRRD scan; only its header is read.

    Plain and deflated voxels are read by :class:`VoxelFile`, in bounded memory; others by :class:`WholeImage`.

    Args:
        path: A .mha, .mhd, .nrrd or .nhdr file; of .mhd and .nhdr, the file of voxels lies beside it.
        spacing: Millimetre per voxel along z, y and x, for a scan that does not say; one value serves all.

    Raises:
        IngestError: If it is none, has other than 3 or 4 axes or several values per voxel, or its spacing is unknown.
    """
    check_file(path, wanted="a MetaImage or NRRD scan")
    header = read_header(path)
    reader = _information(path)
    shape = tuple(int(n) for n in reversed(reader.GetSize()))
    if reader.GetNumberOfComponents() > 1 or reader.GetPixelID() not in _DTYPES:
        raise IngestError(
            f"a scan must have one whole or real number per voxel, not {reader.GetNumberOfComponents()}, complex or "
            f"labelled ones, as in '{path}'. Split them into several files."
        )
    dtype = np.dtype(_DTYPES[reader.GetPixelID()])
    check_voxels(shape, dtype, path=path)
    n = len(shape)
    said = list(reader.GetSpacing()[2::-1]) if header.has_spacing else [float("nan")] * 3
    steps = steps_of(said, given=spacing, path=path)
    directions = np.asarray(reader.GetDirection()).reshape(n, n)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(steps[::-1])
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine[:2] *= -1  # ITK's left and posterior to NIfTI's right and anterior
    voxels = _voxels(header, path=path, dtype=dtype, shape=shape)
    notes = header.notes if spacing is None else (*header.notes, "spacing was given by hand")
    return ScanFile(
        format=header.format,
        files=tuple(dict.fromkeys((path, header.data_path))),
        shape=shape,
        dtype=dtype,
        orientation=oriented(affine, path=path),
        spacing=steps,
        read=voxels.read,
        close=voxels.close,
        time=Axis("t", Role.BATCH, spacing=abs(float(reader.GetSpacing()[3])) or 1.0) if n == 4 else None,
        notes=notes,
    )


def _information(path: Path) -> Any:  # noqa: ANN401 -- SimpleITK has no types
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise IngestError(
            f"a MetaImage or NRRD scan is wanted, and '{path}' has no such header ({_reason(error)}). Convert it with "
            "3D Slicer or SimpleITK."
        ) from error
    return reader


def _voxels(header: Described, *, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> VoxelFile | WholeImage:
    check_file(header.data_path, wanted=f"the voxels of '{path}'")
    if header.is_packed is None:
        return WholeImage(path)
    stored = dtype.newbyteorder(">" if header.is_big_endian else "<")
    offset = header.offset
    if offset is None:
        offset = header.data_path.stat().st_size - int(np.prod(shape)) * dtype.itemsize
    stretch = Stretch(header.data_path, max(0, offset), header.skipped, header.is_packed, stored, shape)
    return VoxelFile(stretch)


def _reason(error: RuntimeError) -> str:
    """Return what ITK says is wrong: the last of its lines, which all but one name its own source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return arrays.first_line(ValueError(lines[-1])) if lines else "no reason given"
