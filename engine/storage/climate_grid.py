"""Where a climate file lies on the globe: which coordinates are latitude, longitude and time, and whether it wraps."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.errors import IngestError

_UNITS = {
    "lat": ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn", "degrees north"),
    "lon": ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese", "degrees east"),
}
_STANDARD_NAMES = {"lat": "latitude", "lon": "longitude"}
_NAMES = {"lat": ("lat", "latitude"), "lon": ("lon", "longitude", "long")}


@dataclass(frozen=True)
class GlobeGrid:
    """The horizontal grid of one file, and its time axis."""

    lat: str
    """The file's name of its latitude axis."""
    lon: str
    """The file's name of its longitude axis."""
    time: str | None
    """The file's name of its time axis, or None where it holds one moment."""
    latitudes: NDArray[Any]
    """Degrees north, in the file's order."""
    longitudes: NDArray[Any]
    """Degrees east, in the file's order, without a doubled last column."""
    is_periodic: bool
    """Whether longitude goes once round the globe in equal steps."""
    has_cyclic_column: bool
    """Whether the file repeats its first column at the end."""


def find_grid(dataset: xr.Dataset, *, path: Path) -> GlobeGrid:
    """Return the grid of a file.

    Raises:
        IngestError: If it has no latitude or longitude of one dimension.
    """
    lat, lon = (_find(dataset, kind, path=path) for kind in ("lat", "lon"))
    longitudes = np.asarray(dataset[lon].values)
    is_periodic, has_cyclic_column = round_the_globe(longitudes)
    if has_cyclic_column:
        longitudes = longitudes[:-1]
    latitudes = np.asarray(dataset[lat].values)
    return GlobeGrid(lat, lon, _time(dataset), latitudes, longitudes, is_periodic, has_cyclic_column)


def round_the_globe(longitudes: NDArray[Any]) -> tuple[bool, bool]:
    """Return whether equal steps go once round the globe, and whether the last column repeats the first.

    >>> round_the_globe(np.arange(0, 360, 2.5)), round_the_globe(np.arange(0, 361, 60))
    ((True, False), (True, True))
    >>> round_the_globe(np.arange(-20, 40, 1.0)), round_the_globe(np.array([0.0, 90, 180, -90]))
    ((False, False), (True, False))
    """
    if len(longitudes) < 3:
        return False, False
    values = np.asarray(longitudes, np.float64)
    steps = (np.diff(values) + 180) % 360 - 180
    step = float(steps.mean())
    tolerance = 0.01 * abs(step)
    if step == 0 or not np.isfinite(step) or np.abs(steps - step).max() > tolerance:
        return False, False
    n_round = 360 / abs(step)
    is_cyclic = abs(len(values) - 1 - n_round) < 0.05
    return is_cyclic or abs(len(values) - n_round) < 0.05, is_cyclic


def _find(dataset: xr.Dataset, kind: str, *, path: Path) -> str:
    """Return the name of the one-dimensional latitude or longitude: by units or standard name, then by name."""
    found = [name for name in dataset.variables if _says(dataset[name].attrs, kind)]
    found += [name for name in dataset.variables if str(name).lower() in _NAMES[kind] and name not in found]
    for name in found:
        if dataset[name].dims == (name,):
            return str(name)
    shapes = {str(name): dict(dataset[name].sizes) for name in found}
    raise IngestError(
        f"a {_STANDARD_NAMES[kind]} axis of one dimension (units {_UNITS[kind][0]}) is wanted, and '{path}' has "
        f"{shapes or 'none'} among dimensions {dict(dataset.sizes)}. Regrid it to a regular latitude-longitude grid, "
        "or set the units of its coordinate."
    )


def _says(attributes: Mapping[Any, Any], kind: str) -> bool:
    is_named = attributes.get("standard_name") == _STANDARD_NAMES[kind]
    return is_named or str(attributes.get("units", "")).lower() in _UNITS[kind]


def _time(dataset: xr.Dataset) -> str | None:
    for name in dataset.dims:
        attributes: Mapping[Any, Any] = dataset[name].attrs if name in dataset.variables else {}
        units = str(attributes.get("units", ""))
        if str(name).lower() in ("time", "t") or attributes.get("standard_name") == "time" or " since " in units:
            return str(name)
    return None


def check_same_grid(first: GlobeGrid, other: GlobeGrid, *, paths: Sequence[Path]) -> None:
    """Refuse to join two files in time whose grids differ.

    Args:
        first: The grid of the first file.
        other: The grid of another file.
        paths: The two files.

    Raises:
        IngestError: If latitudes or longitudes differ, or one file has no time axis.
    """
    for name, a, b in (
        ("lat", first.latitudes, other.latitudes),
        ("lon", first.longitudes, other.longitudes),
    ):
        if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=1e-4):
            raise IngestError(
                f"files that are joined in time must share one grid, and axis '{name}' of '{paths[1]}' has "
                f"{_span(b)}, that of '{paths[0]}' {_span(a)}. Regrid one, or ingest them apart."
            )
    if first.time is None or other.time is None:
        lacking = paths[0] if first.time is None else paths[1]
        raise IngestError(
            f"files are joined along time, and '{lacking}' has no time axis. Add one (xarray's expand_dims), "
            "or ingest the files apart."
        )


def _span(values: NDArray[Any]) -> str:
    ends = f"{values[0]:g} to {values[-1]:g}" if len(values) else "nothing"
    return f"{len(values)} values, {ends}"


def level_axis(dims: Sequence[Hashable], grid: GlobeGrid) -> list[str]:
    """Return the dimensions of a variable that are neither time, latitude nor longitude."""
    return [str(name) for name in dims if name not in (grid.lat, grid.lon, grid.time)]
