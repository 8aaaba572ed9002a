"""A thousand pockets, in small: the broken are recorded, the rest done; the card tells the truth; the recipe learns."""

import argparse
import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.spatial.transform import Rotation

from engine.models.load import load_model
from tests.real_models import real

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import interaction_net
import pocket_voxels
import train_interactions
from interactions import LABELS
from pocket_examples import HELD_OUT, contacts, made_poses, real_poses

CARD = interaction_net.WEIGHTS.with_suffix(".md")


def test_the_job_scores_every_pocket_but_the_broken_and_draws_one(tmp_path, monkeypatch):
    monkeypatch.setattr(pocket_voxels, "N_FLOOR", 4)
    asked = argparse.Namespace(output=tmp_path, made=True, poses=3, turns=2, batch=2, workers=1)
    told = dict(pocket_voxels.show(asked))
    assert told["items"] == "9, of which 3 failed"
    assert float(told["ratio"]) > 0
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "scored" / "table.parquet").to_pylist()}
    reasons = {id_.removeprefix("broken-"): row["reason"] for id_, row in rows.items() if row["reason"]}
    assert set(reasons) == {"cut", "letter", "missing"}
    assert "ends within one" in reasons["cut"]
    assert "MissingError" in reasons["missing"]
    done = [row for row in rows.values() if row["reason"] is None]
    scores = np.array([[row[label] for label in LABELS] for row in done])
    assert scores.std(axis=0).max() > 0.01
    assert ((scores >= 0) & (scores <= 1)).all()
    assert all(row[f"has_{label}"] == (row[label] > 0.5) for row in done for label in LABELS)
    assert (tmp_path / "pocket.png").stat().st_size > 20_000
    assert "over samples" in (tmp_path / "jaccard.md").read_text()


def test_the_card_is_of_these_weights():
    card = CARD.read_text()
    digest = hashlib.sha256(interaction_net.WEIGHTS.read_bytes()).hexdigest()
    assert digest in card
    assert f"{interaction_net.WEIGHTS.stat().st_size:,} bytes" in card
    assert f"{sum(p.numel() for p in interaction_net.bare().parameters()):,} parameters" in card
    for label in LABELS:
        assert len(re.findall(rf"^\| {label} \|", card, re.MULTILINE)) == 2  # of pockets, of voxels


@pytest.mark.slow
def test_held_out_poses_are_told_better_than_by_a_constant_answer():
    poses = real_poses(real("pocket/gninatypes"))
    held = [contacts(pose) for pose in poses if pose.group in HELD_OUT]
    learnt = [contacts(pose) for pose in poses if pose.group not in HELD_OUT]
    assert (len(held), len(learnt)) == (23, 65)
    assert not {pose.pose.group for pose in held} & {pose.pose.group for pose in learnt}
    network = load_model(f"{interaction_net.__file__}:bare").module.model
    always = train_interactions.majority(learnt)
    found, truth = train_interactions.maps(network, held, n_turns=1)
    has = np.stack([one.has for one in held])
    with torch.inference_mode():
        table = train_interactions.pocket_table((network.pockets(found) > 0).numpy(), has, always)
    network_overlap, constant_overlap = map(float, table.rows[-1][2:4])
    assert network_overlap > constant_overlap + 0.03
    voxels = train_interactions.voxel_table((found > 0).numpy(), truth.numpy())
    assert min(float(row[2]) for row in voxels.rows[:3]) > 0.3  # hydrogen bonds and hydrophobic contacts


def test_the_recipe_moves_the_weights_and_calibrates_what_it_learnt(monkeypatch):
    monkeypatch.setattr(train_interactions, "BATCH", 2)
    monkeypatch.setattr(train_interactions, "CROP", 16)
    monkeypatch.setattr(train_interactions, "N_WEIGHED", 2)
    torch.manual_seed(0)
    poses, chance = made_poses(range(3)), np.random.default_rng(0)
    network = train_interactions.train(poses, chance, n_steps=3)
    before = network.threshold.clone()
    train_interactions.calibrate(network, [contacts(pose) for pose in poses[:2]], chance)
    assert not torch.equal(before, network.threshold)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


@pytest.mark.parametrize("turn", [None, 5])
def test_contacts_on_the_grid_lie_where_the_atoms_are(turn):
    one = max(map(contacts, made_poses(range(8))), key=lambda one: len(one.label))
    rotation = None if turn is None else Rotation.random(random_state=turn)
    _, found = one.seen(48, turn=rotation)
    assert found.shape == (len(LABELS), 24, 24, 24)
    assert (found.any(axis=(1, 2, 3)) == one.has).all()
    middle = one.middle[0] - one.pose.ligand.place.mean(axis=0)
    x, y, z = middle if rotation is None else rotation.apply(middle)
    index = tuple(int(np.rint(value + 11.5)) for value in (z, y, x))
    assert found[(one.label[0], *index)]
