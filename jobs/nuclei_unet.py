"""A small U-Net that marks nuclei on H&E at 0.5 micrometre: see ``nuclei_unet.md`` for what it is and is not.

    engine check jobs/nuclei_unet.py:nuclei

Three levels of convolutions, no normalisation that sees the image, nothing global: its halo is proved.
"""

from pathlib import Path

import networks
import torch
from safetensors.torch import load_file
from torch import nn

from engine.models.stain import STAINS, Deconvolve

WEIGHTS = Path(__file__).with_name("nuclei_unet.safetensors")
WIDTHS = (12, 24, 48)
"""Channels per level; each level has half the resolution of the one before."""

MPP, MPP_TOLERANCE = 0.5, 0.05
"""Micrometre per voxel that it was trained at, and the share by which a slide may differ."""

THRESHOLD = 0.5
"""Least probability of a nucleus."""


class UNet(networks.UNet):
    """RGB of 0 to 255 to the logit of "nucleus": (b, 3, y, x) to (b, 1, y, x); y and x are multiples of 4."""

    def __init__(self) -> None:
        super().__init__(n_space=2, n_in=3, n_out=1, widths=WIDTHS, norm="none", up="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logit."""
        return super().forward(1.0 - x / 127.5)  # 1 where black, -1 where white


class Nuclei(nn.Module):
    """The U-Net with what a lab stores: probability, label and uncertainty."""

    mpp, mpp_tolerance = MPP, MPP_TOLERANCE

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return three maps for ``x`` (b, 3, y, x), RGB of 0 to 255.

        ``probability`` (b, 1, y, x) float32; ``label`` (b, y, x) uint8, 1 for a nucleus; ``uncertainty``
        (b, 1, y, x) float32, the entropy of the probability in bits: 0 where sure, 1 where it is a coin's toss.
        """
        p = torch.sigmoid(self.network(x))
        q = p.clamp(1e-6, 1 - 1e-6)
        entropy = -(q * torch.log(q) + (1 - q) * torch.log(1 - q)) / 0.6931471805599453
        return {"probability": p, "label": (p[:, 0] > THRESHOLD).to(torch.uint8), "uncertainty": entropy}


class NucleiAndStains(Nuclei):
    """The same, and how much haematoxylin and eosin there is: what objects are measured by."""

    def __init__(self) -> None:
        super().__init__()
        self.deconvolve = Deconvolve(STAINS["hed"][:2])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the three maps of :class:`Nuclei`, and ``stain`` (b, 2, y, x) float32, in natural logarithms."""
        return {**super().forward(x), "stain": self.deconvolve(x)[:, :2]}


def nuclei_and_stains() -> NucleiAndStains:
    """Return the trained network with the two stains beside its maps."""
    model = NucleiAndStains()
    model.network.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def nuclei() -> Nuclei:
    """Return the trained network, ready to run."""
    model = Nuclei()
    model.network.load_state_dict(load_file(WEIGHTS))
    return model.eval()
