"""Which variables of a climate file become channels: each variable on the grid, or each level of one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import xarray as xr

from engine.errors import IngestError
from engine.storage.climate_choice import ClimateChoice
from engine.storage.climate_grid import GlobeGrid
from engine.storage.climate_levels import Level, LevelAxis, is_vertical, level_axis

_UNSAID = (None, "", "unknown", "undef")
"""What cfgrib writes where a GRIB file does not say."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: a variable, or one level of it."""

    name: str
    """Unique: the variable's name, and the level's value where each level is a channel."""
    variable: str
    """The file's name of the variable."""
    units: str | None = None
    """Of the voxels."""
    standard_name: str | None = None
    """CF name of the quantity."""
    long_name: str | None = None
    cell_methods: str | None = None
    axis: str | None = None
    """The file's name of the level axis, where each level is a channel."""
    index: int | None = None
    """Position along it."""
    level: Level | None = None
    """What that level is."""

    def to_json(self) -> dict[str, Any]:
        """Return what is known, as JSON values."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return known | ({"level": self.level.to_json()} if self.level is not None else {})


@dataclass(frozen=True)
class ChannelSet:
    """The channels of a source, and its levels where these are an axis of their own."""

    channels: tuple[Channel, ...]
    levels: LevelAxis | None = None
    """Those that are read, where levels are a batch axis."""
    level_indices: tuple[int, ...] = ()
    """Their positions along the file's axis."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The file's names of the variables, each once."""
        return tuple(dict.fromkeys(channel.variable for channel in self.channels))


def find_channels(dataset: xr.Dataset, grid: GlobeGrid, *, path: str, choice: ClimateChoice) -> ChannelSet:
    """Return the channels of a file, in the file's order or that of the choice.

    Raises:
        IngestError: If a variable or level is not there, a variable is no numbers on the grid, or has an axis that is
            not known; or levels are to be a batch, and variables differ in them.
    """
    names = _names(dataset, grid, path=path, wanted=choice.variables)
    axes = {name: _axis(dataset, grid, name, path=path) for name in names}
    known = {axis: level_axis(dataset, axis) for axis in axes.values() if axis is not None}
    chosen = {name: _chosen(known[a], choice, name, path=path) if a else () for name, a in axes.items()}
    if choice.levels == "batch":
        return _as_batch(dataset, axes, known, chosen, path=path)
    found: list[Channel] = []
    for name, axis in axes.items():
        if axis is None:
            found.append(_channel(dataset, name))
        else:
            found += [_channel(dataset, name, axis=known[axis], index=i) for i in chosen[name]]
    return ChannelSet(tuple(found))


def _names(dataset: xr.Dataset, grid: GlobeGrid, *, path: str, wanted: Sequence[str]) -> list[str]:
    """Return the variables that are read."""
    on_grid = on_the_grid(dataset, grid)
    for name in wanted:
        if name not in on_grid:
            near = get_close_matches(name, on_grid, n=1)
            advice = f"Did you mean '{near[0]}'?" if near else "Choose of these."
            raise IngestError(
                f"variable '{name}' must be numbers on the grid ({grid.lat}, {grid.lon}), and '{path}' has none of "
                f"that name there; it has {on_grid}. {advice}"
            )
    if not on_grid:
        raise IngestError(
            f"at least one variable of numbers on the grid ({grid.lat}, {grid.lon}) is wanted, and '{path}' has only "
            f"{[str(name) for name in dataset.data_vars]}. Check that it is a gridded file."
        )
    return list(wanted) or on_grid


def on_the_grid(dataset: xr.Dataset, grid: GlobeGrid) -> list[str]:
    """Return the variables of numbers that have both axes of the grid."""
    return [
        str(name)
        for name, array in dataset.data_vars.items()
        if {grid.lat, grid.lon} <= set(array.dims) and array.dtype.kind in "biuf"
    ]


def _axis(dataset: xr.Dataset, grid: GlobeGrid, name: str, *, path: str) -> str | None:
    """Return the level axis of a variable."""
    others = [str(dim) for dim in dataset[name].dims if dim not in (grid.lat, grid.lon, grid.time)]
    if strange := [dim for dim in others if not is_vertical(dataset, dim)]:
        raise IngestError(
            f"axes must be time, levels, latitude or longitude, and '{strange[0]}' of variable '{name}' of '{path}' "
            f"({dataset.sizes[strange[0]]} long) is none of them by its standard_name, units, axis or name. Select "
            "along it first, correct its attributes, or choose other variables (#variables=)."
        )
    if len(others) > 1:
        raise IngestError(
            f"a variable may have one level axis beside time, latitude and longitude, and '{name}' of '{path}' has "
            f"{others}. Select along one of them first, or choose other variables (#variables=)."
        )
    return others[0] if others else None


def _chosen(axis: LevelAxis, choice: ClimateChoice, name: str, *, path: str) -> tuple[int, ...]:
    """Return which levels of a variable are read."""
    if not choice.level:
        return tuple(range(len(axis.levels)))
    values, found = axis.values, []
    for wanted in choice.level:
        near = np.flatnonzero(np.isclose(values, wanted, rtol=1e-5, atol=0))
        if not len(near):
            units = axis.levels[0].units if axis.levels else None
            raise IngestError(
                f"level {wanted:g} is wanted, and variable '{name}' of '{path}' has {[f'{v:g}' for v in values]} "
                f"({units or 'no units'}). Choose of these, or leave the variable out (#variables=)."
            )
        found.append(int(near[0]))
    return tuple(found)


def _channel(dataset: xr.Dataset, name: str, *, axis: LevelAxis | None = None, index: int | None = None) -> Channel:
    attributes = dataset[name].attrs
    known = ("units", "standard_name", "long_name", "cell_methods")
    about: dict[str, Any] = {key: str(attributes[key]) for key in known if attributes.get(key) not in _UNSAID}
    if axis is None or index is None:
        return Channel(name, name, **about)
    level = axis.levels[index]
    return Channel(f"{name}_{level.value:g}", name, axis=axis.name, index=index, level=level, **about)


def _as_batch(
    dataset: xr.Dataset,
    axes: dict[str, str | None],
    known: dict[str, LevelAxis],
    chosen: dict[str, tuple[int, ...]],
    *,
    path: str,
) -> ChannelSet:
    """Return a channel per variable, all of which must have the same levels."""
    first, *others = axes
    if misfits := [name for name in axes if axes[name] is None or axes[name] != axes[first]]:
        has = {name: f"{len(known[axis].levels)} along '{axis}'" if axis else "none" for name, axis in axes.items()}
        other = misfits[0] if misfits[0] != first else (others or [first])[0]
        raise IngestError(
            f"with #levels=batch every variable must have the same level axis, and of '{path}' '{first}' has "
            f"{has[first]}, '{other}' has {has[other]}. Choose variables that share one (#variables=), or leave "
            "#levels=batch out."
        )
    axis, indices = known[axes[first] or ""], chosen[first]
    levels = LevelAxis(axis.name, tuple(axis.levels[i] for i in indices), axis.standard_name)
    return ChannelSet(tuple(_channel(dataset, name) for name in axes), levels, indices)
