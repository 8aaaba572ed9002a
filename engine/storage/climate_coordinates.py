"""What stands beside the voxels of a climate volume: the coordinates of its axes, and the map that it lies on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from engine.geometry.edges import EdgeKind
from engine.storage import cf, record
from engine.storage.climate_channels import ChannelSet
from engine.storage.climate_grid import POLE, GlobeGrid
from engine.storage.climate_levels import LevelAxis
from engine.storage.climate_times import Times
from engine.storage.create import Coordinate
from engine.storage.readable import Readable

CHANNEL_NAMES = "channel_name"
"""The array of channel names. CF wants numbers in an array that is called as its axis, and texts beside it."""


def find_coordinates(
    dataset: xr.Dataset, grid: GlobeGrid, channels: ChannelSet, times: Times | None
) -> dict[str, Coordinate]:
    """Return latitudes, longitudes, times, levels, channel names, and what else lies along lat and lon alone."""
    lats, lons = dataset[grid.lat].attrs, dataset[grid.lon].attrs
    lat = cf.described(lats, standard_name="latitude", units="degrees_north", axis="Y")
    lon = cf.described(lons, standard_name="longitude", units="degrees_east", axis="X")
    names = np.array([channel.name for channel in channels.channels], object)
    found = {
        "lat": Coordinate(("lat",), grid.latitudes, lat),
        "lon": Coordinate(("lon",), grid.longitudes, lon),
        CHANNEL_NAMES: Coordinate(("channel",), names, {"long_name": "variable, and level of it"}),
    }
    if times is not None and times.attributes:
        found["time"] = Coordinate(("time",), times.chosen, {"standard_name": "time", "axis": "T", **times.attributes})
    if channels.levels is not None:
        found |= _levels(channels.levels)
    return found | _beside(dataset, grid, taken=found) | _grid_mapping(dataset, channels)


def _levels(axis: LevelAxis) -> dict[str, Coordinate]:
    """Return the values of a level axis, and the terms of its formula where it is hybrid."""
    one = axis.levels[0]
    about = {"standard_name": axis.standard_name, "units": one.units, "positive": one.positive, "axis": "Z"}
    known = {name: value for name, value in about.items() if value is not None}
    found = {"level": Coordinate(("level",), axis.values, known)}
    for term, units in (("a", one.a_units), ("b", "1")):
        values = [getattr(level, term) for level in axis.levels]
        if None not in values:
            found[f"hybrid_{term}"] = Coordinate(("level",), np.array(values), {"units": units} if units else {})
    return found


def _beside(dataset: xr.Dataset, grid: GlobeGrid, *, taken: Mapping[str, Coordinate]) -> dict[str, Coordinate]:
    """Return arrays of numbers along lat, lon or nothing: Gaussian weights, the moment of a file."""
    renamed, found = {grid.lat: "lat", grid.lon: "lon"}, {}
    for name in map(str, dataset.variables):
        array = dataset[name]
        is_beside = set(array.dims) < {grid.lat, grid.lon} and array.dtype.kind in "biuf"
        is_mapping = "grid_mapping_name" in array.attrs
        if is_beside and not is_mapping and name not in (grid.lat, grid.lon) and name not in taken:
            read = array.isel({grid.lat: grid.rows, grid.lon: grid.columns}, missing_dims="ignore")
            is_time = " since " in str(array.attrs.get("units", ""))
            about = {**({"standard_name": "time"} if is_time else {}), **cf.plain(array.attrs)}
            found[name] = Coordinate(tuple(renamed[str(d)] for d in array.dims), np.asarray(read.values), about)
    return found


def _grid_mapping(dataset: xr.Dataset, channels: ChannelSet) -> dict[str, Coordinate]:
    arrays = (dataset[channel.variable] for channel in channels.channels)
    names = {str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", ""))) for array in arrays}
    return {
        name: Coordinate((), np.zeros((), np.int32), cf.plain(dataset[name].attrs))
        for name in names
        if name in dataset.variables
    }


def carried_globe(source: Readable, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the attributes of a climate volume that hold for what a run makes of it too: its poles, and that it wraps.

    Args:
        source: What was read.
        sizes: Voxels per axis of what was made; an axis of another length is not the source's.
    """
    own = {axis.name: n for axis, n in zip(source.axes, source.shape, strict=True)}
    same = {name for name, n in sizes.items() if own.get(name) == n}
    edges = {name: {"kind": edge.kind.value} for name, edge in source.edges.items() if edge.kind is EdgeKind.WRAP}
    found: dict[str, Any] = {record.KEY: {"edges": {name: edge for name, edge in edges.items() if name in same}}}
    if "lat" in same and isinstance(source.attributes.get(POLE), Mapping):
        pole = dict(source.attributes[POLE])
        found[POLE] = pole if "channel" in same else {**pole, "odd_channels": []}
    return found
