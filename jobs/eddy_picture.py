"""The picture of a seam: a field over a globe seen with Greenwich in the middle, wrapped, cut, and their difference."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Field = NDArray[np.float64]


def draw(path: Path, wrapped: Field, cut: Field, coordinates: tuple[Field, Field]) -> None:
    """Write a PNG of three maps.

    Args:
        path: Where to.
        wrapped: (lat, lon), in standard deviations or whatever it has.
        cut: The same without the wrap.
        coordinates: Latitudes and longitudes in degrees.
    """
    latitude, longitude = coordinates
    half = len(longitude) // 2
    turned = np.roll(np.where(longitude >= 180, longitude - 360, longitude), half)
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    largest = float(np.percentile(np.abs(wrapped), 99))
    maps = {"wrapped in longitude": wrapped, "cut at Greenwich": cut, "difference": cut - wrapped}
    for axes, (name, field) in zip(figure.subplots(3, 1, sharex=True), maps.items(), strict=True):
        mesh = axes.pcolormesh(turned, latitude, np.roll(field, half, 1), vmin=-largest, vmax=largest, cmap="RdBu_r")
        axes.set(ylabel="degrees north", title=name)
        axes.axvline(0, color="black", linewidth=0.4, alpha=0.4)
        figure.colorbar(mesh, ax=axes, label="forcing", extend="both")
    axes.set(xlabel="degrees east")
    figure.savefig(path, dpi=110)
