"""CF attributes, times and steps, as plain values that JSON can hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.coding.times import decode_cf_datetime, encode_cf_datetime

_ENCODING = {"_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "bounds", "grid_mapping"}


def plain(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as JSON has them, without those that describe the file's own packing.

    >>> plain({"units": "K", "level": np.int32(3), "scale_factor": 0.1})
    {'units': 'K', 'level': 3}
    """
    found = {}
    for name, value in attributes.items():
        if name in _ENCODING:
            continue
        found[str(name)] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return found


def described(attributes: Mapping[Any, Any], *, standard_name: str, units: str) -> dict[str, Any]:
    """Return a coordinate's attributes, with what CF asks for added where the file lacks it."""
    return {"standard_name": standard_name, "units": units, **plain(attributes)}


def times_in_units(times: xr.DataArray, attributes: Mapping[Any, Any]) -> NDArray[Any]:
    """Return times as numbers in the units and calendar of ``attributes``; as they are where both agree.

    Raises:
        ValueError: If one of the two has no units that CF knows, or their calendars differ.
    """
    values = np.asarray(times.values)
    units, calendar = times.attrs.get("units"), times.attrs.get("calendar", "standard")
    wanted, wanted_calendar = attributes.get("units"), attributes.get("calendar", "standard")
    if (units, calendar) == (wanted, wanted_calendar):
        return values
    if units is None or wanted is None or calendar != wanted_calendar:
        raise ValueError(f"'{units}' ({calendar}) against '{wanted}' ({wanted_calendar})")
    moments = decode_cf_datetime(values, units, calendar)
    return np.asarray(encode_cf_datetime(moments, wanted, calendar)[0])


def mean_step(values: NDArray[Any]) -> float:
    """Return the mean distance of neighbours; 1 where there are none.

    >>> mean_step(np.array([87.5, 85.0, 82.5]))
    2.5
    """
    if len(values) < 2 or values.dtype.kind not in "iuf":
        return 1.0
    step = abs(float(values[-1]) - float(values[0])) / (len(values) - 1)
    return step if np.isfinite(step) and step > 0 else 1.0
