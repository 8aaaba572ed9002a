"""Horizontal convolutions, then each column by a recurrent layer, then its integral: see ``physics_network.md``.

    (temperature and humidity at 10 levels, surface pressure)
        --three 3 x 3 convolutions--> 6 features a level
        --each column, a GRU up and down--> heating, K day-1, at 10 levels
        --sum of cp dT dp / g, down to the surface pressure--> W m-2

    engine run globe.zarr jobs/physics_network.py:heating result.zarr

The halo is the convolutions' alone, 3 cells; round the globe it is fetched from the other side (edge ``wrap``).
"""

from pathlib import Path

import torch
from physics_globe import LEVELS, mass
from safetensors.torch import load_file
from torch import nn

from engine.models.column_beside import Beside
from engine.models.columns import Columns
from engine.models.physics import ColumnIntegral
from engine.models.wrappers import Compose, Named, Normalise

WEIGHTS = Path(__file__).with_name("physics_network.safetensors")
N_LEVELS, N_CHANNELS = len(LEVELS), 2 * len(LEVELS) + 1
FEATURES, WIDTH, HIDDEN = 6, 32, 16
"""Of a level behind the convolutions; of the convolutions; of the recurrent layer, each way."""

REACH = 3
"""Cells that the convolutions see each way."""


class Vertical(nn.Module):
    """A column's features (cell, level, feature) to its heating (cell, level, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(FEATURES, HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, 1)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """Return K day-1, (cell, level, 1)."""
        found: torch.Tensor = self.head(self.layer(columns)[0])
        return found


def network() -> nn.Sequential:
    """Return the network, untrained: (b, 21, lat, lon) in SI units to heating (b, 10, lat, lon) in K day-1."""
    return nn.Sequential(
        Normalise([0.0] * N_CHANNELS, [1.0] * N_CHANNELS),
        nn.Conv2d(N_CHANNELS, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, FEATURES * N_LEVELS, 3, padding=1),
        Columns(Vertical(), variables=FEATURES, levels=N_LEVELS, order="top_first"),
    )


def integral() -> ColumnIntegral:
    """Return what gives W m-2 (b, 1, lat, lon) for heating and, behind it, surface pressure (b, 11, lat, lon)."""
    return ColumnIntegral(mass(), {"heating_rate": "K day-1"})


def pipeline(rate: nn.Module) -> Compose:
    """Return the whole as one module with two outputs: ``heating``, W m-2, and ``heating_rate``, K day-1."""
    return Compose(Beside(rate, last=1, is_shared=True), Named(heating=integral(), heating_rate=Levels())).eval()


class Levels(nn.Module):
    """The heating alone, without the surface pressure behind it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (b, 10, lat, lon) of (b, 11, lat, lon)."""
        return x[:, :N_LEVELS]


def heating() -> Compose:
    """Return the trained pipeline."""
    trained = network()
    trained.load_state_dict(load_file(WEIGHTS))
    return pipeline(trained)
