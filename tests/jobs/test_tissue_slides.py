"""Slides that are made up or mirrored: the same pixels however they are cut, and files that OpenSlide opens."""

import sys
from pathlib import Path

import numpy as np
import openslide
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import tissue


@pytest.fixture(scope="module")
def made():
    return tissue.Tissue(1024, seed=3)


def test_tissue_is_the_same_in_strips_of_any_height_and_for_any_call(made):
    whole = made.rows(0, 1024)
    parts = [tissue.Tissue(1024, seed=3).rows(y, y + 128) for y in range(0, 1024, 128)]
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1  # matrix products round by their shape
    again = tissue.Tissue(1024, seed=3)
    assert np.array_equal(np.concatenate(list(made.strips())), np.concatenate(list(again.strips())))
    assert not np.array_equal(whole, tissue.Tissue(1024, seed=4).rows(0, 1024))


def test_nuclei_are_darker_than_the_tissue_about_them_and_glass_has_none(made):
    grey = made.rows(0, 1024).mean(2)
    at = made.nuclei[:, :2].round().astype(int)
    cover = made._cover.over(0, 1024)
    assert len(at) > 200
    assert grey[tuple(at.T)].mean() < grey[cover == 1].mean() - 30 < grey[cover == 0].mean() - 60
    assert (cover[tuple(at.T)] > 0.5).all()


def test_a_written_slide_opens_in_openslide_with_its_pixels_levels_and_mpp(tmp_path, made):
    size = 1024 - 40  # neither whole tiles nor whole strips
    whole = made.rows(0, 1024)[:size, :size]
    strips = (whole[y : y + tissue.STRIP] for y in range(0, size, tissue.STRIP))
    tissue.write_slide(tmp_path / "slide.tiff", strips, size=size, mpp=0.499)
    with openslide.OpenSlide(tmp_path / "slide.tiff") as slide:
        assert slide.level_dimensions == ((size, size),)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.499, rel=1e-4)
        read = np.asarray(slide.read_region((0, 0), 0, (size, size)).convert("RGB"))
    assert np.abs(read.astype(int) - whole).mean() < 4  # JPEG
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tiff"]


def test_a_real_slide_is_mirrored_without_a_step(tmp_path, made):
    small = made.rows(0, 512)[:, :512]
    tissue.write_slide(tmp_path / "real.tiff", iter([small]), size=512, mpp=0.25)
    strips, mpp = tissue.mirrored(tmp_path / "real.tiff", size=1024)
    whole = np.concatenate(list(strips))
    assert mpp == pytest.approx(0.25, rel=1e-4)
    assert np.array_equal(whole[:512], whole[:511:-1])
    assert np.array_equal(whole[:, :512], whole[:, :511:-1])
