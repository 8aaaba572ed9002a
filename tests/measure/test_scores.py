"""Scores equal MONAI's on whole arrays and formulas written another way; tables and pictures hold what was found."""

import csv
import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from monai.metrics import compute_dice, compute_iou
from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix
from PIL import Image
from rich.console import Console
from scipy.spatial.distance import dice, jaccard

from engine.errors import UsageError
from engine.measure.confusion import Confusion, Outcome
from engine.measure.measure import measure
from engine.measure.pairs import Pairs, count_pairs
from engine.measure.picture import draw
from engine.measure.scores import MEASURES, score
from engine.measure.table import save_csv, save_json, save_parquet, score_table
from tests.measure.test_confusion import pair_of
from tests.stored import store

ABSENT = Confusion.of_pairs(Pairs({(0, 0): 6, (0, 2): 3, (1, 0): 1}), labels=[0, 1, 2, 3])
"""Label 1 is in the reference only, 2 in the result only, 3 in neither."""


def scored(reference, result, **options):
    return score(Confusion.of_pairs(count_pairs(reference, result)), **options)


@pytest.mark.parametrize("shape", [(50, 40), (12, 20, 15)])
def test_scores_are_those_of_monai(tmp_path, shape):
    reference, result = pair_of(shape, labels=(0, 1, 2, 3))
    axes = "zyx"[-len(shape) :]
    found = measure(
        store(tmp_path / "a.zarr", reference, axes, chunk=7), store(tmp_path / "b.zarr", result, axes, chunk=16)
    )
    truth, guess = (
        torch.stack([torch.from_numpy(array == label) for label in range(4)])[None].float()
        for array in (reference, result)
    )
    matrix = get_confusion_matrix(guess, truth)  # (1, 4, [tp, fp, tn, fn])
    theirs = {
        name: compute_confusion_matrix_metric(name, matrix)[0]
        for name in ("sensitivity", "specificity", "precision", "accuracy")
    }
    theirs |= {"dice": compute_dice(guess, truth)[0], "jaccard": compute_iou(guess, truth)[0]}
    assert set(theirs) == set(MEASURES)
    for measure_name, values in theirs.items():
        ours = [row.value(measure_name) for row in found.rows]
        assert np.allclose(ours, values.numpy(), atol=1e-6)  # theirs are float32
        assert len(set(ours)) >= 3
    tp, fp, tn, fn = matrix[0].T.long().tolist()
    assert [row.counts for row in found.rows] == [Outcome(*n) for n in zip(tp, fp, fn, tn, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_whole_arrays(seed):
    reference, result = pair_of((300,), labels=(0, 1, 5), seed=seed)
    found = scored(reference, result)
    for row in found.rows:
        true, said = reference == row.label, result == row.label
        assert row.dice == pytest.approx(1 - dice(true, said), abs=1e-15)
        assert row.jaccard == pytest.approx(1 - jaccard(true, said), abs=1e-15)
        assert row.sensitivity == pytest.approx(said[true].mean(), abs=1e-15)
        assert row.specificity == pytest.approx((~said)[~true].mean(), abs=1e-15)
        assert row.precision == pytest.approx(true[said].mean(), abs=1e-15)
        assert row.accuracy == pytest.approx((true == said).mean(), abs=1e-15)
    assert found.agreement == pytest.approx((reference == result).mean(), abs=1e-15)
    for name in MEASURES:
        assert found.macro.value(name) == pytest.approx(np.mean([row.value(name) for row in found.rows]), abs=1e-15)
    assert found.micro.dice == found.micro.precision == found.micro.sensitivity == found.agreement  # over all labels


def test_means_are_over_the_chosen_labels_in_their_order():
    reference, result = pair_of((300,), labels=(0, 1, 5))
    every, chosen = scored(reference, result), scored(reference, result, labels=[5, 1, 5], names={5: "five"})
    assert [row.name for row in chosen.rows] == ["five", "1"]
    assert chosen.rows[1] == every.rows[1]
    assert chosen.macro.dice == pytest.approx((every.rows[1].dice + every.rows[2].dice) / 2, abs=1e-15)
    hits = sum(((reference == label) & (result == label)).sum() for label in (1, 5))
    assert chosen.micro.precision == pytest.approx(hits / np.isin(result, (1, 5)).sum(), abs=1e-15)
    assert chosen.agreement == every.agreement


def test_what_is_not_defined_says_why():
    zero, missed, invented, absent = score(ABSENT).rows
    assert not zero.notes
    assert (missed.dice, missed.sensitivity, missed.precision) == (0.0, 0.0, None)
    assert missed.notes == {"precision": "nowhere in the result"}
    assert (invented.dice, invented.sensitivity, invented.precision) == (0.0, None, 0.0)
    assert invented.notes == {"sensitivity": "nowhere in the reference"}
    assert (absent.dice, absent.jaccard, absent.sensitivity, absent.precision) == (None,) * 4
    assert (absent.specificity, absent.accuracy) == (1.0, 1.0)
    assert absent.notes["dice"] == absent.notes["jaccard"] == "in neither volume"
    (alone,) = scored(np.zeros(5, "uint8"), np.zeros(5, "uint8")).rows
    assert (alone.dice, alone.specificity, alone.notes) == (1.0, None, {"specificity": "everywhere in the reference"})


def test_a_mean_leaves_out_what_is_not_defined_and_says_so():
    macro = score(ABSENT).macro
    assert macro.dice == pytest.approx((12 / 16 + 0 + 0) / 3)
    assert macro.notes["dice"] == "without 3"
    assert macro.sensitivity == pytest.approx((6 / 9 + 0) / 2)
    assert macro.notes["sensitivity"] == "without 2, 3"
    nothing = score(ABSENT, labels=[3])
    assert nothing.macro.dice is nothing.micro.dice is None
    assert nothing.macro.notes["dice"] == "not defined for any label"


def test_scores_of_huge_counts_are_rounded_once():
    n = 2**62 + 1
    (zero, _) = score(Confusion.of_pairs(Pairs({(0, 0): n, (0, 1): 1}))).rows
    assert zero.counts == Outcome(n, 0, 1, 0)
    assert zero.sensitivity == n / (n + 1)
    assert zero.dice == 2 * n / (2 * n + 1)


def test_a_row_is_read_back_from_each_file(tmp_path):
    found = score(ABSENT, names={0: "back, ground"}, reference="a.zarr", result="b.zarr")
    save_csv(tmp_path / "s.csv", found)
    save_parquet(tmp_path / "s.parquet", found)
    save_json(tmp_path / "s.json", found)
    with (tmp_path / "s.csv").open(newline="") as file:
        text = list(csv.DictReader(file))
    rows = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()
    whole = json.loads((tmp_path / "s.json").read_text())
    assert whole["scores"] == rows
    assert [row["name"] for row in rows] == ["back, ground", "1", "2", "3", "macro", "micro"]
    assert [row["dice"] for row in rows[:4]] == [0.75, 0.0, 0.0, None]
    assert [(row["name"], row["dice"]) for row in text[:4]] == [
        ("back, ground", "0.75"),
        ("1", "0.0"),
        ("2", "0.0"),
        ("3", ""),
    ]
    assert rows[3]["notes"].startswith("dice, jaccard: in neither volume; sensitivity: nowhere in the reference")
    assert (whole["confusion"]["counts"], whole["n_voxels"]) == (ABSENT.counts.tolist(), 10)


def test_the_table_shows_a_dash_and_the_reason():
    console = Console(width=80)
    with console.capture() as said:
        console.print(score_table(score(ABSENT)))
    lines = said.get().splitlines()
    assert "60.000 % of 10 voxels agree" in lines[0]
    assert ["label", *MEASURES] in [line.split() for line in lines]  # no name is cut
    assert ["3", "-", "-", "-", "1.0000", "-", "1.0000"] in [line.split() for line in lines]
    assert any("3: dice, jaccard: in neither volume" in line for line in lines)


@pytest.mark.parametrize("n_labels", [1, 4, 60])
def test_the_picture_shows_the_scores(tmp_path, n_labels):
    reference, result = pair_of((5000,), labels=range(max(n_labels, 2)), dtype="uint8")
    found = score(ABSENT) if n_labels == 4 else scored(reference, result, labels=[0] if n_labels == 1 else None)
    draw(tmp_path / "p.png", found)
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 400
    edge = np.concatenate([pixels[:3].ravel(), pixels[-3:].ravel(), pixels[:, :3].ravel(), pixels[:, -3:].ravel()])
    assert (edge == 255).all()  # nothing is cut off
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("save", [save_csv, save_json, save_parquet, draw])
def test_a_file_that_cannot_be_written_is_named(tmp_path, save):
    with pytest.raises(UsageError, match=r"cannot be written to '.*nowhere/s': .*Name a file"):
        save(tmp_path / "nowhere" / "s", score(ABSENT))
