"""Models named by specification, as a command line and a worker in another process load them."""

import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

MARK = 1e6
ALLERGY = "HALO_TEST_ALLERGY"
"""Environment variable: while the file that it names is there, a marked voxel makes :class:`Allergic` raise."""


def seeded(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """Return the module with weights that do not depend on what ran before."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance) / max(1, parameter[0].numel()) ** 0.5)
    return module.eval()


def is_real(x: torch.Tensor) -> bool:
    """Say whether a tensor holds voxels: it is neither traced nor a stand-in."""
    return type(x) is torch.Tensor and x.device.type == "cpu"


class Labelled(nn.Module):
    """A colour image to two probabilities and a label, through one pool and one transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        skip = F.elu(self.first((x - 190) / 30))
        y = self.last(torch.cat([skip, self.up(F.elu(self.down(F.max_pool2d(skip, 2))))], dim=1))
        return {"probability": y.softmax(dim=1), "label": y.argmax(dim=1).to(torch.uint8)}


class Slow(nn.Module):
    """A convolution that takes its time with true voxels."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.conv, self.seconds = nn.Conv2d(1, 2, 5, padding=2), seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_real(x) and x.shape[-1] < 64:
            time.sleep(self.seconds)
        return self.conv(x)


class Allergic(nn.Module):
    """A convolution that raises where it meets a marked voxel, until the cause is mended."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_real(x) and bool((x == MARK).any()) and Path(os.environ.get(ALLERGY, "/nonexistent")).exists():
            raise ValueError("a marked voxel")
        return self.conv(x)


def labelled() -> nn.Module:
    return seeded(Labelled(), seed=1)


def scan() -> nn.Module:
    return seeded(
        nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ELU(), nn.MaxPool3d(2), nn.Conv3d(4, 2, 3, padding=1))
    )


def slow() -> nn.Module:
    return seeded(Slow(0.15))


def allergic() -> nn.Module:
    return seeded(Allergic())


def other() -> nn.Module:
    return seeded(nn.Conv2d(1, 2, 3, padding=1), seed=1)


def scan2d() -> nn.Module:
    return seeded(nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ELU(), nn.Conv2d(4, 2, 3, padding=1)))
