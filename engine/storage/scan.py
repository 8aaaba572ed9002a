"""Scans of any format: (z, y, x), or (t, z, y, x), in millimetre, in the file's own voxel order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge
from engine.geometry.region import Region
from engine.storage import arrays, dicom_folder, itk_image, nifti
from engine.storage.create import Flavour
from engine.storage.dicom import open_dicom
from engine.storage.itk_image import open_itk_image
from engine.storage.nifti import open_nifti
from engine.storage.orientation import KEY
from engine.storage.readable import Level
from engine.storage.scan_file import ScanFile
from engine.storage.source import Layout, check_inside
from engine.storage.source_url import SourceUrl, parse_source

SUFFIXES = (*nifti.SUFFIXES, *itk_image.SUFFIXES)
"""File name endings of scans; DICOM is told by what is in a folder or a file."""

_CHUNK, _SHARD, _SMALLEST_SIDE = 64, 256, 128


class Scan:
    """A scan open for reading: a :class:`engine.storage.source.Source`, and a volume that may be run as it is."""

    def __init__(self, file: ScanFile, url: SourceUrl) -> None:
        """Take a scan that was opened; see :func:`open_scan`.

        Args:
            file: The scan in its own format.
            url: Where it lies and how it is read.
        """
        self.file = file
        self.url = str(url)
        self.shape, self.dtype = file.shape, file.dtype
        space = tuple(
            Axis(name, Role.SPACE, spacing=step, unit="millimeter")
            for name, step in zip("zyx", file.spacing, strict=True)
        )
        self.axes: tuple[Axis, ...] = space if file.time is None else (file.time, *space)
        chunk = (1,) * (len(self.shape) - 2) + self.shape[-2:]
        spacing = tuple(axis.spacing for axis in self.axes)
        self.levels: tuple[Level, ...] = (Level("0", self.shape, chunk, None, spacing, (0.0,) * len(spacing)),)
        self.edges: Mapping[str, Edge] = {}
        self.notes = file.notes
        self.is_sequential = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.url,)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Affine, the directions that x, y and z point to in the patient (``axcodes``), format, and what that says."""
        orientation = self.file.orientation.to_json()
        codes = aff2axcodes(np.asarray(orientation["affine"]))  # type: ignore[no-untyped-call]
        own = {self.file.format: dict(self.file.described)} if self.file.described else {}
        return {KEY: {**orientation, "axcodes": list(codes), "format": self.file.format, **own}}

    @property
    def layout(self) -> Layout:
        """Chunks of 64^3 in shards of 256^3, and levels down to 128 voxels."""
        n_levels, side = 1, max(self.shape[-3:])
        while side > _SMALLEST_SIDE:
            n_levels, side = n_levels + 1, -(-side // 2)
        ones = (1,) * (len(self.shape) - 3)
        return Layout((*ones, *(_CHUNK,) * 3), (*ones, *(_SHARD,) * 3), n_levels, Flavour.NGFF)

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``.

        Raises:
            IngestError: If the region leaves the scan, or a file is truncated or damaged.
        """
        check_inside(region, level=level, shapes=[self.shape], path=Path(self.url))
        return self.file.read(region)

    def close(self) -> None:
        """Let go of the files."""
        self.file.close()


def is_scan(place: str) -> bool:
    """Say whether a source is a scan: by its ending, or by the DICOM that is in it.

    A folder that holds Zarr, a DICOM slide and what is not on this machine are none.
    """
    if not arrays.is_local(place):
        return False
    path = Path(arrays.local_path(place))
    return (path.name.lower().endswith(SUFFIXES) and not path.is_dir()) or dicom_folder.is_series(path)


def open_scan(source: SourceUrl) -> Scan:
    """Open a scan: NIfTI, MetaImage, NRRD, or a DICOM series; nothing but headers is read.

    Each process that reads a .nii.gz, or another scan that is compressed as a whole, unpacks it once: see
    :class:`engine.storage.voxel_file.VoxelFile`.

    Args:
        source: A file, or the folder of a DICOM series; with the spacing where the scan does not say, and the series
            where a folder holds several.

    Raises:
        IngestError: If it is none, or not as its format has it.
    """
    path = Path(arrays.local_path(source.place))
    name, url = path.name.lower(), SourceUrl(source.place, spacing=source.spacing, series=source.series)
    if name.endswith(SUFFIXES) and not path.is_dir():
        opened = open_nifti if name.endswith(nifti.SUFFIXES) else open_itk_image
        return Scan(opened(path, spacing=source.spacing), url)
    return Scan(open_dicom(path, spacing=source.spacing, series=source.series), url)


def _reopened(url: str) -> Scan:
    return open_scan(parse_source(url))
