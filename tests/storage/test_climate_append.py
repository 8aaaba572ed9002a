"""Steps appended to a climate volume: all of them or none, the old bits untouched, and only what fits behind it."""

import numpy as np
import pytest
import xarray as xr
import zarr

from engine.errors import EngineError
from engine.geometry.region import Region
from engine.storage.append import append
from engine.storage.ingest import ingest
from engine.storage.volume import open_volume
from tests.storage.climate_files import globe, to_netcdf, to_zarr

SHARDS = {"chunk_shape": (1, 7, 7, 12), "shard_shape": (2, 7, 7, 12)}


def whole(volume):
    return volume.read(Region.whole(volume.shape))


def begun(tmp_path, *, n_times=3):
    """A volume of three steps in shards of two: the last one is half full."""
    to_netcdf(globe(n_times=n_times), tmp_path / "first.nc")
    return ingest(tmp_path / "first.nc", str(tmp_path / "out.zarr"), **SHARDS)


def test_appended_steps_equal_one_ingest_of_all(tmp_path):
    begun(tmp_path)
    later = globe(first_time=3, n_times=4)
    later["time"] = (
        "time",
        24.0 * later["time"].values,
        {"units": "hours since 2001-01-01"},
    )  # and its variables in another order
    to_zarr(later, tmp_path / "later.zarr", zarr_format=2)
    told = []
    volume = append(
        str(tmp_path / "later.zarr"), str(tmp_path / "out.zarr"), progress=lambda *now: told.append(now[:2])
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    both = ingest(
        [tmp_path / "first.nc", to_netcdf(globe(first_time=3, n_times=4), tmp_path / "b.nc")],
        str(tmp_path / "all.zarr"),
        **SHARDS,
    )
    assert np.diff(whole(both), axis=0).std() > 0
    assert np.array_equal(whole(volume), whole(both))
    with (
        xr.open_zarr(volume.url, consolidated=False, decode_times=False) as found,
        xr.open_zarr(both.url, consolidated=False, decode_times=False) as wanted,
    ):
        xr.testing.assert_equal(found, wanted)
    assert volume.attributes["haloengine"]["appended"][0]["files"] == ["later.zarr"]
    again = append(to_netcdf(globe(first_time=7, n_times=1), tmp_path / "c.nc"), str(tmp_path / "out.zarr"))
    assert again.shape[0] == 8
    assert np.array_equal(whole(again)[:7], whole(both))


@pytest.mark.parametrize("n_calls", [0, 1, 2, 3, 4])
def test_a_reader_sees_all_new_steps_or_none_wherever_an_append_is_killed(tmp_path, monkeypatch, n_calls):
    before = whole(begun(tmp_path))
    source, url = to_netcdf(globe(first_time=3, n_times=3), tmp_path / "b.nc"), str(tmp_path / "out.zarr")
    left = [n_calls]

    def killed(method):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return method(*arguments, **options)

        return call

    with monkeypatch.context() as patch:  # two writes of voxels, one of times, two of shapes
        patch.setattr(zarr.Array, "__setitem__", killed(zarr.Array.__setitem__))
        patch.setattr(zarr.Array, "resize", killed(zarr.Array.resize))
        with pytest.raises(KeyboardInterrupt):
            append(source, url)
    assert np.array_equal(whole(open_volume(url)), before)
    volume = append(source, url)
    assert volume.shape[0] == 6
    assert np.array_equal(whole(volume)[:3], before)
    assert np.array_equal(whole(volume)[3:, :3], globe(first_time=3, n_times=3)["t"].values)
    assert zarr.open_array(f"{url}/time", mode="r")[...].tolist() == [0, 1, 2, 3, 4, 5]


def relabelled():
    dataset = globe(first_time=3)
    dataset["time"].attrs = {"units": "days since 2001-01-01", "calendar": "noleap"}
    return dataset


MISFITS = {
    "an earlier time": (lambda: globe(first_time=2), r"appended behind the last, 2 days since 2001-01-01 of .*starts at 2"),
    "another grid": (lambda: globe(first_time=3, lat=np.linspace(80, -80, 7)), r"axis 'lat' of .* has 7 \(80.0 to -80.0\), that of .* 7 \(90.0 to -90.0\)"),
    "other channels": (lambda: globe(first_time=3, variables=("t",)), r"'u' must be numbers on the grid"),
    "other levels": (lambda: globe(first_time=3).isel(level=[0, 1]), r"axis 'channel' of .* has 5 \(t_850 to sp\), that of .* 7 \(t_850 to sp\)"),
    "another dtype": (lambda: globe(first_time=3).astype("float64"), r"must be float32.*holds float64"),
    "no time": (lambda: globe(first_time=3).isel(time=0), r"the same axes, and '.*b.nc' has \['channel', 'lat', 'lon'\]"),
    "a time of another calendar": (relabelled, r"units that fit those of"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_behind_a_volume_is_refused_and_changes_nothing(tmp_path, case):
    build, words = MISFITS[case]
    before = whole(begun(tmp_path))
    source = to_netcdf(build(), tmp_path / "b.nc")
    with pytest.raises(EngineError, match=words) as caught:
        append(source, str(tmp_path / "out.zarr"))
    assert "\n" not in str(caught.value)
    assert np.array_equal(whole(open_volume(str(tmp_path / "out.zarr"))), before)
