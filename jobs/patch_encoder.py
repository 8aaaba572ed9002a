"""A patch encoder that nobody trained: two layers of random filters, and how strongly each answers on a patch.

Random filters followed by pooling tell textures apart (Jarrett et al., ICCV 2009); a lab puts its own encoder here.
"""

import torch
from torch import nn

from engine.models.patches import Patches
from engine.models.wrappers import Normalise

PATCH = 64
"""Pixels along a side of a patch, at :data:`MPP`; patches lie side by side."""

MPP = 1.0
N_FEATURES = 64
SEED = 7


class RandomFilters(nn.Module):
    """Mean and spread, over a patch, of 32 random filters of filters."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise([180.0, 140.0, 180.0], 60.0)
        self.filters = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5, padding=2), nn.ReLU()
        )
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for parameter in self.parameters():
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 8
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (patch, feature) for patches (patch, c, y, x), RGB 0 to 255."""
        answers = self.filters(self.normalise(x)).flatten(2)
        return torch.cat([answers.mean(2), answers.std(2)], 1)


def encoder() -> Patches:
    """Return the encoder on a grid of patches: (batch, feature, row, column)."""
    return Patches(RandomFilters(), size=PATCH, mpp=MPP)
