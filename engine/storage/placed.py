"""A volume with its own place as further channels: what a model that depends on position is shown.

    grid.zarr#place=latitude,hour      channels of the grid | latitude of each voxel | hour of its time

A place is the same wherever a tile is cut, and what an edge brings in has the place that it was taken from. So tiles
still equal the whole, and nothing of the geometry changes: place is an input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import cftime
import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import MEMBER, STEP, Axis, Role, positions
from engine.geometry.region import Region
from engine.storage.create import Coordinate, read_coordinates
from engine.storage.readable import Level, Readable, View, placed

INDEX = "index:"
"""Before the name of an axis: the index of each voxel along it."""

_OPTIONAL = (MEMBER, STEP, "time")
"""Axes that a volume may lack: all of it is at index 0 then."""


@dataclass(frozen=True)
class Place:
    """One channel of place: values along some axes, the same along all others."""

    name: str
    axes: tuple[int, ...]
    values: NDArray[np.float64]

    def over(self, region: Region) -> NDArray[np.float64]:
        """Return the values of a box over all axes, to be broadcast to it."""
        start, stop = region.start, region.stop
        part = self.values[tuple(slice(start[i], stop[i]) for i in self.axes)]
        return part.reshape([n if i in self.axes else 1 for i, n in enumerate(region.shape)])


@dataclass(frozen=True)
class Placed(View):
    """Another volume of numbers, its place behind its channels."""

    order: tuple[int | None, ...]
    """Per axis, where it stands in the base; None for channels that the base has not."""
    n_own: int
    """Channels of the base."""
    places: tuple[Place, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """A float that holds the base's numbers."""
        return np.result_type(self.base.dtype, np.float32)

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``.

        Raises:
            VolumeError: If the region leaves the volume, or the base is damaged there.
        """
        (channel,) = positions(self.axes, Role.CHANNEL)
        voxels = np.empty(region.shape, self.dtype)
        by_channel = np.moveaxis(voxels, channel, 0)
        first, last = region.start[channel], region.stop[channel]
        n_own = max(0, min(last, self.n_own) - first)
        if n_own:
            spans = [(a, b) for a, b in zip(region.start, region.stop, strict=True)]
            spans[channel] = (first, first + n_own)
            own = [spans[i] for i, at in enumerate(self.order) if at is not None]
            part = self.base.read(Region(tuple(a for a, _ in own), tuple(b for _, b in own)), level=level)
            by_channel[:n_own] = part[None] if None in self.order else np.moveaxis(part, channel, 0)
        inner = Region(_without(region.start, channel), _without(region.stop, channel))
        for number in range(max(first, self.n_own), last):
            by_channel[number - first] = self.places[number - self.n_own].over(inner)
        return voxels


def with_place(base: Readable, *, url: str, names: Sequence[str]) -> Placed:
    """Return ``base`` with a channel per name behind its own.

    Args:
        base: One level of it is kept.
        url: Of what is returned.
        names: ``latitude`` and ``longitude`` in degrees, ``day_of_year`` in days since its first began and ``hour``
            in hours UTC, from the volume's coordinates; ``index:AXIS`` for any axis that is not the channels'.

    Raises:
        VolumeError: If a name is none of these, or the volume has no such coordinate or axis.
    """
    channel = positions(base.axes, Role.CHANNEL)
    at = channel[0] if channel else len(positions(base.axes, Role.BATCH))
    order: list[int | None] = list(range(len(base.axes)))
    if not channel:
        order.insert(at, None)
    axes = tuple(Axis("channel", Role.CHANNEL) if i is None else base.axes[i] for i in order)
    n_own = base.shape[channel[0]] if channel else 1
    outer = _without(axes, at)
    sizes = _without(placed(base.shape, order, 1), at)
    places = tuple(_place(base, name, axes=outer, sizes=sizes) for name in names)
    level = _wider(base.levels[0].in_order(order), at=at, n=n_own + len(places))
    return Placed(url, base, axes, (level,), tuple(order), n_own, places)


def _without(values: Sequence[Any], at: int) -> tuple[Any, ...]:
    return (*values[:at], *values[at + 1 :])


def _wider(level: Level, *, at: int, n: int) -> Level:
    shape = (*level.shape[:at], n, *level.shape[at + 1 :])
    return replace(level, shape=shape, shard_shape=None)


def _place(base: Readable, name: str, *, axes: Sequence[Axis], sizes: Sequence[int]) -> Place:
    """Return one channel of place over all axes but the channels'."""
    names = [axis.name for axis in axes]
    if name.startswith(INDEX):
        axis = name.removeprefix(INDEX)
        if axis in names:
            return Place(name, (names.index(axis),), np.arange(sizes[names.index(axis)], dtype=np.float64))
        if axis in _OPTIONAL:
            return Place(name, (), np.zeros(()))
        raise VolumeError(f"the model asks for {name}, and the axes of '{base.url}' are {', '.join(names)}. Name one.")
    if name not in _COORDINATES:
        raise VolumeError(
            f"a place is one of {', '.join(_COORDINATES)}, or {INDEX}AXIS, not '{name}'. Correct what the model wants."
        )
    standard_name, value = _COORDINATES[name]
    found = _coordinate(base, standard_name)
    if found is None or not set(found.axes) <= set(names):
        raise VolumeError(
            f"the model asks for the {name} of each voxel, and '{base.url}' has no coordinate whose standard_name is "
            f"{standard_name} along its axes. Ingest the file as it came with its coordinates, or set it."
        )
    order = sorted(range(len(found.axes)), key=lambda i: names.index(found.axes[i]))
    return Place(name, tuple(names.index(found.axes[i]) for i in order), value(found).transpose(order))


