"""Real volumes and trained networks beside the repository, each with a twin that needs neither."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jobs.meshnet_weights import OWN_AXES, read_meshnet, turned
from jobs.networks import MeshNet, UNet

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MESHNETS = {"meshnet_model11_gw_ae": 255.0, "meshnet_model20chan3cls": 112.0}
"""Trained networks, and the intensity of the real T1 that each wants as 1: its largest, or its 95th percentile.

The least and the 5th percentile, which they want as 0, are 0 there.
"""
T1_AXES = "AIL"
"""Where z, y and x of the real T1 run to: anterior, inferior, left."""

SLIDE = "slide/CMU-1-Small-Region.svs"
CT = "ct/totalsegmentator_example_ct.nii.gz"
T1 = "ct/t1_brain.nii.gz"
ERA5 = "climate/era5_tl31_19590102T00.nc"
PYQG_LAYERS = ((128, 5), (64, 5), (32, 3), (32, 3), (32, 3), (32, 3), (32, 3), (1, 3))
"""Channels and kernel of each layer of the published subgrid-forcing network; it takes 2 channels."""


def real(path: str) -> Path:
    """Return the path of a file of the sample data, or skip the test."""
    found = DATA / path
    if not found.exists():
        pytest.skip(f"needs the real volumes beside the repository: {found} is not there")
    return found


class Labels(nn.Module):
    """The class of the greatest score, without a channel axis, as uint8."""

    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(x).argmax(dim=1).to(torch.uint8)


def meshnet(name: str) -> MeshNet:
    """Return a trained MeshNet for the real T1 as it lies; see :func:`jobs.meshnet_weights.turned`."""
    arguments, state = read_meshnet(real(f"models/{name}"))
    network = MeshNet(**arguments, full=MESHNETS[name])
    network.load_state_dict(turned(state, own=OWN_AXES, scan=T1_AXES))
    return network.eval()


def meshnet_twin(*, seed: int = 0) -> MeshNet:
    """Return a small MeshNet with random weights."""
    torch.manual_seed(seed)
    network = MeshNet(width=5, dilations=(1, 2, 4, 2, 1), n_classes=3, activation=nn.ELU)
    with_statistics(network)
    return network.eval()


class Pyqg(nn.Module):
    """The subgrid-forcing network of m2lines: circular convolutions, ReLU, batch norm.

    As published its last layer was left zero-padded, and the mean over the whole domain is taken off what it gives.
    """

    def __init__(self, *, layers: Sequence[tuple[int, int]] = PYQG_LAYERS, is_published: bool = False) -> None:
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
        y = self.layers(x)
        return y - y.mean(dim=(1, 2, 3), keepdim=True) if self.is_published else y


def pyqg(number: int = 0, *, is_published: bool = False) -> Pyqg:
    """Return the trained network, all its layers circular unless asked for as published."""
    network = Pyqg(is_published=is_published)
    path = real(f"models/pyqg_fcnn/{number}/weights.pt")
    network.layers.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval()


def pyqg_twin(*, is_published: bool = False) -> Pyqg:
    """Return a small network of the same make with random weights and statistics."""
    torch.manual_seed(3)
    network = Pyqg(layers=((6, 5), (5, 3), (4, 3), (1, 3)), is_published=is_published)
    with_statistics(network)
    return network.eval()


def with_statistics(network: nn.Module) -> None:
    """Draw weights that keep a signal's variance, and running statistics other than 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out" if module.transposed else "fan_in")
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)


def unet(*, seed: int = 0, **shape: Any) -> UNet:
    """Return a U-Net with random weights and statistics, in eval mode; see :class:`jobs.networks.UNet`."""
    torch.manual_seed(seed)
    network = UNet(**shape)
    with_statistics(network)
    return network.eval()


class Scaled(nn.Module):
    """A network on intensities taken to about one: (x - shift) / scale before it."""

    def __init__(self, network: nn.Module, *, shift: float, scale: float) -> None:
        super().__init__()
        self.network, self.shift, self.scale = network, shift, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - self.shift) / self.scale)
