"""The column network of Yuval, O'Gorman and Hill (2021, doi 10.1029/2020GL091363), and the sounding that it works on.

It learnt what a cloud-resolving model does within the columns of a coarse one. In: temperature [K] and water that does
not precipitate [kg kg-1] at the lowest 30 levels of that model (SAM), and the distance from the equator [m]. Out, 148
numbers from the surface up, in SI units:

    0 to 29    tendency of temperature by radiation and what is not told below      K s-1
    30 to 58   subgrid flux of static energy, at 29 interfaces                      K kg m-2 s-1
    59 to 87   subgrid flux of that water                                           kg m-2 s-1
    88 to 117  its tendency by autoconversion to rain                               s-1
    118 to 147 its flux by sedimenting ice                                          kg m-2 s-1
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from engine.models.column_mass import LayerMass

N_LEVELS, N_FEATURES, N_OUT, WIDTH = 30, 61, 148, 128
HEAT_CAPACITY = 1004.0
"""J kg-1 K-1, of the model that it learnt from."""


@dataclass(frozen=True)
class Sounding:
    """The levels that the network works on, from the surface up."""

    pressure: tuple[float, ...]
    """Pa, of each level."""
    thickness: tuple[float, ...]
    """m, of each layer."""
    density: tuple[float, ...]
    """kg m-3."""

    @property
    def mass(self) -> LayerMass:
        """Of each layer, in kg m-2."""
        return LayerMass(self.thickness, density=self.density)


class Yog21(nn.Module):
    """The published perceptron: (cell, level, 3) of temperature, water and distance to (cell, 148)."""

    features_mean: torch.Tensor
    features_std: torch.Tensor
    outputs_mean: torch.Tensor
    outputs_std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, n in (("features", N_FEATURES), ("outputs", N_OUT)):
            self.register_buffer(f"{name}_mean", torch.zeros(n))
            self.register_buffer(f"{name}_std", torch.ones(n))
        sizes = [N_FEATURES, *[WIDTH] * 4, N_OUT]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """Return (cell, 148) for ``columns`` (cell, level, 3), from the surface up."""
        return self.answer(torch.cat([columns[..., 0], columns[..., 1], columns[:, 0, 2:]], 1))

    def answer(self, features: torch.Tensor) -> torch.Tensor:
        """Return (cell, 148) for ``features`` (cell, 61), in SI units."""
        y = (features - self.features_mean) / self.features_std
        for layer in self.layers[:-1]:
            y = torch.relu(layer(y))
        scaled: torch.Tensor = self.layers[-1](y)
        return scaled * self.outputs_std + self.outputs_mean


def published(folder: Path) -> tuple[Yog21, Sounding]:
    """Return the trained network and its sounding from the folder of the published files."""
    state = torch.load(folder / "nn_state.pt", weights_only=True, map_location="cpu")
    network = Yog21()
    network.load_state_dict({_renamed(name): value for name, value in state.items()})
    with xr.open_dataset(folder / "SAM_sounding.nc") as file:
        pressure, density = (tuple(file[name].values[:N_LEVELS].tolist()) for name in ("pressure", "rho"))
        thickness = tuple((file["adz"].values[:N_LEVELS] * float(file["dz"].values[0])).tolist())
    return network.eval(), Sounding(pressure, thickness, density)


def made_up(seed: int = 0) -> tuple[Yog21, Sounding]:
    """Return a network of the same make with random weights, on a made-up sounding: it knows no convection."""
    torch.manual_seed(seed)
    network = Yog21()
    for layer in network.layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    height = np.linspace(0.0, 1.0, N_LEVELS + 1) ** 1.5 * 14_000.0
    middle = (height[1:] + height[:-1]) / 2
    pressure = 1008e2 * np.exp(-middle / 7500.0)
    temperature = 290.0 - 6e-3 * middle
    water = 8e-3 * np.exp(-middle / 2500.0)
    network.features_mean.copy_(torch.from_numpy(np.concatenate([temperature, water, [4.3e6]])))
    network.features_std.copy_(torch.from_numpy(np.concatenate([np.full(N_LEVELS, 11.0), 0.8 * water, [2.5e6]])))
    network.outputs_mean.fill_(-1.2e-5)
    network.outputs_std.fill_(1.5e-5)
    density = pressure / (287.0 * temperature)
    return network.eval(), Sounding(*(tuple(part.tolist()) for part in (pressure, np.diff(height), density)))


def _renamed(name: str) -> str:
    """Return our name of a published weight: its layers are every third of a chain."""
    number, dot, kind = name.partition(".")
    return f"layers.{int(number) // 3}.{kind}" if dot else name
