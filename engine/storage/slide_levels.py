"""Where the levels of a slide lie: in OpenSlide's coordinates, inside its bounds, and in micrometre."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor

import openslide

from engine.storage.readable import Level

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class SlideLevel:
    """One level of a slide, along y and x."""

    size: tuple[int, int]
    """Pixels of the whole level."""
    factor: tuple[float, float]
    """Level-0 pixels per pixel."""
    downsample: float
    """What OpenSlide takes for both factors when it looks a place up."""
    first: tuple[int, int]
    """First pixel inside the bounds."""
    shape: tuple[int, int]
    """Pixels inside the bounds."""
    tile: tuple[int, int]
    """Pixels that are compressed together."""

    @property
    def is_aligned(self) -> bool:
        """Whether every pixel has a whole place in level 0: OpenSlide blends neighbours where one has none."""
        return self.downsample.is_integer()

    def described(self, number: int, *, mpp: tuple[float, float]) -> Level:
        """Return this level as a volume's; places count from the centre of the slide's own first pixel."""
        steps = tuple(step * factor for step, factor in zip(mpp, self.factor, strict=True))
        places = tuple(
            (first + 0.5) * step - 0.5 * fine for first, step, fine in zip(self.first, steps, mpp, strict=True)
        )
        tile = tuple(min(t, n) for t, n in zip(self.tile, self.shape, strict=True))
        return Level(str(number), (3, *self.shape), (3, *tile), None, (1.0, *steps), (0.0, *places))


def slide_levels(slide: openslide.OpenSlide) -> tuple[SlideLevel, ...]:
    """Return the levels of an open slide, cut to what its scanner says it scanned."""
    width, height = slide.dimensions
    start, stop = bounds(slide.properties, whole=(height, width))
    return tuple(_level(slide, number, start=start, stop=stop) for number in range(slide.level_count))


def _level(slide: openslide.OpenSlide, number: int, *, start: tuple[int, int], stop: tuple[int, int]) -> SlideLevel:
    (whole_x, whole_y), (width, height) = slide.dimensions, slide.level_dimensions[number]
    factor = (true_factor(whole_y, height), true_factor(whole_x, width))
    first = (floor(start[0] / factor[0]), floor(start[1] / factor[1]))
    last = (min(height, ceil(stop[0] / factor[0])), min(width, ceil(stop[1] / factor[1])))
    n_y, n_x = (slide.properties.get(f"openslide.level[{number}].tile-{name}") for name in ("height", "width"))
    return SlideLevel(
        size=(height, width),
        factor=factor,
        downsample=slide.level_downsamples[number],
        first=first,
        shape=(max(1, last[0] - first[0]), max(1, last[1] - first[1])),
        tile=(int(n_y or _CHUNK), int(n_x or _CHUNK)),
    )


def bounds(properties: Mapping[str, str], *, whole: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and the last-but-one level-0 pixel (y, x) of what was scanned; the whole slide where none says.

    >>> bounds({}, whole=(30, 40))
    ((0, 0), (30, 40))
    """
    names = ("y", "x", "height", "width")
    said = [properties.get(f"openslide.bounds-{name}") for name in names]
    height, width = whole
    if any(value is None for value in said):
        return (0, 0), (height, width)
    y, x, n_y, n_x = (int(value or 0) for value in said)
    low = (min(max(0, y), height - 1), min(max(0, x), width - 1))
    return low, (min(height, max(low[0] + 1, y + n_y)), min(width, max(low[1] + 1, x + n_x)))


def true_factor(whole: int, coarse: int) -> float:
    """Return finer pixels per coarser pixel: a whole number where the last group may have been cut or left out.

    A level of a 33,014 pixel slide made by 4 has 8,253 or 8,254: the ratio of the sizes is off, the step is 4.

    >>> true_factor(33014, 8253), true_factor(33014, 8254), true_factor(1000, 600)
    (4.0, 4.0, 1.6666666666666667)
    """
    nearest = round(whole / coarse)
    return float(nearest) if abs(whole - nearest * coarse) < nearest else whole / coarse
