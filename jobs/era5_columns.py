"""The globe of columns that a column network is shown: ERA5's, or one that is made up, as a CF dataset with units."""

from pathlib import Path

import numpy as np
import xarray as xr

METRES_PER_DEGREE = 111_195.0
"""Of latitude, on a sphere of 6371 km: for the distance from the equator."""

LEVEL_UNITS = "hPa"
"""Of ERA5's levels: the file does not say."""

WATERS = ("humidity", "cloud_ice_water_content", "cloud_liquid_water_content")
"""What of ERA5's specific quantities does not precipitate."""

AXES = ("level", "latitude", "longitude")


def pascal(grid: xr.Dataset) -> tuple[float, ...]:
    """Return the levels of a globe in Pa, in their order."""
    return tuple((100.0 * grid["level"].values).tolist())


def era5(path: Path) -> xr.Dataset:
    """Return the globe of an ERA5 file: temperature [K], water [kg kg-1] and the distance from the equator [m]."""
    with xr.open_dataset(path, decode_times=False) as file:
        found = file.load()
    vapour, ice, liquid = (found[f"specific_{what}"] for what in WATERS)
    return _globe(found["temperature"], vapour + ice + liquid)


def made_up(shape: tuple[int, int, int] = (37, 32, 64), *, seed: int = 0) -> xr.Dataset:
    """Return a globe of (level, latitude, longitude) cells: warm and moist at the equator, with waves along it."""
    n_levels, n_lat, n_lon = shape
    chance = np.random.default_rng(seed)
    level = np.linspace(1.0, 1000.0, n_levels)
    latitude, longitude = -90 + (np.arange(n_lat) + 0.5) * 180 / n_lat, np.arange(n_lon) * 360 / n_lon
    waves = sum(chance.normal() * np.sin(np.radians(k * longitude) + chance.uniform(0, 6)) for k in range(1, 5))
    surface = 300 - 40 * np.sin(np.radians(latitude))[:, None] ** 2 + 2 * waves
    p = level[:, None, None]
    temperature = np.maximum(surface * (p / 1000) ** 0.19, 205.0)
    celsius = temperature - 273.15
    saturated = 3.8 / p * np.exp(17.27 * celsius / (celsius + 237.3))  # Tetens 1930, as a mixing ratio
    water = np.minimum(0.7 * saturated, 0.02)
    places = {"level": level, "latitude": latitude, "longitude": longitude}
    t, q = (xr.DataArray(np.float32(values), places, AXES) for values in (temperature, water))
    return _globe(t, q)


def _globe(temperature: xr.DataArray, water: xr.DataArray) -> xr.Dataset:
    rows, columns = temperature["latitude"], temperature["longitude"]
    distance = (METRES_PER_DEGREE * np.abs(rows) * xr.ones_like(columns)).astype(np.float32)
    named = {
        "temperature": (temperature, {"units": "K", "standard_name": "air_temperature"}),
        "water": (water, {"units": "kg kg-1", "long_name": "vapour, cloud water and cloud ice"}),
        "distance": (distance, {"units": "m", "long_name": "distance from the equator"}),
    }
    grid = xr.Dataset({name: one.transpose(*AXES[-one.ndim :]).assign_attrs(a) for name, (one, a) in named.items()})
    grid = grid.drop_vars("time", errors="ignore")
    grid["level"].attrs = {"units": LEVEL_UNITS, "standard_name": "air_pressure", "positive": "down"}
    grid["latitude"].attrs, grid["longitude"].attrs = {"units": "degrees_north"}, {"units": "degrees_east"}
    return grid
