"""The URL of a source: where it lies, and behind a ``#`` how it is to be read.

    slide.svs                                   as the file is
    slide.svs#mpp=0.5                           at 0.5 micrometre per pixel
    slide.svs#mpp=0.5&tolerance=0.1             a level within 10 % of it is taken as it is
    scan.tif#spacing=0.25                       for a file that does not say its micrometre per pixel
    scan.tif#mpp=1.0,0.5&spacing=0.5,0.25       y and x apart
    scan.zarr#slices=1                          slice by slice: z is a batch, for networks of two dimensions
    scan.zarr#slices=5                          the same, each slice with two neighbours on either side as channels

It says all that is read, so a plan, a worker and a resumed run need nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from engine.errors import VolumeError

TOLERANCE = 0.05
"""How far, as a share of the wanted one, a level's step may be off and still be read as it is."""

_NAMES = ("mpp", "tolerance", "spacing", "slices")


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
    spacing: tuple[float, float] | None = None
    """True micrometre per pixel of the finest level along y and x, instead of what the file says."""
    slices: int | None = None
    """Neighbouring slices that make one item, an odd number; None where z is left as it is."""

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
        return "&".join(found)

    def __str__(self) -> str:
        return f"{self.place}#{self.options}" if self.options else self.place


def parse_source(url: str) -> SourceUrl:
    """Take a source URL apart; a ``#`` in a file's name that no ``=`` follows belongs to the name.

    >>> parse_source("a#1.svs").place, parse_source("a.svs#mpp=0.5").mpp
    ('a#1.svs', (0.5, 0.5))

    Raises:
        VolumeError: If an option is unknown, given twice, or no positive number; or of slices, no odd one.
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
    found = {name: _numbers(name, text, url=url) for name, text in pairs if name != "slices"}
    tolerance = found.get("tolerance", (TOLERANCE, TOLERANCE))[0]
    slices = next((_count(text, url=url) for name, text in pairs if name == "slices"), None)
    return SourceUrl(place, found.get("mpp"), tolerance, found.get("spacing"), slices)


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


def _spelled(steps: tuple[float, float]) -> str:
    y, x = steps
    return repr(y) if y == x else f"{y!r},{x!r}"


def _count(text: str, *, url: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) % 2):
        raise VolumeError(
            f"'slices' must be an odd number, as many before a slice as behind it, not '{text}' in '{url}'. Write it "
            "as #slices=3, or #slices=1 for each slice alone."
        )
    return int(text)


def _numbers(name: str, text: str, *, url: str) -> tuple[float, float]:
    try:
        found = pair([float(part) for part in text.split(",")])
    except ValueError:
        found = (float("nan"), float("nan"))
    least = 0.0 if name == "tolerance" else float.fromhex("0x1p-1074")
    is_one = name != "tolerance" or "," not in text
    if not (is_one and all(isfinite(number) and number >= least for number in found)):
        raise VolumeError(
            f"'{name}' must be {'a positive number, or two as y,x' if name != 'tolerance' else 'a number, 0 or more'}, "
            f"not '{text}' in '{url}'. Write it as #{name}=0.5."
        )
    return found
