"""Pipelines for slides, named by specification as a worker loads them: the demo's network, and what goes around it."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

JOBS = Path(__file__).resolve().parents[1] / "jobs"
if str(JOBS) not in sys.path:
    sys.path.insert(0, str(JOBS))

from nuclei_unet import THRESHOLD, nuclei  # noqa: E402 -- a job's folder is on the path only when it is run

from engine.models.stain import Reinhard  # noqa: E402
from engine.models.wrappers import Compose  # noqa: E402

NUCLEI = f"{JOBS / 'nuclei_unet.py'}:nuclei"
STAINED = f"{Path(__file__).resolve()}:stained"
COARSE = f"{Path(__file__).resolve()}:coarse"


def stained() -> nn.Module:
    """Return the demo's network behind a normalisation that is fitted to each slide."""
    return Compose(Reinhard(), nuclei())


class Coarse(nn.Module):
    """The demo's network for slides at 1 micrometre: it looks at them enlarged, and gives what it finds made smaller."""

    mpp, mpp_tolerance = 1.0, 0.01

    def __init__(self) -> None:
        super().__init__()
        self.network = nuclei().network

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        p = torch.sigmoid(self.network(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        p = F.avg_pool2d(p, 2)
        return {"probability": p, "label": (p[:, 0] > THRESHOLD).to(torch.uint8)}


def coarse() -> nn.Module:
    return Coarse().eval()
