"""A climate grid read as it lies equals what xarray gives, whatever the format, and each chunk is decoded once."""

import pickle
import threading
import time

import numpy as np
import pytest
import torch
import xarray as xr

from engine.errors import EngineError, IngestError
from engine.geometry.edges import EdgeKind
from engine.geometry.region import Region
from engine.prepare import Options
from engine.run import run
from engine.storage.climate_chunks import LEAST_BYTES, DecodedChunks
from engine.storage.climate_grid import pole_facts
from engine.storage.create import read_coordinates
from engine.storage.fingerprint import fingerprint
from engine.storage.ingest import ingest
from engine.storage.volume import open_volume
from tests.real_models import ERA5, real
from tests.storage.climate_files import LEVELS, globe, to_grib, to_netcdf, to_zarr

WRITERS = {
    "netcdf": lambda d, p: to_netcdf(d, p / "a.nc"),
    "grib": lambda d, p: to_grib(d, p / "a.grib2"),
    "zarr v2": lambda d, p: to_zarr(d, p / "a.zarr", zarr_format=2),
    "zarr v3": lambda d, p: to_zarr(d, p / "a.zarr", zarr_format=3),
}


def whole(volume):
    return volume.read(Region.whole(volume.shape))


def oracle(dataset: xr.Dataset, channels) -> np.ndarray:
    """The channels of a dataset (time, channel, lat, lon), as xarray selects them."""
    fields = [
        dataset[c["variable"]].sel(level=c["level"]["value"]) if "level" in c else dataset[c["variable"]]
        for c in channels
    ]
    return np.stack([field.transpose("time", "lat", "lon").values for field in fields], axis=1)


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_same_voxels_axes_and_coordinates(tmp_path, form):
    dataset = globe()
    volume = open_volume(str(WRITERS[form](dataset, tmp_path)))
    channels = volume.attributes["channels"]
    expected = oracle(dataset, channels)
    assert expected.std() > 0
    assert np.array_equal(whole(volume), expected)
    assert sorted(c["name"] for c in channels) == sorted(["t_850", "t_500", "t_250", "u_850", "u_500", "u_250", "sp"])
    assert [(axis.name, axis.role.value) for axis in volume.axes] == [
        ("time", "batch"), ("channel", "channel"), ("lat", "space"), ("lon", "space"),
    ]  # fmt: skip
    assert volume.edges["lon"].kind is EdgeKind.WRAP
    found = read_coordinates(volume)
    for name in ("lat", "lon"):
        assert np.array_equal(found[name].values, dataset[name].values)
    days = xr.decode_cf(xr.Dataset(coords={"time": ("time", found["time"].values, dict(found["time"].attributes))}))
    assert np.array_equal(days["time"].values, xr.decode_cf(dataset)["time"].values)
    level = next(c for c in channels if c["name"] == "t_500")["level"]
    assert (level["kind"], level["value"], level["units"], level["positive"]) == ("pressure", 500.0, "hPa", "down")
    odd = [i for i, c in enumerate(channels) if c["variable"] == "u"]
    assert volume.attributes["pole"] == {
        "has_pole_rows": [True, True],
        "ends_at_pole": [True, True],
        "odd_channels": odd,
    }


@pytest.mark.real
def test_the_real_era5_grid_equals_xarray():
    path = str(real(ERA5))
    volume = open_volume(f"{path}#variables=temperature,u_component_of_wind&levels=batch&level=500,850")
    with xr.open_dataset(path, decode_times=False) as dataset:
        expected = dataset[["temperature", "u_component_of_wind"]].to_array().sel(level=[500, 850])
        expected = expected.transpose("level", "variable", "latitude", "longitude").values
    assert expected.std() > 0
    assert np.array_equal(whole(volume), expected)
    assert [axis.name for axis in volume.axes] == ["level", "channel", "lat", "lon"]
    assert volume.attributes["pole"]["odd_channels"] == [1]
    assert volume.attributes["pole"]["has_pole_rows"] == [False, False]


