"""Padding of a globe inside a network: round it in longitude, and over its poles in latitude."""

from collections.abc import Sequence

import torch
from torch import nn

from engine.errors import ModelError


class PadGlobe(nn.Module):
    """Pads (batch, channel, lat, lon) before a convolution as a globe goes on: each layer crosses the poles.

        column -1      is the last column
        row -1         is row 0, or row 1 where row 0 lies on the pole, seen from half way round

    A row beyond a pole takes from all longitudes, so a tile of such a network is a band of latitudes all round the
    globe: the engine plans it so.

    >>> PadGlobe(1)(torch.arange(4.0).reshape(1, 1, 1, 4))
    tensor([[[[1., 2., 3., 0., 1., 2.],
              [3., 0., 1., 2., 3., 0.],
              [1., 2., 3., 0., 1., 2.]]]])
    """

    def __init__(self, amount: int, *, has_pole_rows: bool = False, odd: Sequence[int] = ()) -> None:
        """Pad by so many rows and columns on each side.

        Args:
            amount: Rows and columns.
            has_pole_rows: Whether the first and last row lie on the poles, and so are not repeated.
            odd: Channels that change sign across a pole: components of vectors.

        Raises:
            ModelError: If the amount is not positive.
        """
        super().__init__()
        if amount < 1:
            raise ModelError(f"a globe is padded by 1 row or more, not {amount}. Leave it out.")
        self.amount = amount
        self.has_pole_rows = has_pole_rows
        self.odd = tuple(odd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, channel, lat + 2 amount, lon + 2 amount).

        Raises:
            ModelError: If there are fewer rows than it takes, or an odd number of columns.
        """
        n_rows, n_columns = x.shape[-2:]
        if n_columns % 2 or min(n_rows - self.has_pole_rows, n_columns) < self.amount:
            raise ModelError(
                f"a globe is padded by {self.amount} over its poles, which takes as many rows and an even number of "
                f"columns, not {n_rows} x {n_columns}. Regrid it, or pad otherwise."
            )
        if torch.compiler.is_exporting():
            padded: torch.Tensor = torch.ops.haloengine.pad_globe(x, self.amount, self.has_pole_rows, list(self.odd))
            return padded
        return _padded(x, self.amount, self.has_pole_rows, self.odd)


def _padded(x: torch.Tensor, amount: int, has_pole_rows: bool, odd: Sequence[int]) -> torch.Tensor:
    skip, n_rows, half = int(has_pole_rows), x.shape[-2], x.shape[-1] // 2
    sign = torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    sign[list(odd)] = -1
    ends = x[..., skip : skip + amount, :], x[..., n_rows - skip - amount : n_rows - skip, :]
    beyond = [rows.flip(-2).roll(half, -1) * sign[:, None, None] for rows in ends]
    tall = torch.cat([beyond[0], x, beyond[1]], -2)
    return torch.cat([tall[..., -amount:], tall, tall[..., :amount]], -1)


@torch.library.custom_op("haloengine::pad_globe", mutates_args=())
def _pad_globe(x: torch.Tensor, amount: int, has_pole_rows: bool, odd: list[int]) -> torch.Tensor:
    """One operation of the graph, so that its geometry is known: see ``handlers.py``."""
    return _padded(x, amount, has_pole_rows, odd)


@_pad_globe.register_fake
def _(x: torch.Tensor, amount: int, has_pole_rows: bool, odd: list[int]) -> torch.Tensor:  # noqa: ARG001
    return x.new_empty((*x.shape[:-2], *(n + 2 * amount for n in x.shape[-2:])))
