"""A scan read by whole planes, slab by slab, so that no more than a slab is ever held."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.export.affine import check_scan
from engine.geometry.region import Region
from engine.storage.readable import Readable

SLAB_BYTES = 64 * 1024 * 1024
"""Of voxels in one slab, at most; a single plane where that is larger."""


@dataclass(frozen=True)
class Planes:
    """One frame of a volume: its voxels (z, y, x), of the first channel and time."""

    volume: Readable

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y and x."""
        z, y, x = self.volume.shape[-3:]
        return z, y, x

    def slabs(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield, upward, the first plane of each slab and its voxels (z, y, x)."""
        for start, stop in slab_spans(self.volume):
            yield start, self.read((start, 0, 0), (stop, *self.shape[1:]))

    def plane(self, axis: int, index: int) -> NDArray[Any]:
        """Return one plane across an axis (0 z, 1 y, 2 x), with the other two axes in their order."""
        start, stop = [0, 0, 0], list(self.shape)
        start[axis], stop[axis] = index, index + 1
        return self.read(tuple(start), tuple(stop)).squeeze(axis)

    def read(self, start: tuple[int, ...], stop: tuple[int, ...]) -> NDArray[Any]:
        """Return the voxels of a box along z, y and x."""
        n_leading = len(self.volume.shape) - 3
        region = Region((0,) * n_leading + start, (1,) * n_leading + stop)
        return self.volume.read(region).reshape(region.shape[n_leading:])


def label_planes(volume: Readable) -> Planes:
    """Return a label map's planes.

    Raises:
        VolumeError: If it is no scan, has several channels or times, or its voxels are not whole numbers.
    """
    check_scan(volume)
    if prod(volume.shape[:-3]) != 1 or volume.dtype.kind not in "biu":
        sizes = ", ".join(f"{axis.name} {n}" for axis, n in zip(volume.axes, volume.shape, strict=True))
        raise VolumeError(
            f"a label map of whole numbers along z, y, x is wanted, and '{volume.url}' is {volume.dtype} of {sizes}. "
            "Name a label map, as out.zarr/labels/label."
        )
    return Planes(volume)


def slab_spans(volume: Readable) -> Iterator[tuple[int, int]]:
    """Yield the z planes of each slab, [start, stop): whole chunks where they fit in a slab."""
    *leading, n, y, x = volume.shape
    leading = [size for size, axis in zip(leading, volume.axes, strict=False) if axis.role == "channel"]
    bytes_of_plane = prod(leading) * y * x * np.dtype(volume.dtype).itemsize
    chunk = volume.levels[0].chunk_shape[-3]
    fitting = max(1, SLAB_BYTES // bytes_of_plane)
    depth = fitting // chunk * chunk or fitting
    for start in range(0, n, depth):
        yield start, min(start + depth, n)
