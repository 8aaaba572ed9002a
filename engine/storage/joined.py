"""Several scans of one patient as one volume: axes (c, z, y, x) on the first's grid, the others resampled to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from engine.errors import IngestError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage.orientation import KEY
from engine.storage.scan import Scan
from engine.storage.source import Layout

_MOST_VOXELS = 1 << 19
_SAME = 1e-6
_SLACK = 1e-6  # of a voxel: rounding decides nothing


@dataclass(frozen=True)
class Resampled:
    """One scan seen on the grid of another, linearly; 0 where no voxel of it lies.

        its own voxels    |  0  |  1  |  2  |        a place between two centres is blended of both;
        our centres     .  ' .  '  .  '  .  ' .      within half a voxel of an end it is the end's value (as ITK has it)
    """

    scan: Scan
    to_own: NDArray[np.float64]
    """From the other grid's voxel (z, y, x, 1) to this scan's own (z, y, x)."""

    def read(self, region: Region) -> NDArray[np.float32]:
        """Return ``region`` of the other grid: the same bits whatever the region, in bounded memory beside them."""
        voxels = np.zeros(region.shape, np.float32)
        for part in self._parts(region):
            own = self.covered(part)
            if own is not None:
                voxels[part.shift([-a for a in region.start]).slices] = self._blended(part, own)
        return voxels

    def _parts(self, region: Region) -> Iterator[Region]:
        """Halve a region along its longest axis until few voxels are wanted, and few are read for them."""
        own = self.covered(region)
        if max(region.n_voxels, own.n_voxels if own else 0) <= _MOST_VOXELS or region.n_voxels <= 1:
            yield region
            return
        axis = int(np.argmax(region.shape))
        start, stop = list(region.start), list(region.stop)
        start[axis] = stop[axis] = (region.start[axis] + region.stop[axis]) // 2
        yield from self._parts(Region(region.start, tuple(stop)))
        yield from self._parts(Region(tuple(start), region.stop))

    def covered(self, region: Region) -> Region | None:
        """Return the box of own voxels that ``region`` blends; None where it lies outside of all."""
        low = self.to_own @ [*region.start, 1.0]
        high = low.copy()
        for axis, n in enumerate(region.shape):
            reach = self.to_own[:, axis] * (n - 1)
            low, high = low + np.minimum(reach, 0), high + np.maximum(reach, 0)
        start = tuple(max(0, floor(value - _SLACK)) for value in low)
        stop = tuple(min(n, ceil(value + _SLACK) + 1) for value, n in zip(high, self.scan.shape, strict=True))
        return Region(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def _blended(self, region: Region, own: Region) -> NDArray[np.float64]:
        """Return ``region`` blended of the voxels of ``own``; places are counted from the whole grid, so bits agree."""
        z, y, x = np.ogrid[region.slices]
        shape = (-1, 1, 1, 1)
        a, b, c, d = (self.to_own[:, i].reshape(shape) for i in range(4))
        places = a * z + b * y + c * x + d
        n = np.asarray(self.scan.shape).reshape(shape)
        is_inside = ((places + _SLACK >= -0.5) & (places + _SLACK < n - 0.5)).all(axis=0)
        places = np.clip(places, 0, n - 1) - np.asarray(own.start).reshape(shape)
        voxels = map_coordinates(self.scan.read(own), places, np.float64, order=1, mode="nearest")
        return np.where(is_inside, voxels, 0.0)


class Joined:
    """Scans as the channels of one volume; see :class:`engine.storage.source.Source`."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        """Join scans that are open; the first gives the grid.

        Raises:
            IngestError: If one has a time axis, lies in another frame of reference, or nowhere meets the first.
        """
        self._scans = tuple(scans)
        first, *others = self._scans
        matrices = [_to_own(first, scan) for scan in others]
        for scan, matrix in zip(others, matrices, strict=True):
            _check_joinable(first, scan, matrix)
        is_same = [_is_same_grid(first, scan, matrix) for scan, matrix in zip(others, matrices, strict=True)]
        self._parts: list[Scan | Resampled] = [first]
        self._parts += [
            scan if same else Resampled(scan, matrix)
            for scan, matrix, same in zip(others, matrices, is_same, strict=True)
        ]
        dtypes = {scan.dtype for scan in self._scans}
        self.dtype: np.dtype[Any] = first.dtype if all(is_same) and len(dtypes) == 1 else np.dtype(np.float32)
        self.shape = (len(self._scans), *first.shape)
        self.axes: tuple[Axis, ...] = (Axis("c", Role.CHANNEL), *first.axes)
        self.is_sequential = False

    @property
    def scans(self) -> tuple[Scan, ...]:
        """One per channel."""
        return self._scans

    @property
    def attributes(self) -> Mapping[str, Any]:
        """As of the first scan; ``channels`` names the file or folder of each."""
        first = self._scans[0].attributes
        return {**first, KEY: {**first[KEY], "channels": [_name(scan) for scan in self._scans]}}

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of all scans, and which were resampled."""
        found = [f"{_name(scan)}: {note}" for scan in self._scans for note in scan.notes]
        resampled = [part.scan for part in self._parts if isinstance(part, Resampled)]
        grid = _name(self._scans[0])
        return (*found, *(f"{_name(scan)} was resampled to the grid of {grid}, linearly" for scan in resampled))

    @property
    def layout(self) -> Layout:
        """As of the first scan; each channel in chunks of its own, all in one shard."""
        one = self._scans[0].layout
        return Layout((1, *one.chunk_shape), (len(self._scans), *one.shard_shape), one.n_levels, one.flavour)

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of ``region``.

        Raises:
            IngestError: If a file is damaged there.
        """
        voxels = np.empty(region.shape, self.dtype)
        inner = Region(region.start[1:], region.stop[1:])
        for channel, part in enumerate(self._parts[region.start[0] : region.stop[0]]):
            voxels[channel] = part.read(inner)
        return voxels

    def close(self) -> None:
        """Let go of all files."""
        for scan in self._scans:
            scan.close()


def _matrix(scan: Scan) -> NDArray[np.float64]:
    """Return the map from voxel (z, y, x, 1) to millimetre."""
    rows = np.vstack([np.asarray(scan.file.orientation.affine), [0.0, 0.0, 0.0, 1.0]])
    return rows[:, [2, 1, 0, 3]]


def _to_own(first: Scan, other: Scan) -> NDArray[np.float64]:
    """Return the map from voxel (z, y, x, 1) of the first to (z, y, x) of the other."""
    return np.asarray(np.linalg.solve(_matrix(other), _matrix(first))[:3], np.float64)


def _is_same_grid(first: Scan, other: Scan, matrix: NDArray[np.float64]) -> bool:
    corners = np.array([[*place, 1] for place in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in first.shape), 1]
    return first.shape == other.shape and bool(np.abs(corners @ matrix.T - corners[:, :3]).max() <= _SAME)


def _check_joinable(first: Scan, other: Scan, matrix: NDArray[np.float64]) -> None:
    names = f"'{first.url}' and '{other.url}'"
    if len(first.shape) != 3 or len(other.shape) != 3:
        raise IngestError(
            f"scans that become channels of one volume must have axes z, y and x, not {len(first.shape)} and "
            f"{len(other.shape)} axes, as {names} have. Split them in time first."
        )
    frames = [scan.file.described.get("frame_of_reference_uid") for scan in (first, other)]
    if all(frames) and frames[0] != frames[1]:
        raise IngestError(
            f"scans that become channels of one volume must lie in one frame of reference, and {names} lie in "
            f"{frames[0]} and {frames[1]}. Register one to the other, and give the result as NIfTI."
        )
    if Resampled(other, matrix).covered(Region.whole(first.shape)) is None:
        raise IngestError(
            f"scans that become channels of one volume must overlap, and {names} have no place in common. Check that "
            "they are of one patient and one session, and register them."
        )


def _name(scan: Scan) -> str:
    return Path(scan.url).name
