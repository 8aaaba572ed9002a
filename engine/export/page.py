"""The drawing of a montage: dark, tiles in a grid, contours in the house palette, a legend with volumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from skimage.measure import find_contours

from engine.storage.ngff import PALETTE

BACKGROUND, TEXT, MUTED, MARK = "#0b0d10", "#e8eaed", "#9aa0a8", "#f2d16b"

_DPI = 130
_GRID_INCHES = 11.6
"""Width of all tiles side by side, and the most that they are high."""
_GAP, _EDGE = 0.06, 0.25
_TOP, _ROW, _LETTER = 0.75, 0.24, 0.088
"""Inches of the title, of a row in the legend, of a letter in it."""
_MOST_NAMED = 40
INSIDE = 0.85
"""How far a contour lies towards its own voxels: those of two labels that touch are both seen."""

_EDGES = (
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.985, "center", "top"),
    (0.5, 0.015, "center", "bottom"),
)
"""Where the letters of a tile's sides stand, as shares of its width and height from the lower left."""


@dataclass(frozen=True)
class Tile:
    """One slice, as rows and columns of the page."""

    voxels: NDArray[Any]
    labels: NDArray[Any]
    """Of the same shape; 0 is background."""
    place: str
    """Where it lies, in words."""


@dataclass(frozen=True, slots=True)
class Legend:
    """One label of the legend."""

    label: int
    name: str
    ml: float
    """Volume of the whole label, not only of what is shown."""


@dataclass(frozen=True)
class Page:
    """All that is drawn."""

    title: str
    subtitle: str
    notes: tuple[str, ...]
    """What was assumed, told behind the subtitle."""
    tiles: Sequence[Tile]
    """In reading order; all of one shape."""
    legend: Sequence[Legend]
    edges: tuple[str, str, str, str]
    """Letters at the left, right, top and bottom of every tile."""
    spacing: tuple[float, float]
    """Millimetre down a row and across a column."""
    low: float
    """Intensity that is black."""
    high: float
    """Intensity that is white."""

    @property
    def size(self) -> tuple[float, float]:
        """Millimetres of a tile, down and across."""
        rows, columns = self.tiles[0].voxels.shape
        return rows * self.spacing[0], columns * self.spacing[1]


def colour(label: int) -> tuple[float, float, float]:
    """Return the house colour of a label, each part 0 to 1."""
    red, green, blue = PALETTE[(label - 1) % len(PALETTE)]
    return red / 255, green / 255, blue / 255


def draw_page(path: Path, page: Page) -> None:
    """Write a page as PNG; an older file is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    n_columns = _columns(len(page.tiles), page.size)
    n_rows = -(-len(page.tiles) // n_columns)
    across = (_GRID_INCHES - _GAP * (n_columns - 1)) / max(n_columns, 2)
    across *= min(1.0, _GRID_INCHES * page.size[1] / (n_rows * across * page.size[0]))
    down = across * page.size[0] / page.size[1]
    rows = page.legend[:_MOST_NAMED]
    beside = 0.9 + _LETTER * max(len("volume"), *(len(_cut(one.name)) + len(_volume(one.ml)) for one in rows))
    grid = (n_columns * across + (n_columns - 1) * _GAP, n_rows * down + (n_rows - 1) * _GAP)
    subtitle = "; ".join((page.subtitle, *page.notes))
    width = max(_EDGE + grid[0] + _EDGE + beside, _EDGE * 2 + 0.075 * len(subtitle))
    height = _TOP + max(grid[1], _ROW * (len(rows) + 2.5)) + _EDGE
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACKGROUND)
    figure.text(_EDGE / width, 1 - 0.2 / height, page.title, color=TEXT, fontsize=13, weight="bold", va="top")
    figure.text(_EDGE / width, 1 - 0.47 / height, subtitle, color=MUTED, fontsize=9, va="top")
    for i, tile in enumerate(page.tiles):
        row, column = divmod(i, n_columns)
        left, top = _EDGE + column * (across + _GAP), _TOP + row * (down + _GAP)
        place = (left / width, 1 - (top + down) / height, across / width, down / height)
        _draw_tile(figure.add_axes(place), page, tile, has_ruler=i == 0)
    left, inches = _EDGE * 2 + grid[0], _ROW * (len(rows) + 2.5)
    legend = figure.add_axes((left / width, 1 - (_TOP + inches) / height, (beside - _EDGE) / width, inches / height))
    _draw_legend(legend, page.legend)
    figure.savefig(path, format="png", facecolor=BACKGROUND)


def _columns(n_tiles: int, size: tuple[float, float]) -> int:
    """Return how many tiles stand side by side, so that the page is about half as wide again as it is high.

    >>> _columns(12, (400, 400)), _columns(1, (400, 400)), _columns(12, (200, 400))
    (4, 1, 3)
    """
    return max(1, min(n_tiles, round(float(np.sqrt(1.4 * n_tiles * size[0] / size[1])))))


def _draw_tile(axes: Axes, page: Page, tile: Tile, *, has_ruler: bool) -> None:
    """Draw a slice in millimetres, its contours, what its sides are called, and where it lies."""
    down, across = page.size
    axes.imshow(
        tile.voxels.astype(np.float32, copy=False),
        cmap="gray",
        vmin=page.low,
        vmax=page.high,
        extent=(0, across, down, 0),
        interpolation="bilinear",
    )
    for label in np.unique(tile.labels[tile.labels != 0]):
        contours = outline(tile.labels == label, page.spacing, level=INSIDE)
        lines = LineCollection(contours, colors=[colour(int(label))], linewidths=1.0)
        lines.set_path_effects([Stroke(linewidth=1.8, foreground="#000000", alpha=0.5), Normal()])
        axes.add_collection(lines, autolim=False)
    axes.set(xlim=(0, across), ylim=(down, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for text, (x, y, ha, va) in zip(page.edges, _EDGES, strict=True):
        _write(axes, x, y, text, colour=MARK, size=8.5, ha=ha, va=va)
    _write(axes, 0.02, 0.985, tile.place, colour=TEXT, size=7.5, ha="left", va="top")
    if has_ruler:
        _draw_ruler(axes, page.size)


def outline(
    mask: NDArray[np.bool_], spacing: tuple[float, float], *, level: float = 0.5
) -> list[NDArray[np.float64]]:
    """Return the closed contours of a mask in millimetres (x, y), half way between its voxels and the others.

    Args:
        mask: (y, x).
        spacing: Millimetre per voxel.
        level: Where between the others (0) and its own voxels (1).
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    inner = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float32)
    found = find_contours(inner, level)
    corner = np.array([top - 0.5, left - 0.5])  # half a voxel for its centre, less the one that was padded
    return [((line + corner) * spacing)[:, ::-1] for line in found]


