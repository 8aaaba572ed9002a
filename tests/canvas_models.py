"""Pipelines over a canvas that tests run: a network through windows, on another grid, or both."""

import torch
from torch import nn

from engine.models.resampled import Resampled
from engine.models.windowed import Windowed
from engine.models.wrappers import ArgMax, Compose, Named, Normalise, Softmax


def instance_network(n_classes: int = 4) -> nn.Module:
    """Return a 3-d network whose every window is normalised by itself."""
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.InstanceNorm3d(6, affine=True), nn.LeakyReLU(), nn.Conv3d(6, n_classes, 3, padding=1)
    )
    return net.eval()


def bounded_network(n_classes: int = 4) -> nn.Module:
    """Return a 3-d network with a stride, whose tiles can equal the whole."""
    torch.manual_seed(6)
    net = nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool3d(2),
        nn.Conv3d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv3d(6, n_classes, 3, padding=1),
    )
    return net.eval()


def heads() -> nn.Module:
    return Named(label=ArgMax(), probability=Softmax())


def windowed(window=(12, 14, 16), overlap=0.5, rule="monai", weights="gaussian") -> nn.Module:
    return Compose(
        Normalise(0.1, 0.9), Windowed(instance_network(), window=window, overlap=overlap, weights=weights, rule=rule), heads()
    )


def resampled(spacing=(1.5, 0.8, 1.1), order="linear", back="linear") -> nn.Module:
    return Compose(Normalise(0.1, 0.9), Resampled(bounded_network(), spacing=spacing, order=order, back=back), heads())


def both(spacing=(1.5, 0.8, 1.1)) -> nn.Module:
    inner = Compose(Normalise(0.2, 1.1), Windowed(instance_network(), window=(12, 14, 16), overlap=0.5, weights="gaussian"))
    return Compose(Normalise(0.1, 0.9), Resampled(inner, spacing=spacing), heads())
