"""Several networks on one input, and the mean of what they give."""

import torch
from torch import nn

from engine.errors import ModelError


class Ensemble(nn.Module):
    """The mean of the outputs of networks that take and give the same, such as the folds of one training.

    >>> Ensemble(nn.Identity(), nn.Flatten(0))(torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """

    def __init__(self, *networks: nn.Module) -> None:
        """Take the networks.

        Raises:
            ModelError: If there is none.
        """
        super().__init__()
        if not networks:
            raise ModelError("Ensemble needs at least one network, not none. Give them one after the other.")
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the networks' outputs in their order, divided by their number."""
        first, *others = self.networks
        total: torch.Tensor = first(x)
        for network in others:
            total = total + network(x)
        return total / len(self.networks)
