"""Modules that depend on where a voxel lies: they are shown its place as further channels of their input.

A module asks for it by its attribute ``wants_place``, a tuple of names (see ``engine/storage/placed.py``); the engine
puts these channels behind those of the volume. Then tiles still equal the whole: position is an input like any other.
"""

from collections.abc import Callable, Mapping, Sequence
from math import pi

import torch
from torch import nn

from engine.errors import ModelError

Channels = Mapping[str, torch.Tensor]
"""Channels of place, (batch, *space), by name."""

Formula = Callable[[Channels], torch.Tensor]


def wanted_place(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the places that a pipeline asks for, in the order of its channels; none if it asks not.

    Raises:
        ModelError: If two of its modules ask for different ones, or what one asks for is no tuple of names.
    """
    found: dict[tuple[str, ...], str] = {}
    for path, part in module.named_modules():
        names = getattr(part, "wants_place", None)
        if names is None:
            continue
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise ModelError(
                f"'wants_place' of '{path}' ({type(part).__name__}) must be a tuple of names, not {names!r}. Name some."
            )
        found.setdefault(names, f"'{path}' ({type(part).__name__})")
    if len(found) > 1:
        said = " and ".join(f"{where} for {', '.join(names)}" for names, where in found.items())
        raise ModelError(f"a pipeline takes its place once, and {said} ask for it. Let the outermost ask for all.")
    return next(iter(found), ())


class Derived(nn.Module):
    """A network on its variables and on inputs that are derived from place: (batch, variable + place, lat, lon).

    ``cos_latitude``, ``sin_latitude``, ``cos_longitude``, ``sin_longitude``, ``cos_day`` and ``sin_day`` (of the
    year), ``cos_hour`` and ``sin_hour`` (of the day, UTC), ``cos_solar_zenith`` (0 at night).
    """

    def __init__(self, network: nn.Module, *, derived: Sequence[str]) -> None:
        """Put derived inputs behind the variables.

        Args:
            network: Takes (batch, variable + derived, lat, lon).
            derived: Names, in the order of the network's channels.

        Raises:
            ModelError: If one is unknown.
        """
        super().__init__()
        if unknown := [name for name in derived if name not in _DERIVED]:
            raise ModelError(f"derived inputs are {', '.join(_DERIVED)}, not '{unknown[0]}'. Name one of them.")
        self.network = network
        self.derived = tuple(derived)
        self.wants_place = tuple(dict.fromkeys(place for name in derived for place in _DERIVED[name][0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the network gives."""
        n = x.shape[1] - len(self.wants_place)
        place = {name: x[:, n + i] for i, name in enumerate(self.wants_place)}
        derived = [_DERIVED[name][1](place) for name in self.derived]
        found: torch.Tensor = self.network(torch.cat([x[:, :n], torch.stack(derived, 1)], 1))
        return found


def cos_solar_zenith(place: Channels) -> torch.Tensor:
    """Return the cosine of the sun's zenith angle, 0 where it is below the horizon.

    Declination and equation of time by their Fourier series (Spencer 1971, "Fourier series representation of the
    position of the sun"), good to about 0.01 rad and half a minute.
    """
    turn = 2 * pi / 365 * place["day_of_year"]
    declination = (
        0.006918
        - 0.399912 * torch.cos(turn)
        + 0.070257 * torch.sin(turn)
        - 0.006758 * torch.cos(2 * turn)
        + 0.000907 * torch.sin(2 * turn)
        - 0.002697 * torch.cos(3 * turn)
        + 0.001480 * torch.sin(3 * turn)
    )
    ahead = (
        0.000075
        + 0.001868 * torch.cos(turn)
        - 0.032077 * torch.sin(turn)
        - 0.014615 * torch.cos(2 * turn)
        - 0.040849 * torch.sin(2 * turn)
    )
    hour_angle = pi / 12 * (place["hour"] - 12) + _radians(place["longitude"]) + ahead
    latitude = _radians(place["latitude"])
    up = torch.sin(latitude) * torch.sin(declination)
    return torch.clamp(up + torch.cos(latitude) * torch.cos(declination) * torch.cos(hour_angle), min=0.0)


def _radians(degrees: torch.Tensor) -> torch.Tensor:
    return degrees * (pi / 180)


def _turning(function: Callable[[torch.Tensor], torch.Tensor], name: str, period: float) -> tuple[tuple[str], Formula]:
    return (name,), lambda place: function(place[name] * (2 * pi / period))


_CIRCLES = (
    ("latitude", "latitude", 360.0),
    ("longitude", "longitude", 360.0),
    ("day", "day_of_year", 365.25),
    ("hour", "hour", 24.0),
)
"""Name, place, and what of it is once round."""

_DERIVED: Mapping[str, tuple[tuple[str, ...], Formula]] = {
    **{f"cos_{name}": _turning(torch.cos, place, period) for name, place, period in _CIRCLES},
    **{f"sin_{name}": _turning(torch.sin, place, period) for name, place, period in _CIRCLES},
    "cos_solar_zenith": (("latitude", "longitude", "day_of_year", "hour"), cos_solar_zenith),
}
"""By the name of a derived input: the places that it follows from, and how."""