def _coordinate(volume: Readable, standard_name: str) -> Coordinate | None:
    known = read_coordinates(volume)
    named = [one for one in known.values() if one.attributes.get("standard_name") == standard_name]
    return named[0] if named else known.get(standard_name)


def _degrees(coordinate: Coordinate) -> NDArray[np.float64]:
    return np.asarray(coordinate.values, np.float64)


def _day_of_year(coordinate: Coordinate) -> NDArray[np.float64]:
    return _of_moments(coordinate, lambda one: one.dayofyr - 1 + _hours(one) / 24)


def _hour(coordinate: Coordinate) -> NDArray[np.float64]:
    return _of_moments(coordinate, _hours)


def _of_moments(coordinate: Coordinate, value: Callable[[Any], float]) -> NDArray[np.float64]:
    """Return what follows from each moment of a coordinate of time, in its own calendar."""
    units, calendar = coordinate.attributes.get("units"), coordinate.attributes.get("calendar", "standard")
    try:
        moments = np.asarray(cftime.num2date(coordinate.values, units, calendar))
    except (ValueError, TypeError, AttributeError) as error:
        raise VolumeError(
            f"a time that says its units, as 'hours since 2000-01-01', and a calendar of CF's is wanted, not '{units}' "
            f"({calendar}: {error}). Set both."
        ) from error
    return np.array([value(one) for one in moments.ravel()], np.float64).reshape(moments.shape)


def _hours(moment: Any) -> float:  # noqa: ANN401 -- cftime has no types
    seconds = timedelta(minutes=moment.minute, seconds=moment.second, microseconds=moment.microsecond).total_seconds()
    return float(moment.hour) + seconds / 3600


_COORDINATES: Mapping[str, tuple[str, Callable[[Coordinate], NDArray[np.float64]]]] = {
    "latitude": ("latitude", _degrees),
    "longitude": ("longitude", _degrees),
    "day_of_year": ("time", _day_of_year),
    "hour": ("time", _hour),
}
"""By the name of a place: the standard_name of its coordinate, and how the one follows from the other."""
