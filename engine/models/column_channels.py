"""A column integral made for a grid's own channels: by the levels and units that its file gave them.

A climate grid says of each channel what it is (``volume.attributes["channels"]``: variable, units, level); what the
physics needs and the file does not say is asked for in a line, before anything is run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import ModelError
from engine.models.column_mass import HybridMass, Mass, PressureMass
from engine.models.physics import ColumnIntegral

ChannelFacts = Mapping[str, Any]
"""Of one channel: ``variable``, ``units``, and ``level`` with ``kind``, ``value`` and ``units`` where it has one."""

HalfLevels = tuple[Sequence[float], Sequence[float]]
"""a in Pa and b of the interfaces between hybrid levels: one more than levels, in the order of the channels."""


def column_integral(
    channels: Sequence[ChannelFacts], *, surface: str | None = None, half_levels: HalfLevels | None = None
) -> ColumnIntegral:
    """Return the integral of every variable that has levels.

    Args:
        channels: All of the grid, in order: variables with levels, all the same ones, and last the surface pressure.
        surface: Name of the variable that is the surface pressure.
        half_levels: Of hybrid levels; a file names the levels, and mass lies between their interfaces.

    Raises:
        ModelError: If levels or units are missing, levels differ between variables, channels are in another order, or
            the levels are neither of pressure nor hybrid.
    """
    leveled = [channel for channel in channels if channel.get("level")]
    beside = [channel for channel in channels if not channel.get("level")]
    wanted = [surface] if surface is not None else []
    if not leveled or [one["variable"] for one in beside] != wanted or list(channels) != [*leveled, *beside]:
        names = ", ".join(dict.fromkeys(str(channel["variable"]) for channel in channels))
        raise ModelError(
            f"a column integral needs variables with levels, then {surface or 'nothing'}, and the grid has {names}. "
            "Choose them in this order, as by '#variables=...', and name the surface pressure."
        )
    variables = {str(one["variable"]): one.get("units") for one in leveled}
    levels = [[one["level"] for one in leveled if one["variable"] == name] for name in variables]
    if any(other != levels[0] for other in levels):
        counts = ", ".join(f"{name} {len(part)}" for name, part in zip(variables, levels, strict=True))
        raise ModelError(f"all variables of a column integral must have the same levels, not {counts}. Choose them.")
    surface_units = beside[0].get("units") if beside else None
    return ColumnIntegral(_mass(levels[0], surface, surface_units, half_levels), variables)


def _mass(
    levels: Sequence[Mapping[str, Any]], surface: str | None, surface_units: str | None, half_levels: HalfLevels | None
) -> Mass:
    kind = str(levels[0].get("kind"))
    if surface is None and kind in ("hybrid", "pressure"):
        raise ModelError(
            f"columns on {kind} levels end at the surface pressure ps, and none is named. Read it as the last "
            "channel, behind the variables, and name it: surface='ps'."
        )
    if kind == "pressure":
        values = [float(level["value"]) for level in levels]
        return PressureMass(values, units=levels[0].get("units"), surface_units=surface_units or "")
    if kind == "hybrid" and half_levels is not None:
        return HybridMass(*half_levels, surface_units=surface_units or "")
    raise ModelError(
        f"a column's mass is known from pressure levels, or from hybrid ones with their half levels, not from {kind} "
        "levels alone. Give half_levels=(a, b), or make a LayerMass of thickness and density."
    )
