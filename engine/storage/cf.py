"""CF attributes, times and steps, as plain values that JSON can hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xarray.coding.times import decode_cf_datetime, encode_cf_datetime

CONVENTIONS = "CF-1.11"
"""What the engine writes by."""

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


def described(attributes: Mapping[Any, Any], **wanted: str) -> dict[str, Any]:
    """Return a coordinate's attributes as CF asks for them: ``wanted`` goes before what the file says.

    >>> described({"units": "degrees north", "long_name": "latitude"}, units="degrees_north")
    {'units': 'degrees_north', 'long_name': 'latitude'}
    """
    return {**plain(attributes), **wanted}


def of_array(
    name: str, beside: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]], channels: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what the array of a volume says: its quantity, its map, and the coordinates that name no axis.

    >>> of_array("values", {"lat": (["lat"], {}), "gw": (["lat"], {})}, [{"units": "K"}, {"units": "K"}])
    {'long_name': 'values', 'units': 'K', 'coordinates': 'gw'}

    Args:
        name: Of the array.
        beside: Axes and attributes of each array beside it.
        channels: What each channel is; what is not the same for all is left out.
    """
    keys, first = ("long_name", "units", "standard_name", "cell_methods"), channels[0] if channels else {}
    same = {key: first[key] for key in keys if key in first and all(c.get(key) == first[key] for c in channels)}
    found = {"long_name": name, **same}
    maps = [one for one, (_, attributes) in beside.items() if "grid_mapping_name" in attributes]
    others = [one for one, (axes, _) in beside.items() if tuple(axes) != (one,) and one not in maps]
    found |= {"grid_mapping": maps[0]} if maps else {}
    return found | ({"coordinates": " ".join(others)} if others else {})


def in_units(values: NDArray[Any], own: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> NDArray[Any]:
    """Return times as numbers in other units; as they are where both agree.

    Args:
        values: The times.
        own: Their attributes: units and calendar.
        wanted: Those of the units that are wanted.

    Raises:
        ValueError: If one of the two has no units that CF knows, or their calendars differ.
    """
    (units, calendar), (other, other_calendar) = (
        (one.get("units"), one.get("calendar", "standard")) for one in (own, wanted)
    )
    if (units, calendar) == (other, other_calendar):
        return values
    if units is None or other is None or _meant(calendar) != _meant(other_calendar):
        raise ValueError(f"'{units}' ({calendar}) against '{other}' ({other_calendar})")
    moments = decode_cf_datetime(values, units, calendar)
    return np.asarray(encode_cf_datetime(moments, other, calendar)[0])


def _meant(calendar: str) -> str:
    return {"gregorian": "standard"}.get(calendar, calendar)


def mean_step(values: NDArray[Any]) -> float:
    """Return the mean distance of neighbours; 1 where there are none.

    >>> mean_step(np.array([87.5, 85.0, 82.5]))
    2.5
    """
    if len(values) < 2 or values.dtype.kind not in "iuf":
        return 1.0
    step = abs(float(values[-1]) - float(values[0])) / (len(values) - 1)
    return step if np.isfinite(step) and step > 0 else 1.0
