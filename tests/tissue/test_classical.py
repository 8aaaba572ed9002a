"""Tissue by colour: stained and pale tissue and folds are in, glass and pen are out."""

from pathlib import Path

import numpy as np
import pytest

from engine.tissue.classical import find_tissue
from tests.slides import FOLD, GLASS, PALE, PENS, TISSUE

SMALL_REGION = Path(__file__).parents[3] / "shared" / "data" / "slide" / "CMU-1-Small-Region.svs"


def scene(*, noise=4.0, seed=0, with_tissue=True):
    """Return a thumbnail at 8 um, and what is where in it."""
    y, x = np.mgrid[:500, :700]

    def disk(cy, cx, radius):
        return (y - cy) ** 2 + (x - cx) ** 2 < radius**2

    def ring(cy, cx):
        return disk(cy, cx, 60) & ~disk(cy, cx, 50)

    what = {"tissue": disk(150, 200, 100), "pale": disk(350, 200, 80) & ~disk(150, 200, 100)}
    what["fold"] = what["tissue"] & (abs(x - 200) < 8)
    what |= {"green": ring(150, 500), "blue": ring(350, 500), "black": (abs(y - 457) < 8) & (x > 300) & (x < 600)}
    pixels = np.ones((500, 700, 3), np.float32) * GLASS
    if with_tissue:
        for name, colour in {"tissue": TISSUE, "pale": PALE, "fold": FOLD, **PENS}.items():
            pixels[what[name]] = colour
    what["glass"] = ~np.any(list(what.values()), axis=0)
    pixels += np.random.default_rng(seed).normal(0, noise, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1), what


@pytest.mark.parametrize("noise", [1.0, 4.0])
def test_tissue_pale_tissue_and_folds_are_in_and_pen_and_glass_are_out(noise):
    pixels, what = scene(noise=noise)
    found = find_tissue(pixels, mpp=8.0)
    for name in ("tissue", "pale", "fold"):
        assert found[what[name]].mean() > 0.98, name
    for name in (*PENS, "glass"):
        assert found[what[name]].mean() < 0.02, name


def test_a_slide_without_tissue_has_none():
    pixels, _ = scene(with_tissue=False)
    assert not find_tissue(pixels, mpp=8.0).any()


def test_a_slide_that_is_white_all_over_has_none():
    assert not find_tissue(np.full((3, 50, 60), 255, np.uint8), mpp=8.0).any()


@pytest.mark.real
@pytest.mark.skipif(not SMALL_REGION.exists(), reason="the real slide is not beside the repository")
def test_the_real_slide_is_in_where_it_is_stained():
    import openslide

    slide = openslide.OpenSlide(str(SMALL_REGION))
    pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    height, width = (n // 16 * 16 for n in pixels.shape[:2])
    small = pixels[:height, :width].reshape(height // 16, 16, width // 16, 16, 3).mean((1, 3))
    found = find_tissue(small.astype(np.uint8).transpose(2, 0, 1), mpp=8.0)
    is_stained = (small.max(2) - small.min(2)) > 60  # clearly pink or violet
    is_glass = small.min(2) > 235
    assert 0.3 < found.mean() < 0.5
    assert found[is_stained].mean() > 0.97
    assert found[is_glass].mean() < 0.15  # holes in the tissue are filled
