"""The value of the nearest voxel that is there, for those that are missing: a look about of a bounded reach."""

from math import inf

import torch
from torch import nn


class Nearest(nn.Module):
    """Gives each missing voxel (NaN) of (batch, channel, *space) the value of the nearest one of its channel.

    Distances are Euclidean, in voxels; several at one distance give their mean, so that what is reflected or turned
    round a pole is filled alike. A voxel with none within ``reach`` along every axis gives 0.

    >>> Nearest(2)(torch.tensor([[[1.0, float("nan"), 3.0, float("nan"), float("nan"), float("nan"), float("nan")]]]))
    tensor([[[1., 2., 3., 3., 3., 0., 0.]]])
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x, filled."""
        filled: torch.Tensor = torch.ops.haloengine.fill_nearest(x, self.reach)
        return filled


_Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Per voxel: squared distance to the nearest that are there, the sum of their values, and how many they are."""


@torch.library.custom_op("haloengine::fill_nearest", mutates_args=())
def _fill_nearest(x: torch.Tensor, reach: int) -> torch.Tensor:
    """One operation of the graph, so that its geometry is known: see ``own_operations.py``."""
    is_missing = torch.isnan(x)
    if not is_missing.any():
        return x.clone()
    found = (
        torch.zeros_like(x, dtype=torch.float32).masked_fill(is_missing, inf),
        x.double().masked_fill(is_missing, 0),  # sums of float32 are exact in float64, so in any order the same
        (~is_missing).double(),
    )
    for dim in range(2, x.dim()):
        found = _along(found, dim, min(reach, x.shape[dim] - 1))
    return (found[1] / found[2].clamp(min=1)).to(x.dtype)


@_fill_nearest.register_fake
def _(x: torch.Tensor, reach: int) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(x)


def _along(found: _Found, dim: int, reach: int) -> _Found:
    """Return the nearest of what was found at each place of a line: the distance transform is one axis at a time."""
    best = tuple(part.clone() for part in found)
    n = found[0].shape[dim]
    for step in range(1, reach + 1):
        for here, there in ((step, 0), (0, step)):
            distance, total, count = (part.narrow(dim, there, n - step) for part in found)
            nearest, sums, counts = (part.narrow(dim, here, n - step) for part in best)
            distance = distance + step * step
            is_nearer, is_equal = distance < nearest, distance == nearest
            for kept, offered in ((sums, total), (counts, count)):
                kept.copy_(torch.where(is_nearer, offered, torch.where(is_equal, kept + offered, kept)))
            nearest.copy_(torch.minimum(nearest, distance))
    return best[0], best[1], best[2]
