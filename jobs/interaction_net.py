"""A 3-d CNN that says which interactions a pocket has, and where: see ``interaction_net.md`` for what it is and is not.

    engine items pockets.csv --model jobs/interaction_net.py:interactions --output scored

Atoms become densities inside the pipeline (``engine.models.voxeliser``), so an item is a few kilobytes of atoms.
"""

from pathlib import Path

import torch
from interactions import LABELS
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from engine.models.voxeliser import Voxeliser
from engine.models.wrappers import Compose

WEIGHTS = Path(__file__).with_name("interaction_net.safetensors")

N_VOXELS, SPACING = 48, 0.5
"""Of the grid, along each axis; and its step in Angstrom."""

COARSE = 2
"""Voxels of the grid in a step of the map of contacts: 1 Angstrom."""

RIM, NEVER = 2, -20.0
"""Voxels of the map at each border where no contact is told, for its partners lie outside; and the logit there."""

WIDTH = 48
"""Channels of each layer."""


class InteractionNet(nn.Module):
    """Densities (b, 28, z, y, x) to a map of contacts (b, label, z/2, y/2, x/2) and a probability of each label.

    A pocket has an interaction if it has it somewhere: its logit is that of its strongest voxel, calibrated.
    """

    def __init__(self, *, n_in: int = 28, width: int = WIDTH) -> None:
        super().__init__()
        steps = [(n_in, 4, COARSE, 1, 1), (width, 3, 1, 1, 1), (width, 3, 1, 2, 2), (width, 3, 1, 1, 1)]
        layers: list[nn.Module] = []
        for n, kernel, stride, padding, dilation in steps:
            layers += [nn.Conv3d(n, width, kernel, stride, padding, dilation), nn.BatchNorm3d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv3d(width, len(LABELS), 1)
        self.scale = nn.Parameter(torch.ones(len(LABELS)))
        self.bias = nn.Parameter(torch.zeros(len(LABELS)))
        self.register_buffer("threshold", torch.zeros(len(LABELS)))
        self.threshold: torch.Tensor

    def logits(self, grid: torch.Tensor) -> torch.Tensor:
        """Return the logits (b, label, z/2, y/2, x/2) of contacts."""
        found: torch.Tensor = self.head(self.layers(grid))[..., RIM:-RIM, RIM:-RIM, RIM:-RIM]
        return F.pad(found - self.threshold[:, None, None, None], (RIM,) * 6, value=NEVER)

    def pockets(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits (b, label) of pockets from those of their voxels."""
        return self.scale * logits.amax(dim=(2, 3, 4)) + self.bias

    def forward(self, grid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each label's probability (b,), ``has_`` it (b,) as bool, and ``contacts``: those of voxels."""
        logits = self.logits(grid)
        pockets = torch.sigmoid(self.pockets(logits))
        found = {label: pockets[:, i] for i, label in enumerate(LABELS)}
        found |= {f"has_{label}": pockets[:, i] > 0.5 for i, label in enumerate(LABELS)}
        return {**found, "contacts": torch.sigmoid(logits)}


def bare() -> InteractionNet:
    """Return the trained network alone: densities in."""
    network = InteractionNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def interactions() -> nn.Module:
    """Return the trained pipeline: atoms (b, 4, atom) in."""
    return Compose(Voxeliser(n=N_VOXELS, spacing=SPACING), bare()).eval()
