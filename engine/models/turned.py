"""A network that was trained on volumes with their axes in another order: seen by it so, or its layers turned."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn

from engine.errors import ModelError

Item = TypeVar("Item")


class Turned(nn.Module):
    """A network that sees the space axes in an order of its own, and whose output has them in storage order again.

    >>> Turned(nn.Identity(), order=(2, 0, 1))(torch.zeros(1, 1, 4, 5, 6)).shape
    torch.Size([1, 1, 4, 5, 6])
    """

    def __init__(self, network: nn.Module, *, order: Sequence[int]) -> None:
        """Turn a network.

        Args:
            network: Takes (batch, channel, *space) and gives one tensor of as many axes.
            order: For each space axis of the network, which axis it is in storage order.

        Raises:
            ModelError: If it does not name every axis once.
        """
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ModelError(f"Turned needs every space axis from 0 once, not {tuple(order)}. Give as (2, 1, 0).")
        self.network = network
        self.order = tuple(order)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's output, its axes in the order of those of ``x``."""
        y: torch.Tensor = self.network(x.permute(0, 1, *(axis + 2 for axis in self.order)).contiguous())
        back = (self.order.index(axis) + 2 for axis in range(len(self.order)))
        return y.permute(0, 1, *back)


def stored(per_axis: Sequence[Item], order: Sequence[int]) -> tuple[Item, ...]:
    """Return what there is per axis of a turned network in storage order.

    >>> stored((10, 20, 30), (2, 0, 1))
    (20, 30, 10)
    """
    return tuple(per_axis[order.index(axis)] for axis in range(len(order)))


SPACE_SETTINGS = "kernel_size stride padding dilation output_padding scale_factor size".split()
"""What layers keep as one number per space axis."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

TRIED_LENGTHS = (8, 16, 32)
"""Of the first axis of what a network is tried on; the second is twice, the third three times as long."""

TOLERANCE = 1e-4
"""Largest difference that rounding in another order may make, of the largest value."""


def turned_layers(network: nn.Module, *, order: Sequence[int], n_channels: int) -> nn.Module:
    """Return a copy of a network that gives, on axes in storage order, what it gives on them in an order of its own.

    What :class:`Turned` does around it is done to its layers: kernels are turned, and settings per axis. So its
    geometry can be traced. That the copy does the same is shown on random input.

    Args:
        network: Takes (batch, channel, *space) and gives one tensor of as many axes.
        order: For each space axis of the network, which axis it is in storage order.
        n_channels: Of its input.

    Raises:
        ModelError: If it cannot be turned so, for what it does is not in its layers alone.
    """
    wanted, copy = Turned(network, order=order).eval(), deepcopy(network).eval()
    if isinstance(network, torch.jit.ScriptModule):
        raise _not_turned(network, "it is a TorchScript program")
    for layer in copy.modules():
        _turn(layer, order)
    for x in _trials(len(order), n_channels):
        with torch.no_grad():
            try:
                here, there = wanted(x), copy(x)
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
                continue
        if here.shape == there.shape and bool((here - there).abs().max() <= TOLERANCE * here.abs().max()):
            return copy
        raise _not_turned(network, "turning its layers gives another result")
    raise _not_turned(network, "it takes none of the sizes that were tried")


def _not_turned(network: nn.Module, why: str) -> ModelError:
    return ModelError(
        f"a network that sees a volume whole must be turned from axes x, y, z to z, y, x by its layers, and "
        f"{type(network).__name__} cannot: {why}. Train or export it on axes z, y, x, or give it a sliding window."
    )


def _turn(layer: nn.Module, order: Sequence[int]) -> None:
    """Turn a layer in place, where it has anything that runs along axes of space."""
    n_space = len(order)
    if isinstance(layer, CONVOLUTIONS) and layer.weight.dim() == n_space + 2:
        layer.weight = nn.Parameter(_permuted(layer.weight.detach(), order), requires_grad=False)
        pads = layer._reversed_padding_repeated_twice  # before and after, the last axis first
        pairs = [tuple(pads[i : i + 2]) for i in reversed(range(0, len(pads), 2))]
        layer._reversed_padding_repeated_twice = [n for pair in reversed(stored(pairs, order)) for n in pair]
    for name in SPACE_SETTINGS:
        setting: Any = getattr(layer, name, None)
        if isinstance(setting, tuple | list) and len(setting) == n_space:
            setattr(layer, name, stored(setting, order))


def _permuted(weight: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    back = (order.index(axis) + 2 for axis in range(len(order)))
    return weight.permute(0, 1, *back).contiguous()


def _trials(n_space: int, n_channels: int) -> Iterator[torch.Tensor]:
    """Yield inputs whose axes differ in length, from small to large."""
    for length in TRIED_LENGTHS:
        shape = (1, n_channels, *(length * (axis + 1) for axis in range(n_space)))
        yield torch.randn(shape, generator=torch.Generator().manual_seed(0))
