"""Real volumes and trained networks beside the repository, each with a twin that needs neither."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jobs.eddy_network import EddyNetwork, made_up, trained
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


def pyqg(number: int = 0, *, is_published: bool = False) -> EddyNetwork:
    """Return the trained subgrid-forcing network, all its layers circular unless asked for as published."""
    return trained(real(f"models/pyqg_fcnn/{number}/weights.pt"), is_published=is_published)


def pyqg_twin(*, is_published: bool = False) -> EddyNetwork:
    """Return a small network of the same make with random weights and statistics."""
    return made_up(is_published=is_published)


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