def _draw_ruler(axes: Axes, size: tuple[float, float]) -> None:
    """Draw a length of 1, 2 or 5 times a power of ten millimetres, a third of the tile at most."""
    down, across = size
    lengths = [step * 10.0**power for power in range(-3, 4) for step in (1, 2, 5)]
    length = max(length for length in lengths if length <= max(across / 3, lengths[0]))
    x, y = 0.97 * across, 0.965 * down
    axes.add_line(Line2D([x - length, x], [y, y], color=TEXT, linewidth=2, solid_capstyle="butt"))
    told = f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"
    _write(axes, 1 - (0.03 + length / across / 2), 0.045, told, colour=TEXT, size=7.5, ha="center", va="bottom")


def _write(axes: Axes, x: float, y: float, text: str, *, colour: str, size: float, ha: Any, va: Any) -> None:  # noqa: ANN401
    """Write on a slice, at shares of its width and height from the lower left, with a dark rim."""
    at = {"ha": ha, "va": va, "transform": axes.transAxes}
    written = axes.text(x, y, text, color=colour, fontsize=size, family="DejaVu Sans Mono", **at)
    written.set_path_effects([Stroke(linewidth=2.0, foreground="#000000", alpha=0.8), Normal()])


def _draw_legend(axes: Axes, legend: Sequence[Legend]) -> None:
    rows = legend[:_MOST_NAMED]
    axes.set(xlim=(0, 1), ylim=(len(rows) + 2.5, 0), xticks=[], yticks=[], facecolor=BACKGROUND)
    axes.spines[:].set_visible(False)
    axes.text(1, 0.5, "volume", color=MUTED, fontsize=9, ha="right", va="center")
    for i, one in enumerate(rows):
        axes.add_line(Line2D([0, 0.09], [i + 1.5] * 2, color=colour(one.label), linewidth=4, solid_capstyle="butt"))
        axes.text(0.13, i + 1.5, _cut(one.name), color=TEXT, fontsize=9.5, va="center")
        axes.text(1, i + 1.5, _volume(one.ml), color=TEXT, fontsize=9.5, ha="right", va="center")
    if len(legend) > len(rows):
        axes.text(0.13, len(rows) + 1.5, f"and {len(legend) - len(rows)} more", color=MUTED, fontsize=9.5, va="center")


def _volume(ml: float) -> str:
    """Return a volume with three digits that count.

    >>> _volume(1534.2), _volume(12.345), _volume(0.0123)
    ('1,534 ml', '12.3 ml', '0.0123 ml')
    """
    return f"{ml:,.0f} ml" if ml >= 1000 else f"{ml:.3g} ml"


def _cut(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"
