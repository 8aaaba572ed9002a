"""Small networks for scans and slides: what the jobs train and the tests are made on. Users bring their own.

    UNet      of two or three space axes, kernels and strides of each stage as uneven as the scan's spacing
    MeshNet   a chain of dilated convolutions, no pooling: its halo is the sum of its dilations

Neither sees the whole volume (but for ``norm="instance"``), so their halo is proved; every layer stands in the tree, so
a network of two dimensions can be inflated to three by ``engine.models.inflate``.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
NORMS = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}
LINEAR = {2: "bilinear", 3: "trilinear"}

Sizes = Sequence[int | Sequence[int]]
"""A size per stage, one for all axes or one for each."""


class UNet(nn.Module):
    """Two convolutions a stage, max-pooling down, a way up that meets what went down (Ronneberger et al. 2015).

    Scans have thick slices: a network for 5 x 1 x 1 mm looks along z only once y and x are as coarse, as nnU-Net plans
    it (Isensee et al. 2021): ``kernels=((1, 3, 3), 3, 3), strides=((1, 2, 2), 2)``.

    An axis must be a multiple of the product of its strides.
    """

    def __init__(
        self,
        *,
        n_space: int,
        n_in: int,
        n_out: int,
        widths: Sequence[int] = (16, 32, 64),
        kernels: Sizes | None = None,
        strides: Sizes | None = None,
        norm: str = "batch",
        up: str = "transposed",
    ) -> None:
        """Take what the network is made of.

        Args:
            n_space: Axes of space, 2 or 3.
            n_in: Channels of the input.
            n_out: Channels of the output, scores: no softmax is taken.
            widths: Channels of each stage, the finest first.
            kernels: Of each stage's convolutions, odd; 3 by default.
            strides: From each stage to the next; 2 by default.
            norm: "batch", "instance" or "none", after every convolution.
            up: "transposed", by a learnt kernel as long as the stride; "nearest" or "linear", by interpolation.
        """
        super().__init__()
        kernels = [_each(size, n_space) for size in kernels or [3] * len(widths)]
        strides = [_each(size, n_space) for size in strides or [2] * (len(widths) - 1)]
        stages = list(zip(pairwise(widths), strides, strict=True))
        self.down = nn.ModuleList(
            _stage(n_space, a, b, kernel, norm)
            for (a, b), kernel in zip(pairwise((n_in, *widths)), kernels, strict=True)
        )
        self.pool = nn.ModuleList(MAX_POOL[n_space](stride) for stride in strides)
        self.rise = nn.ModuleList(_rise(n_space, b, a, stride, up) for (a, b), stride in stages)
        came = [a if up == "transposed" else b for (a, b), _ in stages]
        self.up = nn.ModuleList(
            _stage(n_space, a + c, a, kernel, norm) for a, c, kernel in zip(widths, came, kernels, strict=False)
        )
        self.head = CONV[n_space](widths[0], n_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, n_out, *space) for ``x`` (batch, n_in, *space)."""
        kept = [self.down[0](x)]
        for pool, stage in zip(self.pool, self.down[1:], strict=True):
            kept.append(stage(pool(kept[-1])))
        x = kept.pop()
        for rise, stage in zip(reversed(self.rise), reversed(self.up), strict=True):
            x = stage(torch.cat([kept.pop(), rise(x)], 1))
        scores: torch.Tensor = self.head(x)
        return scores


class MeshNet(nn.Module):
    """A chain of dilated 3 x 3 x 3 convolutions (Fedorov et al. 2017): intensities to scores of classes."""

    def __init__(
        self,
        *,
        n_classes: int,
        width: int,
        dilations: Sequence[int],
        n_in: int = 1,
        norm: str = "none",
        activation: Callable[[], nn.Module] = nn.ReLU,
        full: float = 1.0,
    ) -> None:
        """Take what the network is made of.

        Args:
            n_classes: Channels of the output, scores: no softmax is taken.
            width: Channels of every layer.
            dilations: Of each layer; their sum is the halo.
            n_in: Channels of the input.
            norm: "batch", "instance" or "none", after every dilated convolution.
            activation: Makes what follows.
            full: The intensity that the network knows as 1.
        """
        super().__init__()
        self.full = full
        layers: list[nn.Module] = []
        for n, dilation in zip([n_in] + [width] * len(dilations), dilations, strict=False):
            layers += [
                nn.Conv3d(n, width, 3, padding=dilation, dilation=dilation),
                *_norm(3, width, norm),
                activation(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv3d(width, n_classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, n_classes, z, y, x) for intensities (batch, n_in, z, y, x)."""
        scores: torch.Tensor = self.layers(x / self.full)
        return scores


def _each(size: int | Sequence[int], n_space: int) -> tuple[int, ...]:
    return (size,) * n_space if isinstance(size, int) else tuple(size)


def _stage(n_space: int, n_in: int, n_out: int, kernel: tuple[int, ...], norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        conv = CONV[n_space](n, n_out, kernel, padding=tuple(k // 2 for k in kernel))
        layers += [conv, *_norm(n_space, n_out, norm), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _norm(n_space: int, width: int, norm: str) -> list[nn.Module]:
    return [] if norm == "none" else [NORMS[norm][n_space](width)]


def _rise(n_space: int, n_in: int, n_out: int, stride: tuple[int, ...], up: str) -> nn.Module:
    if up == "transposed":
        return TRANSPOSED[n_space](n_in, n_out, stride, stride=stride)
    mode = LINEAR[n_space] if up == "linear" else up
    return nn.Upsample(scale_factor=tuple(float(s) for s in stride), mode=mode)
