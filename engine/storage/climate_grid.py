"""Where a climate file lies on the globe: which axes are latitude, longitude and time, and which of it is read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from engine.errors import IngestError

POLE = "pole"
"""In the attributes of a volume: what :func:`pole_facts` gives."""

_UNITS = {
    "lat": ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn", "degrees north"),
    "lon": ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese", "degrees east"),
}
_STANDARD_NAMES = {"lat": "latitude", "lon": "longitude"}
_NAMES = {"lat": ("lat", "latitude"), "lon": ("lon", "longitude", "long")}
_ON_POLE = 1e-3
_SLACK = 1e-4
"""Degrees by which stored coordinates may miss what they mean: longitudes in float32 are 2e-5 off."""


@dataclass(frozen=True)
class GlobeGrid:
    """The horizontal grid of one file, its time axis, and which rows and columns are read."""

    lat: str
    """The file's name of its latitude axis."""
    lon: str
    """The file's name of its longitude axis."""
    time: str | None
    """The file's name of its time axis, or None where it holds one moment."""
    rows: NDArray[np.int64]
    """Which of the file's rows are read."""
    columns: NDArray[np.int64]
    """Which of its columns, from west to east of a box; never a doubled last one."""
    latitudes: NDArray[Any]
    """Degrees north of the rows."""
    longitudes: NDArray[Any]
    """Degrees east of the columns; in a box they rise, beyond 180 or from below 0 where need be."""
    is_periodic: bool
    """Whether longitude goes once round the globe in equal steps."""
    has_cyclic_column: bool
    """Whether the file repeats its first column at the end."""


def find_grid(
    dataset: xr.Dataset, *, path: str, variables: Sequence[str] = (), box: Sequence[float] | None = None
) -> GlobeGrid:
    """Return the grid of a file.

    Args:
        dataset: The file.
        path: Its name, for messages.
        variables: Those that are wanted; all by default. They decide which axis is meant where there are several.
        box: South, north, west and east in degrees; all of the file by default.

    Raises:
        IngestError: If it has no latitude or longitude of one dimension, or several, or nothing lies in the box.
    """
    lat, lon = (_find(dataset, kind, path=path, variables=variables) for kind in ("lat", "lon"))
    latitudes, longitudes = np.asarray(dataset[lat].values), np.asarray(dataset[lon].values)
    is_periodic, has_cyclic_column = round_the_globe(longitudes)
    n = len(longitudes) - has_cyclic_column
    rows, columns = np.arange(len(latitudes)), np.arange(n)
    longitudes = longitudes[:n]
    if box is not None:
        rows = _rows(latitudes, box, path=path)
        columns, longitudes = _columns(longitudes, box, is_periodic=is_periodic, path=path)
        is_periodic = is_periodic and len(columns) == n
    grid = (rows, columns, latitudes[rows], longitudes)
    return GlobeGrid(lat, lon, _time(dataset), *grid, is_periodic, has_cyclic_column)


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


def _rows(latitudes: NDArray[Any], box: Sequence[float], *, path: str) -> NDArray[np.int64]:
    south, north = box[:2]
    rows = np.flatnonzero((latitudes >= south - _SLACK) & (latitudes <= north + _SLACK))
    if not len(rows):
        raise _outside("lat", f"{south:g} to {north:g}", latitudes, path=path)
    return rows


