"""The times of a climate source: those of all its files, one after another, and which of them are read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.coding.times import decode_cf_datetime

from engine.errors import IngestError
from engine.storage import arrays, cf
from engine.storage.climate_choice import parse_span
from engine.storage.climate_files import ClimateFiles, unwarned


@dataclass(frozen=True, eq=False)
class Times:
    """Steps of a source; half-open, in the order of its files."""

    values: tuple[NDArray[Any], ...]
    """Of each file, all its times, in the units of the first."""
    attributes: Mapping[str, Any]
    """CF attributes of the first file's times: units and calendar."""
    start: int
    """First step that is read."""
    stop: int
    """First that is no more."""

    @property
    def chosen(self) -> NDArray[Any]:
        """Times that are read, in the units of the first file."""
        found: NDArray[Any] = np.concatenate(self.values)[self.start : self.stop]
        return found

    def files(self, start: int, stop: int) -> Iterator[tuple[int, slice, NDArray[np.int64]]]:
        """Yield which files hold the steps ``[start, stop)`` of those that are read.

        Yields:
            The file, which of the asked steps it holds, and all of its own steps that are read.
        """
        first = -self.start
        for number, values in enumerate(self.values):
            own = slice(max(0, -first), min(len(values), self.stop - self.start - first))
            low, high = max(start, first + own.start), min(stop, first + own.stop)
            if low < high:
                yield number, slice(low - start, high - start), np.arange(own.start, own.stop)
            first += len(values)

    def place(self, number: int) -> int:
        """Return the step, of those that are read, at which a file's first read step stands."""
        return max(0, sum(len(values) for values in self.values[:number]) - self.start)


def read_times(files: ClimateFiles, axis: str | None, span: str) -> Times | None:
    """Return the times of a source, or None where it holds one moment.

    Args:
        files: One, or several that follow each other in time.
        axis: The files' name of their time axis; None where each holds one moment.
        span: Which of them are read, as the source URL spells it; empty for all.

    Raises:
        IngestError: If the files do not follow each other, their times have no calendar, or nothing lies in the span.
    """
    if axis is None and len(files.places) == 1 and not span:
        return None
    name = axis or _moment(files.dataset(0), path=files.places[0])
    first = files.dataset(0)
    attributes = cf.plain(first[name].attrs) if name in first.variables else {}
    values = tuple(_values(files, number, name, attributes) for number in range(len(files.places)))
    _check_order(values, files)
    start, stop = _span(np.concatenate(values), span, attributes, path=files.places[0])
    return Times(values, attributes, start, stop)


def _moment(dataset: xr.Dataset, *, path: str) -> str:
    """Return the scalar coordinate that says when a file without a time axis is."""
    for name, array in dataset.variables.items():
        is_time = array.attrs.get("standard_name") == "time" or name == "time"
        if array.ndim == 0 and (is_time or " since " in str(array.attrs.get("units", ""))):
            return str(name)
    raise IngestError(
        f"files are joined along time, and '{path}' has no time axis. Add one (xarray's expand_dims), "
        "or ingest the files apart."
    )


def _values(files: ClimateFiles, number: int, name: str, attributes: Mapping[str, Any]) -> NDArray[Any]:
    """Return the times of a file in the first file's units; steps are counted where it has none."""
    dataset, path = files.dataset(number), files.places[number]
    if name not in dataset.variables:
        return np.arange(dataset.sizes.get(name, 1), dtype=np.float64) + (np.nan if number else 0)
    _check_calendar(dataset[name], path=path)
    try:
        return np.atleast_1d(cf.in_units(dataset[name].values, dataset[name].attrs, attributes))
    except (ValueError, KeyError) as error:
        raise IngestError(
            f"files that are joined in time must count it in units that fit, and those of '{path}' and "
            f"'{files.places[0]}' do not ({arrays.first_line(error)}). Set units and calendar of '{name}'."
        ) from error


def _check_calendar(times: xr.DataArray, *, path: str) -> None:
    """Refuse times that no calendar makes dates of."""
    units, calendar = str(times.attrs.get("units", "")), str(times.attrs.get("calendar", "standard"))
    if " since " not in units or not times.size:
        return
    try:
        with unwarned():
            decode_cf_datetime(np.atleast_1d(times.values)[[0, -1]], units, calendar)
    except (ValueError, OverflowError, TypeError, KeyError) as error:
        raise IngestError(
            f"times must be in a calendar and units that xarray decodes, not '{units}' ({calendar}), as '{times.name}' "
            f"of '{path}' is ({arrays.first_line(error)}). Count in days or hours, and set its calendar to standard, "
            "noleap or 360_day."
        ) from error


def _check_order(values: tuple[NDArray[Any], ...], files: ClimateFiles) -> None:
    for i in range(1, len(values)):
        before, after = values[i - 1], values[i]
        if not (len(before) and len(after) and after[0] > before[-1]):
            raise IngestError(
                f"files must follow each other in time, and '{files.places[i]}' starts at {after[:1]}, "
                f"'{files.places[i - 1]}' ends at {before[-1:]}. Give them in order, and none twice."
            )


def _span(values: NDArray[Any], span: str, attributes: Mapping[str, Any], *, path: str) -> tuple[int, int]:
    """Return the first step of a span and the first beyond it."""
    if not span:
        return 0, len(values)
    low, high = parse_span(span, url=path)
    start = low if isinstance(low, int) else _step(values, low, attributes, path=path) if low else 0
    stop = high if isinstance(high, int) else _step(values, high, attributes, path=path) if high else len(values)
    if not start < stop <= len(values):
        raise IngestError(
            f"time '{span}' must hold at least one step and lie inside those of '{path}', which has {len(values)}, "
            f"{values[:1]} to {values[-1:]} {attributes.get('units', '')}. Choose another #time=."
        )
    return start, stop


def _step(values: NDArray[Any], date: str, attributes: Mapping[str, Any], *, path: str) -> int:
    """Return the first step that is not before a date."""
    calendar = attributes.get("calendar", "standard")
    parts = [int(part) for part in date.replace("T", "-").replace(":", "-").split("-")]
    try:
        moment = cftime.datetime(*parts, calendar=calendar)
        number = cftime.date2num(moment, attributes["units"], calendar)
    except (ValueError, KeyError, TypeError) as error:
        raise IngestError(
            f"the times of '{path}' must have units and a calendar in which {date} is a date, not "
            f"{dict(attributes)} ({arrays.first_line(error)}). Choose steps by number, as #time=0:8."
        ) from error
    return int(np.searchsorted(values, number, side="left"))
