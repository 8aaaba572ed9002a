"""Fields with gaps: what stands for a voxel that is missing (NaN: land in an ocean, ground in a pressure level).

A gap is filled before the network sees it, voxel by voxel, so a cell has one value in whichever halo it lies; and what
was missing is missing in the result.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.summarised import Summarised, along_channels, per_channel
from engine.models.summary import Summary


class Missing(nn.Module):
    """A network on a field whose gaps are filled, and are gaps again in what it gives.

    A voxel is a gap of the result where any channel is missing in the source.

    >>> Missing(nn.Identity(), fill=0.0)(torch.tensor([[[1.0, float("nan")], [2.0, 3.0]]]))
    tensor([[[1., nan],
             [2., nan]]])
    """

    takes_nan = True

    def __init__(self, network: nn.Module, *, fill: float | Literal["mean"] = 0.0, n_channels: int = 1) -> None:
        """Fill gaps.

        Args:
            network: Takes (batch, channel, *space), gives (batch, channel, *space) on the same grid, of floats.
            fill: What stands for a missing voxel: a number, in the source's units; or ``mean``, that of its channel
                over all voxels of the source that are there.
            n_channels: Of the source; wanted by ``mean`` only.

        Raises:
            ModelError: If it is filled with something else.
        """
        super().__init__()
        if isinstance(fill, str) and fill != "mean":
            raise ModelError(f"gaps are filled with a number or with 'mean', not '{fill}'. Give one of them.")
        self.network = network
        self.fill = _Mean(n_channels) if fill == "mean" else _Number(float(fill))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the network gives for (batch, channel, *space), NaN where a channel is missing."""
        is_missing = torch.isnan(x)
        y: torch.Tensor = self.network(torch.where(is_missing, self.fill(x), x))
        return y.masked_fill(is_missing.any(dim=1, keepdim=True), float("nan"))


def takes_nan(module: nn.Module) -> bool:
    """Say whether a pipeline knows what a missing voxel is: a module says so by its attribute ``takes_nan``."""
    return any(getattr(part, "takes_nan", False) for part in module.modules())


class _Number(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, self.value)


class _Mean(Summarised):
    """The mean of each channel of the source."""

    wants = "the mean of each channel of the source"
    mean: torch.Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels, None, mean=torch.zeros(n_channels))

    def derive(self, channels: Sequence[Summary]) -> Mapping[str, torch.Tensor]:
        """Return ``mean``."""
        return {"mean": per_channel([summary.mean for summary in channels])}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return it, to be broadcast to (batch, channel, *space)."""
        self.check_fitted()
        return along_channels(self.mean, x)
