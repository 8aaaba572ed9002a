"""GRIB files as one dataset, by cfgrib: every kind of level has an axis of its own."""

from collections.abc import Sequence
from typing import Any

import cfgrib  # type: ignore[import-untyped]
import numpy as np
import xarray as xr

from engine.errors import IngestError
from engine.storage import arrays

_HYBRID, _PV = "hybrid", "GRIB_pv"
BEGAN = "forecast_reference_time"
"""When the forecast began that all fields of a file are of, where they are of one."""
_SHARED = {"time", "step", "number", "latitude", "longitude", "x", "y", "values"}
"""Coordinates of cfgrib that are not vertical."""


def open_grib(place: str) -> xr.Dataset:
    """Return a GRIB file as xarray sees it, its messages read only when asked for, and no index file left beside it.

    A variable that comes on two kinds of levels is named after its second kind too, as ``t_surface``.

    Raises:
        IngestError: If it is no GRIB, damaged, or its fields lie on several grids or at different times.
    """
    try:
        options = {"indexpath": "", "read_keys": ["pv"]}
        parts = cfgrib.open_datasets(
            place, backend_kwargs=options, decode_times=False, decode_timedelta=False, cache=False
        )
    except (*arrays.READ_ERRORS, cfgrib.DatasetBuildError, AttributeError) as error:
        raise _unreadable(place, arrays.first_line(error)) from error
    if not any(part.data_vars for part in parts):
        raise _unreadable(place, "it holds no fields")
    try:
        return _joined(parts)
    except ValueError as error:
        raise IngestError(
            f"the fields of a GRIB file must share one grid and the same times, and those of '{place}' do not "
            f"({arrays.first_line(error)}). Split it by grib_copy first."
        ) from error


def _joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return all parts in one; of two vertical axes of one name and other values, the second is numbered."""
    found = xr.Dataset(attrs=parts[0].attrs)
    began = _one_beginning(parts)
    for part in map(_at_valid_times, parts):
        scalars = [name for name in part.coords if name not in _SHARED and part[name].ndim == 0]
        own = part.drop_vars(scalars)
        names = {name: _axis_name(found, own, str(name)) for name in own.dims if name not in _SHARED}
        names |= {name: _variable_name(found, own[name]) for name in own.data_vars}
        own = _with_coefficients(own.rename(names), names.get(_HYBRID, _HYBRID))
        found = xr.merge([found, own], join="exact", compat="equals", combine_attrs="override")
    return found if began is None else found.assign_coords({BEGAN: began})


def _one_beginning(parts: Sequence[xr.Dataset]) -> xr.Variable | None:
    """Return when the forecast began that all fields are of; None where there are several, or fields of that time."""
    times = [part["time"].variable for part in parts if "time" in part.coords and part["time"].ndim == 0]
    is_one = len(times) == len(parts) and all(time.values == times[0].values for time in times)
    is_later = any("step" in part.coords and np.any(part["step"].values != 0) for part in parts)
    return times[0] if is_one and is_later else None


def _at_valid_times(part: xr.Dataset) -> xr.Dataset:
    """Return fields at the times that they are of, not those at which their forecast began.

    The steps of one forecast are times. Steps of several forecasts are left as the second axis that they are.
    """
    if "valid_time" not in part.coords or part["valid_time"].ndim > 1:
        return part.drop_vars("valid_time", errors="ignore")
    valid = part["valid_time"].variable
    part = part.drop_vars(["time", "step", "valid_time"], errors="ignore")
    return part.rename({name: "time" for name in valid.dims if name != "time"}).assign_coords(
        time=valid if not valid.dims else ("time", valid.values, valid.attrs)
    )


def _with_coefficients(part: xr.Dataset, axis: str) -> xr.Dataset:
    """Return hybrid levels with their formula as CF has it, from the coefficients that a message carries (``pv``).

    These are a and b at the interfaces, from the top; level k lies between interfaces k - 1 and k, and its pressure is
    the mean of theirs (IFS documentation, part III, 2.2.1).
    """
    found = [np.asarray(part[name].attrs.pop(_PV)) for name in part.data_vars if _PV in part[name].attrs]
    if axis not in part.dims or not found:
        return part
    numbers = part[axis].values.astype(int)
    if found[0].size % 2 or numbers.min() < 1 or numbers.max() >= found[0].size // 2:
        return part
    names = {"ap": f"{axis}_ap", "b": f"{axis}_b"}
    for (term, name), values in zip(names.items(), np.split(found[0], 2), strict=True):
        about = {"units": "Pa" if term == "ap" else "1"}
        bounds = np.stack([values[numbers - 1], values[numbers]], axis=1)
        part[name], part[f"{name}_bnds"] = (axis, bounds.mean(axis=1), about), ((axis, "bnds"), bounds, about)
    between = np.stack([numbers - 0.5, numbers + 0.5], axis=1)
    terms = f"ap: {names['ap']}_bnds b: {names['b']}_bnds ps: sp"
    part[f"{axis}_bnds"] = (axis, "bnds"), between, {"formula_terms": terms}
    part[axis].attrs |= {
        "standard_name": "atmosphere_hybrid_sigma_pressure_coordinate",
        "formula_terms": f"ap: {names['ap']} b: {names['b']} ps: sp",
        "bounds": f"{axis}_bnds",
    }
    return part


def _axis_name(found: xr.Dataset, part: xr.Dataset, name: str) -> str:
    for number in range(1, len(found.dims) + 2):
        free = name if number == 1 else f"{name}{number}"
        if free not in found.dims or np.array_equal(found[free].values, part[name].values):
            return free
    return name


def _variable_name(found: xr.Dataset, array: xr.DataArray) -> str:
    name = str(array.name)
    return f"{name}_{array.attrs.get('GRIB_typeOfLevel', 'other')}" if name in found.data_vars else name


def _unreadable(place: str, why: Any) -> IngestError:  # noqa: ANN401 -- any reason
    return IngestError(
        f"a GRIB file is wanted, and '{place}' does not open as one ({why}). Copy or download it again, or check it "
        "with grib_ls."
    )
