"""Fields with gaps: what stands for a voxel that is missing (NaN: land in an ocean, ground in a pressure level).

A gap is filled before the network sees it, so a cell has one value in whichever halo it lies; and what was missing is
missing in the result.
"""

from collections.abc import Mapping, Sequence
from math import ceil, hypot
from typing import Literal

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.nearest import Nearest
from engine.models.summarised import Summarised, along_channels, per_channel
from engine.models.summary import Summary

SAW_GAP = "saw_gap"
"""The output that says which voxels a gap was seen from."""


class Missing(nn.Module):
    """A network on a field whose gaps are filled, and are gaps again in what it gives.

    A voxel is a gap of the result where any channel is missing in the source.

    >>> Missing(nn.Identity(), fill=0.0)(torch.tensor([[[1.0, float("nan")], [2.0, 3.0]]]))
    tensor([[[1., nan],
             [2., nan]]])
    """

    takes_nan = True

    def __init__(
        self,
        network: nn.Module,
        *,
        fill: float | Literal["mean", "nearest"] = 0.0,
        n_channels: int = 1,
        sees: Sequence[int] = (),
        flags: bool = False,
    ) -> None:
        """Fill gaps.

        Args:
            network: Takes (batch, channel, *space), gives (batch, channel, *space) of floats: on the same grid, or on
                its middle where the network pads nothing.
            fill: What stands for a missing voxel: a number, in the source's units; ``mean``, that of its channel
                over all voxels of the source that are there; or ``nearest``, the nearest voxel of its channel by
                Euclidean distance in voxels, several at one distance by their mean.
            n_channels: Of the source; wanted by ``mean`` only.
            sees: How many voxels the network sees to either side of its own at most, along each axis of space: the
                larger part of the halo that ``engine check`` prints; of a network that pads nothing, half of both.
                ``nearest`` and ``flags`` need it: the nearest voxel is sought as far as any that is kept can see a
                gap, and no farther.
            flags: Whether to say from which voxels a gap was seen: the result is then a dict with ``output`` and
                ``saw_gap``, (batch, 1, *space): 1 where one lies within ``sees``, 0 where none does, NaN in gaps.
                Its mean by area is in ``engine report --budget``.

        Raises:
            ModelError: If it is filled with something else, or what it sees is not said.
        """
        super().__init__()
        if isinstance(fill, str) and fill not in ("mean", "nearest"):
            raise ModelError(
                f"gaps are filled with a number, 'mean' or 'nearest', not '{fill}'. Give one of them."
            )
        if (flags or fill == "nearest") and (not sees or min(sees) < 0):
            raise ModelError(
                "'nearest' and 'flags' must know how many voxels the network sees to each side, along each axis of "
                f"space, and sees is {tuple(sees)}. Give it, as in (4, 4): 'engine check' prints the halo."
            )
        self.network = network
        self.fill: nn.Module = _fill(fill, n_channels, sees)
        self.sees = tuple(sees)
        self.flags = flags

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return what the network gives for (batch, channel, *space), NaN where a channel is missing.

        Raises:
            ModelError: If ``sees`` is not of as many axes, or the result lies on another grid.
        """
        if self.sees and len(self.sees) != x.dim() - 2:
            raise ModelError(
                f"sees must be of the {x.dim() - 2} axes of space of the input, and is {self.sees}. Give one per axis."
            )
        is_missing = torch.isnan(x)
        y: torch.Tensor = self.network(torch.where(is_missing, self.fill(x), x))
        is_gap = is_missing.any(dim=1, keepdim=True)
        gap = _middle(is_gap, y.shape[2:])
        y = y.masked_fill(gap, float("nan"))
        if not self.flags:
            return y
        saw = _middle(_spread(is_gap, self.sees), y.shape[2:]).to(y.dtype)
        return {"output": y, SAW_GAP: saw.masked_fill(gap, float("nan"))}


def takes_nan(module: nn.Module) -> bool:
    """Say whether a pipeline knows what a missing voxel is: a module says so by its attribute ``takes_nan``."""
    return any(getattr(part, "takes_nan", False) for part in module.modules())


def looks_about(module: nn.Module) -> bool:
    """Say whether a pipeline seeks gaps, or what stands for them, about each voxel."""
    return any(isinstance(part, Missing) and part.sees for part in module.modules())


def _fill(fill: float | str, n_channels: int, sees: Sequence[int]) -> nn.Module:
    if fill == "mean":
        return _Mean(n_channels)
    if fill == "nearest":  # a gap that is seen has a voxel that is there, the one that sees it, in that box
        return Nearest(ceil(hypot(*sees)))
    return _Number(float(fill))


def _middle(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the middle of (batch, channel, *space): what a network that pads nothing gives."""
    lost = [had - has for had, has in zip(x.shape[2:], shape, strict=True)]
    if min(lost) < 0 or any(n % 2 for n in lost):
        raise ModelError(
            f"a network on a field with gaps gives its grid or the middle of it, and gave {tuple(shape)} for "
            f"{tuple(x.shape[2:])}. Pad it, or fill the gaps of the source beforehand."
        )
    return nn.functional.pad(x, [-n // 2 for n in reversed(lost) for _ in "<>"]) if any(lost) else x


def _spread(is_gap: torch.Tensor, sees: Sequence[int]) -> torch.Tensor:
    """Return (batch, 1, *space): 1 where a gap lies within the box that is seen, one axis at a time."""
    pool = (nn.functional.max_pool1d, nn.functional.max_pool2d, nn.functional.max_pool3d)[len(sees) - 1]
    spread = is_gap.float()
    for axis, reach in enumerate(sees):
        reaches = [reach if other == axis else 0 for other in range(len(sees))]
        spread = pool(spread, [2 * n + 1 for n in reaches], stride=1, padding=reaches)
    return spread


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
