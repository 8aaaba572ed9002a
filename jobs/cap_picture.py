"""The cap's thickness as a map: its outer face unrolled about the outgrowth's axis, coloured in millimetre.

A place on the page is as far from its middle, and in the direction, as one walks on the bone from the outgrowth's tip;
the head's segment lies level. What was measured is shown beside the truth, and below it how far it is off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from knee import Grid, Knee
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial import KDTree

BACKGROUND, TEXT, MUTED, BAND = "#0b0d10", "#e8eaed", "#9aa0a8", "#f2d16b"
THICKNESS, ERROR = "viridis", "RdBu_r"

PIXEL = 0.15
"""Millimetre of a pixel of the map."""

NEAR = 1.0
"""Millimetre within which a pixel has a voxel of the outer face."""

WORST = 0.6
"""Millimetre off at which the colours of errors end."""

Page = NDArray[np.float64]
"""(rows, columns), millimetre of thickness; NaN where there is none."""


@dataclass(frozen=True)
class Cap:
    """The outer face of a cap, away from its rim."""

    voxels: NDArray[np.intp]
    """(n, 3), in the order x, y, z."""
    thickness: NDArray[np.float64]
    """(n,), millimetre."""


def draw(path: Path, knee: Knee, grid: Grid, caps: Mapping[str, Cap], *, rim: float) -> None:
    """Write the maps as PNG: the truth first, each measured one beside it over its errors, and the errors' spread."""
    places = raster(knee)
    truth = true_page(knee, places, rim=rim)
    pages = {name: measured_page(knee, grid, cap, places, truth) for name, cap in caps.items()}
    figure = Figure(figsize=(4 * (len(caps) + 1) + 1.2, 8), dpi=110, facecolor=BACKGROUND, layout="constrained")
    panels = figure.subplots(2, len(caps) + 1, squeeze=False)
    ends = Normalize(knee.thinnest, knee.thickest)
    for axes, (name, page) in zip(panels[0], {"truth": truth, **pages}.items(), strict=True):
        _draw_map(axes, page, places, colours=THICKNESS, ends=ends)
        axes.set_title(name, color=TEXT, fontsize=12)
    _draw_bar(figure, panels[0], ends, THICKNESS, "thickness, mm")
    off = Normalize(-WORST, WORST)
    for axes, page in zip(panels[1, 1:], pages.values(), strict=True):
        _draw_map(axes, page - truth, places, colours=ERROR, ends=off)
    _draw_bar(figure, panels[1], off, ERROR, "off by, mm")
    _draw_errors(panels[1, 0], {name: page - truth for name, page in pages.items()}, half=min(grid.spacing) / 2)
    figure.savefig(path, format="png", facecolor=BACKGROUND)


def raster(knee: Knee) -> NDArray[np.float64]:
    """Return the pixels' places on the page, (2, rows, columns): millimetre along the head and across it."""
    across = knee.radius * knee.extent
    ends = across + knee.half_length, across
    right, up = (np.arange(-end, end, PIXEL) for end in ends)
    return np.stack(np.broadcast_arrays(right[None, :], up[::-1, None]))


def true_page(knee: Knee, places: NDArray[np.float64], *, rim: float) -> Page:
    """Return the true thickness at places of the page."""
    right, up = places
    beside = right - np.clip(right, -knee.half_length, knee.half_length)
    way = np.hypot(beside, up)
    angle = way / knee.radius
    turn = np.sin(angle) / np.maximum(way, 1e-9)
    axis, long, side = frame(knee)
    normal = np.tensordot(np.stack([axis, long, side]).T, np.stack([np.cos(angle), turn * beside, turn * up]), 1)
    return np.where(angle <= knee.extent - rim / knee.radius, knee.thickness(normal), np.nan)


def measured_page(knee: Knee, grid: Grid, cap: Cap, places: NDArray[np.float64], truth: Page) -> Page:
    """Return the thickness of the nearest measured voxel at places of the page that have a truth."""
    voxels = unrolled(knee, apply_affine(grid.affine, cap.voxels).T)
    far, nearest = KDTree(voxels.T).query(places.reshape(2, -1).T)
    page = np.where(far <= NEAR, cap.thickness[nearest], np.nan).reshape(truth.shape)
    return np.where(np.isnan(truth), np.nan, page)


def unrolled(knee: Knee, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where points (3, n) about the head come to lie on the page, (2, n)."""
    axis, long, side = frame(knee)
    away = points - (axis * knee.reach)[:, None]
    place = np.clip(long @ away, -knee.half_length, knee.half_length)
    away = away - place * long[:, None]
    beside, up = long @ away, side @ away
    way = knee.radius * np.arccos(np.clip(axis @ away / np.sqrt((away**2).sum(0)), -1, 1))
    share = way / np.maximum(np.hypot(beside, up), 1e-9)
    return np.stack([place + share * beside, share * up])


def frame(knee: Knee) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return unit vectors along the outgrowth, along its head, and across both."""
    axis, long = np.array(knee.axis), np.array(knee.long)
    return axis, long, np.cross(axis, long)


def _draw_map(axes: Axes, page: Page, places: NDArray[np.float64], *, colours: str, ends: Normalize) -> None:
    right, up = places[0].max(), places[1].max()
    axes.imshow(page, cmap=colours, norm=ends, extent=(-right, right, -up, up), interpolation="nearest")
    axes.set_axis_off()


def _draw_bar(figure: Figure, row: NDArray[np.object_], ends: Normalize, colours: str, what: str) -> None:
    bar = figure.colorbar(ScalarMappable(ends, colours), ax=list(row), shrink=0.8, pad=0.01)
    bar.ax.tick_params(colors=TEXT, labelsize=9)
    bar.set_label(what, color=TEXT, fontsize=10)
    bar.outline.set_visible(False)


def _draw_errors(axes: Axes, errors: Mapping[str, Page], *, half: float) -> None:
    """Draw how often the map is off by how much; between the lines it is less than half a voxel."""
    axes.set_facecolor(BACKGROUND)
    edges = np.linspace(-WORST, WORST, 49)
    for colour, (name, page) in zip(("#7fc8a9", "#e07a5f"), errors.items(), strict=True):
        counts, _ = np.histogram(page[np.isfinite(page)].clip(-WORST, WORST), edges)
        axes.stairs(counts / counts.sum(), edges, color=colour, linewidth=1.8, label=name)
    for end in (-half, half):
        axes.axvline(end, color=BAND, linewidth=1, linestyle=":")
    axes.set_xlabel(f"off by, mm; dotted: half a voxel, {half:g} mm", color=TEXT, fontsize=10)
    axes.set_yticks([])
    axes.tick_params(colors=TEXT, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=9, loc="upper left")
