"""Columns brought to other levels: linear in the coordinate that the levels are given in, constant beyond the ends.

    fixed levels        pressure to pressure, height to height: two channels and a constant weight for each level
    hybrid levels       p = a + b ps of each cell, from and to: the weights are the cell's own

Both look at single voxels, so their halo is proved to be zero.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.errors import ModelError
from engine.models.column_units import pascal_per


class Interpolated(nn.Module):
    """Variables at one set of levels, brought to another.

    >>> Interpolated(variables=1, source=[100.0, 200.0], target=[300.0, 150.0])(
    ...     torch.tensor([1.0, 2.0]).reshape(1, 2, 1)).flatten().tolist()
    [2.0, 1.5]
    """

    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor

    def __init__(self, *, variables: int, source: Sequence[float], target: Sequence[float]) -> None:
        """Take both sets of levels, in one unit: of pressure or of height, in which it is linear.

        Args:
            variables: Channels are variable by variable, each at all levels.
            source: Levels of the input, rising or falling, as they lie in the channels.
            target: Levels of the output, in the order wanted.

        Raises:
            ModelError: If the source's levels neither rise nor fall.
        """
        super().__init__()
        order = rising(source, name="source")
        levels, wanted = np.asarray(source, np.float64)[order], np.asarray(target, np.float64)
        at = np.clip(np.searchsorted(levels, wanted), 1, len(levels) - 1)
        share = np.clip((wanted - levels[at - 1]) / (levels[at] - levels[at - 1]), 0, 1)
        below, above = np.where(share == 1, at, at - 1), np.where(share == 0, at - 1, at)
        first = np.arange(variables)[:, None] * len(levels)
        self.variables, self.n_source = variables, len(levels)
        self.register_buffer("lower", torch.from_numpy((first + order[below]).ravel()))
        self.register_buffer("upper", torch.from_numpy((first + order[above]).ravel()))
        self.register_buffer("weight", torch.from_numpy(np.tile(share, variables)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, variable x target level, *space) in the dtype of ``x`` (batch, variable x level, *space).

        Raises:
            ModelError: If the channels are not as many as said.
        """
        check_channels(self, x, self.variables * self.n_source)
        weight = self.weight.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 2))
        return torch.lerp(x.index_select(1, self.lower), x.index_select(1, self.upper), weight)


class HybridInterpolated(nn.Module):
    """Variables at hybrid levels, brought to others by the surface pressure of each cell: linear in pressure.

    A level lies at ``a + b ps``; pressure levels have b = 0, sigma levels a = 0. The piecewise linear function is
    written as its first value and the share of each step that is taken, ``x0 + sum_k r_k (x_k+1 - x_k)``.
    """

    source: torch.Tensor
    target: torch.Tensor
    order: torch.Tensor

    def __init__(
        self,
        *,
        variables: int,
        source: tuple[Sequence[float], Sequence[float]],
        target: tuple[Sequence[float], Sequence[float]],
        surface_units: str | None,
    ) -> None:
        """Take both sets of levels as (a in Pa, b), and the unit of the surface pressure: the input's last channel.

        Raises:
            ModelError: If the source's levels neither rise nor fall under 1000 hPa, or the unit is no pressure's.
        """
        super().__init__()
        self.variables, self.scale = variables, pascal_per(surface_units, what="the surface pressure")
        a, b = (np.asarray(part, np.float64) for part in source)
        order = rising(a + b * 1e5, name="source")
        self.register_buffer("order", torch.from_numpy(order))
        self.register_buffer("source", torch.from_numpy(np.stack([a[order], b[order]])))
        self.register_buffer("target", torch.tensor([list(part) for part in target], dtype=torch.float64))

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"variables={self.variables}, scale={self.scale}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, variable x target level, *space) for ``x`` (batch, variable x level + 1, *space).

        Raises:
            ModelError: If the channels are not as many as said.
        """
        n_levels = len(self.order)
        check_channels(self, x, self.variables * n_levels + 1)
        surface = x[:, -1:].double() * self.scale
        values = x[:, :-1].reshape(len(x), self.variables, n_levels, *x.shape[2:]).index_select(2, self.order).double()
        steps = values[:, :, 1:] - values[:, :, :-1]
        levels, wanted = _pressure(self.source, surface), _pressure(self.target, surface)
        thickness = levels[:, 1:] - levels[:, :-1]
        found = []
        for level in range(self.target.shape[1]):
            share = ((wanted[:, level : level + 1] - levels[:, :-1]) / thickness).clamp(0, 1).unsqueeze(1)
            taken = torch.where(share == 0, 0.0, share * steps)
            found.append(values[:, :, 0] + taken.sum(dim=2))
        return torch.stack(found, 2).flatten(1, 2).to(x.dtype)


def _pressure(levels: torch.Tensor, surface: torch.Tensor) -> torch.Tensor:
    """Return (batch, level, *space) in Pa, of levels (2, level) over a surface pressure (batch, 1, *space)."""
    a, b = levels.reshape(2, -1, *(1,) * (surface.dim() - 2))
    return torch.addcmul(a, b, surface)


def rising(levels: Sequence[float] | NDArray[np.float64], *, name: str) -> NDArray[np.intp]:
    """Return the order in which levels rise.

    Raises:
        ModelError: If they neither rise nor fall, or are fewer than two.
    """
    values = np.asarray(levels, np.float64)
    steps = np.diff(values)
    if len(values) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ModelError(
            f"the {name} levels must rise or fall from one to the next, at least two, not {values.tolist()}. Sort them."
        )
    return np.argsort(values)


def check_channels(module: nn.Module, x: torch.Tensor, wanted: int) -> None:
    """Refuse an input with another number of channels.

    Raises:
        ModelError: If it has.
    """
    if x.shape[1] != wanted:
        raise ModelError(
            f"{type(module).__name__} needs {wanted} channels, not {x.shape[1]}: every variable at every level, and "
            "what stands behind them. Choose the variables, or correct the levels."
        )
