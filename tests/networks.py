"""Random networks that reach every rule of the geometry: what the engine is proved on."""

import random

import torch
from torch import nn
from torch.nn import functional as F

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LINEAR_MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Shrinking(nn.Module):
    """Down by convolutions and pools of any stride, and nothing back up: a coarse output."""

    def __init__(self, chance: random.Random, n_space: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(_random_layer(chance, n_space, width, first=i == 0) for i in range(chance.randint(2, 4)))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Encoder(nn.Module):
    """A U-Net of random depth, strides, pools and ways up, with skips."""

    def __init__(self, chance: random.Random, n_space: int, width: int) -> None:
        super().__init__()
        depth = chance.randint(1, 3)
        self.strides = [tuple(chance.choice((1, 2, 2, 3)) for _ in range(n_space)) for _ in range(depth)]
        self.first = _convolution(chance, n_space, 1, width, odd=True)
        self.downs = nn.ModuleList(_down(chance, n_space, width, stride) for stride in self.strides)
        self.middles = nn.ModuleList(_convolution(chance, n_space, width, width, odd=True) for _ in self.strides)
        self.ups = nn.ModuleList(_up(chance, n_space, width, stride) for stride in self.strides)
        self.joins = nn.ModuleList(_convolution(chance, n_space, 2 * width, width, odd=True) for _ in self.strides)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        skips = []
        for down, middle in zip(self.downs, self.middles, strict=True):
            skips.append(x)
            x = middle(down(x))
        for up, join, skip in zip(reversed(self.ups), reversed(self.joins), reversed(skips), strict=True):
            x = join(torch.cat([up(x), skip], dim=1))
        return x


class Up(nn.Module):
    """Interpolation by whole factors."""

    def __init__(self, stride: tuple[int, ...], mode: str) -> None:
        super().__init__()
        self.stride, self.mode = stride, mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors = [float(s) for s in self.stride]
        if self.mode.startswith("nearest"):
            return F.interpolate(x, scale_factor=factors, mode=self.mode)
        return F.interpolate(x, scale_factor=factors, mode=self.mode, align_corners=False)


def random_network(seed: int) -> tuple[nn.Module, int]:
    """Return a network with one input channel, in float64 and eval mode, and its number of space axes."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    n_space = chance.choice((1, 2, 2, 3))
    kind = chance.choice((Shrinking, Encoder, Encoder))
    network = kind(chance, n_space, chance.choice((2, 3, 4))).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return network.eval(), n_space


def _convolution(chance: random.Random, n: int, c_in: int, c_out: int, *, odd: bool) -> nn.Module:
    kernel = [chance.choice((1, 3, 5) if odd else (1, 2, 3, 4, 5)) for _ in range(n)]
    dilation = [chance.choice((1, 1, 2, 3)) for _ in range(n)]
    is_same = odd or chance.random() < 0.5
    padding = "same" if is_same else 0
    return nn.Sequential(
        CONV[n](c_in, c_out, kernel, dilation=dilation, padding=padding),
        chance.choice((nn.Identity(), BATCH_NORM[n](c_out))),
        chance.choice((nn.LeakyReLU(0.2), nn.ELU(), nn.Tanh())),  # a plain ReLU kills one tiny network in twelve
    )


def _down(chance: random.Random, n: int, width: int, stride: tuple[int, ...]) -> nn.Module:
    """Return a layer that divides a length which the stride divides."""
    kind = chance.choice(("max", "avg", "conv"))
    grown = [s + 2 * chance.choice((0, 0, 1)) for s in stride]
    padding = [(k - s) // 2 for k, s in zip(grown, stride, strict=True)]
    if kind == "conv":
        return CONV[n](width, width, grown, stride=stride, padding=padding)
    padding = [min(p, k // 2) for p, k in zip(padding, grown, strict=True)]
    pools = {"max": MAX_POOL, "avg": AVG_POOL}[kind]
    return pools[n](tuple(grown), stride, tuple(padding), ceil_mode=False)


def _up(chance: random.Random, n: int, width: int, stride: tuple[int, ...]) -> nn.Module:
    kind = chance.choice(("transposed", "output_padding", "nearest", "nearest-exact", "linear"))
    if kind == "transposed":
        return TRANSPOSED[n](width, width, [s + 2 for s in stride], stride=stride, padding=1)
    if kind == "output_padding":
        extra = [s - 1 for s in stride]
        return TRANSPOSED[n](width, width, 3, stride=stride, padding=1, output_padding=extra)
    return Up(stride, LINEAR_MODE[n] if kind == "linear" else kind)


def _random_layer(chance: random.Random, n: int, width: int, *, first: bool) -> nn.Module:
    if first:
        return _convolution(chance, n, 1, width, odd=False)
    kind = chance.choice(("conv", "strided", "max", "avg", "transposed", "linear"))
    kernel = tuple(chance.choice((2, 3, 4)) for _ in range(n))
    stride = tuple(chance.choice((1, 2, 3)) for _ in range(n))
    padding = tuple(min(chance.choice((0, 1)), k // 2) for k in kernel)
    is_ceil = chance.random() < 0.5
    if kind == "conv":
        return _convolution(chance, n, width, width, odd=False)
    if kind == "strided":
        return CONV[n](width, width, kernel, stride=stride, padding=padding)
    if kind == "max":
        return MAX_POOL[n](kernel, stride, padding, ceil_mode=is_ceil)
    if kind == "avg":
        return AVG_POOL[n](kernel, stride, padding, ceil_mode=is_ceil, count_include_pad=chance.random() < 0.5)
    if kind == "transposed":
        extra = [min(s - 1, chance.choice((0, 1))) for s in stride]
        return TRANSPOSED[n](width, width, kernel, stride=stride, padding=padding, output_padding=extra)
    return Up((2,) * n, LINEAR_MODE[n])
