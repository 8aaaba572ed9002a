"""A network with physics behind it: integrals that are known, a card that is true, a run that equals the whole."""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models.learn import learn
from engine.models.load import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import physics_cnn as job
import physics_globe
import physics_network
import train_physics

CARD = physics_network.WEIGHTS.with_suffix(".md")
SMALL = (16, 24)


def test_the_card_names_the_weights_by_size_and_hash():
    size, sha256 = re.search(r"safetensors, ([\d,]+) bytes, sha256 ([0-9a-f]{64})", CARD.read_text()).groups()
    data = physics_network.WEIGHTS.read_bytes()
    assert int(size.replace(",", "")) == len(data) < 200_000
    assert sha256 == hashlib.sha256(data).hexdigest()


def test_the_heating_of_a_made_up_globe_integrates_to_the_latent_heat_of_its_rain():
    made = physics_globe.globe(7)
    x = torch.from_numpy(np.concatenate([made.heating, made.surface[None]]))[None]
    found = physics_network.integral()(x)[0, 0].numpy()
    np.testing.assert_allclose(found, physics_globe.LATENT_HEAT * made.rain, atol=1e-9)
    assert made.rain.std() > 0
    assert 0.2 < (made.rain > 0).mean() < 0.8
    assert made.surface.min() < 85000
    assert (made.heating[-1][made.surface < 95000] == 0).all()  # what lies below the surface is not heated


def test_a_globe_has_no_seam():
    made = physics_globe.globe(3)
    for field in (made.temperature[5], made.humidity[8], made.rain):
        across = np.abs(field[:, 0] - field[:, -1]).mean()
        assert across < 2 * np.abs(np.diff(field, axis=1)).mean()


def test_training_repeats_its_weights_to_the_bit_and_learns(monkeypatch):
    monkeypatch.setattr(train_physics, "SIDE", 14)
    globes = [physics_globe.globe(seed, shape=SMALL) for seed in (0, 1)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, again = (train_physics.train(globes, n_steps=3).state_dict() for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    torch.manual_seed(train_physics.SEED)
    untrained = physics_network.network().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], untrained[name]) for name in first if "weight" in name)


def test_the_halo_is_the_convolutions_alone():
    geometry = learn(load_model(physics_network.heating()), n_channels=physics_network.N_CHANNELS, n_space=2)
    assert geometry.evidence == "proved"
    assert [program.widest_halo for program in geometry.programs] == [(physics_network.REACH,) * 2] * 2
    assert [(o.name, o.n_channels) for o in geometry.outputs] == [("heating", 1), ("heating_rate", 10)]


def test_on_globes_held_out_it_is_as_good_as_its_card_says_and_better_than_the_trivial():
    trained = physics_network.heating()
    made = [physics_globe.globe(seed) for seed in train_physics.HELD_OUT]
    rate = trained.get_submodule("0.module")
    found = np.stack([train_physics.predicted(rate, one) for one in made])
    one = train_physics.scores(found, np.stack([g.column_heating for g in made]))
    told = re.search(r"\| the network \| (.*) \|", CARD.read_text()).group(1).split(" | ")
    lines = {name: float(re.search(rf"\| {name}[^|]* \| ([\d.]+)", CARD.read_text()).group(1)) for name in ("a line", "the mean")}
    assert [one.rmse, one.share, one.mean] == pytest.approx([float(value) for value in told], abs=0.02)
    assert one.rmse < 0.5 * min(lines.values())


def test_the_job_runs_a_globe_round_and_equals_one_pass_over_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["engine.learnt"], "SECONDS_PER_TIMING", 0.0)  # only how fast it is hangs on it
    monkeypatch.setattr(job, "globe", lambda seed: physics_globe.globe(seed, shape=SMALL))
    monkeypatch.setattr(sys, "argv", ["physics_cnn.py", "--output", str(tmp_path)])
    code = job.main()
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "lon wrap" in said.out
    made, rate = physics_globe.globe(train_physics.HELD_OUT[0], shape=SMALL), physics_network.heating().get_submodule("0.module")
    wanted = train_physics.predicted(rate, made)
    found = job.read(f"{tmp_path}/heating.zarr/heating")[0]
    assert np.abs(found - wanted).max() < 1e-5 * wanted.std()
    with torch.inference_mode():
        seamed = physics_network.heating()(torch.from_numpy(made.x)[None])["heating"][0, 0].numpy()
    assert np.abs(seamed - wanted)[:, [0, -1]].max() > 0.05 * wanted.std()  # without the wrap there is a seam
    assert (tmp_path / "heating.png").stat().st_size > 10_000
