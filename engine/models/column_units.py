"""Units that the physics over columns needs: pascal per pressure, and what a quantity is once it is summed by mass."""

import re
from typing import NamedTuple

from engine.errors import ModelError

PRESSURES = {"Pa": 1.0, "hPa": 100.0, "mbar": 100.0, "mb": 100.0, "millibar": 100.0, "millibars": 100.0}
"""Pascal per unit."""


class Summed(NamedTuple):
    """What the sum of ``mass [kg m-2] x quantity`` is."""

    units: str
    factor: float = 1.0
    """By which the sum is multiplied."""
    takes_heat: bool = False
    """Whether it is multiplied by the heat capacity too, J kg-1 K-1."""


SUMMED = {
    "1": Summed("kg m-2"),
    "kg kg-1": Summed("kg m-2"),
    "g kg-1": Summed("kg m-2", 1e-3),
    "kg kg-1 s-1": Summed("kg m-2 s-1"),
    "s-1": Summed("kg m-2 s-1"),
    "g kg-1 s-1": Summed("kg m-2 s-1", 1e-3),
    "g kg-1 day-1": Summed("kg m-2 s-1", 1e-3 / 86400),
    "K": Summed("J m-2", takes_heat=True),
    "K s-1": Summed("W m-2", takes_heat=True),
    "K day-1": Summed("W m-2", 1 / 86400, takes_heat=True),
    "J kg-1": Summed("J m-2"),
    "W kg-1": Summed("W m-2"),
    "m2 s-2": Summed("J m-2"),
    "m s-1": Summed("kg m-1 s-1"),
    "m s-2": Summed("Pa"),
}
"""By the unit of the quantity, in CF's spelling."""


def spelled(units: str) -> str:
    """Return a unit as CF spells it.

    >>> spelled("g/kg"), spelled("kg kg**-1"), spelled("W/m^2"), spelled("m**2 s**-2"), spelled("K/day")
    ('g kg-1', 'kg kg-1', 'W m-2', 'm2 s-2', 'K day-1')
    """
    above, *below = units.replace("**", "").replace("^", "").replace("*", " ").split("/")
    parts = above.split()
    for part in " ".join(below).split():
        name, power = re.fullmatch(r"(.*?)(-?\d*)", part).groups()  # type: ignore[union-attr]  # it always matches
        parts.append(f"{name}-{power or 1}")
    return " ".join({"d-1": "day-1", "dimensionless": "1", "(0 - 1)": "1"}.get(part, part) for part in parts) or "1"


def pascal_per(units: str | None, *, what: str) -> float:
    """Return the pascal in a unit of pressure.

    Raises:
        ModelError: If it is missing, or none of pressure.
    """
    if not units or units not in PRESSURES:
        raise ModelError(
            f"the units of {what} are needed to weigh columns, and they are "
            f"{repr(units) if units else 'missing'}. Give one of {', '.join(PRESSURES)}."
        )
    return PRESSURES[units]


def summed(name: str, units: str | None) -> Summed:
    """Return what the sum over mass of a variable is.

    Raises:
        ModelError: If its units are missing or are none that can be summed.
    """
    if not units:
        raise ModelError(f"the units of '{name}' are needed to sum its mass, and are missing. Give them, as 'kg kg-1'.")
    if spelled(units) not in SUMMED:
        raise ModelError(
            f"the units of '{name}' must be per mass of air or water to be summed over a column, and '{units}' is not. "
            f"Convert it to one of {', '.join(SUMMED)}."
        )
    return SUMMED[spelled(units)]
