"""The URL of a source: where it lies, and behind a ``#`` how it is to be read.

    slide.svs                                   as the file is
    slide.svs#mpp=0.5                           at 0.5 micrometre per pixel
    slide.svs#mpp=0.5&tolerance=0.1             a level within 10 % of it is taken as it is
    scan.tif#spacing=0.25                       for a file that does not say its micrometre per pixel
    scan.tif#mpp=1.0,0.5&spacing=0.5,0.25       y and x apart
    scan.nii.gz#spacing=2.5,0.8,0.8             for a scan that does not say its millimetre along z, y and x
    folder#series=1.2.840.113619.2.55           one of the DICOM series in a folder
    scan.zarr#slices=1                          slice by slice: z is a batch, for networks of two dimensions
    scan.zarr#slices=5                          the same, each slice with two neighbours on either side as channels
    era5.zarr#variables=t,q&level=850,500       a part of a climate source: see :mod:`engine.storage.climate_choice`
    era5.zarr#steps=100                         a state and what follows: see :mod:`engine.storage.view_choice`

It says all that is read, so a plan, a worker and a resumed run need nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from engine.errors import VolumeError
from engine.storage import climate_choice, view_choice
from engine.storage.climate_choice import ClimateChoice, parse_choice
from engine.storage.view_choice import ViewChoice, parse_views

TOLERANCE = 0.05
"""How far, as a share of the wanted one, a level's step may be off and still be read as it is."""

_NAMES = ("mpp", "tolerance", "spacing", "slices", "series", *climate_choice.NAMES, *view_choice.NAMES)
_ALL_OF_IT, _AS_IT_IS = ClimateChoice(), ViewChoice()
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A source URL, taken apart; ``str()`` puts it together again.

    >>> str(parse_source("a.svs#spacing=0.25&mpp=1,1"))
    'a.svs#mpp=1.0&spacing=0.25'
    """

    place: str
    """Path or URL, without options."""
    mpp: tuple[float, float] | None = None
    """Wanted micrometre per pixel along y and x."""
    tolerance: float = TOLERANCE
    """Largest share by which a level may miss ``mpp`` and still be read as it is."""
    spacing: tuple[float, ...] | None = None
    """True step, instead of what the file says: of a slide's finest level micrometre along y and x; of a scan
    millimetre along z, y and x, or one number for all, spelled twice here."""
    slices: int | None = None
    """Neighbouring slices that make one item, an odd number; None where z is left as it is."""
    series: str | None = None
    """SeriesInstanceUID of the one that is meant, where a folder holds several DICOM series."""
    climate: ClimateChoice = _ALL_OF_IT
    """Which part of a climate source is wanted."""
    views: ViewChoice = _AS_IT_IS
    """As what it is seen."""

    @property
    def options(self) -> str:
        """What stands behind the ``#``, in one spelling; empty where nothing does."""
        found = []
        if self.mpp is not None:
            found.append(f"mpp={_spelled(self.mpp)}")
            if self.tolerance != TOLERANCE:
                found.append(f"tolerance={self.tolerance!r}")
        if self.spacing is not None:
            found.append(f"spacing={_spelled(self.spacing)}")
        if self.slices is not None:
            found.append(f"slices={self.slices}")
        if self.series is not None:
            found.append(f"series={self.series}")
        found += self.climate.options
        found += self.views.options
        return "&".join(found)

    def __str__(self) -> str:
        return f"{self.place}#{self.options}" if self.options else self.place


def parse_source(url: str) -> SourceUrl:
    """Take a source URL apart; a ``#`` in a file's name that no ``=`` follows belongs to the name.

    >>> parse_source("a#1.svs").place, parse_source("a.svs#mpp=0.5").mpp
    ('a#1.svs', (0.5, 0.5))

    Raises:
        VolumeError: If an option is unknown, given twice, or no positive number; or of slices, no odd one;
            or of series, no UID; or of a climate source, not as :mod:`engine.storage.climate_choice` has it.
    """
    place, _, options = url.rpartition("#")
    if not place or "=" not in options:
        return SourceUrl(url)
    pairs = [pair.partition("=")[::2] for pair in options.split("&")]
    names = [name for name, _ in pairs]
    if unknown := [name for name in names if name not in _NAMES or names.count(name) > 1]:
        raise VolumeError(
            f"the options of a source are {', '.join(_NAMES)}, each once, not '{unknown[0]}' in '{url}'. "
            "Write it as slide.svs#mpp=0.5&spacing=0.25."
        )
    texts = dict(pairs)
    climate = parse_choice({name: texts.pop(name) for name in climate_choice.NAMES if name in texts}, url=url)
    series = _uid(texts.pop("series"), url=url) if "series" in texts else None
    slices = _count(texts.pop("slices"), url=url) if "slices" in texts else None
    views = parse_views({name: texts.pop(name) for name in view_choice.NAMES if name in texts}, url=url)
    found = {name: _numbers(name, text, url=url) for name, text in texts.items()}
    mpp, spacing = found.get("mpp"), found.get("spacing")
    tolerance = found.get("tolerance", (TOLERANCE,))[0]
    return SourceUrl(place, None if mpp is None else pair(mpp), tolerance, spacing, slices, series, climate, views)


def pair(value: float | Sequence[float]) -> tuple[float, float]:
    """Return a step along y and x from one for both, or from two.

    >>> pair(0.5), pair((1.0, 0.5))
    ((0.5, 0.5), (1.0, 0.5))

    Raises:
        ValueError: If there are not one or two numbers.
    """
    if not isinstance(value, Sequence):
        return float(value), float(value)
    y, x = tuple(value) * 2 if len(value) == 1 else value
    return float(y), float(x)


def moved(url: str, *, place: str) -> str:
    """Return the URL of what ``url`` describes, now lying at ``place``; options of ``place`` itself go before.

    >>> moved("a.svs#mpp=1.0", place="/new/a.svs")
    '/new/a.svs#mpp=1.0'
    """
    there = parse_source(place)
    return str(there if there.options else replace(parse_source(url), place=there.place))


def _spelled(steps: tuple[float, ...]) -> str:
    return repr(steps[0]) if len(steps) == 2 and steps[0] == steps[1] else ",".join(map(repr, steps))


def _count(text: str, *, url: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) % 2):
        raise VolumeError(
            f"'slices' must be an odd number, as many before a slice as behind it, not '{text}' in '{url}'. Write it "
            "as #slices=3, or #slices=1 for each slice alone."
        )
    return int(text)


_MOST_NUMBERS = {"mpp": 2, "tolerance": 1, "spacing": 3}
_WANTED = {
    "mpp": "a positive number, or two as y,x",
    "tolerance": "a number, 0 or more",
    "spacing": "a positive number, two as y,x of a slide, or three as z,y,x of a scan",
}


def _numbers(name: str, text: str, *, url: str) -> tuple[float, ...]:
    """Return the numbers of an option, at least two: one serves two axes."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (float("nan"),)
    least = 0.0 if name == "tolerance" else float.fromhex("0x1p-1074")
    if len(found) > _MOST_NUMBERS[name] or not all(isfinite(number) and number >= least for number in found):
        raise VolumeError(f"'{name}' must be {_WANTED[name]}, not '{text}' in '{url}'. Write it as #{name}=0.5.")
    return found * 2 if len(found) == 1 else found


def _uid(text: str, *, url: str) -> str:
    if not _UID.fullmatch(text):
        raise VolumeError(
            f"'series' must be a SeriesInstanceUID, numbers joined by points, not '{text}' in '{url}'. Write it as "
            "folder#series=1.2.840.1."
        )
    return text
