"""Vertical axes of climate files: pressure, hybrid, height and depth, with their units and which way they count."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray


class Vertical(StrEnum):
    """What the values along a level axis are."""

    PRESSURE = "pressure"
    HYBRID = "hybrid"
    """Pressure is ``a + b ps``: CF 1.11, appendix D, atmosphere hybrid sigma pressure coordinate."""
    HEIGHT = "height"
    DEPTH = "depth"
    LEVEL = "level"
    """Numbers whose meaning the file does not say."""


_STANDARD_NAMES = {
    "air_pressure": Vertical.PRESSURE,
    "sea_water_pressure": Vertical.PRESSURE,
    "atmosphere_hybrid_sigma_pressure_coordinate": Vertical.HYBRID,
    "atmosphere_sigma_coordinate": Vertical.LEVEL,
    "atmosphere_hybrid_height_coordinate": Vertical.LEVEL,
    "atmosphere_ln_pressure_coordinate": Vertical.LEVEL,
    "ocean_sigma_coordinate": Vertical.LEVEL,
    "ocean_s_coordinate": Vertical.LEVEL,
    "model_level_number": Vertical.LEVEL,
    "height": Vertical.HEIGHT,
    "altitude": Vertical.HEIGHT,
    "geopotential_height": Vertical.HEIGHT,
    "height_above_mean_sea_level": Vertical.HEIGHT,
    "height_above_reference_ellipsoid": Vertical.HEIGHT,
    "depth": Vertical.DEPTH,
}
_PRESSURE_UNITS = {"pa", "hpa", "kpa", "dbar", "bar", "mbar", "mb", "millibar", "millibars"}
_LENGTH_UNITS = {"m", "km", "meter", "meters", "metre", "metres"}
_NAMES = re.compile(
    r"(lev|level|levels|plev|ilev|olevel|z|height|heightAboveGround|altitude|alt|depth|depth[tuvw]|pressure|"
    r"pressure_level|model_level|hybrid|isobaricIn\w+|depthBelowSea)\d*",
    re.IGNORECASE,
)
_UPWARD = {Vertical.HEIGHT: "up", Vertical.LEVEL: None}


@dataclass(frozen=True, slots=True)
class Level:
    """One level of an axis; what is None the file does not say."""

    kind: Vertical
    value: float
    units: str | None = None
    """Of ``value``."""
    positive: str | None = None
    """Which way ``value`` grows: ``up`` or ``down``."""
    a: float | None = None
    """Of a hybrid level: the part of its pressure that is the same everywhere, in ``a_units``."""
    b: float | None = None
    """Of a hybrid level: the share of surface pressure in its pressure."""
    a_bounds: tuple[float, float] | None = None
    """Of a hybrid level: ``a`` at the interfaces of its layer, in the order in which the levels run."""
    b_bounds: tuple[float, float] | None = None
    a_units: str | None = None
    surface_pressure: str | None = None
    """Of a hybrid level: the variable in the file that is its surface pressure; None where the file has none."""

    def to_json(self) -> dict[str, Any]:
        """Return what is known, as JSON values."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()} | {
            "kind": self.kind.value
        }


@dataclass(frozen=True)
class LevelAxis:
    """A vertical axis of a file."""

    name: str
    """The file's name of its dimension."""
    levels: tuple[Level, ...]
    standard_name: str | None = None

    @property
    def values(self) -> NDArray[np.float64]:
        """Of each level, in its units."""
        return np.array([level.value for level in self.levels])


def is_vertical(dataset: xr.Dataset, name: str) -> bool:
    """Say whether a dimension is vertical: by what CF says of its coordinate, by its units, or by its name."""
    attributes = dataset[name].attrs if name in dataset.variables else {}
    standard_name, units = attributes.get("standard_name"), str(attributes.get("units", "")).lower()
    if standard_name is not None and standard_name not in _STANDARD_NAMES:
        return attributes.get("axis") == "Z" or "positive" in attributes
    is_said = standard_name is not None or attributes.get("axis") == "Z" or "positive" in attributes
    return is_said or units in _PRESSURE_UNITS | _LENGTH_UNITS or _NAMES.fullmatch(name) is not None


