"""Slides are told apart by labels alone, and the attention lies where the lesions were planted."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.geometry.region import Region
from engine.storage.volume import open_volume

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import score_slides


def test_held_out_slides_are_ranked_and_their_lesions_are_found_from_slide_labels_alone(tmp_path):
    found = score_slides.score_slides(tmp_path, n_slides=5, size=1536, runner="serial")
    assert found["slides"] == 2  # one with lesions, one without
    assert found["AUC"] == 1.0
    assert found["highest score without"] < 0.5 < found["lowest score with a lesion"]
    assert 0 < found["share of tissue inside lesions"] < 0.2
    assert found["attention mass inside lesions"] > 3 * found["share of tissue inside lesions"]
    for name in ("scores.png", "attention.safetensors", "results/slide-03.zarr/score/attention.png"):
        assert (tmp_path / name).exists(), name
    attention = open_volume(f"{tmp_path}/results/slide-03.zarr/score/attention")
    assert attention.read(Region.whole(attention.shape)).sum() == pytest.approx(1.0, abs=1e-4)


def test_half_of_the_slides_have_lesions_and_both_kinds_are_trained_on_and_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(score_slides.tissue, "write_slide", lambda path, strips, **_: path.write_bytes(b""))
    cases = score_slides.make_slides(tmp_path, n_slides=20, size=1536)
    assert {(c.label, c.is_held_out) for c in cases} == {(0, False), (0, True), (1, False), (1, True)}
    assert sum(c.label for c in cases) == 10
    with (tmp_path / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["label"]), r["split"] == "test") for r in rows] == [(c.label, c.is_held_out) for c in cases]


def test_lesions_are_dark_crowded_discs_on_tissue():
    lesions = score_slides.LesionTissue(1536, seed=10, n_lesions=2)
    without = score_slides.tissue.Tissue(1536, seed=10).rows(0, 1536).mean(2)
    grey = lesions.rows(0, 1536).mean(2)
    y, x = np.ogrid[:1536, :1536]
    assert len(lesions.lesions) == 2
    for cy, cx, radius in lesions.lesions:
        inside = np.hypot(y - cy, x - cx) < radius
        assert grey[inside].mean() < without[inside].mean() - 15
        assert lesions._cover.over(0, 1536)[inside].min() > 0.5
    far = np.all([np.hypot(y - cy, x - cx) > radius + 20 for cy, cx, radius in lesions.lesions], axis=0)
    assert np.array_equal(grey[far], without[far])
