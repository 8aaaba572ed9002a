"""TIFF as tifffile reads it: plain, planar and OME-TIFF, any bit depth and number of channels, with its levels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
import tifffile
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge
from engine.geometry.region import Region
from engine.storage import arrays, icc, tiff_array, tiff_mpp
from engine.storage.readable import Level
from engine.storage.slide import checked_mpp
from engine.storage.slide_levels import true_factor
from engine.storage.source import Layout, check_file, check_inside, picture_layout

_NAMES = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}
_ROLES = {"t": Role.BATCH, "c": Role.CHANNEL}
_ICC_TAG, _RGB = 34675, 2


class Tiff:
    """A TIFF open for reading: a :class:`engine.storage.source.Source`, and a volume that may be run as it is."""

    def __init__(self, path: Path, *, spacing: Sequence[float] | None = None) -> None:
        """Open the first image of a TIFF, with its coarser levels.

        Args:
            path: The file.
            spacing: Micrometre per pixel along y and x, for a file that does not say; one value serves both.

        Raises:
            IngestError: If it is no TIFF, it is damaged, has axes that no volume has, or its resolution is unknown.
        """
        check_file(path, wanted="a TIFF")
        self._path, self._spacing = path, spacing
        self._file, series, self._background, self._arrays = _opened(path)
        self._close = finalize(self, self._file.close)
        self._page = series.keyframe
        self._stored = _stored_axes(series.axes, series.shape, path=path)
        z, y, x = tiff_mpp.steps(self._file)
        mpp = checked_mpp(["" if y is None else y, "" if x is None else x], path=path, spacing=spacing)
        steps = {"z": 1.0 if z is None else z, "y": mpp[0], "x": mpp[1]}
        self.url = str(path)
        self.dtype: np.dtype[Any] = series.dtype.newbyteorder("=")
        self.axes = _axes(self._stored, steps=steps, has_depth=z is not None)
        self.levels: tuple[Level, ...] = tuple(self._level(i, level) for i, level in enumerate(series.levels))
        self.shape = self.levels[0].shape
        self.edges: Mapping[str, Edge] = {}
        self.notes: tuple[str, ...] = () if spacing is None else ("spacing was given by hand",)
        self.is_sequential = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._path, self._spacing)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What read it, what missing tiles hold, and its colour profile."""
        profile = self._page.tags.valueof(_ICC_TAG)
        said = {"vendor": "ome-tiff" if self._file.is_ome else "tiff", "offset": [0, 0]}
        said["background"] = "white" if self._background else "zero"
        return {"slide": said | icc.described(profile if isinstance(profile, bytes) else None)}

    @property
    def layout(self) -> Layout:
        """As of a slide; channels and planes are stored apart unless they are colours."""
        return picture_layout(self.shape, origin=self.levels[0].translation)

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``, decoded from the tiles or strips that it meets.

        Raises:
            IngestError: If the region leaves the level, or the file is damaged there.
        """
        check_inside(region, level=level, shapes=[one.shape for one in self.levels], path=self._path)
        if region.n_voxels == 0:
            return np.empty(region.shape, self.dtype)
        spans = dict(zip((axis.name for axis in self.axes), region.slices, strict=True))
        kept = [name for name, _ in self._stored if name]
        where_in = tuple(spans[name] if name else slice(0, 1) for name, _ in self._stored)
        voxels = tiff_array.read(self._arrays[level], where_in, where=f"level {level} of '{self._path}'")
        voxels = voxels.reshape([n for n, (name, _) in zip(voxels.shape, self._stored, strict=True) if name])
        order = [kept.index(axis.name) for axis in self.axes if axis.name in kept]
        return np.ascontiguousarray(voxels.transpose(order).reshape(region.shape))

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    def _level(self, number: int, series: Any) -> Level:  # noqa: ANN401 -- tifffile has no types
        sizes = {name: n for (name, _), n in zip(self._stored, series.shape, strict=True) if name}
        finest = {name: n for name, n in self._stored if name}
        tile = {"y": self._page.chunks[0], "x": self._page.chunks[1]} if self._page.is_tiled else {}
        shape, chunk, spacing, place = [], [], [], []
        for axis in self.axes:
            n, fine = sizes.get(axis.name, 1), finest.get(axis.name, 1)
            factor = true_factor(fine, n) if axis.role is Role.SPACE else 1.0
            shape.append(n)
            chunk.append(min(n, tile.get(axis.name, 256 if axis.role is Role.SPACE else n)))
            spacing.append(axis.spacing * factor)
            place.append(axis.spacing * (factor - 1) / 2)
        return Level(str(number), tuple(shape), tuple(chunk), None, tuple(spacing), tuple(place))


def _reopened(path: Path, spacing: Sequence[float] | None) -> Tiff:
    return Tiff(path, spacing=spacing)


def _opened(path: Path) -> tuple[tifffile.TiffFile, Any, int, list[Any]]:
    """Return an open file, its first image, the value of tiles that it leaves out, and its levels as arrays."""
    file = None
    try:
        file = tifffile.TiffFile(path)
        series = file.series[0]
        if series.dtype.kind not in "biuf":
            raise IngestError(
                f"voxels must be whole or real numbers, not {series.dtype} as in '{path}'. Split real and imaginary "
                "parts into channels."
            )
        is_colour = series.keyframe.photometric == _RGB and series.dtype == np.uint8
        background = 255 if is_colour else 0
        return file, series, background, [tiff_array.opened(one, fill_value=background) for one in series.levels]
    except (*tiff_array.READ_ERRORS, AttributeError, IngestError) as error:
        if file is not None:
            file.close()
        if isinstance(error, IngestError):
            raise
        raise IngestError(
            f"a TIFF is wanted, and '{path}' is unreadable or damaged ({arrays.first_line(error)}). "
            "Copy or export it again."
        ) from error


def _stored_axes(letters: str, shape: Sequence[int], *, path: Path) -> tuple[tuple[str, int], ...]:
    """Return the name and size of every stored axis; the name is empty where a single voxel is left out.

    >>> _stored_axes("TCYXS", (1, 1, 30, 40, 3), path=Path("a.tif"))
    (('', 1), ('', 1), ('y', 30), ('x', 40), ('c', 3))
    """
    found = []
    for letter, n in zip(letters, shape, strict=True):
        is_kept = n > 1 or letter in "YX"
        found.append((_NAMES.get(letter, letter) if is_kept else "", n))
    names = [name for name, _ in found if name]
    if len(set(names)) < len(names) or not {"y", "x"} <= set(names) <= set(_NAMES.values()):
        raise IngestError(
            f"the axes of a TIFF must be y and x, and one each of time, channel or colour, and z, not "
            f"'{letters}' of {tuple(shape)} in '{path}'. Write it as an OME-TIFF that names its axes, or split it."
        )
    return tuple(found)


def _axes(
    stored: Sequence[tuple[str, int]], *, steps: Mapping[str, float], has_depth: bool
) -> tuple[Axis, ...]:
    """Return the axes in the order t, c, z, y, x; a channel is always there."""
    names = {name for name, _ in stored} | {"c"}
    known = {"z": "micrometer" if has_depth else None, "y": "micrometer", "x": "micrometer"}
    return tuple(
        Axis(name, _ROLES.get(name, Role.SPACE), steps.get(name, 1.0), known.get(name))
        for name in "tczyx"
        if name in names
    )
