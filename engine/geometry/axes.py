"""What an axis is for: its name, role and physical step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from engine.errors import AxisError


class Role(StrEnum):
    """What the engine may do with an axis."""

    SPACE = "space"
    """Tiled, with a halo."""

    CHANNEL = "channel"
    """Never split."""

    BATCH = "batch"
    """Split freely, no halo: time steps, items, levels run as a batch."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a volume.

    >>> Axis("y", Role.SPACE, spacing=0.5, unit="micrometer").name
    'y'
    """

    name: str
    """Lower-case name, unique in its volume: t, c, z, y, x, item, ..."""

    role: Role
    """Space, channel or batch."""

    spacing: float = 1.0
    """Physical step per voxel, in ``unit``; positive and finite."""

    unit: str | None = None
    """UDUNITS name as OME-Zarr spells it ("micrometer", "millimeter", "degree"); None where unknown."""

    def __post_init__(self) -> None:
        if not (isfinite(self.spacing) and self.spacing > 0):
            raise AxisError(
                f"spacing of axis '{self.name}' must be positive and finite, not {self.spacing}. "
                "Give the true step, or 1.0 where it is unknown."
            )


STEP = "step"
"""The batch axis of a recurrent run: each of its items is made from the one before."""

MEMBER = "member"
"""The batch axis of an ensemble."""

KNOWN_ROLES = {
    "t": Role.BATCH,
    "time": Role.BATCH,
    "item": Role.BATCH,
    "c": Role.CHANNEL,
    "channel": Role.CHANNEL,
    "z": Role.SPACE,
    "y": Role.SPACE,
    "x": Role.SPACE,
    "lat": Role.SPACE,
    "latitude": Role.SPACE,
    "lon": Role.SPACE,
    "longitude": Role.SPACE,
}
"""Roles that a bare name implies."""


def axes_from_names(names: Iterable[str]) -> tuple[Axis, ...]:
    """Return axes with the roles that their names imply and spacing 1.

    >>> [axis.role.value for axis in axes_from_names("cyx")]
    ['channel', 'space', 'space']

    Raises:
        AxisError: If a name implies no role, or comes twice.
    """
    names = tuple(names)
    for name in names:
        if name not in KNOWN_ROLES:
            known = ", ".join(KNOWN_ROLES)
            raise AxisError(f"axis name '{name}' implies no role in {names}; known names: {known}. Rename the axis.")
    axes = tuple(Axis(name, KNOWN_ROLES[name]) for name in names)
    check_axes(axes)
    return axes


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuse axes that the engine cannot order.

    Raises:
        AxisError: If a name comes twice, there are two channel axes, or no space axis.
    """
    names = tuple(axis.name for axis in axes)
    if len(set(names)) != len(names):
        raise AxisError(f"axis names must be unique, not {names}. Rename one.")
    if len(positions(axes, Role.CHANNEL)) > 1:
        raise AxisError(f"at most one axis may be a channel axis, not {names}. Merge them, or make one a batch.")
    if not positions(axes, Role.SPACE):
        raise AxisError(f"at least one axis must be space, not {names}. Name the space axes z, y, x, lat or lon.")


def positions(axes: Sequence[Axis], role: Role) -> tuple[int, ...]:
    """Return where the axes of one role stand, in storage order.

    >>> positions(axes_from_names("tcyx"), Role.SPACE)
    (2, 3)
    """
    return tuple(i for i, axis in enumerate(axes) if axis.role is role)
