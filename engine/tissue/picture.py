"""The mask over the thumbnail, for quality control: what will be computed, and what is called background."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from engine.tissue.wanted import Cells, at_pixels

LONGEST_INCHES = 9.0
DIMMED = 0.35
"""Share of its own colour that a background pixel keeps."""


def draw_mask(
    path: Path,
    *,
    picture: NDArray[np.uint8],
    mpp: tuple[float, ...],
    cells: Cells,
    cell_size: tuple[float, ...],
    title: str,
) -> None:
    """Write a PNG: the thumbnail with what is wanted outlined and the rest dimmed, and a scale bar.

    Args:
        path: The file to write.
        picture: Thumbnail, (3, y, x) uint8.
        mpp: Its micrometre per pixel, along y and x.
        cells: Which cells are wanted.
        cell_size: Micrometre of a cell, along y and x.
        title: What stands above it.
    """
    wanted = at_pixels(cells, cell_size=cell_size, shape=picture.shape[1:], spacing=mpp)
    rgb = picture.transpose(1, 2, 0) / 255.0
    grey = rgb.mean(axis=2, keepdims=True).repeat(3, axis=2)
    rgb = np.where(wanted[..., None], rgb, DIMMED * rgb + (1 - DIMMED) * (0.5 * grey + 0.25))
    height, width = wanted.shape
    scale = LONGEST_INCHES / max(height, width)
    figure = Figure(figsize=(max(width * scale, 3.5), max(height * scale, 2.0) + 0.6), layout="constrained")
    axes = figure.add_subplot()
    extent = (0.0, width * mpp[1] / 1000, height * mpp[0] / 1000, 0.0)
    axes.imshow(rgb, extent=extent, interpolation="nearest")
    if wanted.any() and not wanted.all():
        axes.contour(wanted, levels=[0.5], colors=["#0a7d32"], linewidths=1.0, extent=extent, origin="upper")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("mm")
    axes.set_ylabel("mm")
    figure.savefig(path, dpi=110)
