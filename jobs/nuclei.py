"""A network of fixed weights that finds nuclei in H&E: what a pathologist would circle, and nothing to train.

Light is turned into stain, stain into blobs: optical density (Beer-Lambert), colour deconvolution to haematoxylin as
a 1 x 1 convolution (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291), then the scale-normalised Hessian of
Gaussians at the radii of nuclei (Lindeberg 1998, IJCV 30:79), of which the lesser curvature is kept: nuclei are round,
fibres are not (Frangi 1998, MICCAI). All is pools, convolutions and pointwise work, so that the engine can prove its
halo:

    engine check jobs/nuclei.py:nuclei
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

MPP = 0.5
"""Micrometre per voxel that the network is made for; a 20 x scan."""

HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)
"""Optical density of each stain in red, green and blue, of length 1."""

POOL = 2
"""Blobs are looked for on a grid this much coarser than the slide: 1 um."""

TISSUE_POOL = 8
"""Tissue is looked for on a grid this much coarser again: 8 um."""

RADII = (3.0, 4.2, 6.0)
"""Micrometre; of the nuclei looked for."""

NOTHING, TISSUE, NUCLEUS = 0, 1, 2
"""Values of the output ``label``."""


def nuclei() -> nn.Module:
    """Return the network, ready to run."""
    return NucleusFinder(MPP).eval()


class NucleusFinder(nn.Module):
    """RGB of 0 to 255 to the probability of a nucleus, and a label map of tissue and nuclei."""

    def __init__(self, mpp: float) -> None:
        super().__init__()
        self.stain = _pointwise(_unmixing())
        # A disc of radius r answers most to a Gaussian of sigma r / sqrt(2), in voxels of the coarse grid.
        self.sigmas = [radius / 2**0.5 / (mpp * POOL) for radius in RADII]
        # Gaussians add in squares, so that each blur goes on from the last.
        steps = [(b**2 - a**2) ** 0.5 for a, b in pairwise([0.0, *self.sigmas])]
        self.blurs = nn.ModuleList(_gaussian(sigma) for sigma in steps)
        self.curvatures = nn.ModuleList(_curvature(sigma) for sigma in self.sigmas)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``probability`` (n, 1, y, x), float32, and ``label`` (n, y, x), uint8, for ``x`` (n, 3, y, x)."""
        density = -torch.log((x.clamp(0.0, 255.0) + 1.0) / 256.0)  # (n, 3, y, x), 0 where the glass is clear
        density = F.avg_pool2d(density, POOL)  # (n, 3, y/2, x/2): unmixing is linear, so it may come after
        stain = self.stain(density)  # (n, 2, y/2, x/2): haematoxylin, and all stain together
        haematoxylin, total = stain[:, :1].clamp(min=0.0), stain[:, 1:]

        blurred, blobs = haematoxylin, []
        for blur, curvature in zip(self.blurs, self.curvatures, strict=True):
            blurred = blur(blurred)  # (n, 1, y/2, x/2)
            blobs.append(_roundness(curvature(blurred)))
        blob = torch.maximum(blobs[0], torch.maximum(blobs[1], blobs[2]))
        is_blob = torch.sigmoid((blob - 0.06) * 40.0)  # a disc of density 1 above its surround answers 1/e
        is_dark = torch.sigmoid((self.blurs[0](haematoxylin) - 0.4) * 12.0)
        probability = F.interpolate(is_blob * is_dark, scale_factor=POOL, mode="bilinear")  # (n, 1, y, x)

        total = F.avg_pool2d(total, TISSUE_POOL)  # (n, 1, y/16, x/16)
        total = F.avg_pool2d(total, 3, stride=1, padding=1, count_include_pad=False)
        total = F.interpolate(total, scale_factor=POOL * TISSUE_POOL, mode="bilinear")  # (n, 1, y, x)
        is_tissue, is_nucleus = (total > 0.12).to(torch.uint8), (probability > 0.5).to(torch.uint8)
        label = is_tissue * (TISSUE + is_nucleus)  # (n, 1, y, x)
        return {"probability": probability, "label": label[:, 0]}


def _unmixing() -> torch.Tensor:
    """Return the rows (2, 3) that take optical density to haematoxylin, and to the mean of red, green and blue."""
    haematoxylin, eosin = (torch.tensor(v, dtype=torch.float64) for v in (HAEMATOXYLIN, EOSIN))
    rest = torch.linalg.cross(haematoxylin, eosin)
    stains = torch.stack([v / v.norm() for v in (haematoxylin, eosin, rest)])  # density = amounts @ stains
    return torch.stack([torch.linalg.inv(stains)[:, 0], torch.full((3,), 1 / 3, dtype=torch.float64)])


def _pointwise(rows: torch.Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(rows.shape[1], rows.shape[0], 1, bias=False)
    layer.weight = nn.Parameter(rows[:, :, None, None].float(), requires_grad=False)
    return layer


def _roundness(curvature: torch.Tensor) -> torch.Tensor:
    """Return how much the surface bends down along the axis where it does so least: fibres and edges give nothing."""
    xx, yy, xy = curvature[:, 0:1], curvature[:, 1:2], curvature[:, 2:3]  # (n, 1, y/2, x/2) each
    return -0.5 * (xx + yy + torch.sqrt((xx - yy) ** 2 + 4.0 * xy**2))


def _curvature(sigma: float) -> nn.Conv2d:
    """Return the Hessian times sigma squared: second differences along x, y, and both.

    They are taken over about sigma, not over one voxel, so that rounding is not magnified by sigma squared.
    """
    step = round(sigma)
    xx = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 1.0], [0.0, 0.0, 0.0]])
    xy = torch.tensor([[0.25, 0.0, -0.25], [0.0, 0.0, 0.0], [-0.25, 0.0, 0.25]])
    layer = nn.Conv2d(1, 3, 3, padding=step, dilation=step, padding_mode="replicate", bias=False)
    weight = torch.stack([xx, xx.T, xy])[:, None] * (sigma / step) ** 2
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _gaussian(sigma: float) -> nn.Sequential:
    """Return a Gaussian blur, one axis after the other; beyond the slide, its last voxel goes on."""
    reach = round(2.5 * sigma)
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    weight = (weight / weight.sum()).float()
    along_x = nn.Conv2d(1, 1, (1, len(weight)), padding=(0, reach), padding_mode="replicate", bias=False)
    along_y = nn.Conv2d(1, 1, (len(weight), 1), padding=(reach, 0), padding_mode="replicate", bias=False)
    along_x.weight = nn.Parameter(weight.reshape(1, 1, 1, -1), requires_grad=False)
    along_y.weight = nn.Parameter(weight.reshape(1, 1, -1, 1), requires_grad=False)
    return nn.Sequential(along_x, along_y)
