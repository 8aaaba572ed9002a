"""Physics behind a network, not trainable: integrals over the mass of columns, in the units that they carry.

    (batch, variable x level, *space), then what the mass needs   --ColumnIntegral-->   (batch, variable, *space)
"""

from collections.abc import Mapping

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.column_interpolated import check_channels
from engine.models.column_mass import Mass
from engine.models.column_units import summed

HEAT_CAPACITY = 1004.64
"""J kg-1 K-1, of dry air at constant pressure (CESM's shr_const)."""

LATENT_HEAT = 2.501e6
"""J kg-1, of vaporisation at 0 degree Celsius (CESM's shr_const)."""


class ColumnIntegral(nn.Module):
    """The sum over levels of mass times each variable: water in kg m-2, heating in W m-2.

    Sums are taken in float64. Where a layer has no mass, below the surface, its value does not count, be it NaN.

    >>> from engine.models.column_mass import PressureMass
    >>> mass = PressureMass([500.0, 1000.0], units="hPa", surface_units="hPa")
    >>> water = ColumnIntegral(mass, {"specific_humidity": "g/kg"})
    >>> water.units, round(water(torch.tensor([1.0, 10.0, 900.0]).reshape(1, 3, 1)).item(), 2)
    ({'specific_humidity': 'kg m-2'}, 20.39)
    """

    factor: torch.Tensor

    def __init__(
        self, mass: Mass, variables: Mapping[str, str | None], *, heat_capacity: float = HEAT_CAPACITY
    ) -> None:
        """Take the mass of the layers, and the variables in the order of the channels.

        Args:
            mass: Of each layer, kg m-2; what it needs beside stands behind the variables.
            variables: The units of each, by its name.
            heat_capacity: J kg-1 K-1, for temperatures; sea water has some 3990.

        Raises:
            ModelError: If there is no variable, or units are missing or cannot be summed.
        """
        super().__init__()
        if not variables:
            raise ModelError("ColumnIntegral needs a variable to sum, and was given none. Give {name: units}.")
        found = {name: summed(name, units) for name, units in variables.items()}
        self.mass = mass
        self.units = {name: one.units for name, one in found.items()}
        """Of each channel that comes out, by its variable's name."""
        factors = [one.factor * (heat_capacity if one.takes_heat else 1.0) for one in found.values()]
        self.register_buffer("factor", torch.tensor(factors, dtype=torch.float64))

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"units={self.units}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, variable, *space), in the dtype of ``x`` (batch, variable x level + beside, *space).

        Raises:
            ModelError: If the channels are not as many as said.
        """
        shape = (len(self.units), self.mass.n_levels)
        n_leveled = shape[0] * shape[1]
        check_channels(self, x, n_leveled + self.mass.n_beside)
        mass = self.mass(x[:, n_leveled:]).unsqueeze(1)
        values = x[:, :n_leveled].reshape(len(x), *shape, *x.shape[2:]).double()
        sums = torch.where(mass == 0, 0.0, values * mass).sum(dim=2)
        return (sums * self.factor.reshape(-1, *(1,) * (x.dim() - 2))).to(x.dtype)