def level_axis(dataset: xr.Dataset, name: str) -> LevelAxis:
    """Return the levels of a vertical dimension; numbered from 0 where it has no coordinate."""
    n = dataset.sizes[name]
    is_named = name in dataset.variables and dataset[name].dims == (name,) and dataset[name].dtype.kind in "iuf"
    values = np.asarray(dataset[name].values if is_named else np.arange(n), np.float64)
    attributes = dataset[name].attrs if is_named else {}
    units = str(attributes["units"]) if "units" in attributes else None
    kind = _kind(name, attributes)
    positive = attributes.get("positive", _UPWARD.get(kind, "down"))
    beside: list[dict[str, Any]] = _hybrid(dataset, name) if kind is Vertical.HYBRID else [{}] * n
    levels = tuple(
        Level(kind, float(value), units, positive, **terms) for value, terms in zip(values, beside, strict=True)
    )
    return LevelAxis(name, levels, attributes.get("standard_name"))


def _kind(name: str, attributes: Mapping[str, Any]) -> Vertical:
    if (standard_name := attributes.get("standard_name")) in _STANDARD_NAMES:
        return _STANDARD_NAMES[standard_name]
    units, lowered = str(attributes.get("units", "")).lower(), name.lower()
    if units in _PRESSURE_UNITS:
        return Vertical.PRESSURE
    if units in _LENGTH_UNITS:
        is_downward = attributes.get("positive") == "down" or "depth" in lowered
        return Vertical.DEPTH if is_downward else Vertical.HEIGHT
    if "formula_terms" in attributes and {"b", "ps"} <= set(_terms(attributes)):
        return Vertical.HYBRID
    return Vertical.LEVEL


def _terms(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a formula by its terms.

    >>> _terms({"formula_terms": "ap: hyam b: hybm ps: PS"})
    {'ap': 'hyam', 'b': 'hybm', 'ps': 'PS'}
    """
    words = str(attributes.get("formula_terms", "")).replace(":", " ").split()
    return dict(zip(words[::2], words[1::2], strict=False))


def _hybrid(dataset: xr.Dataset, name: str) -> list[dict[str, Any]]:
    """Return what the formula of hybrid levels says of each."""
    attributes = dataset[name].attrs if name in dataset.variables else {}
    found: list[dict[str, Any]] = [{} for _ in range(dataset.sizes[name])]
    if (ps := _terms(attributes).get("ps")) in dataset.variables:
        found = [{"surface_pressure": ps} for _ in found]
    if (at_levels := _coefficients(dataset, attributes)) is not None:
        a, b, units = at_levels
        said = {"a_units": units} if units is not None else {}
        found = [{**one, **said, "a": float(a[i]), "b": float(b[i])} for i, one in enumerate(found)]
    between = _coefficients(dataset, _interfaces(dataset, name))
    if between is not None and between[0].shape in ((len(found), 2), (len(found) + 1,)):
        a, b = (np.stack([c[:-1], c[1:]], axis=1) if c.ndim == 1 else c for c in between[:2])
        for i, one in enumerate(found):
            one.update(a_bounds=(float(a[i, 0]), float(a[i, 1])), b_bounds=(float(b[i, 0]), float(b[i, 1])))
    return found


def _coefficients(
    dataset: xr.Dataset, attributes: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], str | None] | None:
    """Return a, b and the units of a, of ``p = ap + b ps`` or ``p = a p0 + b ps``; None where the formula lacks one."""
    terms = _terms(attributes)
    pressure, factor = (terms.get("ap"), terms.get("ap")) if "ap" in terms else (terms.get("p0"), terms.get("a"))
    if not {terms.get("b"), pressure, factor} <= set(dataset.variables):
        return None
    scale = 1.0 if "ap" in terms else float(dataset[pressure].values)
    a, b = (np.asarray(dataset[one].values, np.float64) for one in (factor, terms["b"]))
    units = dataset[pressure].attrs.get("units")
    return a * scale, b, None if units is None else str(units)


def _interfaces(dataset: xr.Dataset, name: str) -> Mapping[str, Any]:
    """Return the attributes of what lies between levels: their bounds (CMIP), or an axis one longer (CESM's ilev)."""
    own = dataset[name].attrs if name in dataset.variables else {}
    if (bounds := own.get("bounds")) in dataset.variables:
        return dataset[bounds].attrs
    for other in map(str, dataset.dims):
        is_longer = other in dataset.variables and dataset.sizes[other] == dataset.sizes[name] + 1
        if is_longer and dataset[other].attrs.get("standard_name") == own.get("standard_name"):
            return dataset[other].attrs
    return {}
