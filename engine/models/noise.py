"""Noise that belongs to a voxel: the same whichever tile, worker or order computes it.

Random words come from a counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): Philox 4x32 with
ten rounds of the voxel's own indices, so nothing is drawn in sequence, and nothing has a state.
"""

from math import pi

import torch
from torch import nn

_MULTIPLIERS, _WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_N_ROUNDS = 10

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Return four words of 32 bits for each counter of four, all as int64 of one shape.

    Args:
        counter: Whole numbers from 0 to 2^32 - 1.
        key: Two more, which tell one stream from another.
    """
    a, b, c, d = counter
    first, second = key
    for _ in range(_N_ROUNDS):
        high_a, low_a = _product(_MULTIPLIERS[0], a)
        high_c, low_c = _product(_MULTIPLIERS[1], c)
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first, second = (first + _WEYL[0]) & _WORD, (second + _WEYL[1]) & _WORD
    return a, b, c, d


def _product(multiplier: int, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the high and the low word of a product: in two parts, for int64 holds 63 bits."""
    low, high = (word & 0xFFFF) * multiplier, (word >> 16) * multiplier
    whole = (low >> 16) + high
    return whole >> 16, ((whole & 0xFFFF) << 16) | (low & 0xFFFF)


def normal(counter: Words, key: tuple[int, int]) -> torch.Tensor:
    """Return a normal number for each counter, float64 (Box and Muller 1958)."""
    first, second, _, _ = philox(counter, key)
    uniform = (first.double() + 0.5) / 2**32
    return torch.sqrt(-2 * torch.log(uniform)) * torch.cos(second.double() * (2 * pi / 2**32))


class Noisy(nn.Module):
    """A network with normal noise on what it gives, another for each member, step and voxel.

    The network is shown the volume's channels alone; its output has their grid.
    """

    wants_place = ("index:member", "index:step", "index:lat", "index:lon")

    def __init__(self, network: nn.Module, *, std: float, seed: int = 0) -> None:
        """Add noise.

        Args:
            network: Takes (batch, channel, lat, lon), gives (batch, channel, lat, lon).
            std: Standard deviation, in units of the output.
            seed: Tells one ensemble from another.
        """
        super().__init__()
        self.network = network
        self.std = float(std)
        self.seed = int(seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the network gives, and noise."""
        n = x.shape[1] - len(self.wants_place)
        y: torch.Tensor = self.network(x[:, :n])
        member, step, lat, lon = (x[:, n + i].long() for i in range(len(self.wants_place)))
        drawn = [normal((lat, lon, step, member), (self.seed & _WORD, channel)) for channel in range(y.shape[1])]
        return y + self.std * torch.stack(drawn, 1).to(y.dtype)
