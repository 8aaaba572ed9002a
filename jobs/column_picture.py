"""The picture of a run over columns: a map of the heating, its profile by latitude, and where to doubt it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """What is drawn."""

    latitude: Field
    """Degrees north, (lat,)."""
    longitude: Field
    """Degrees east, (lon,)."""
    pressure: Field
    """hPa, (level,)."""
    heating: Field
    """W m-2, (lat, lon)."""
    rate: Field
    """K day-1, mean along longitude, (level, lat)."""
    beyond: Field
    """Inputs beyond 3 sigma of each column, (lat, lon)."""


def draw(path: Path, shown: Drawn) -> None:
    """Write a PNG of three panels."""
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    axes = figure.subplot_mosaic([["heating", "heating"], ["rate", "beyond"]], height_ratios=[1.35, 1])
    largest = float(np.percentile(np.abs(shown.heating), 95))
    _map(figure, axes["heating"], shown, shown.heating, limits=(-largest, largest), colours="RdBu_r", unit="W m-2")
    axes["heating"].set_title("Heating of the column (red warms, blue cools)")
    _profile(figure, axes["rate"], shown)
    most = float(shown.beyond.max()) or 1.0
    _map(figure, axes["beyond"], shown, shown.beyond, limits=(0, most), colours="magma_r", unit="inputs")
    axes["beyond"].set_title("Inputs beyond 3 sigma, of 61")
    figure.savefig(path, dpi=110)


def _map(
    figure: Figure, axes: Axes, shown: Drawn, field: Field, *, limits: tuple[float, float], colours: str, unit: str
) -> None:
    mesh = axes.pcolormesh(shown.longitude, shown.latitude, field, vmin=limits[0], vmax=limits[1], cmap=colours)
    axes.set(xlabel="degrees east", ylabel="degrees north", aspect="equal")
    figure.colorbar(mesh, ax=axes, label=unit, shrink=0.85, extend="both" if limits[0] < 0 else "neither")


def _profile(figure: Figure, axes: Axes, shown: Drawn) -> None:
    largest = float(np.percentile(np.abs(shown.rate), 95))
    mesh = axes.pcolormesh(
        shown.latitude, shown.pressure, shown.rate, vmin=-largest, vmax=largest, cmap="RdBu_r", shading="nearest"
    )
    axes.set(xlabel="degrees north", ylabel="hPa", title="Heating rate, mean along longitude")
    axes.invert_yaxis()
    figure.colorbar(mesh, ax=axes, label="K day-1", extend="both")