def test_variables_levels_and_times_are_chosen_by_the_url(tmp_path):
    dataset = globe(n_times=5)
    path = to_zarr(dataset, tmp_path / "a.zarr", zarr_format=3)
    volume = open_volume(f"{path}#variables=u,t&level=250,850&time=2001-01-02:2001-01-04")
    assert [c["name"] for c in volume.attributes["channels"]] == ["u_250", "u_850", "t_250", "t_850"]
    part = dataset.isel(time=slice(1, 3))
    assert np.array_equal(whole(volume), oracle(part, volume.attributes["channels"]))
    assert np.array_equal(read_coordinates(volume)["time"].values, part["time"].values)
    for span, steps in (("1:3", slice(1, 3)), ("4", slice(4, 5)), ("3:", slice(3, 5)), ("2001-01-05:", slice(4, 5))):
        assert open_volume(f"{path}#time={span}").shape[0] == len(range(5)[steps])
        found = whole(open_volume(f"{path}#time={span}&variables=sp"))
        assert np.array_equal(found[:, 0], dataset["sp"].values[steps])
    assert volume.url == f"{path}#variables=u,t&level=250,850&time=2001-01-02:2001-01-04"


def test_levels_may_be_a_batch_axis_with_a_coordinate_of_its_own(tmp_path):
    dataset = globe()
    path = to_netcdf(dataset, tmp_path / "a.nc")
    volume = open_volume(f"{path}#variables=t,u&levels=batch&level=250,850")
    expected = dataset[["t", "u"]].to_array().sel(level=[250, 850]).transpose("time", "level", "variable", "lat", "lon")
    assert np.array_equal(whole(volume), expected.values)
    part = Region((1, 1, 0, 2, 3), (2, 2, 2, 6, 11))
    assert np.array_equal(volume.read(part), expected.values[part.slices])
    level = read_coordinates(volume)["level"]
    assert (level.values.tolist(), level.attributes["units"], level.attributes["positive"]) == (
        [250, 850],
        "hPa",
        "down",
    )
    with pytest.raises(
        EngineError, match=r"every variable must have the same level axis.*'t' has 3 along 'level', 'sp' has none"
    ):
        open_volume(f"{path}#levels=batch")


@pytest.mark.parametrize(
    ("lon", "box", "expected"),
    [
        (np.arange(0, 360, 30.0), (-45, 45, -60, 60), [-60, -30, 0, 30, 60]),  # across Greenwich
        (np.arange(0, 360, 30.0), (-45, 45, 150, -150), [150, 180, 210]),  # across the date line
        (np.arange(-180, 180, 30.0), (-45, 45, 150, -150), [150, 180, 210]),  # the same, from -180
        (np.arange(20.5, 380, 30.0), (-45, 45, 0, 60), [20.5, 50.5]),  # from 20.5
        (np.arange(20.5, 380, 30.0), (-45, 45, -30, 30), [-9.5, 20.5]),  # over the file's own seam
        (np.arange(330, -1, -30.0), (-45, 45, -30, 30), [-30, 0, 30]),  # from east to west
        (np.arange(0, 361, 30.0), (-45, 45, -30, 30), [-30, 0, 30]),  # with the first column doubled
        (np.arange(0, 360, 30.0), (-45, 45, -180, 180), list(range(-180, 180, 30))),  # the whole globe, rolled
    ],
)
@pytest.mark.parametrize("is_descending", [True, False])
def test_a_box_is_cut_across_any_meridian(tmp_path, lon, box, expected, is_descending):
    lat = np.linspace(90, -90, 7) if is_descending else np.linspace(-90, 90, 7)
    dataset = globe(lat=lat, lon=lon, variables=("t",), n_times=1)
    if lon[-1] - lon[0] == 360:
        dataset = xr.where(dataset["lon"] == 360, dataset.isel(lon=0), dataset, keep_attrs=True).transpose(
            *dataset["t"].dims
        )
    path = to_netcdf(dataset, tmp_path / "a.nc")
    volume = open_volume(f"{path}#variables=t&box={','.join(map(str, box))}")
    columns = [int(np.flatnonzero((lon - e) % 360 == 0)[0]) for e in expected]
    rows = np.flatnonzero(np.abs(lat) <= 45)
    assert np.array_equal(whole(volume)[0], dataset["t"].values[0][:, rows][:, :, columns])
    assert np.allclose(read_coordinates(volume)["lon"].values, expected)
    assert np.array_equal(read_coordinates(volume)["lat"].values, lat[rows])
    assert ("lon" in volume.edges) == (len(expected) == 12)
    assert volume.attributes["pole"]["ends_at_pole"] == [False, False]
    part = Region((0, 0, 1, 1), (1, 2, 3, len(expected) - 1))
    if part.n_voxels:
        assert np.array_equal(volume.read(part), whole(volume)[part.slices])


