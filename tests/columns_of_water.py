"""Columns whose precipitable water is known: NCEP's archived one, and a profile whose integral is a formula."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from engine.measure.area import cosine_weights
from engine.models.column_mass import GRAVITY, PressureMass
from engine.models.physics import ColumnIntegral

NCEP = "climate/NCEP_06_climo.nc"
LEVELS = (1000.0, 925.0, 850.0, 700.0, 600.0, 500.0, 400.0, 300.0)
"""hPa, NCEP's of humidity."""


@dataclass(frozen=True)
class Water:
    """Columns of humidity, and the water in them."""

    levels: tuple[float, ...]
    """hPa."""
    humidity: NDArray[np.float64]
    """g kg-1, (level, lat, lon)."""
    surface: NDArray[np.float64]
    """hPa, (lat, lon)."""
    truth: NDArray[np.float64]
    """kg m-2, (lat, lon)."""
    weights: NDArray[np.float64]
    """Of each row."""


def ncep(path) -> Water:
    """The June climatology of NCEP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)  # two fill values; both mean nothing is there
        with xr.open_dataset(path, decode_times=False) as file:
            humidity, surface, truth = (file[name].values[0].astype(np.float64) for name in ("SHUM", "PS", "PREH2O"))
            return Water(tuple(file["lev2"].values.tolist()), humidity, surface, truth, file["gw"].values)


def made_up(shape=(16, 32), *, power=2.5) -> Water:
    """Humidity that falls with a power of pressure, over mountains: its integral down to the surface is a formula."""
    latitudes = -90 + (np.arange(shape[0]) + 0.5) * 180 / shape[0]
    chance = np.random.default_rng(0)
    levels = np.concatenate([np.arange(1000.0, 300.0, -25.0), np.arange(300.0, 0.0, -50.0)])
    moist = 18 * np.cos(np.radians(latitudes))[:, None] ** 2 * chance.uniform(0.5, 1.0, shape) + 0.5
    surface = 1015 - 400 * chance.uniform(0, 1, shape) ** 4
    humidity = moist * (levels[:, None, None] / 1000) ** power
    truth = moist * 1e-3 * 1e5 / GRAVITY * (surface / 1000) ** (power + 1) / (power + 1)
    return Water(tuple(levels.tolist()), humidity, surface, truth, cosine_weights(latitudes))


def integrated(water: Water, *, is_clipped: bool = True) -> NDArray[np.float64]:
    """The column integral, kg m-2, with or without the clip at the surface."""
    mass = PressureMass(water.levels, units="hPa", surface_units="hPa", is_clipped=is_clipped)
    x = np.concatenate([water.humidity, water.surface[None]] if is_clipped else [water.humidity])
    return ColumnIntegral(mass, {"humidity": "g/kg"})(torch.from_numpy(x)[None])[0, 0].numpy()


def masked(water: Water) -> NDArray[np.float64]:
    """Trapezoids between levels above the surface; what lies between the lowest of these and the surface is dropped."""
    is_above = np.array(water.levels)[:, None, None] <= water.surface
    thickness = 100 * np.abs(np.diff(water.levels))[:, None, None] / GRAVITY
    middle = 1e-3 * (water.humidity[1:] + water.humidity[:-1]) / 2
    return (thickness * middle * (is_above[1:] & is_above[:-1])).sum(0)


def mean_times_depth(water: Water) -> NDArray[np.float64]:
    """The plain mean over levels, times the mass from the highest level to the surface."""
    depth = 100 * (water.surface - min(water.levels)) / GRAVITY
    return water.humidity.mean(0) * 1e-3 * depth


@dataclass(frozen=True)
class Errors:
    """Of a column integral, weighted by area, in kg m-2."""

    bias: float
    rmse: float
    worst: float
    r: float


def errors(found: NDArray[np.float64], water: Water) -> Errors:
    """How far a column integral is from the truth."""
    weights = np.broadcast_to(water.weights[:, None], found.shape) / (water.weights.sum() * found.shape[1])
    off = found - water.truth
    means = [float((weights * field).sum()) for field in (found, water.truth)]
    a, b = (field - mean for field, mean in zip((found, water.truth), means, strict=True))
    r = (weights * a * b).sum() / np.sqrt((weights * a * a).sum() * (weights * b * b).sum())
    return Errors(float((weights * off).sum()), float(np.sqrt((weights * off**2).sum())), float(np.abs(off).max()), float(r))
