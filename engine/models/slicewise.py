"""Layers of three dimensions that a network of two is made of anew: they work on each slice, or repeat the end slices.

Their weights have the names that they had, so that a state dict of the inflated network loads again.
"""

import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError


class EachSlice(nn.Module):
    """Runs the layer beside it in the order of bases on every slice for itself, slices along space axis ``axis``."""

    axis = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, channel, *space) for such a tensor; one without three space axes is handed on as it is."""
        layer = super().forward
        if x.dim() != 5:
            return torch.as_tensor(layer(x))
        slices = x.movedim(2 + self.axis, 1)  # (batch, slice, channel, *plane)
        found = layer(slices.flatten(0, 1)).unflatten(0, slices.shape[:2])
        return torch.as_tensor(found.movedim(1, 2 + self.axis))


class EachSliceInstanceNorm(EachSlice, nn.InstanceNorm2d):
    """Instance normalisation whose mean and variance are of one slice, as the network of two dimensions has them."""


class EachSliceGroupNorm(EachSlice, nn.GroupNorm):
    """Group normalisation whose mean and variance are of one slice."""


class RepeatedEnds(nn.Module):
    """Repeats the end slices before the layer beside it in the order of bases, which adds none there itself."""

    ends: tuple[int, ...] = ()
    """Slices to repeat, as ``F.pad`` takes them: last axis first, before and after."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer gives for ``x`` (batch, channel, *space); no axis changes its length by this."""
        return torch.as_tensor(super().forward(F.pad(x, self.ends, mode="replicate")))


class RepeatedEndsConv3d(RepeatedEnds, nn.Conv3d):
    """A convolution that repeats the end slices along one axis."""


class RepeatedEndsConvTranspose3d(RepeatedEnds, nn.ConvTranspose3d):  # type: ignore[misc]  # no output_size
    """A transposed convolution that repeats the end slices along one axis."""


class Neighbours(nn.Module):
    """Each voxel's neighbours along the first space axis as channels: what ``#slices=n`` is to a source (2.5-d).

    Channel by channel, from the slice before to the slice behind, the nearest slice repeated beyond the ends.
    With a network of slices, ``Compose(Neighbours(3), inflate(network, length=1))``, z stays an axis of space.

    >>> Neighbours(3)(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1, 1)).reshape(3, 3).tolist()
    [[1.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 3.0]]

    Raises:
        ModelError: If ``n`` is not an odd number from 1 on.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        if n < 1 or n % 2 == 0:
            raise ModelError(
                f"Neighbours needs an odd number of slices, as many before one as behind it, not {n}. "
                f"Use {max(n, 2) + 1}."
            )
        self.n = n

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, n * channel, z, y, x) for ``x`` (batch, channel, z, y, x)."""
        reach = self.n // 2
        padded = F.pad(x, (0, 0, 0, 0, reach, reach), mode="replicate")
        n_slices = x.shape[2]
        return torch.stack([padded[:, :, k : k + n_slices] for k in range(self.n)], dim=2).flatten(1, 2)
