"""Source URLs by resolution: the one that reads a source at a wanted micrometre per pixel."""

from collections.abc import Sequence
from dataclasses import replace

from engine.storage.source_url import TOLERANCE, pair, parse_source
from engine.storage.volume import open_volume


def at_mpp(url: str, mpp: float | Sequence[float], tolerance: float = TOLERANCE, *, axes: str | None = None) -> str:
    """Return the URL that reads the source at ``mpp`` micrometre per pixel, having seen that it can be read so.

    Args:
        url: A source; an ``mpp`` that it has already is replaced, a ``spacing`` is kept.
        mpp: Wanted, along y and x; one value serves both.
        tolerance: Share by which a level may miss it and still be read as it is.
        axes: Names of a bare array's axes.

    Raises:
        VolumeError: If the source does not open, does not say its micrometre per pixel, or is nowhere as fine.
    """
    wanted = str(replace(parse_source(url), mpp=pair(mpp), tolerance=float(tolerance)))
    open_volume(wanted, axes=axes)
    return wanted


def without_mpp(url: str) -> str:
    """Return the URL of the source at its own finest level.

    >>> without_mpp("a.svs#mpp=1.0&tolerance=0.1&spacing=0.25")
    'a.svs#spacing=0.25'
    """
    return str(replace(parse_source(url), mpp=None, tolerance=TOLERANCE))
