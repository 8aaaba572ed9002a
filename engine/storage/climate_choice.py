"""What of a climate source is wanted, as its URL says: variables, levels, times, and a box on the globe.

era5.zarr#variables=t,q                     these, in this order
era5.zarr#level=850,500                     of each variable with levels, those of these values
era5.zarr#levels=batch                      levels as a batch axis: (time, level, channel, lat, lon)
era5.zarr#time=2020-01-01:2020-02-01        from a date up to, not including, another
era5.zarr#time=0:8                          the first eight steps
era5.zarr#box=30,60,-20,40                  south, north, west and east in degrees; it may cross any meridian
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from engine.errors import VolumeError

NAMES = ("variables", "levels", "level", "time", "box")
"""Options of a source URL that are of climate sources only."""

LEVELS = ("channels", "batch")
"""What levels may become."""

_DATE = r"\d{4}-\d{2}-\d{2}(?:T\d{2}(?::\d{2}(?::\d{2})?)?)?"
_DATES = re.compile(rf"(?P<start>{_DATE})?:(?P<stop>{_DATE})?")
_STEPS = re.compile(r"(?P<start>\d+)?:(?P<stop>\d+)?")


@dataclass(frozen=True, slots=True)
class ClimateChoice:
    """Which part of a climate source is read; all of it by default.

    >>> ClimateChoice(variables=("t",), level=(850.0,), box=(-30.0, 30.0, 170.0, -120.0)).options
    ['variables=t', 'level=850', 'box=-30,30,170,-120']
    """

    variables: tuple[str, ...] = ()
    """Names in the file, in the order of the channels; empty for all that lie on the grid."""
    levels: str = LEVELS[0]
    """Whether each level of a variable is a channel, or levels are a batch axis."""
    level: tuple[float, ...] = ()
    """Values along the level axes, in the file's units, in the order of the channels; empty for all."""
    time: str = ""
    """First and last step, half-open, by date or by number, as ``parse_span`` takes it; empty for all."""
    box: tuple[float, float, float, float] | None = None
    """South, north, west and east, degrees; cells whose centre lies inside or on it are read."""

    @property
    def options(self) -> list[str]:
        """What stands behind the ``#`` for it, in one spelling."""
        said = {
            "variables": ",".join(self.variables),
            "levels": "" if self.levels == LEVELS[0] else self.levels,
            "level": ",".join(f"{value:.12g}" for value in self.level),
            "time": self.time,
            "box": ",".join(f"{value:.12g}" for value in self.box or ()),
        }
        return [f"{name}={text}" for name, text in said.items() if text]


def parse_choice(texts: Mapping[str, str], *, url: str) -> ClimateChoice:
    """Return the choice that the options of a source URL spell.

    Args:
        texts: By name, of :data:`NAMES`.
        url: For messages.

    Raises:
        VolumeError: If an option is not spelled as it must be.
    """
    names = tuple(name for name in texts.get("variables", "").split(",") if name)
    levels = texts.get("levels", LEVELS[0])
    if levels not in LEVELS or ("variables" in texts and not names) or len(set(names)) < len(names):
        raise VolumeError(
            f"'levels' must be {' or '.join(LEVELS)}, and 'variables' names, each once, not levels={levels} and "
            f"variables={texts.get('variables', '')} in '{url}'. Write it as #variables=t,q&levels=batch."
        )
    if (span := texts.get("time", "")) or "time" in texts:
        parse_span(span, url=url)
    values = _numbers(texts, "level", url=url)
    box = _numbers(texts, "box", url=url)
    if box and not (len(box) == 4 and -90 <= box[0] < box[1] <= 90 and box[2] != box[3]):
        raise VolumeError(
            f"'box' must be south, north, west and east in degrees, south before north, not '{texts['box']}' in "
            f"'{url}'. Write it as #box=30,60,-20,40."
        )
    south_to_east = (box[0], box[1], box[2], box[3]) if box else None
    return ClimateChoice(names, levels, values, span, south_to_east)


def parse_span(text: str, *, url: str) -> tuple[str | int | None, str | int | None]:
    """Return the first step, and the first that is no more wanted: dates as ISO texts, or numbers; None for the ends.

    >>> parse_span("2020-01-01T06:00:2020-02-01", url=""), parse_span("3:", url=""), parse_span("7", url="")
    (('2020-01-01T06:00', '2020-02-01'), (3, None), (7, 8))

    Raises:
        VolumeError: If it is neither.
    """
    if text.isdecimal():
        return int(text), int(text) + 1
    if steps := _STEPS.fullmatch(text):
        start, stop = (None if part is None else int(part) for part in steps.group("start", "stop"))
        if (start, stop) != (None, None):
            return start, stop
    if dates := _DATES.fullmatch(text):
        return dates.group("start"), dates.group("stop")
    raise VolumeError(
        f"'time' must be dates or steps, the second not included, not '{text}' in '{url}'. Write it as "
        "#time=2020-01-01:2020-02-01, #time=2020-01-01T06:00: or #time=0:8."
    )


def _numbers(texts: Mapping[str, str], name: str, *, url: str) -> tuple[float, ...]:
    if name not in texts:
        return ()
    try:
        found = tuple(float(part) for part in texts[name].split(","))
    except ValueError:
        found = (float("nan"),)
    if not all(map(isfinite, found)) or (name == "level" and len(set(found)) < len(found)):
        raise VolumeError(
            f"'{name}' must be numbers, joined by commas, not '{texts[name]}' in '{url}'. Write it as "
            f"#{name}={'850,500' if name == 'level' else '30,60,-20,40'}."
        )
    return found
