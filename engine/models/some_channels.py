"""A module that holds for some channels only: the others pass it by."""

from collections.abc import Sequence

import torch
from torch import nn

from engine.errors import ModelError


class SomeChannels(nn.Module):
    """What a module gives on some channels, and the input on the others.

    The module sees all channels and keeps their number. One that is fitted is fitted to all, and what it learns of
    the others is not used.

    >>> SomeChannels(nn.ReLU(), [True, False])(torch.tensor([[[-1.0], [-1.0]]])).flatten().tolist()
    [0.0, -1.0]

    Raises:
        ModelError: If no channel is named.
    """

    is_chosen: torch.Tensor

    def __init__(self, module: nn.Module, is_chosen: Sequence[bool]) -> None:
        super().__init__()
        if not any(is_chosen):
            raise ModelError(f"SomeChannels needs a channel to work on, not {list(is_chosen)}. Leave it out.")
        self.module = module
        self.register_buffer("is_chosen", torch.tensor(list(is_chosen)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space), changed where chosen."""
        chosen = self.is_chosen.reshape(-1, *(1,) * (x.dim() - 2))
        return torch.where(chosen, self.module(x), x)
