"""Encoders of patches as tests want them: small, with something global in each, and the plain loop over patches."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from engine.models.patches import Patches
from engine.models.wrappers import Compose, Named, Normalise, Softmax


def mixed(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """Return the module in eval mode with weights and running statistics that do not depend on what ran before."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=chance) / fan**0.5)
        for name, buffer in module.named_buffers():
            if "running_" in name:
                buffer.copy_(torch.rand(buffer.shape, generator=chance) + 0.5)
    return module.eval()


class Residual(nn.Module):
    """Convolutions with batch norm, a skip, and a global mean."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)
        self.deep, self.last = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.last(F.relu(x + self.deep(x)).mean((2, 3)))


class Attending(nn.Module):
    """A vision transformer: patch embedding, positions, one layer of attention, the class token."""

    def __init__(self, size: int, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, size // 4, stride=size // 4)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 4, 32, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.place
        return self.layers(tokens)[:, 0]


class Whitening(nn.Module):
    """Instance norm and a global maximum, kept as a map of one voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_max_pool2d(self.norm(self.conv(x)), 1)


def scripted(module: nn.Module) -> nn.Module:
    """Return the module as a TorchScript program, which the zoos of the field still use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


def save_scripted(module: nn.Module, path: Path) -> None:
    """Write the module as a TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(scripted(module), path)


def residual(**settings: object) -> nn.Module:
    """Return raw colours to features and to class probabilities, on the grid of patches."""
    return Compose(
        Normalise([120.0, 110.0, 100.0], [60.0, 50.0, 40.0]),
        Patches(mixed(Residual()), **{"size": 32, "mpp": 0.5, **settings}),
        Named(embedding=nn.Identity(), probability=nn.Sequential(mixed(nn.Conv2d(7, 3, 1)), Softmax())),
    )


def loop(encoder: nn.Module, x: torch.Tensor, *, size: int, stride: int) -> torch.Tensor:
    """Return (batch, feature, rows, columns) by running the encoder on one patch at a time."""
    items = []
    with torch.inference_mode():
        for item in x:
            rows = [
                torch.stack(
                    [
                        encoder(item[None, :, top : top + size, left : left + size]).reshape(-1)
                        for left in range(0, item.shape[2] - size + 1, stride)
                    ]
                )
                for top in range(0, item.shape[1] - size + 1, stride)
            ]
            items.append(torch.stack(rows).permute(2, 0, 1))
    return torch.stack(items)


def colours(shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Return 8-bit colours (c, y, x) whose neighbours resemble each other."""
    chance, found = np.random.default_rng(seed), np.zeros(shape)
    for side in (4, 24):
        coarse = chance.integers(0, 128, (shape[0], shape[1] // side + 1, shape[2] // side + 1))
        found += coarse.repeat(side, 1).repeat(side, 2)[:, : shape[1], : shape[2]]
    return found.astype(np.uint8)
