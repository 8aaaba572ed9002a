"""The demo's parts against what was planted, and all of it on a small slide."""

import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch
from scipy import ndimage

JOBS = Path(__file__).resolve().parents[2] / "jobs"
sys.path.insert(0, str(JOBS))

import demo  # noqa: E402 -- a job's folder is on the path only when it is run
import tissue  # noqa: E402
from nuclei import NOTHING, NUCLEUS, nuclei  # noqa: E402

from engine.models.load import load_model  # noqa: E402
from engine.models.trace import trace  # noqa: E402
from engine.storage.output import open_output  # noqa: E402

HALO, JUMP = 46, 16


@pytest.fixture(scope="module")
def made():
    return tissue.Tissue(1024, seed=3)


@pytest.fixture(scope="module")
def found(made):
    return run(made.rows(0, 1024))


def run(pixels):
    """Return the network's outputs for (y, x, 3) pixels, as arrays (y, x)."""
    with torch.inference_mode():
        outputs = nuclei()(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float())
    return {name: tensor.numpy().reshape(tensor.shape[-2:]) for name, tensor in outputs.items()}


def test_planted_nuclei_are_found_and_little_else(made, found):
    planted = made.nuclei[:, :2].round().astype(int)
    assert len(planted) > 200
    is_nucleus = found["label"] == NUCLEUS
    recall = is_nucleus[tuple(planted.T)].mean()
    blobs, n_blobs = ndimage.label(is_nucleus)
    n_hit = len(np.unique(blobs[tuple(planted.T)])) - 1
    assert recall > 0.9
    assert n_hit / n_blobs > 0.9


def test_glass_is_nothing_and_tissue_is_not(made, found):
    glass, covered = made._cover.over(0, 1024) == 0, made._cover.over(0, 1024) == 1
    inner = ndimage.binary_erosion(glass, iterations=24)
    assert inner.any()
    assert (found["label"][inner] == NOTHING).mean() > 0.99
    assert (found["label"][covered] != NOTHING).mean() > 0.99


def test_the_halo_is_proved_from_the_graph_and_is_the_sum_of_its_layers():
    model = load_model(f"{JOBS / 'nuclei.py'}:nuclei")
    geometry = trace(model.module, n_channels=3, n_space=2, dtype=torch.float32)
    for program in geometry.programs:
        assert [program.halo(name) for name in ("probability", "label")] == [(HALO, HALO)] * 2
        assert program.step == JUMP
    assert [(o.name, o.n_channels, o.dtype) for o in geometry.outputs] == [
        ("probability", 1, "float32"),
        ("label", None, "uint8"),
    ]


def test_a_tile_with_its_halo_equals_the_whole_and_one_off_the_jump_does_not(made, found):
    pixels = made.rows(0, 1024)
    assert found["probability"].std() > 0.1
    reach = -(-HALO // JUMP) * JUMP
    core = np.s_[304:720, 416:640]  # its borders cut through tissue
    tile = run(pixels[304 - reach : 720 + reach, 416 - reach : 640 + reach])
    off = run(pixels[305 - reach : 721 + reach, 416 - reach : 640 + reach])
    for name, whole in found.items():
        inside = tile[name][reach:-reach, reach:-reach]
        assert np.array_equal(inside, whole[core]) or np.abs(inside - whole[core]).max() < 1e-6, name
    assert np.abs(off["probability"][reach - 1 : -reach - 1, reach:-reach] - found["probability"][core]).max() > 0.01


def test_tissue_is_the_same_in_strips_of_any_height_and_for_any_call(made):
    whole = made.rows(0, 1024)
    parts = [tissue.Tissue(1024, seed=3).rows(y, y + 128) for y in range(0, 1024, 128)]
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1  # matrix products round by their shape
    again = tissue.Tissue(1024, seed=3)
    assert np.array_equal(np.concatenate(list(made.strips())), np.concatenate(list(again.strips())))
    assert not np.array_equal(whole, tissue.Tissue(1024, seed=4).rows(0, 1024))


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


def test_the_demo_writes_all_it_says_and_keeps_the_slide_the_second_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "REAL_SLIDE", tmp_path / "none.svs")
    monkeypatch.setattr(sys, "argv", ["demo.py", "--output", str(tmp_path), "--size", "1024", "--runner", "serial"])
    for is_second in (False, True):
        assert demo.main() == 0
        said = " ".join(capsys.readouterr().out.split())  # rich breaks lines
        assert ("is kept" in said) == ("is replaced" in said) == is_second
        assert " labels changed" in said
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tissue-1024.tiff", "tissue-1024.zarr", "nuclei.zarr", "overview.png"}
    output = open_output(str(tmp_path / "nuclei.zarr"))
    assert {name: volume.shape for name, volume in output.volumes.items()} == {
        "probability": (1, 1024, 1024),
        "label": (1024, 1024),
    }
    assert output.provenance["certificate"]["holds"] is True


def test_a_size_that_cannot_be_cut_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo.py", "--size", "1000"])
    with pytest.raises(SystemExit):
        demo.parse()
    assert "multiple of 1024, not 1000" in capsys.readouterr().err
