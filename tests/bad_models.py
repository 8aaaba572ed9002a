"""Models that a user may hand in by mistake, each named for its fault, beside a good one; and weights for it."""

import torch
from torch import nn
from torch.nn import functional as F


def seeded(module):
    """Give every weight a value that does not depend on what ran before."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return module


def good():
    return seeded(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)))


def other():
    return seeded(nn.Conv2d(1, 1, 5, padding=2))


def wide():
    return seeded(nn.Sequential(nn.Conv2d(1, 1, 9, padding=48, dilation=12), nn.Conv2d(1, 1, 3, padding=1)))


def colour():
    return seeded(nn.Conv2d(3, 1, 3, padding=1))


def solid():
    return seeded(nn.Conv3d(1, 1, 3, padding=1))


def halving():
    return seeded(nn.Conv2d(1, 1, 4, stride=4))


def norm():
    return seeded(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2), nn.Conv2d(2, 1, 1)))


def pooled():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 1, 1))


class UNet(nn.Module):
    """Takes multiples of 8 only: the way up must meet the way down."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 2, 3, padding=1), nn.ConvTranspose2d(2, 1, 8, stride=8)

    def forward(self, x):
        return x + self.up(F.max_pool2d(self.down(x), 8))


def unet():
    return seeded(UNet())


class Only64(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], 1, 64, 64) * 2


class Doing(nn.Module):
    """Does what it is told in its forward."""

    def __init__(self, deed):
        super().__init__()
        self.deed = deed

    def forward(self, x):
        return self.deed(x)


def pair():
    return Doing(lambda x: (x, 2 * x))


def explodes():
    return Doing(lambda x: x.no_such_method())


def exits():
    return Doing(lambda x: raise_(SystemExit(5)))


def noise():
    return Doing(lambda x: x + torch.rand_like(x))


def mixed_up():
    return Doing(lambda x: x + torch.ones(3, 3, 3, 3, 3, 3))


def tripped():
    """Fails on large values only, so that no probe meets it before the run."""
    return Doing(trip)


def trip(x):
    if float(x.max()) > 1e6:
        raise ValueError("the scanner\nsaid no")
    return x * 2


def raise_(error):
    raise error


def late():
    raise KeyError("licence")


def nothing():
    return None


number = 7
