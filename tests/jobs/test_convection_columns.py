"""The published column network: its known answer, real columns to W m-2, and a made-up twin of all of it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from engine.models.learn import learn
from engine.models.load import load_model
from tests.real_models import ERA5, real

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import convection_columns as job
import era5_columns
import yog21_network

YOG21 = "models/yog21_column"


@pytest.fixture
def unhurried(monkeypatch):
    monkeypatch.setattr(sys.modules["engine.learnt"], "SECONDS_PER_TIMING", 0.0)  # only how fast it is hangs on it


def by_hand(globe, network, sounding):
    """Heating in W m-2 (lat, lon) in NumPy, column by column in float64."""
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    level = globe["level"].values * 100.0
    t, q, distance = (globe[name].values.astype(np.float64) for name in ("temperature", "water", "distance"))
    mass = np.array(sounding.thickness) * np.array(sounding.density)
    found = np.empty(distance.shape)
    for i, j in np.ndindex(distance.shape):
        column = [np.interp(sounding.pressure, level, field[:, i, j]) for field in (t, q)]
        y = (np.concatenate([*column, distance[i, j, None]]) - state["features_mean"]) / state["features_std"]
        for k in range(5):
            y = state[f"layers.{k}.weight"] @ y + state[f"layers.{k}.bias"]
            y = np.maximum(y, 0) if k < 4 else y
        rate = (y * state["outputs_std"] + state["outputs_mean"])[:30]
        found[i, j] = 1004.0 * (mass * rate).sum()
    return found


@pytest.mark.real
def test_the_known_answer_of_the_published_network_is_reproduced():
    network, sounding = yog21_network.published(real(YOG21))
    assert job.known_answer_error(network) <= 1e-5
    assert np.loadtxt(real(YOG21) / "nn_ones.txt").std() > 100
    assert 8000 < sum(np.array(sounding.thickness) * sounding.density) < 9000  # kg m-2, to some 170 hPa
    with torch.no_grad():
        network.layers[2].weight *= 1.001
    assert job.known_answer_error(network) > 1e-5


@pytest.mark.real
def test_real_columns_are_heated_as_by_hand_and_as_was_found_before(tmp_path, unhurried):
    globe, (network, sounding) = era5_columns.era5(real(ERA5)), yog21_network.published(real(YOG21))
    globe.to_netcdf(tmp_path / "columns.nc")
    source = job.ingest(tmp_path / "columns.nc", str(tmp_path / "columns.zarr"))
    found = job.run_columns(source.url, job.Convection(network, sounding, era5_columns.pascal(globe)).eval(), tmp_path / "out.zarr")
    wanted = by_hand(globe, network, sounding)
    heating = job.read(f"{tmp_path}/out.zarr/heating")[0]
    assert found.report.is_complete
    np.testing.assert_allclose(heating, wanted, atol=2e-4 * wanted.std())
    assert found.heating.mean == pytest.approx(-116.7, abs=0.5)
    assert found.share_beyond == pytest.approx(0.051, abs=0.002)


def test_made_up_columns_run_the_whole_job(tmp_path, unhurried, monkeypatch, capsys):
    monkeypatch.setattr(job, "ERA5", tmp_path / "nowhere.nc")
    monkeypatch.setattr(job, "made_up_globe", lambda: era5_columns.made_up((12, 8, 12)))
    monkeypatch.setattr(sys, "argv", ["convection_columns.py", "--output", str(tmp_path)])
    code = job.main()
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "made up, and so is the network" in said.out
    globe, (network, sounding) = era5_columns.made_up((12, 8, 12)), yog21_network.made_up()
    wanted = by_hand(globe, network, sounding)
    with xr.open_zarr(tmp_path / "convection.zarr" / "heating", consolidated=False) as stored:
        np.testing.assert_allclose(stored["heating"].values[0], wanted, atol=1e-4 * wanted.std())
        assert stored["heating"].attrs["units"] == "W m-2"
        np.testing.assert_allclose(stored["lat"], globe["latitude"])
    assert wanted.std() > 1
    assert (tmp_path / "convection.png").stat().st_size > 10_000


def test_the_pipeline_is_proved_to_look_at_single_columns():
    network, sounding = yog21_network.made_up()
    pipeline = job.Convection(network, sounding, era5_columns.pascal(era5_columns.made_up((12, 4, 6))))
    geometry = learn(load_model(pipeline), n_channels=25, n_space=2)
    assert geometry.evidence == "proved"
    assert [program.widest_halo for program in geometry.programs] == [(0, 0)] * 2
    assert [(o.name, o.n_channels) for o in geometry.outputs] == [("heating", 1), ("heating_rate", 30), ("n_beyond", 1)]


def test_inputs_beyond_three_sigma_are_counted():
    network, sounding = yog21_network.made_up()
    pipeline = job.Convection(network, sounding, sounding.pressure)
    x = (network.features_mean + 2.9 * network.features_std)[None, :, None, None].repeat(1, 1, 2, 2)
    x[:, :4, 0, 1] += 0.2 * network.features_std[:4]
    with torch.inference_mode():
        assert pipeline(x)["n_beyond"].flatten().tolist() == [0, 4, 0, 0]
