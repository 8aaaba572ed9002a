"""Slides that OpenSlide reads, made up: glass, tissue with nuclei, and, if wanted, pen, folds and damage."""

from pathlib import Path

import numpy as np
import tifffile

GLASS, TISSUE, PALE, FOLD, NUCLEUS = (243, 240, 244), (205, 150, 190), (228, 205, 222), (110, 50, 110), (90, 60, 140)
PENS = {"green": (30, 120, 60), "blue": (40, 60, 180), "black": (25, 25, 28)}


def picture(height: int, width: int, *, seed: int = 0, share: float = 0.6) -> np.ndarray:
    """Return (y, x, 3) uint8: an ellipse of tissue with nuclei in it, on glass."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) < (share / 2) ** 2
    pixels = np.where(inside[..., None], TISSUE, GLASS).astype(np.float32)
    for cy, cx in zip(rng.integers(0, height, 200), rng.integers(0, width, 200), strict=True):
        near = np.s_[max(cy - 8, 0) : cy + 9, max(cx - 8, 0) : cx + 9]
        spot = ((y[near] - cy) ** 2 + (x[near] - cx) ** 2 < rng.integers(9, 60)) & inside[near]
        pixels[near][spot] = NUCLEUS
    return np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


def write_slide(path: Path, pixels: np.ndarray, *, mpp: float | None = 0.5, compression: str | None = None) -> Path:
    """Write a tiled TIFF with a resolution, which OpenSlide reads as generic TIFF."""
    said = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression=compression, **said)
    return path
