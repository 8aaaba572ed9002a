"""A small 3-d U-Net that marks bone, and gas inside the body, in CT: see ``organ_unet.md`` for what it is and is not.

    engine check jobs/organ_unet.py:organs
    engine run scan.zarr jobs/organ_unet.py:organs result.zarr

It works at 3.5 mm, whatever the scan's spacing: the engine resamples there and back, inside its tiles. Batch norm keeps
what it learnt and sees no volume, so its halo is proved and the result is that of one pass over the whole scan.
"""

from pathlib import Path

import networks
import torch
from safetensors.torch import load_file
from torch import nn

from engine.models.intensity import Window
from engine.models.resampled import Resampled
from engine.models.wrappers import ArgMax, Compose, Named

WEIGHTS = Path(__file__).with_name("organ_unet.safetensors")
WIDTHS = (8, 16, 32, 32)
"""Channels per level; each level has half the resolution of the one before."""

SPACING = 3.5
"""Millimetre per voxel that it works at, along every axis."""

LEVEL, WIDTH = 0.0, 2000.0
"""Window in HU that it looks through: air, which is 0 after it as a layer's padding is, to dense bone."""

GAS, BONE = 1, 2
"""Labels; 0 is all else, the air about the body too."""


def network() -> nn.Module:
    """Return the U-Net, untrained: (b, 1, z, y, x) of 0 to 1 to scores (b, 3, z, y, x)."""
    return networks.UNet(n_space=3, n_in=1, n_out=3, widths=WIDTHS, norm="batch", up="transposed")


def scores(unet: nn.Module) -> Compose:
    """Return what gives scores (b, 3, z, y, x) for HU (b, 1, z, y, x), on the scan's own grid."""
    return Compose(Window(LEVEL, WIDTH), Resampled(unet, spacing=SPACING))


def organs() -> nn.Module:
    """Return the trained pipeline: HU to one map ``organs`` (b, z, y, x), uint8."""
    unet = network()
    unet.load_state_dict(load_file(WEIGHTS))
    return Compose(*scores(unet).children(), Named(organs=ArgMax(torch.uint8))).eval()
