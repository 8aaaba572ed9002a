"""The mass of each level's layer of a column, kg m-2 in float64: what a column integral weighs with.

    pressure levels   |p1|  p2  |  p3   |  p4 ..ps    interfaces half way between levels; the lowest one is ps itself,
                      +--+------+-------+-----#       and what would lie below ps is cut off: a layer that ps cuts
                         mass = dp / g                through keeps the part above it, one wholly below it weighs 0
    hybrid levels     dp / g between half levels a + b ps
    layers            density x thickness, of air or of water
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from engine.errors import ModelError
from engine.models.column_interpolated import rising
from engine.models.column_units import pascal_per

GRAVITY = 9.80665
"""m s-2, standard (3rd CGPM, 1901)."""


class Mass(nn.Module):
    """Mass of the layers; a subclass says of what, and which channels it needs beside the variables."""

    n_levels: int
    n_beside: int
    """Channels that stand behind the variables: surface pressure, or a density for each level."""

    def forward(self, beside: torch.Tensor) -> torch.Tensor:
        """Return kg m-2 (batch or 1, level, *space), float64, for ``beside`` (batch, n_beside, *space)."""
        raise NotImplementedError


class PressureMass(Mass):
    """Of pressure levels, down to the surface.

    The lowest interface is the surface pressure and all others are cut at it; the highest lies half a layer above the
    highest level, at 0 Pa at most.

    >>> PressureMass([500.0, 1000.0], units="hPa", surface_units="hPa")(torch.tensor([[[900.0]]])).round().tolist()
    [[[5099.0], [1530.0]]]
    """

    interfaces: torch.Tensor

    def __init__(
        self, levels: Sequence[float], *, units: str | None, surface_units: str | None, is_clipped: bool = True
    ) -> None:
        """Take the levels in the order of the channels.

        Args:
            levels: Rising or falling.
            units: Of the levels.
            surface_units: Of the surface pressure, which is the channel beside the variables.
            is_clipped: Whether what lies below the surface is cut off; else it counts, as if there were no mountains,
                down to half a layer below the lowest level, and no surface pressure is needed.

        Raises:
            ModelError: If units are missing, or the levels neither rise nor fall.
        """
        super().__init__()
        order = rising(levels, name="pressure")
        p = np.asarray(levels, np.float64)[order] * pascal_per(units, what="pressure levels")
        middle = (p[1:] + p[:-1]) / 2
        top, bottom = max(2 * p[0] - middle[0], 0.0), np.inf if is_clipped else 2 * p[-1] - middle[-1]
        interfaces = np.concatenate([[top], middle, [bottom]])
        self.n_levels, self.n_beside = len(p), 1 if is_clipped else 0
        self.scale = pascal_per(surface_units, what="the surface pressure") if is_clipped else 1.0
        self.register_buffer("interfaces", torch.from_numpy(interfaces if order[0] == 0 else interfaces[::-1].copy()))

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"scale={self.scale}, n_beside={self.n_beside}"

    def forward(self, beside: torch.Tensor) -> torch.Tensor:
        """Return kg m-2 (batch, level, *space), float64, for a surface pressure (batch, 1, *space)."""
        interfaces = _along_levels(self.interfaces, beside)
        if self.n_beside:
            interfaces = torch.minimum(interfaces, beside.double() * self.scale)
        return _differences(interfaces) / GRAVITY


class HybridMass(Mass):
    """Of hybrid levels between half levels ``a + b ps``, of which there is one more than levels.

    >>> HybridMass([0.0, 0.0], [0.0, 1.0], surface_units="Pa")(torch.tensor([[[1e5]]])).round().tolist()
    [[[10197.0]]]
    """

    a: torch.Tensor
    b: torch.Tensor

    def __init__(self, a: Sequence[float], b: Sequence[float], *, surface_units: str | None) -> None:
        """Take the half levels' coefficients, a in Pa; the surface pressure is the channel beside the variables.

        Raises:
            ModelError: If there is no surface pressure (its units are missing), or a and b do not belong together.
        """
        super().__init__()
        if surface_units is None:
            raise ModelError(
                "hybrid levels lie at a + b ps, and no surface pressure ps is given. Add it as the last channel, and "
                "its units."
            )
        if len(a) != len(b) or len(a) < 2:
            raise ModelError(
                f"hybrid half levels need an a and a b each, at least two, not {len(a)} and {len(b)}. Give those of "
                "the interfaces, not of the levels."
            )
        rising(np.asarray(a) + 1e5 * np.asarray(b), name="half")
        self.n_levels, self.n_beside = len(a) - 1, 1
        self.scale = pascal_per(surface_units, what="the surface pressure")
        self.register_buffer("a", torch.tensor(list(a), dtype=torch.float64))
        self.register_buffer("b", torch.tensor(list(b), dtype=torch.float64))

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"scale={self.scale}"

    def forward(self, beside: torch.Tensor) -> torch.Tensor:
        """Return kg m-2 (batch, level, *space), float64, for a surface pressure (batch, 1, *space)."""
        half = _along_levels(self.a, beside) + _along_levels(self.b, beside) * (beside.double() * self.scale)
        return _differences(half) / GRAVITY


class LayerMass(Mass):
    """Of layers of known thickness: density times thickness, on height levels and in depth.

    >>> LayerMass([10.0, 20.0], density=1025.0)(torch.zeros(1, 0, 1)).flatten().tolist()
    [10250.0, 20500.0]
    """

    thickness: torch.Tensor

    def __init__(self, thickness: Sequence[float], *, density: float | Sequence[float] | None) -> None:
        """Take metres, and kg m-3: one for all (sea water: 1025), one per level (a sounding), or None.

        With None the density of each level and cell is read from channels behind the variables, one per level.

        Raises:
            ModelError: If a thickness or density is not positive, or they are not as many.
        """
        super().__init__()
        metres = torch.tensor(list(thickness), dtype=torch.float64)
        known = torch.as_tensor(1.0 if density is None else density, dtype=torch.float64)
        if not bool((metres > 0).all()) or not bool((known > 0).all()) or known.numel() not in (1, len(metres)):
            raise ModelError(
                f"layers need a positive thickness each, and a positive density for all or for each of "
                f"{len(metres)}, not {metres.tolist()} m and {density} kg m-3. Correct them."
            )
        self.n_levels, self.n_beside = len(metres), len(metres) if density is None else 0
        self.register_buffer("thickness", metres * known)

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"n_beside={self.n_beside}"

    def forward(self, beside: torch.Tensor) -> torch.Tensor:
        """Return kg m-2 (batch or 1, level, *space), float64, for densities (batch, level, *space) or no channels."""
        mass = _along_levels(self.thickness, beside)
        return beside.double() * mass if self.n_beside else mass


def _along_levels(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return one number per level in the shape in which it meets ``x`` (batch, channel, *space)."""
    return values.reshape(1, -1, *(1,) * (x.dim() - 2))


def _differences(interfaces: torch.Tensor) -> torch.Tensor:
    return (interfaces[:, 1:] - interfaces[:, :-1]).abs()
