"""What is written of a climate grid opens with xarray without a warning and passes the IOOS compliance checker."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from engine.prepare import Options
from engine.run import run
from engine.storage.ingest import ingest
from tests.real_models import ERA5, real
from tests.storage.climate_files import globe, to_netcdf

HIGH = 3  # the checker's weight of what CF requires; less is what it recommends
CHECK = """
import json, os, sys
from compliance_checker.runner import CheckSuite
CheckSuite.load_all_available_checkers()
suite = CheckSuite()
with suite.load_dataset(sys.argv[1]) as file:
    groups, errors = suite.run_all(file, ["cf:1.11"], [])["cf:1.11"]
print(json.dumps([len(errors), [[one.name, one.weight, one.value, one.msgs] for one in groups]]), flush=True)
os._exit(0)
"""  # in a process of its own, which ends at once: with the checker's libraries loaded, torch's cleaning up crashes


def mapped() -> xr.Dataset:
    """A globe with a grid mapping and Gaussian weights beside it."""
    dataset = globe()
    for name in ("t", "u", "sp"):
        dataset[name].attrs["grid_mapping"] = "crs"
    dataset["crs"] = ((), np.int32(0), {"grid_mapping_name": "latitude_longitude", "earth_radius": 6371229.0})
    dataset["gw"] = (("lat",), np.cos(np.radians(dataset["lat"].values)), {"long_name": "weights", "units": "1"})
    return dataset


def opened(url: str) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(url, consolidated=False).load()


def failed(dataset: xr.Dataset, path: Path) -> list[str]:
    """What CF requires and a dataset lacks, as the checker says it."""
    coordinates = {name: {"_FillValue": None} for name in dataset.coords if dataset[name].dtype.kind == "f"}
    dataset.to_netcdf(path, encoding=coordinates)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHECK, str(path)], capture_output=True, text=True, check=True)
    n_errors, groups = json.loads(done.stdout.splitlines()[-1])
    assert len(groups) > 20
    assert not n_errors
    pairs = [(name, value if isinstance(value, list) else (value, 1), said) for name, weight, value, said in groups if weight == HIGH]
    return [f"{name}: {said}" for name, (n, wanted), said in pairs if n != wanted]


def test_the_checker_sees_what_is_wrong(tmp_path):
    dataset = xr.decode_cf(globe()).assign_attrs(Conventions="CF-1.11")
    dataset["lat"].attrs["units"] = "furlongs"
    assert any("units" in one for one in failed(dataset, tmp_path / "a.nc"))


@pytest.mark.parametrize("choice", ["", "#variables=t", "#variables=t,u&levels=batch", "#box=-45,45,-60,60"])
def test_an_ingested_grid_passes_a_cf_checker_and_keeps_what_it_was(tmp_path, choice):
    path = to_netcdf(mapped(), tmp_path / "a.nc")
    url = str(tmp_path / "out.zarr")
    ingest(f"{path}{choice}", url)
    found = opened(url)
    assert failed(found, tmp_path / "b.nc") == []
    array = found["values"]
    assert "gw" in array.coords
    assert array.attrs["grid_mapping"] == "crs"
    assert found["crs"].attrs == {"grid_mapping_name": "latitude_longitude", "earth_radius": 6371229.0}
    assert found.attrs["title"] == "a made-up globe"
    if choice == "#variables=t":
        assert (array.attrs["units"], array.attrs["cell_methods"]) == ("K", "time: mean")
        assert array.attrs["standard_name"] == "air_temperature"
    if "batch" in choice:
        assert found["level"].attrs == {
            "standard_name": "air_pressure",
            "units": "hPa",
            "positive": "down",
            "axis": "Z",
        }
    else:
        assert "units" not in array.attrs or choice


@pytest.mark.real
def test_the_real_era5_grid_passes_a_cf_checker(tmp_path):
    ingest(real(ERA5), str(tmp_path / "out.zarr"), variables=["temperature", "sea_surface_temperature"])
    assert failed(opened(str(tmp_path / "out.zarr")), tmp_path / "b.nc") == []


def test_the_output_of_a_run_passes_a_cf_checker(tmp_path):
    path = to_netcdf(mapped(), tmp_path / "a.nc")
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 2, 1)
    run(f"{path}#variables=t", model, str(tmp_path / "out.zarr"), options=Options(threads=2), n_certified=1)
    found = opened(str(tmp_path / "out.zarr" / "output"))
    assert failed(found, tmp_path / "b.nc") == []
    assert "channel_name" not in found.variables  # two channels of its own, not the source's three
    assert found["output"].attrs["grid_mapping"] == "crs"
    assert found["time"].dt.day.values.tolist() == [1, 2]
    with xr.open_zarr(tmp_path / "out.zarr" / "output", consolidated=False) as stored:
        stored.to_netcdf(tmp_path / "c.nc")  # as it is: no attribute that NetCDF has no place for
    with xr.open_dataset(tmp_path / "c.nc") as back:
        assert np.array_equal(back["output"].values, found["output"].values)
        assert json.loads(back.attrs["haloengine"])["axes"][0]["name"] == "time"
