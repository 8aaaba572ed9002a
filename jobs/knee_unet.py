"""A small 3-d U-Net that marks bone and cartilage cap on made-up knees: ``knee_unet.md`` says what it is and is not.

    engine check jobs/knee_unet.py:knee

Three levels of convolutions whose normalisation is fixed once trained: its halo is proved. It looks at voxels of half a
millimetre, whatever the series has, and its scores go back to the series' own grid before the label is chosen.
"""

from pathlib import Path

import networks
from safetensors.torch import load_file

from engine.models.resampled import Resampled
from engine.models.wrappers import ArgMax, Compose
from engine.models.zscore import ZScore

WEIGHTS = Path(__file__).with_name("knee_unet.safetensors")
WIDTHS = (8, 16, 32)
"""Channels per level; each level has half the resolution of the one before."""

SPACING = 0.5
"""Millimetre per voxel that the network sees."""

N_LABELS = 3
"""Nothing, bone, cartilage."""


class UNet(networks.UNet):
    """Normalised magnitudes to scores of labels: (b, 1, z, y, x) to (b, 3, z, y, x); sizes are multiples of 4."""

    def __init__(self) -> None:
        super().__init__(n_space=3, n_in=1, n_out=N_LABELS, widths=WIDTHS, up="nearest")


def pipeline(network: UNet) -> Compose:
    """Return all that happens between a series and its labels, as one module."""
    return Compose(ZScore(1), Resampled(network, spacing=SPACING), ArgMax())


def knee() -> Compose:
    """Return the trained pipeline; its z-score is fitted to each series."""
    network = UNet()
    network.load_state_dict(load_file(WEIGHTS))
    return pipeline(network).eval()
