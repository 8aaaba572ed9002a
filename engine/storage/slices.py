"""A volume seen slice by slice: z is a batch axis, so that a network of two dimensions runs over it.

For 2.5-d each slice has its neighbours as channels, channel by channel, from the slice before to the slice behind:

    #slices=3          channel 0       channel 1
    item z         |z-1   z   z+1|z-1   z   z+1|

Beyond the ends the nearest slice is repeated: item 0 holds the slices 0, 0 and 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import Axis, Role, positions
from engine.geometry.edges import Edge
from engine.geometry.region import Region
from engine.storage.readable import Level, Readable, View
from engine.storage.source_url import SourceUrl


@dataclass(frozen=True)
class Slices(View):
    """Another volume as batch axes, z as the last of them, channels, and y and x; it has all the other's levels."""

    n_slices: int
    """Slices of one item, odd."""
    order: tuple[int | None, ...]
    """Per axis, where it stands in the base; None for channels that the base has not."""

    @property
    def edges(self) -> Mapping[str, Edge]:
        """As in the base, but for z, which is no axis of space here."""
        return {name: edge for name, edge in self.base.edges.items() if name != "z"}

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``; each slice of the base is read once, and copied wherever it is a neighbour.

        Raises:
            VolumeError: If the region leaves the level, or the base is damaged there.
        """
        self._check_inside(region, level=level)
        if region.n_voxels == 0:
            return np.empty(region.shape, self.dtype)
        z, reach = _z(self.axes), self.n_slices // 2
        low = max(region.start[z] - reach, 0)
        high = min(region.stop[z] + reach, self.levels[level].shape[z])
        voxels = self._read_base(region, low=low, high=high, level=level)
        if self.n_slices == 1:
            return np.ascontiguousarray(voxels)
        found, items = np.empty(region.shape, self.dtype), np.arange(region.start[z], region.stop[z])
        by_channel, first = np.moveaxis(found, z + 1, 0), region.start[z + 1]
        for i, channel in enumerate(by_channel, first):
            near = np.clip(items + i % self.n_slices - reach, low, high - 1) - low
            channel[...] = voxels.take(i // self.n_slices - first // self.n_slices, axis=z + 1).take(near, axis=z)
        return found

    def _read_base(self, region: Region, *, low: int, high: int, level: int) -> NDArray[Any]:
        """Return the base's slices ``low`` to ``high``, and those of its channels that ``region`` is about."""
        shape, z = self.base.levels[level].shape, _z(self.axes)
        start, stop = [0] * len(shape), list(shape)
        for i, (own, a, b) in enumerate(zip(self.order, region.start, region.stop, strict=True)):
            if own is None:
                continue
            is_channel = self.axes[i].role is Role.CHANNEL
            start[own], stop[own] = (a // self.n_slices, -(-b // self.n_slices)) if is_channel else (a, b)
            if i == z:
                start[own], stop[own] = low, high
        voxels = self.base.read(Region(tuple(start), tuple(stop)), level=level)
        voxels = voxels.transpose([own for own in self.order if own is not None])
        return np.expand_dims(voxels, self.order.index(None)) if None in self.order else voxels

    def _check_inside(self, region: Region, *, level: int) -> None:
        shapes = [one.shape for one in self.levels]
        is_level = 0 <= level < len(shapes) and len(region.start) == len(self.axes)
        if not (is_level and Region.whole(shapes[level]).holds(region)):
            raise VolumeError(
                f"a region must lie inside a level of {shapes}, not {region.start} to {region.stop} of level {level}, "
                f"in '{self.url}'. Clip it, or fill the rest by an edge rule."
            )


def sliced(base: Readable, wanted: SourceUrl) -> Slices:
    """Return ``base`` slice by slice, as its source URL wants it.

    Raises:
        VolumeError: If the volume has no axis z of space, or has not just y and x beside it.
    """
    n = wanted.slices or 1
    _check(base, wanted)
    z, channel = _z(base.axes), positions(base.axes, Role.CHANNEL)
    space = [i for i in positions(base.axes, Role.SPACE) if i != z]
    channels: tuple[int | None, ...] = channel or ((None,) if n > 1 else ())
    order = (*positions(base.axes, Role.BATCH), z, *channels, *space)
    axes = [Axis("c", Role.CHANNEL) if i is None else base.axes[i] for i in order]
    axes = [replace(axis, role=Role.BATCH) if axis.name == "z" else axis for axis in axes]
    levels = tuple(_level(level.in_order(order), axes=axes, n_slices=n) for level in base.levels)
    return Slices(str(wanted), base, tuple(axes), levels, n, order)


def _check(base: Readable, wanted: SourceUrl) -> None:
    names = [base.axes[i].name for i in positions(base.axes, Role.SPACE)]
    if set(names) != {"z", "y", "x"}:
        raise VolumeError(
            f"'#slices={wanted.slices}' is of volumes with axes z, y and x of space, and '{wanted.place}' has "
            f"{', '.join(names)}. Leave it out, or name a bare array's axes with --axes."
        )


def _level(level: Level, *, axes: Sequence[Axis], n_slices: int) -> Level:
    """Return a level in our order with its channels as often as an item has slices."""
    times = [n_slices if axis.role is Role.CHANNEL else 1 for axis in axes]
    return replace(
        level,
        shape=_multiplied(level.shape, times),
        chunk_shape=_multiplied(level.chunk_shape, times),
        shard_shape=None if level.shard_shape is None else _multiplied(level.shard_shape, times),
    )


def _multiplied(values: Sequence[int], times: Sequence[int]) -> tuple[int, ...]:
    return tuple(value * n for value, n in zip(values, times, strict=True))


def _z(axes: Sequence[Axis]) -> int:
    return [axis.name for axis in axes].index("z")
