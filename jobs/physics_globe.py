"""Globes that are made up, where it rains and the air is heated by a rule: so that every integral is known.

It rains where the air near the surface is moist over five cells each way, more the more it is:

    rain = 0.1 mm h-1 per g kg-1 that the mean moisture at 925 hPa exceeds 8 g kg-1          kg m-2 s-1
    top  = 450 hPa - 60 hPa per K that the surface is warmer than 500 hPa beyond 32 K, within 150 hPa and ps - 250 hPa
    heating of a level = sin(pi (p - top) / (ps - top)) between top and surface, scaled so that

    sum of cp dT dp / g = Lv rain      exactly, in every column

A cell's rain hangs on its neighbours, the heights that it heats on its own column, and how much on its mass.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from engine.models.column_mass import PressureMass
from engine.models.physics import HEAT_CAPACITY, LATENT_HEAT

LEVELS = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 850.0, 925.0, 1000.0)
"""hPa, from the top down."""

SHAPE = (48, 96)
"""Rows and columns: 3.75 degrees."""

NEIGHBOURS = 5
"""Cells along a side of the square whose moisture counts."""

MOIST, RAIN_PER_GRAM = 8.0, 0.1 / 3600
"""g kg-1 from which it rains, and kg m-2 s-1 for each more."""

SECONDS_PER_DAY = 86400.0

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Globe:
    """One made-up globe."""

    temperature: Field
    """K, (level, lat, lon)."""
    humidity: Field
    """kg kg-1, (level, lat, lon)."""
    surface: Field
    """Surface pressure in Pa, (lat, lon)."""
    rain: Field
    """kg m-2 s-1, (lat, lon)."""
    heating: Field
    """K day-1, (level, lat, lon)."""

    @property
    def x(self) -> NDArray[np.float32]:
        """What the network is shown: (channel, lat, lon)."""
        return np.concatenate([self.temperature, self.humidity, self.surface[None]]).astype(np.float32)

    @property
    def column_heating(self) -> Field:
        """W m-2, (lat, lon)."""
        return LATENT_HEAT * self.rain


def mass() -> PressureMass:
    """Return what weighs the layers."""
    return PressureMass(LEVELS, units="hPa", surface_units="Pa")


def latitudes(n: int = SHAPE[0]) -> Field:
    """Return the rows' degrees north."""
    return -90 + (np.arange(n) + 0.5) * 180 / n


def globe(seed: int, *, shape: tuple[int, int] = SHAPE) -> Globe:
    """Return a globe of its own weather and mountains."""
    chance = np.random.default_rng(seed)
    phi, p = np.radians(latitudes(shape[0]))[:, None], np.array(LEVELS)[:, None, None]
    surface_kelvin = 301 - 42 * np.sin(phi) ** 2 + 4 * _smooth(chance, shape, 4)
    lapse = 0.165 + 0.02 * _smooth(chance, shape, 4)
    ripples = 0.5 * _smooth(chance, (len(LEVELS), *shape), 2)
    temperature = np.maximum(surface_kelvin * (p / 1000) ** lapse, 205) + ripples
    moisture = np.clip(0.68 + 0.2 * _smooth(chance, shape, 1.2) - 0.25 * (1 - p / 1000), 0.05, 1)
    celsius = temperature - 273.15
    humidity = np.minimum(moisture * 3.8 / p * np.exp(17.27 * celsius / (celsius + 237.3)), 0.025)  # Tetens 1930
    mountains = np.clip(_smooth(chance, shape, 5) - 0.8, 0, 2)
    surface = 1e5 * (1.013 - 0.2 * mountains) + 300 * _smooth(chance, shape, 6)
    rain = rain_of(humidity)
    return Globe(temperature, humidity, surface, rain, heating_of(temperature, surface, rain))


def rain_of(humidity: Field) -> Field:
    """Return kg m-2 s-1 (lat, lon): by the moisture of neighbours, the nearest row again beyond a pole."""
    grams = 1e3 * humidity[LEVELS.index(925.0)]
    around = uniform_filter(grams, NEIGHBOURS, mode=("nearest", "wrap"))
    return RAIN_PER_GRAM * np.maximum(around - MOIST, 0)


def heating_of(temperature: Field, surface: Field, rain: Field) -> Field:
    """Return K day-1 (level, lat, lon), whose column integral is the latent heat of the rain."""
    p = np.array(LEVELS)[:, None, None]
    unstable, ground = temperature[-1] - temperature[LEVELS.index(500.0)] - 32, surface / 100
    top = np.clip(450 - 60 * unstable, 150, ground - 250)
    depth = np.clip((p - top) / (ground - top), 0, 1)
    profile = np.sin(np.pi * depth)
    kilograms = mass()(torch.from_numpy(surface)[None, None])[0].numpy()
    summed = HEAT_CAPACITY * (kilograms * profile).sum(0)
    return SECONDS_PER_DAY * profile * LATENT_HEAT * rain / summed


def dataset(made: Globe) -> xr.Dataset:
    """Return what the network is shown as a CF dataset, with units."""
    n_lat, n_lon = made.surface.shape
    places = {
        "level": ("level", list(LEVELS), {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}),
        "lat": ("lat", latitudes(n_lat), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(n_lon) * 360 / n_lon, {"units": "degrees_east"}),
    }
    axes, parts = ("level", "lat", "lon"), np.split(made.x, [len(LEVELS), 2 * len(LEVELS)])
    named = {
        "temperature": (axes, parts[0], {"units": "K", "standard_name": "air_temperature"}),
        "humidity": (axes, parts[1], {"units": "kg kg-1", "standard_name": "specific_humidity"}),
        "surface": (axes[1:], parts[2][0], {"units": "Pa", "standard_name": "surface_air_pressure"}),
    }
    return xr.Dataset(named, places)


def _smooth(chance: np.random.Generator, shape: tuple[int, ...], cells: float) -> Field:
    """Return noise of mean 0 and spread 1 that varies over so many cells, round the globe without a seam."""
    sigma = (0.7,) * (len(shape) - 2) + (cells, cells)
    mode = ("nearest",) * (len(shape) - 1) + ("wrap",)
    field = gaussian_filter(chance.normal(size=shape), sigma, mode=mode)
    return (field - field.mean()) / field.std()
