"""Which variables of a climate file become channels: each variable on the grid, or each level of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from engine.errors import IngestError
from engine.storage.climate_grid import GlobeGrid, level_axis


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: a variable, or one level of it."""

    name: str
    """Unique: the variable's name, and the level's value where it has levels."""
    variable: str
    """The file's name of the variable."""
    axis: str | None = None
    """The file's name of the level axis."""
    index: int = 0
    """Position along it."""
    value: float | None = None
    """The level itself."""
    units: str | None = None
    """Of the voxels."""
    standard_name: str | None = None
    """CF name of the quantity."""
    level_units: str | None = None
    """Of ``value``."""


def find_channels(
    dataset: xr.Dataset, grid: GlobeGrid, *, path: Path, variables: Sequence[str] | None
) -> tuple[Channel, ...]:
    """Return the channels of a file, in the file's order or that of ``variables``.

    Raises:
        IngestError: If a variable is not there, is not a number on the grid, or has two level axes.
    """
    on_grid = [
        str(name)
        for name, array in dataset.data_vars.items()
        if {grid.lat, grid.lon} <= set(array.dims) and array.dtype.kind in "biuf"
    ]
    for name in variables or ():
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
    return tuple(channel for name in variables or on_grid for channel in _of_variable(dataset, grid, name, path=path))


def _of_variable(dataset: xr.Dataset, grid: GlobeGrid, name: str, *, path: Path) -> list[Channel]:
    array = dataset[name]
    levels = level_axis(array.dims, grid)
    about: dict[str, Any] = {key: str(array.attrs[key]) for key in ("units", "standard_name") if key in array.attrs}
    if len(levels) > 1:
        raise IngestError(
            f"a variable may have one level axis beside time, latitude and longitude, and '{name}' of '{path}' has "
            f"{levels}. Select along one of them first, or leave the variable out with --variables."
        )
    if not levels:
        return [Channel(name, name, **about)]
    axis = levels[0]
    is_named = axis in dataset.variables and dataset[axis].dtype.kind in "iuf"
    values = np.asarray(dataset[axis].values if is_named else np.arange(array.sizes[axis]), np.float64)
    units = dataset[axis].attrs.get("units") if is_named else None
    about |= {"level_units": str(units)} if units is not None else {}
    return [
        Channel(f"{name}_{value:g}", name, axis=axis, index=i, value=float(value), **about)
        for i, value in enumerate(values)
    ]
