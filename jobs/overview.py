"""The demo's picture: the slide, what was found, and the corner where four blocks meet, magnified."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from engine.geometry.region import Region
from engine.plan import Plan
from engine.prepare import Prepared
from engine.runtime.masking import Mask
from engine.storage.readable import Readable
from engine.tissue.wanted import at_pixels, thumbnail

HALF = 128
"""Half a side of the magnified crop, in voxels."""

MARGIN = 256
"""Voxels around the crop that are recomputed with it: far more than any halo here."""

CELL = 32
"""Voxels along a side of one pixel of the map of nuclei."""

NUCLEUS = 1
"""Value of the label map."""

THUMBNAIL_PIXELS = 1100
"""Along the longer side of the slide as it is drawn."""

NUCLEI_COLOURS = LinearSegmentedColormap.from_list("nuclei", ["#f6dfe8", "#7d4fa8", "#1d0b45"])


@dataclass(frozen=True)
class Findings:
    """What the label volume holds, in cells of :data:`CELL` voxels."""

    tissue: NDArray[np.bool_]
    """Whether each cell, (y, x), was wanted."""
    nuclei: NDArray[np.float32]
    """Share of each cell that is nucleus."""

    @property
    def nuclear_share(self) -> float:
        """Share of the tissue that is nucleus."""
        return float(self.nuclei.sum() / max(self.tissue.sum(), 1))


@dataclass(frozen=True)
class Corner:
    """The place where four blocks meet: what is stored, and what two other ways of computing give."""

    region: Region
    """The crop, (y, x)."""
    slide: NDArray[np.uint8]
    """(y, x, 3)."""
    label: NDArray[np.uint8]
    stored: NDArray[np.float32]
    """Probability, (y, x), as the blocks were stitched."""
    whole: NDArray[np.float32]
    """The same from one pass over the crop and its surroundings."""
    without_halo: NDArray[np.float32]
    """The same from four passes, one per block, that see nothing of their neighbours."""

    @property
    def difference(self) -> float:
        """Largest difference of what is stored from one pass."""
        return float(np.abs(self.stored - self.whole).max())

    @property
    def difference_without_halo(self) -> float:
        """Largest difference of blocks without a halo from one pass."""
        return float(np.abs(self.without_halo - self.whole).max())


def find(label: Readable, mask: Mask | None) -> Findings:
    """Return shares of nuclei, reading the finest level a row of cells at a time, and what was wanted."""
    height, width = label.shape
    n_rows, n_columns = -(-height // CELL), -(-width // CELL)
    nuclei = np.zeros((n_rows, n_columns), np.float32)
    for row in range(0, n_rows, 16):
        rows = label.read(Region((row * CELL, 0), (min((row + 16) * CELL, height), width)))  # (y, x)
        missing = [(0, -n % CELL) for n in rows.shape]
        cells = np.pad(rows, missing).reshape(-1, CELL, n_columns, CELL)
        nuclei[row : row + len(cells)] = (cells == NUCLEUS).mean((1, 3), dtype=np.float32)
    if mask is None or mask.plan.mask is None:
        return Findings(np.ones_like(nuclei, bool), nuclei)
    sizes = tuple(map(float, mask.plan.mask.cell))
    wanted = at_pixels(mask.cells, cell_size=sizes, shape=nuclei.shape, spacing=(float(CELL), float(CELL)))
    return Findings(wanted, nuclei)


def magnify(
    plan: Plan, module: torch.nn.Module, source: Readable, outputs: dict[str, Readable], findings: Findings
) -> Corner:
    """Return the corner of four blocks that has most nuclei about it, computed three ways."""
    y, x = _busiest(plan, findings)
    crop = Region((y - HALF, x - HALF), (y + HALF, x + HALF))
    around = crop.grow(before=(MARGIN, MARGIN), after=(MARGIN, MARGIN)).meet(Region.whole(source.shape[1:]))
    assert around is not None
    pixels = source.read(Region((0, *around.start), (3, *around.stop)))  # (3, y, x)
    at_y, at_x = y - around.start[0], x - around.start[1]

    def compute(part: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found = module(torch.from_numpy(np.ascontiguousarray(part))[None].float())
        return np.asarray(found["probability"][0, 0].numpy())

    quarters = [[compute(pixels[:, r, c]) for c in _halves(at_x)] for r in _halves(at_y)]
    inside = crop.shift([-n for n in around.start]).slices
    return Corner(
        region=crop,
        slide=np.moveaxis(pixels[(slice(None), *inside)], 0, -1),
        label=outputs["label"].read(crop),
        stored=outputs["probability"].read(Region((0, *crop.start), (1, *crop.stop)))[0],
        whole=compute(pixels)[inside],
        without_halo=np.block(quarters)[inside],
    )


def _halves(at: int) -> tuple[slice, slice]:
    return slice(0, at), slice(at, None)


def _busiest(plan: Plan, findings: Findings) -> tuple[int, int]:
    """Return the inner corner of blocks, (y, x), whose crop has most nuclei."""
    reach = HALF // CELL

    def liveliness(corner: tuple[int, int]) -> float:
        y, x = (n // CELL for n in corner)
        return float(findings.nuclei[y - reach : y + reach, x - reach : x + reach].mean())

    inner = [range(t.block, t.extent.size - HALF, t.block) for t in plan.tilings]
    return max(((y, x) for y in inner[0] for x in inner[1]), key=liveliness)


def draw(path: Path, prepared: Prepared, findings: Findings, corner: Corner, *, n_nuclei: int) -> None:
    """Write the picture as PNG."""
    figure = Figure(figsize=(13.5, 10.2), dpi=120, facecolor="white")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.5, 1.0), hspace=0.0)
    _draw_slide(top, prepared, findings, corner, n_nuclei=n_nuclei)
    _draw_corner(bottom, corner, mpp=prepared.source.axes[-1].spacing)
    figure.savefig(path)


def _draw_slide(figure: SubFigure, prepared: Prepared, findings: Findings, corner: Corner, *, n_nuclei: int) -> None:
    """Draw the whole slide twice: as it came, and what was found."""
    plan, source = prepared.plan, prepared.source
    mm = source.axes[-1].spacing / 1000
    height, width = source.shape[1:]
    left, right = (figure.add_axes(at) for at in ((0.04, 0.1, 0.41, 0.82), (0.5, 0.1, 0.41, 0.82)))
    pixels, _ = thumbnail(plan.source.url, mpp=max(height, width) * mm * 1000 / THUMBNAIL_PIXELS)
    left.imshow(np.moveaxis(pixels, 0, -1), extent=(0, width * mm, height * mm, 0))
    left.set_title(f"The slide: {width:,} x {height:,} pixels in {plan.graph.n_blocks} blocks (ticks)", fontsize=12)

    rows, columns = findings.nuclei.shape
    shares = np.ma.masked_where(~findings.tissue, findings.nuclei)
    extent = (0, columns * CELL * mm, rows * CELL * mm, 0)
    drawn = right.imshow(shares, extent=extent, cmap=NUCLEI_COLOURS, vmin=0, vmax=0.5, interpolation="nearest")
    right.set_title(f"Found: {n_nuclei:,} nuclei, {findings.nuclear_share:.0%} of the tissue (coloured)", fontsize=12)
    bar = figure.add_axes((0.93, 0.2, 0.012, 0.62))
    figure.colorbar(drawn, cax=bar, extend="max", label=f"share of {CELL} x {CELL} voxels that is nucleus")
    for axes in (left, right):
        axes.set_xlim(0, width * mm)
        axes.set_ylim(height * mm, 0)
        for axis, tiling in zip((axes.yaxis, axes.xaxis), plan.tilings, strict=True):
            axis.set_ticks([n * mm for n in range(0, tiling.extent.size + 1, tiling.block)])
            axis.set_major_formatter("{x:.1f}")
        axes.set_xlabel("mm", labelpad=1)
        axes.tick_params(labelsize=8)
    _draw_box(left, corner, mm=mm)


def _draw_box(axes: Axes, corner: Corner, *, mm: float) -> None:
    """Draw where the magnified corner is."""
    (y, x), side = corner.region.start, 2 * HALF
    axes.add_patch(Rectangle((x * mm, y * mm), side * mm, side * mm, fill=False, edgecolor="#00a050", linewidth=2))
    axes.annotate(
        "magnified below",
        ((x + side / 2) * mm, (y + side) * mm),
        xytext=(0, -14),
        textcoords="offset points",
        ha="center",
        color="#00703a",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def _draw_corner(figure: SubFigure, corner: Corner, *, mpp: float) -> None:
    """Draw the corner of four blocks: the slide, what is stored, and two maps of differences on one scale."""
    panels = [figure.add_axes((0.02 + 0.2325 * n, 0.05, 0.2175, 0.7195)) for n in range(4)]
    figure.suptitle("The corner where four blocks meet, voxel by voxel (ticks: their borders)", fontsize=12, y=0.94)
    panels[0].imshow(corner.slide)
    panels[0].contour(corner.label == NUCLEUS, levels=[0.5], colors="#00c060", linewidths=0.9)
    panels[0].set_title("slide, nuclei outlined", fontsize=10.5, pad=11)
    panels[0].legend(
        handles=[Patch(edgecolor="#00c060", fill=False, label="label: nucleus")], loc="upper right", fontsize=8
    )
    _draw_scale(panels[0], mpp=mpp)

    panels[1].imshow(corner.stored, cmap="magma", vmin=0, vmax=1)
    panels[1].set_title("probability, from four blocks", fontsize=10.5, pad=11)
    worst = max(corner.difference_without_halo, 1e-6)
    maps = [
        (corner.stored, "stored", corner.difference),
        (corner.without_halo, "no halo", corner.difference_without_halo),
    ]
    for axes, (values, name, most) in zip(panels[2:], maps, strict=True):
        drawn = axes.imshow(np.abs(values - corner.whole), cmap="inferno", vmin=0, vmax=worst)
        axes.set_title(f"|{name} - one pass|: max {most:.2g}", fontsize=10.5, pad=11)
    if not corner.difference:
        panels[2].text(HALF, HALF, "no seam:\n0 everywhere", color="white", ha="center", va="center", fontsize=13)
    panels[3].text(
        HALF,
        2 * HALF - 10,
        "for comparison: blocks\nthat cannot see each other",
        color="white",
        ha="center",
        va="bottom",
        fontsize=9,
    )
    figure.colorbar(drawn, cax=figure.add_axes((0.948, 0.13, 0.012, 0.56)))
    for axes in panels:
        axes.set_xticks([HALF - 0.5], [""])
        axes.set_yticks([HALF - 0.5], [""])
        axes.tick_params(top=True, right=True, length=9, width=1.2)


def _draw_scale(axes: Axes, *, mpp: float) -> None:
    """Draw a bar of 20 um."""
    length, base = 20 / mpp, 2 * HALF
    axes.add_patch(Rectangle((6, base - 32), length + 14, 26, facecolor="white", edgecolor="none", zorder=5))
    axes.plot([13, 13 + length], [base - 11] * 2, color="black", linewidth=3, solid_capstyle="butt", zorder=6)
    axes.text(13 + length / 2, base - 14, "20 µm", ha="center", va="bottom", fontsize=9, zorder=6)
