"""The budget in a run's report: one pass over whole globes in NumPy is the oracle."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from engine import Options, run
from engine.budgets import budgets
from engine.geometry.axes import axes_from_names
from engine.geometry.region import Region
from engine.measure.area import area_weights
from engine.models.wrappers import Compose, Normalise
from engine.storage.create import create_volume
from tests.stored import smooth

LAT, LON = np.linspace(90, -90, 13), np.arange(16) * 22.5
MEAN, STD = [280.0, 0.0], [4.0, 1.0]


class Heads(nn.Module):
    """Two named outputs of a scaled input (batch, 2, lat, lon)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.net(x)
        return {"heating": y[:, :1], "wind": y[:, 1:]}


def pipeline() -> nn.Module:
    return Compose(Normalise(MEAN, STD), Heads()).eval()


@pytest.fixture
def made(tmp_path) -> str:
    """A run over three steps of temperature and rain, in a NetCDF."""
    noise = np.random.default_rng(0)
    temperature = 280 + 20 * smooth((3, 13, 16)) + 3 * noise.standard_normal((3, 13, 16))
    rain = np.maximum(noise.standard_normal((3, 13, 16)), -0.5)
    beside = {
        "time": ("time", [0, 6, 12], {"units": "hours since 2001-01-01", "standard_name": "time"}),
        "lat": ("lat", LAT, {"units": "degrees_north", "standard_name": "latitude"}),
        "lon": ("lon", LON, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    values = {"t": temperature, "rain": rain}
    dims = ("time", "lat", "lon")
    xr.Dataset({n: (dims, v.astype("f4")) for n, v in values.items()}, beside).to_netcdf(tmp_path / "globe.nc")
    options = Options(tile=(8, 16), block=(8, 16), threads=2)
    source = f"{tmp_path}/globe.nc#variables=t,rain"
    return run(source, f"{__file__}:pipeline", f"{tmp_path}/out.zarr", options=options).url


def average(values: np.ndarray) -> float:
    return float(np.average(values.astype("f8"), weights=np.broadcast_to(area_weights(LAT)[:, None], values.shape)))


def test_means_by_area_of_input_and_output_and_what_is_left_over(made, tmp_path):
    found = budgets(made, terms={"heating": 2.0, "input.rain": -3.0})
    with xr.open_dataset(tmp_path / "globe.nc") as source, torch.inference_mode():
        rain, t = source["rain"].values, source["t"].values
        x = torch.from_numpy(np.stack([t, rain], 1))
        whole = pipeline()(nn.functional.pad(x, (1, 1, 0, 0), mode="circular"))["heating"][..., 1:-1].numpy()
    rows = {f"{name}.{one.name}": one for name, part in found.volumes.items() for one in part}
    assert set(rows) == {"input.t", "input.rain", "heating.heating", "wind.0", "wind.1"}
    assert rows["input.rain"].mean == pytest.approx(average(rain), rel=1e-9)
    assert rows["input.rain"].n_negative == (rain < 0).sum() > 0
    assert rows["input.t"].n_beyond == (np.abs(t.astype("f8") - 280) > 12).sum() > 0
    assert rows["heating.heating"].n_beyond is None
    assert rows["heating.heating"].mean == pytest.approx(average(whole), rel=1e-5)
    assert abs(whole.mean() - average(whole)) > 1e-3  # a plain mean is another
    assert found.closure.residual == pytest.approx(2 * average(whole) - 3 * average(rain), rel=1e-5)


def test_the_report_shows_it(made, tmp_path, engine):
    text = engine.well("report", made, "--json", tmp_path / "a.json")
    assert "Globe" not in text
    text = engine.well("report", made, "--budget", "--term", "heating=2", "--term", "rain=-3", "--json", tmp_path / "b.json")
    assert "input.rain" in text
    assert "left over" in text
    plain, told = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert "budget" not in plain
    found = budgets(made, terms={"heating": 2.0, "rain": -3.0})
    assert told["budget"]["closure"]["residual"] == found.closure.residual != 0
    assert told["budget"]["heating"][0]["mean"] == found.volumes["heating"][0].mean


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "--term", "rian=1"), ("'rian' must name one channel", "input.rain")),
        (("--budget", "--term", "rain"), ("CHANNEL=FACTOR", "'rain'")),
        (("--term", "rain=1"), ("--budget is not there",)),
    ],
)
def test_a_term_that_is_none_is_refused_in_one_line(made, engine, arguments, words):
    line = engine("report", made, *arguments).line
    assert all(word in line for word in words)


def test_a_scan_has_no_budget(tmp_path, engine):
    scan = create_volume(
        f"{tmp_path}/scan.zarr", axes=axes_from_names("cyx"), shape=(2, 16, 16), dtype="float32", chunk_shape=(2, 16, 16)
    )
    scan.write(Region.whole((2, 16, 16)), smooth((2, 16, 16)).astype("f4"))
    engine.well("run", scan.url, f"{__file__}:pipeline", tmp_path / "out.zarr", "--runner", "serial", "--verify", 0)
    assert "nothing in" in engine("report", tmp_path / "out.zarr", "--budget").line
