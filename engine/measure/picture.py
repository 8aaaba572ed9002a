"""The scores as a picture: the confusion matrix by rows, and each score of each label as a bar."""

from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from engine.measure.scores import MEASURES, Score, Scores
from engine.measure.table import shown_share, written

SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#bcd7ee", "#4f97cf", "#12477f"])
BAR, MEAN, MUTED = "#4f97cf", "#c77d2e", "#8a8f98"
LETTER, PANEL = 0.08, 1.25
"""Inches along a letter, and along one score's bars."""

MOST_WRITTEN, MOST_DRAWN = 12, 40
"""Labels up to which each cell of the matrix says its share and count, and up to which each has bars."""


def draw(path: Path, scores: Scores) -> None:
    """Write the picture as PNG.

    Raises:
        UsageError: If the file cannot be written.
    """
    n_rows = min(len(scores.rows), MOST_DRAWN) + 2.4
    names = 0.35 + LETTER * _longest(scores)
    side = min(max(3.4, 0.75 * len(scores.confusion.labels)), 8.0)
    tall = min(max(0.3 * n_rows, side), 0.6 * n_rows)
    top = 1.0 + 0.16 * len(_subtitle(scores))
    left, middle = 0.3 + names, 0.6 + 2 * names + side
    width = middle + PANEL * len(MEASURES) + 0.15
    height = top + max(side + 0.6 + (names * 0.65 if _is_slanted(scores) else 0.1), tall + 0.4)
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    figure.text(0.2 / width, 1 - 0.18 / height, _title(scores), fontsize=13, weight="bold", va="top")
    subtitle = "\n".join(_subtitle(scores))
    figure.text(0.2 / width, 1 - 0.5 / height, subtitle, fontsize=8.5, color="#555555", va="top")

    def panel(x: float, across: float, down: float) -> Axes:
        return figure.add_axes((x / width, 1 - (top + down) / height, across / width, down / height))

    _draw_matrix(panel(left, side, side), scores)
    for i, measure in enumerate(MEASURES):
        _draw_bars(panel(middle + i * PANEL, PANEL - 0.16, tall), scores, measure, has_names=i == 0)
    written(path, lambda: figure.savefig(path, format="png"))


def _draw_matrix(axes: Axes, scores: Scores) -> None:
    """Draw shares of each row, so that rare labels are seen as well as common ones."""
    confusion, names = scores.confusion, _names(scores)
    sums = confusion.counts.sum(1, keepdims=True)
    shares = np.divide(confusion.counts, sums, out=np.zeros(confusion.counts.shape), where=sums > 0)
    axes.imshow(np.ma.masked_where(np.broadcast_to(sums == 0, shares.shape), shares), cmap=SHARES, vmin=0, vmax=1)
    axes.set_facecolor("#eeeeee")
    axes.set_title("share of each reference label, and voxels", fontsize=10, pad=8)
    axes.set_xlabel("label in the result", fontsize=9)
    axes.set_ylabel("label in the reference", fontsize=9)
    step = -(-len(names) // MOST_DRAWN)
    ticks = range(0, len(names), step)
    shown = [_cut(name) for name in names[::step]]
    axes.set_xticks(ticks, shown, fontsize=8)
    if _is_slanted(scores):
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, shown, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_color("#bbbbbb")
    if len(names) <= MOST_WRITTEN:
        _write_cells(axes, confusion.counts, shares)


def _write_cells(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), n in np.ndenumerate(counts):
        share = float(shares[row, column])
        text = f"{_percent(share)}\n{_count(int(n))}" if counts[row].sum() else "-"
        colour = "white" if share > 0.6 else "#222222" if n else MUTED
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour, linespacing=1.35)


def _draw_bars(axes: Axes, scores: Scores, measure: str, *, has_names: bool) -> None:
    """Draw one score of all labels, and the means below them."""
    rows = (*scores.rows[:MOST_DRAWN], scores.macro, scores.micro)
    places = [i + (0.4 if row.label is None else 0) for i, row in enumerate(rows)]
    for place, row in zip(places, rows, strict=True):
        _draw_bar(axes, place, row, row.value(measure))
    axes.set_title(measure, fontsize=10, pad=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
    sides: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
    for label, side in zip(axes.get_xticklabels(), sides, strict=True):
        label.set_horizontalalignment(side)
    axes.set_yticks(places, [_cut(row.name) for row in rows] if has_names else [""] * len(rows), fontsize=9)
    axes.tick_params(length=0)
    axes.grid(axis="x", color="#e2e2e2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("#bbbbbb")


def _draw_bar(axes: Axes, place: float, row: Score, value: float | None) -> None:
    if value is None:
        axes.text(0.04, place, "not defined", va="center", fontsize=8, color=MUTED, style="italic")
        return
    axes.barh(place, value, height=0.72, color=BAR if row.label is not None else MEAN)
    is_inside = value > 0.45
    axes.text(
        value - 0.03 if is_inside else value + 0.03,
        place,
        f"{min(value, 0.999) if value < 1 else value:.3f}",
        ha="right" if is_inside else "left",
        va="center",
        fontsize=8,
        color="white" if is_inside else "#222222",
    )


def _title(scores: Scores) -> str:
    return f"{shown_share(scores.agreement)} of {scores.confusion.n_voxels:,} voxels have the same label"


def _subtitle(scores: Scores) -> list[str]:
    lines = [
        f"{role}  {place}" for role, place in (("reference", scores.reference), ("result", scores.result)) if place
    ]
    if scores.confusion.n_ignored:
        lines.append(f"{scores.confusion.n_ignored:,} voxels did not count")
    if len(scores.rows) > MOST_DRAWN:
        lines.append(f"bars of the first {MOST_DRAWN} of {len(scores.rows)} labels")
    return lines


def _names(scores: Scores) -> list[str]:
    called = {row.label: row.name for row in scores.rows}
    return [called.get(label, str(label)) for label in scores.confusion.labels]


def _is_slanted(scores: Scores) -> bool:
    """Say whether names are too long, or too many, to stand upright below the matrix."""
    names = _names(scores)
    return max(map(len, names)) > 9 or len(names) > 14


def _longest(scores: Scores) -> int:
    return max(5, *(len(_cut(name)) for name in _names(scores)))


def _cut(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _percent(share: float) -> str:
    """Return a share as percent; only 0 and 1 themselves are shown as such.

    >>> _percent(0.9999), _percent(0.00001), _percent(0.0)
    ('>99.9 %', '<0.1 %', '0 %')
    """
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def _count(n: int) -> str:
    """Return a count with a unit.

    >>> _count(999), _count(12_345), _count(7_200_000_000)
    ('999', '12.3 k', '7.2 G')
    """
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)