def _columns(
    longitudes: NDArray[Any], box: Sequence[float], *, is_periodic: bool, path: str
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the columns of a box from west to east, and their longitudes, which rise."""
    west, east = box[2:]
    width = min((east - west) % 360 or 360.0, 360.0) if abs(east - west) < 360 else 360.0
    beyond = (np.asarray(longitudes, np.float64) - west + _SLACK) % 360 - _SLACK
    inside = np.flatnonzero(beyond <= width + _SLACK)
    columns = inside[np.argsort(beyond[inside], kind="stable")]
    steps = np.abs(np.diff(columns))
    if is_periodic:
        steps = np.minimum(steps, len(longitudes) - steps)
    if not len(columns) or (steps > 1).any():
        raise _outside("lon", f"{west:g} to {east:g}", longitudes, path=path)
    first = (west + 180) % 360 - 180
    return columns, (first + beyond[columns]).astype(longitudes.dtype)


def _outside(axis: str, wanted: str, values: NDArray[Any], *, path: str) -> IngestError:
    return IngestError(
        f"a box must lie inside the grid, and {axis} {wanted} holds no unbroken run of rows or columns of '{path}', "
        f"which has {_span(values)} degrees. Choose another #box=SOUTH,NORTH,WEST,EAST."
    )


def _find(dataset: xr.Dataset, kind: str, *, path: str, variables: Sequence[str]) -> str:
    """Return the name of the one-dimensional latitude or longitude: by units or standard name, then by name."""
    found = [str(name) for name in dataset.variables if says(str(name), dataset[name].attrs, kind)]
    sure = [name for name in found if says("", dataset[name].attrs, kind)]
    axes = [name for name in sure or found if dataset[name].dims == (name,)]
    axes = axes or [name for name in found if dataset[name].dims == (name,)]
    if len(axes) > 1:
        arrays = [dataset[name] for name in variables or dataset.data_vars if name in dataset.variables]
        axes = [name for name in axes if any(name in array.dims for array in arrays)] or axes[:1]
    if len(axes) == 1:
        return axes[0]
    if axes:
        raise IngestError(
            f"one {_STANDARD_NAMES[kind]} axis is wanted, and the variables of '{path}' lie on {axes}. Choose "
            "variables on one grid (#variables=, or --variables)."
        )
    shapes = {name: dict(dataset[name].sizes) for name in found}
    is_curved = any(len(dataset[name].dims) == 2 for name in found)
    raise IngestError(
        f"a {_STANDARD_NAMES[kind]} axis of one dimension (units {_UNITS[kind][0]}) is wanted, and '{path}' has "
        f"{shapes or 'none'}{', a curvilinear grid,' if is_curved else ''} among dimensions {dict(dataset.sizes)}. "
        "Regrid it to a regular latitude-longitude grid, or set the units of its coordinate."
    )


def says(name: str, attributes: Mapping[Any, Any], kind: str) -> bool:
    """Say whether a coordinate is a latitude (``kind`` lat) or longitude (lon): by CF, or by its name."""
    is_named = attributes.get("standard_name") == _STANDARD_NAMES[kind] or name.lower() in _NAMES[kind]
    return is_named or str(attributes.get("units", "")).lower() in _UNITS[kind]


def _time(dataset: xr.Dataset) -> str | None:
    for name in dataset.dims:
        attributes: Mapping[Any, Any] = dataset[name].attrs if name in dataset.variables else {}
        units = str(attributes.get("units", ""))
        if str(name).lower() in ("time", "t") or attributes.get("standard_name") == "time" or " since " in units:
            return str(name)
    return None


def check_same_grid(first: GlobeGrid, other: GlobeGrid, *, paths: Sequence[str]) -> None:
    """Refuse to join two files in time whose grids differ.

    Args:
        first: The grid of the first file.
        other: The grid of another file.
        paths: The two files.

    Raises:
        IngestError: If latitudes or longitudes differ, or one of both has no time axis.
    """
    pairs = (
        ("lat", first.latitudes, other.latitudes, np.array_equal(first.rows, other.rows)),
        ("lon", first.longitudes, other.longitudes, np.array_equal(first.columns, other.columns)),
    )
    for name, a, b, is_same in pairs:
        if not is_same or a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=_SLACK):
            raise IngestError(
                f"files that are joined in time must share one grid, and axis '{name}' of '{paths[1]}' has "
                f"{_span(b)}, that of '{paths[0]}' {_span(a)}. Regrid one, or ingest them apart."
            )
    if (first.time is None) != (other.time is None):
        lacking = paths[0] if first.time is None else paths[1]
        raise IngestError(
            f"files are joined along time, and '{lacking}' has no time axis. Add one (xarray's expand_dims), "
            "or ingest the files apart."
        )


def _span(values: NDArray[Any]) -> str:
    ends = f"{values[0]:g} to {values[-1]:g}" if len(values) else "nothing"
    return f"{len(values)} values, {ends}"


_COMPONENT = re.compile(r"(?:^|_)(?:eastward|northward|x|y)_")
_COMPONENT_NAMES = re.compile(r"[uv](?:[aog]|s|as|\d+m?|_?wind)?|tau[uvxy]|(?:\d+m_)?[uv]_component_of_\w+|[uv]g?rd")


def is_component(standard_name: str | None, name: str) -> bool:
    """Say whether a quantity is a component of a vector, which changes its sign across a pole.

    The CF standard name decides, and where there is none, the usual names of wind, current and stress. A product of
    two components does not change its sign.

    >>> is_component("eastward_wind", "u"), is_component("air_temperature", "u"), is_component(None, "V")
    (True, False, True)
    >>> is_component("product_of_eastward_wind_and_northward_wind", "uv")
    False
    """
    if standard_name:
        return len(_COMPONENT.findall(standard_name)) % 2 == 1
    return _COMPONENT_NAMES.fullmatch(name.lower()) is not None


def pole_facts(latitudes: NDArray[Any], channels: Sequence[tuple[str | None, str]]) -> dict[str, Any]:
    """Return what an edge at the poles must know, as JSON values.

    >>> pole_facts(np.array([90.0, 0.0, -90.0]), [("air_temperature", "t"), ("eastward_wind", "u")])
    {'has_pole_rows': [True, True], 'ends_at_pole': [True, True], 'odd_channels': [1]}
    >>> pole_facts(np.arange(-87.5, 30.0, 5.0), [])
    {'has_pole_rows': [False, False], 'ends_at_pole': [True, False], 'odd_channels': []}

    Args:
        latitudes: Of the rows, degrees north.
        channels: Standard name, and name of the variable, of each.

    Returns:
        ``has_pole_rows``: whether the first and the last row lie on a pole, and so must not be repeated beyond it.
        ``ends_at_pole``: whether a pole, and no missing row, comes after the first and the last row.
        ``odd_channels``: those that change their sign across a pole: the components of vectors.
    """
    values = np.abs(np.asarray(latitudes, np.float64))
    step = float(np.abs(np.diff(latitudes)).mean()) if len(values) > 1 else 0.0
    on_pole = [bool(abs(90 - end) < _ON_POLE) for end in (values[0], values[-1])]
    is_near = [bool(90 - end < 0.9 * step) or on for end, on in zip((values[0], values[-1]), on_pole, strict=True)]
    odd = [i for i, (standard_name, name) in enumerate(channels) if is_component(standard_name, name)]
    return {"has_pole_rows": on_pole, "ends_at_pole": is_near, "odd_channels": odd}
