"""The network of the demo: its card tells the truth, its halo is proved, and it finds nuclei."""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models.load import load_model
from engine.models.trace import trace

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
sys.path.insert(0, str(JOBS))

import tissue  # noqa: E402 -- a job's folder is on the path only when it is run
import train_nuclei  # noqa: E402
from nuclei_unet import THRESHOLD, WEIGHTS, nuclei  # noqa: E402

SLIDE = ROOT.parent / "shared" / "data" / "slide" / "CMU-1-Small-Region.svs"
HALO, JUMP = 23, 4
CROP = 512


@pytest.fixture(scope="module")
def made():
    return tissue.Tissue(1024, seed=3)


@pytest.fixture(scope="module")
def found(made):
    return run(made.rows(0, 1024))


def run(pixels):
    """Return the network's outputs for (y, x, 3) pixels, as arrays (y, x)."""
    with torch.inference_mode():
        outputs = nuclei()(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float())
    return {name: tensor.numpy().reshape(tensor.shape[-2:]) for name, tensor in outputs.items()}


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_the_card_names_the_weights_by_size_and_hash():
    size, sha256 = re.search(
        r"safetensors, ([\d,]+) bytes, sha256 ([0-9a-f]{64})", (JOBS / "nuclei_unet.md").read_text()
    ).groups()
    data = WEIGHTS.read_bytes()
    assert int(size.replace(",", "")) == len(data)
    assert sha256 == hashlib.sha256(data).hexdigest()


def test_the_halo_is_proved_from_the_graph_and_is_the_sum_of_its_layers():
    model = load_model(f"{JOBS / 'nuclei_unet.py'}:nuclei")
    geometry = trace(model.module, n_channels=3, n_space=2, dtype=torch.float32)
    assert geometry.evidence == "proved"
    for program in geometry.programs:
        assert [program.halo(name) for name in ("probability", "label", "uncertainty")] == [(HALO, HALO)] * 3
        assert program.step == JUMP
    assert [(o.name, o.n_channels, o.dtype) for o in geometry.outputs] == [
        ("probability", 1, "float32"),
        ("label", None, "uint8"),
        ("uncertainty", 1, "float32"),
    ]


def test_a_tile_with_its_halo_equals_the_whole_and_one_off_the_jump_does_not(made, found):
    pixels = made.rows(0, 1024)
    scale = found["probability"].std()
    assert scale > 0
    reach = -(-HALO // JUMP) * JUMP
    core = np.s_[304:720, 416:640]  # its borders cut through tissue
    tile = run(pixels[304 - reach : 720 + reach, 416 - reach : 640 + reach])
    off = run(pixels[305 - reach : 721 + reach, 416 - reach : 640 + reach])
    for name, whole in found.items():
        inside = tile[name][reach:-reach, reach:-reach]
        assert np.array_equal(inside, whole[core]) or np.abs(inside - whole[core]).max() < 1e-6, name
    wrong = np.abs(off["probability"][reach - 1 : -reach - 1, reach:-reach] - found["probability"][core]).max()
    assert wrong > max(0.1 * scale, 1e-4)


def test_the_outputs_are_a_probability_its_label_and_its_entropy_in_bits(found):
    p = found["probability"].astype(np.float64).clip(1e-6, 1 - 1e-6)
    assert np.array_equal(found["label"], found["probability"] > THRESHOLD)
    np.testing.assert_allclose(found["uncertainty"], -(p * np.log2(p) + (1 - p) * np.log2(1 - p)), atol=1e-5)


def test_planted_nuclei_are_told_from_the_rest(made, found):
    probability = found["probability"]
    planted = made.nuclei[:, :2].round().astype(int)
    elsewhere = np.ones(probability.shape, bool)
    for y, x in planted:
        elsewhere[max(y - 12, 0) : y + 13, max(x - 12, 0) : x + 13] = False
    assert len(planted) > 200
    assert elsewhere.mean() > 0.3
    assert probability.std() > 0.05
    assert probability[tuple(planted.T)].mean() > 2 * probability[elsewhere].mean() + 0.1


@pytest.mark.real
@pytest.mark.skipif(not SLIDE.exists(), reason="the real slide is not beside the repository")
def test_on_rows_that_it_was_not_trained_on_it_finds_the_nuclei_of_the_real_slide():
    pixels = train_nuclei.read(SLIDE)
    truth, _ = train_nuclei.labels(pixels)
    first = round(train_nuclei.HELD_OUT * len(pixels))
    columns = truth[first : first + CROP].sum(0, dtype=np.int64)
    left = int(np.convolve(columns, np.ones(CROP), "valid").argmax())  # where there are most nuclei
    crop = np.s_[first : first + CROP, left : left + CROP]
    assert truth[crop].mean() > 0.01
    assert dice(run(pixels[crop])["label"] > 0, truth[crop]) > 0.75