def test_each_chunk_of_an_arco_store_is_decoded_once_for_all_tiles_and_threads(tmp_path):
    dataset = globe(n_times=3)
    volume = open_volume(str(to_zarr(dataset, tmp_path / "a.zarr", zarr_format=3)))
    expected = oracle(dataset, volume.attributes["channels"])
    tiles = [(t, x) for t in range(3) for x in range(0, 12, 2)]
    again = pickle.loads(pickle.dumps(volume))

    def read(part):
        for t, x in part:
            box = Region((t, 0, 0, x), (t + 1, 7, 7, x + 2))
            assert np.array_equal(again.read(box), expected[box.slices])

    threads = [threading.Thread(target=read, args=(tiles[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert volume.n_decoded == again.n_decoded == 3 * 3  # three variables, three steps
    assert np.array_equal(whole(volume), expected)
    assert volume.n_decoded == 9  # all of so small a source is kept


def test_a_source_says_what_is_decoded_at_once_in_the_axes_that_it_has(tmp_path):
    url = str(to_zarr(globe(n_times=3), tmp_path / "a.zarr", zarr_format=3))
    for what, decoded, chunk in (
        ("levels=batch&variables=t,u", (1, 3, 2, 7, 12), (1, 1, 2, 7, 12)),
        ("variables=t&levels=batch&level=500", (1, 1, 1, 7, 12), (1, 1, 1, 7, 12)),
        ("variables=t", (1, 3, 7, 12), (1, 3, 7, 12)),
    ):
        level = open_volume(f"{url}#{what}").levels[0]
        assert (level.decoded_shape, level.chunk_shape) == (decoded, chunk)


def test_a_chunk_that_is_being_decoded_is_waited_for_and_old_ones_make_room():
    chunks, n_calls = DecodedChunks(), []

    def decode():
        n_calls.append(1)
        time.sleep(0.05)
        return np.zeros(LEAST_BYTES // 2, np.uint8)

    def ask():
        chunks.get("a", decode, n_bytes=LEAST_BYTES // 2)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(n_calls), chunks.n_decoded, chunks.n_bytes) == (1, 1, LEAST_BYTES // 2)
    for key in "bcd":
        chunks.get(key, decode, n_bytes=LEAST_BYTES // 2)
        assert chunks.n_bytes == LEAST_BYTES
    ask()
    assert chunks.n_decoded == 5  # a was dropped
    with pytest.raises(OSError, match="bad"):
        chunks.get("e", lambda: (_ for _ in ()).throw(OSError("bad")), n_bytes=1)
    assert chunks.n_bytes == LEAST_BYTES // 2  # room was made, and what failed is not kept


def test_what_is_kept_stays_within_what_is_projected(tmp_path):
    dataset = globe(n_times=6, lat=np.linspace(89, -89, 90), lon=np.arange(0, 360, 0.5))
    volume = open_volume(str(to_zarr(dataset, tmp_path / "a.zarr", zarr_format=3)))
    for t in range(6):
        for y in (0, 45):
            volume.read(Region((t, 0, y, 0), (t + 1, 7, y + 45, 720)))
    globe_bytes = 7 * 90 * 720 * 4
    assert volume.n_decoded == 18
    assert volume._chunks.n_bytes <= LEAST_BYTES < volume.held_bytes()
    assert volume.held_bytes(40) - volume.held_bytes(30) == 10 * globe_bytes


def test_a_box_of_a_globe_in_one_chunk_keeps_only_the_box(tmp_path):
    dataset = globe(n_times=2, lat=np.linspace(90, -90, 181), lon=np.arange(0, 360, 1.0), variables=("t",))
    path = to_zarr(dataset, tmp_path / "a.zarr", zarr_format=3)
    volume = open_volume(f"{path}#variables=t&level=500&box=-5,5,-5,5")
    expected = dataset["t"].sel(level=500).roll(lon=180)[:, 85:96, 175:186].values
    assert np.array_equal(whole(volume)[:, 0], expected)
    assert volume._chunks.n_bytes == expected.nbytes


def test_files_in_time_are_one_volume_by_a_pattern(tmp_path):
    parts = [globe(first_time=2 * i) for i in range(3)]
    for i, part in enumerate(parts):
        to_netcdf(part, tmp_path / f"a{i}.nc")
    volume = open_volume(f"{tmp_path}/a*.nc#variables=t&time=1:5")
    expected = np.concatenate([part["t"].values for part in parts])[1:5]
    assert np.array_equal(whole(volume), expected)
    assert np.array_equal(volume.read(Region((2, 1, 0, 0), (4, 2, 7, 12))), expected[2:4, 1:2])
    before = fingerprint(volume)
    assert before == fingerprint(pickle.loads(pickle.dumps(volume)))
    to_netcdf(globe(first_time=4, seed=1), tmp_path / "new").rename(tmp_path / "a2.nc")
    assert fingerprint(open_volume(volume.url)) != before
    with pytest.raises(EngineError, match=r"nothing matches '.*b\*.nc'"):
        open_volume(f"{tmp_path}/b*.nc")


def test_files_of_one_moment_each_are_joined_by_their_scalar_times(tmp_path):
    for i in range(3):
        to_grib(globe(first_time=i, n_times=1), tmp_path / f"a{i}.grib")
    volume = open_volume(f"{tmp_path}/a*.grib#variables=t")
    assert volume.shape == (3, 3, 7, 12)
    assert np.array_equal(whole(volume), np.concatenate([globe(first_time=i, n_times=1)["t"].values for i in range(3)]))
    assert len(set(np.diff(read_coordinates(volume)["time"].values))) == 1


def test_a_variable_without_time_is_the_same_at_each_step_and_decoded_once(tmp_path):
    dataset = globe(n_times=3, variables=("t",))
    dataset["orog"] = (("lat", "lon"), dataset["sp"].values[1])
    volume = open_volume(f"{to_zarr(dataset, tmp_path / 'a.zarr', zarr_format=3)}#variables=orog,sp")
    for t in range(3):
        assert np.array_equal(volume.read(Region((t, 0, 0, 0), (t + 1, 1, 7, 12)))[0, 0], dataset["orog"].values)
    assert volume.n_decoded == 1
    assert np.array_equal(whole(volume)[:, 0], np.stack([dataset["orog"].values] * 3))
    names = [c["variable"] for c in open_volume(str(tmp_path / "a.zarr")).attributes["channels"]]
    assert names == ["orog", "sp", "t", "t", "t"]  # of a store by name: it lists its arrays in any order


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "proleptic_gregorian"])
def test_calendars_of_models_are_read_and_chosen_from(tmp_path, calendar):
    dataset = globe(n_times=5)
    dataset["time"] = ("time", 57.0 + np.arange(5), {"units": "days since 2000-01-01", "calendar": calendar})
    path = to_netcdf(dataset, tmp_path / "a.nc")
    with xr.open_dataset(path) as days:
        first = int(np.argmax(days["time"].dt.month.values >= 3))
    assert 0 < first < 5
    volume = open_volume(f"{path}#variables=sp&time=2000-03-01:")
    assert volume.shape[0] == 5 - first
    assert np.array_equal(whole(volume)[:, 0], dataset["sp"].values[first:])


def test_a_run_over_a_store_equals_the_whole_globe_and_carries_its_coordinates(tmp_path):
    dataset = globe(lat=np.linspace(85, -85, 18), variables=("t",))
    path = to_zarr(dataset, tmp_path / "era5.zarr", zarr_format=2)
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 3, 3, padding=1)
    options = Options(tile=(8, 6), block=(9, 6), threads=2)
    source = open_volume(f"{path}#variables=t")
    report = run(f"{path}#variables=t", model, str(tmp_path / "out.zarr"), options=options, n_certified=1)
    assert report.is_complete
    with torch.no_grad():
        around = np.concatenate(
            [dataset["t"].values[..., -1:], dataset["t"].values, dataset["t"].values[..., :1]], axis=-1
        )
        expected = model(torch.from_numpy(around))[..., 1:-1].numpy()
    output = open_volume(str(tmp_path / "out.zarr" / "output"))
    assert expected.std() > 0
    assert np.abs(whole(output) - expected).max() <= 1e-6 * expected.std() * 250
    assert source.n_decoded == 2  # by the plan, all blocks and the certificate together
    with xr.open_zarr(tmp_path / "out.zarr" / "output", consolidated=False) as found:
        assert found["output"].dims == ("time", "channel", "lat", "lon")
        assert np.array_equal(found["lat"].values, dataset["lat"].values)
        assert found["time"].dt.year.values.tolist() == [2001, 2001]
        assert "channel_name" not in found.variables  # three of its own, whatever they are
    assert output.edges["lon"].kind is EdgeKind.WRAP
    assert output.attributes["pole"]["ends_at_pole"] == [True, True]


def test_a_store_is_ingested_and_the_engines_own_opens_as_before(tmp_path):
    dataset = globe()
    path = to_zarr(dataset, tmp_path / "a.zarr", zarr_format=2)
    volume = ingest(f"{path}#variables=t", str(tmp_path / "out.zarr"))
    assert np.array_equal(whole(volume), dataset["t"].values)
    again = open_volume(str(tmp_path / "out.zarr"))
    assert again.attributes["channels"][0]["level"]["value"] == LEVELS[0]
    with pytest.raises(EngineError, match=r"'variables=t' is of climate grids"):
        open_volume(f"{tmp_path}/out.zarr#variables=t")
    with pytest.raises(EngineError, match="made from another source or with other options"):
        ingest(f"{path}#variables=u", str(tmp_path / "out.zarr"))


def test_hybrid_levels_keep_their_coefficients_and_height_and_depth_their_direction(tmp_path):
    dataset = globe(variables=("t",))
    about = {
        "standard_name": "atmosphere_hybrid_sigma_pressure_coordinate",
        "formula_terms": "ap: ap b: b ps: sp",
        "units": "1",
    }
    dataset = dataset.assign_coords(level=("level", [0.1, 0.5, 1.0], about))
    dataset["ap"], dataset["b"] = ("level", [100.0, 50.0, 0.0], {"units": "Pa"}), ("level", [0.0, 0.5, 1.0])
    dataset["level"].attrs["bounds"] = "level_bnds"
    dataset["level_bnds"] = (
        ("level", "two"),
        [[0, 0.3], [0.3, 0.75], [0.75, 1.0]],
        {"formula_terms": "ap: ap_bnds b: b_bnds ps: sp"},
    )
    dataset["ap_bnds"] = (("level", "two"), [[100.0, 75.0], [75.0, 25.0], [25.0, 0.0]])
    dataset["b_bnds"] = (("level", "two"), [[0, 0.25], [0.25, 0.75], [0.75, 1.0]])
    volume = open_volume(str(to_netcdf(dataset, tmp_path / "a.nc")))
    level = volume.attributes["channels"][1]["level"]
    assert level == {"kind": "hybrid", "value": 0.5, "units": "1", "positive": "down", "a": 50.0, "b": 0.5, "a_bounds": [75.0, 25.0], "b_bounds": [0.25, 0.75], "a_units": "Pa", "surface_pressure": "sp"}  # fmt: skip
    for name, about, kind, positive in (
        ("h", {"units": "m", "standard_name": "height"}, "height", "up"),
        ("deptht", {"units": "m", "positive": "down"}, "depth", "down"),
        ("st_ocean", {"units": "m", "axis": "Z", "positive": "up"}, "height", "up"),
        ("level", {}, "level", None),
    ):
        other = globe(variables=("t",)).rename(level=name)
        other[name].attrs = about
        other.to_netcdf(tmp_path / f"{name}.nc")
        level = open_volume(str(tmp_path / f"{name}.nc")).attributes["channels"][0]["level"]
        assert (level["kind"], level.get("positive")) == (kind, positive)


def test_levels_of_cesm_take_their_interfaces_from_the_longer_axis(tmp_path):
    name = "atmosphere_hybrid_sigma_pressure_coordinate"
    dataset = globe(variables=("t",)).rename(level="lev", sp="PS")
    dataset["lev"].attrs = {"standard_name": name, "formula_terms": "a: hyam b: hybm p0: P0 ps: PS", "units": "hPa"}
    dataset["hyam"], dataset["hybm"] = ("lev", [0.1, 0.05, 0.0]), ("lev", [0.0, 0.5, 1.0])
    about = {"standard_name": name, "formula_terms": "a: hyai b: hybi p0: P0 ps: PS"}
    dataset = dataset.assign_coords(ilev=("ilev", np.arange(4.0), about))
    dataset["hyai"], dataset["hybi"] = ("ilev", [0.2, 0.1, 0.01, 0.0]), ("ilev", [0.0, 0.25, 0.75, 1.0])
    dataset["P0"] = ((), 1e5, {"units": "Pa"})
    channels = open_volume(str(to_netcdf(dataset, tmp_path / "a.nc"))).attributes["channels"]
    level = next(c for c in channels if c["index"] == 1)["level"]
    assert (level["a"], level["a_bounds"], level["b_bounds"]) == (5000.0, [10000.0, 1000.0], [0.25, 0.75])
    assert (level["a_units"], level["surface_pressure"]) == ("Pa", "PS")


def test_a_grib_file_with_several_kinds_of_levels_is_one_volume(tmp_path):
    dataset = globe()
    dataset["u"] = dataset["u"].isel(level=slice(2)).rename(level="level2")
    dataset = dataset.rename(sp="ts").assign(sp=dataset["sp"])
    parts = [dataset[["t", "sp"]], dataset[["u"]].rename(level2="level"), dataset[["ts"]].rename(ts="t")]
    files = [to_grib(part, tmp_path / f"{i}.grib").read_bytes() for i, part in enumerate(parts)]
    (tmp_path / "all.grib").write_bytes(b"".join(files))
    volume = open_volume(str(tmp_path / "all.grib"))
    channels = volume.attributes["channels"]
    names = ["sp", "t_250", "t_500", "t_850", "t_surface", "u_500", "u_850"]
    assert sorted(c["name"] for c in channels) == names
    for i, channel in enumerate(channels):
        one = {"t_surface": "ts"}.get(channel["variable"], channel["variable"])
        expected = dataset[one].values
        if "level" in channel:
            expected = expected[:, LEVELS.index(channel["level"]["value"])]
        assert np.array_equal(whole(volume)[:, i], expected)


@pytest.mark.parametrize("is_split", [False, True])
def test_the_steps_of_a_grib_forecast_are_the_times_that_its_fields_are_of(tmp_path, is_split):
    dataset, hours = globe(n_times=3, variables=("t",)), {0: 0, 1: 6, 2: 18}
    parts = [dataset.isel(time=[i]) for i in range(3)] if is_split else [dataset]
    for i, part in enumerate(parts):
        to_grib(part, tmp_path / f"a{i}.grib", hours=hours)
    volume = open_volume(str(tmp_path / ("a*.grib" if is_split else "a0.grib")))
    channels = [channel["variable"] for channel in volume.attributes["channels"]]
    time = read_coordinates(volume)["time"]
    moments = xr.coding.times.decode_cf_datetime(time.values, time.attributes["units"])
    assert ((moments - np.datetime64("2001-01-01")) / np.timedelta64(1, "h")).tolist() == [0, 6, 18]
    for index, level in enumerate(LEVELS):
        channel = next(i for i, c in enumerate(volume.attributes["channels"]) if c.get("level", {}).get("value") == level)
        assert np.array_equal(whole(volume)[:, channel], dataset["t"].values[:, index])
    assert "sp" in channels
    began = read_coordinates(volume).get("forecast_reference_time")
    assert is_split or began.values == time.values[0]
    assert not is_split or began is None


def test_hybrid_levels_of_a_grib_file_have_the_coefficients_of_its_messages(tmp_path):
    a, b = np.array([0.0, 2000.0, 8000.0, 3000.0, 0.0]), np.array([0.0, 0.0, 0.25, 0.75, 1.0])
    numbers = {"t": (2, 3, 4), "u": (1, 2, 4)}
    parts = {
        name: globe(n_times=1, variables=(name,)).assign_coords(level=("level", np.array(which, float)))
        for name, which in numbers.items()
    }
    parts["u"] = parts["u"].drop_vars("sp")
    with (tmp_path / "a.grib").open("wb") as file:
        for part in parts.values():
            file.write(to_grib(part, tmp_path / "one.grib", pv=np.concatenate([a, b])).read_bytes())
    volume = open_volume(str(tmp_path / "a.grib"))
    channels = {c["name"]: c for c in volume.attributes["channels"]}
    assert set(channels) == {"sp", "t_2", "t_3", "t_4", "u_1", "u_2", "u_4"}
    about = {"kind": "hybrid", "units": "1", "positive": "down", "a_units": "Pa", "surface_pressure": "sp"}
    for name, which in numbers.items():
        for i, k in enumerate(which):
            bounds = {"a_bounds": [a[k - 1], a[k]], "b_bounds": [b[k - 1], b[k]]}
            means = {"a": (a[k - 1] + a[k]) / 2, "b": (b[k - 1] + b[k]) / 2}
            assert channels[f"{name}_{k}"]["level"] == {**about, **bounds, **means, "value": float(k)}
            found = whole(volume)[list(channels).index(f"{name}_{k}")]
            assert np.array_equal(found, parts[name][name].values[0, i])


@pytest.mark.parametrize(
    ("axis", "parts"),
    [("step", [(0, {}), (0, {"hours": {0: 24}}), (1, {})]), ("number", [(0, {"member": 1}), (0, {"member": 2})])],
)
def test_a_grib_file_of_several_forecasts_or_members_is_refused_by_its_axis(tmp_path, axis, parts):
    with (tmp_path / "all.grib").open("wb") as file:
        for day, more in parts:
            one = globe(n_times=1, first_time=day, variables=("t",))
            file.write(to_grib(one, tmp_path / "one.grib", **more).read_bytes())
    with pytest.raises(IngestError, match=f"'{axis}' of variable '.*' of .* \\(2 long\\) is none of them"):
        open_volume(str(tmp_path / "all.grib"))


def changed(dataset: xr.Dataset, **attributes) -> xr.Dataset:
    for name, values in attributes.items():
        dataset[name].attrs = values
    return dataset


def curvilinear():
    dataset = globe(variables=("t",)).rename(lat="y", lon="x")
    lat, lon = np.meshgrid(dataset["y"], dataset["x"], indexing="ij")
    dataset = dataset.drop_vars(["y", "x"])
    return dataset.assign_coords(lat=(("y", "x"), lat), lon=(("y", "x"), lon))


def staggered():
    dataset = globe(variables=("t",))
    other = globe(variables=("u",), lon=np.arange(15, 375, 30.0)).rename(lon="slon")
    return dataset.assign(u=other["u"])


REFUSED = {
    "two longitudes": (staggered, "", r"one longitude axis is wanted.*'lon', 'slon'.*#variables="),
    "a curvilinear grid": (curvilinear, "", r"latitude axis of one dimension.*curvilinear"),
    "an axis that nobody knows": (lambda: globe().rename(level="spam").drop_vars("spam"), "", r"axes must be time, levels.*'spam' of variable 't'.*3 long"),
    "two vertical axes": (lambda: globe().expand_dims(height=2), "", r"one level axis.*\['height', 'level'\]"),
    "a calendar of no planet of ours": (lambda: changed(globe(), time={"units": "days since 2001-01-01", "calendar": "martian"}), "", r"calendar and units that xarray decodes, not 'days since 2001-01-01' \(martian\).*'time'"),
    "months since a date": (lambda: changed(globe(), time={"units": "fortnights since 2001-01-01"}), "", "calendar and units that xarray decodes"),
    "a level that is not there": (globe, "#level=700", r"level 700 is wanted, and variable 't'.*850.*hPa"),
    "a variable that is not there": (globe, "#variables=tt", r"'tt' must be numbers on the grid.*Did you mean 't'"),
    "a time that is not there": (globe, "#time=2020-01-01:", r"time '2020-01-01:' must hold at least one step"),
    "steps beyond the last": (globe, "#time=0:9", r"inside those of.*has 2"),
    "a date in a calendar that lacks it": (lambda: changed(globe(), time={"units": "days since 2001-01-01", "calendar": "noleap"}), "#time=2004-02-29:", r"2004-02-29 is a date"),
    "a box beside a regional grid": (lambda: globe(lon=np.arange(0, 90, 10.0)), "#box=-45,45,-20,-10", r"box must lie inside the grid, and lon -20 to -10"),
    "a box over the gap of one": (lambda: globe(lon=np.arange(-100, 100, 10.0)), "#box=-45,45,80,-80", r"no unbroken run"),
    "a box upside down": (globe, "#box=45,-45,0,10", r"'box' must be south, north, west and east"),
    "a cyclic column that is none": (lambda: globe(lon=np.arange(0, 361, 30.0)), "", r"last column must repeat the first, and that of 't' does not"),
    "levels as what they are not": (globe, "#levels=rows", r"'levels' must be channels or batch"),
    "a time that is no time": (globe, "#time=noon", r"'time' must be dates or steps"),
    "a level that is no number": (globe, "#level=low", r"'level' must be numbers"),
    "the resolution of a slide": (globe, "#mpp=0.5", r"'mpp', 'spacing' and 'series' are of slides and scans"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, case):
    build, choice, words = REFUSED[case]
    build().to_netcdf(tmp_path / "a.nc")
    with pytest.raises(EngineError, match=words) as caught:
        open_volume(f"{tmp_path}/a.nc{choice}")
    assert "\n" not in str(caught.value)
    assert "a.nc" in str(caught.value)


def test_variables_on_one_of_two_grids_may_be_chosen(tmp_path):
    dataset = staggered()
    dataset.to_netcdf(tmp_path / "a.nc")
    volume = open_volume(f"{tmp_path}/a.nc#variables=u")
    assert np.array_equal(whole(volume), dataset["u"].values)
    assert read_coordinates(volume)["lon"].values[0] == 15


DAMAGED = {
    "text named as GRIB": ("a.grib2", b"hello", "a GRIB file is wanted"),
    "an empty GRIB": ("a.grb", b"", "0 bytes"),
    "text named as NetCDF": ("a.nc", b"hello", "does not open"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, case):
    name, data, words = DAMAGED[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(EngineError, match=words) as caught:
        open_volume(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_damaged_chunk_is_refused_by_variable_and_file(tmp_path):
    path = to_zarr(globe(), tmp_path / "a.zarr", zarr_format=2)
    (path / "t" / "1.0.0.0").write_bytes(b"hello")
    volume = open_volume(str(path))
    assert volume.read(Region((0, 0, 0, 0), (1, 7, 7, 12))).std() > 0
    with pytest.raises(EngineError, match=r"variable 't' of '.*a.zarr' cannot be read") as caught:
        volume.read(Region((1, 0, 0, 0), (2, 7, 7, 12)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("latitudes", "rows", "ends"),
    [
        (np.linspace(90, -90, 721), [True, True], [True, True]),  # ERA5: rows on both poles
        (np.linspace(-89.5, 89.5, 180), [False, False], [True, True]),  # between them
        (np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0])), [False, False], [True, True]),  # Gaussian
        (np.linspace(90, 0, 91), [True, False], [True, False]),  # one half
        (np.linspace(89, -89, 179), [False, False], [False, False]),  # the rows on the poles were cut off
    ],
)
def test_pole_facts_tell_pole_rows_from_rows_that_end_before_it(latitudes, rows, ends):
    found = pole_facts(latitudes, [("northward_wind", "x"), (None, "v10"), (None, "vo3"), ("wind_speed", "v")])
    assert (found["has_pole_rows"], found["ends_at_pole"], found["odd_channels"]) == (rows, ends, [0, 1])
