"""Channels that go round a module: what a column integral needs behind a network, such as surface pressure."""

import torch
from torch import nn

from engine.errors import ModelError


class Beside(nn.Module):
    """What a module gives for the first channels, and behind it the last ones as they came.

    >>> Beside(nn.ReLU(), last=1)(torch.tensor([-1.0, -2.0]).reshape(1, 2, 1)).flatten().tolist()
    [0.0, -2.0]
    """

    def __init__(self, module: nn.Module, *, last: int, is_shared: bool = False) -> None:
        """Take the module and how many channels go round it.

        Args:
            module: From (batch, channel, *space) to such a tensor on the same grid.
            last: Channels at the end that go round it.
            is_shared: Whether the module sees these too.

        Raises:
            ModelError: If no channel goes round.
        """
        super().__init__()
        if last < 1:
            raise ModelError(f"Beside needs at least 1 channel to hand on, not {last}. Leave it out.")
        self.module, self.last, self.is_shared = module, last, is_shared

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"last={self.last}, is_shared={self.is_shared}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, channel, *space) in the dtype of ``x``."""
        seen = x if self.is_shared else x[:, : -self.last]
        return torch.cat([self.module(seen).to(x.dtype), x[:, -self.last :]], 1)
