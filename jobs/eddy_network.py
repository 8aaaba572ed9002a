"""The subgrid-forcing network of m2lines' pyqg_parameterization_benchmarks (MIT), as published and made circular.

Ross et al. 2023, "Benchmarking of machine learning ocean subgrid parameterizations in an idealized model": 8
convolutions, ReLU and batch norm, trained on a doubly periodic basin of two layers. Seven pad circularly; the last
was left zero-padded, and the mean over the whole basin is taken off what it gives.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

LAYERS = ((128, 5), (64, 5), (32, 3), (32, 3), (32, 3), (32, 3), (32, 3), (1, 3))
"""Channels and kernel of each layer of the published network; it takes 2 channels."""


class EddyNetwork(nn.Module):
    """(batch, 2, y, x) to (batch, 1, y, x)."""

    def __init__(self, *, layers: Sequence[tuple[int, int]] = LAYERS, is_published: bool = False) -> None:
        """Take channels and kernel per layer; ``is_published`` keeps the zero-padded layer and the global mean."""
        super().__init__()
        self.is_published = is_published
        channels = [2, *(c for c, _ in layers)]
        modules: list[nn.Module] = []
        for i, ((c_in, c_out), (_, k)) in enumerate(zip(pairwise(channels), layers, strict=True)):
            is_last = i == len(layers) - 1
            padding = "zeros" if is_last and is_published else "circular"
            modules.append(nn.Conv2d(c_in, c_out, k, padding="same", padding_mode=padding))
            modules += [] if is_last else [nn.ReLU(), nn.BatchNorm2d(c_out)]
        self.layers = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the forcing; less its mean over the basin, as published."""
        y: torch.Tensor = self.layers(x)
        return y - y.mean(dim=(1, 2, 3), keepdim=True) if self.is_published else y


def trained(weights: Path, *, is_published: bool = False) -> EddyNetwork:
    """Return the network with published weights, all its layers circular unless asked for as published."""
    network = EddyNetwork(is_published=is_published)
    network.layers.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return network.eval()


def made_up(*, is_published: bool = False) -> EddyNetwork:
    """Return a small network of the same make with random weights and statistics."""
    torch.manual_seed(3)
    network = EddyNetwork(layers=((6, 5), (5, 3), (4, 3), (1, 3)), is_published=is_published)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()
