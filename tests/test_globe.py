"""Networks on a globe: over its poles in every layer, or by an edge; in bands and tiles that equal the whole."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import engine
from engine.errors import EdgeError, EngineError, ModelError, PlanError
from engine.geometry.edges import Edge, EdgeKind
from engine.models.globe import PadGlobe
from engine.models.trace import trace
from tests.oracle import Named
from tests.stored import smooth
from tests.test_place import globe

N_LAT, N_LON = 24, 32


def network(*, has_pole_rows: bool = False) -> nn.Module:
    """Return three layers that each pad the globe; channel 1 of the input is a component of a vector."""
    torch.manual_seed(4)
    layers = [
        PadGlobe(2, has_pole_rows=has_pole_rows, odd=(1,)), nn.Conv2d(2, 4, 5), nn.ReLU(),
        PadGlobe(1, has_pole_rows=has_pole_rows), nn.Conv2d(4, 4, 3), nn.ReLU(),
        PadGlobe(1, has_pole_rows=has_pole_rows), nn.Conv2d(4, 1, 3),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def unpadded() -> nn.Module:
    """Return three layers without padding: their halo is 4."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(2, 4, 5), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3)).eval()


def by_angle(x: np.ndarray, amount: int, *, has_pole_rows: bool) -> np.ndarray:
    """Pad (time, channel, lat, lon) by looking up each voxel by the angles of where it lies; channel 1 is odd."""
    *_, n_lat, n_lon = x.shape
    step = 180 / (n_lat - 1 if has_pole_rows else n_lat)
    first = -90 if has_pole_rows else -90 + step / 2
    rows, columns = np.mgrid[-amount : n_lat + amount, -amount : n_lon + amount]
    lat, lon = first + rows * step, columns * 360 / n_lon
    is_beyond = np.abs(lat) > 90
    lat = np.where(is_beyond, np.sign(lat) * 180 - lat, lat)
    lon = (lon + 180 * is_beyond) % 360
    found = x[:, :, np.rint((lat - first) / step).astype(int), np.rint(lon / (360 / n_lon)).astype(int) % n_lon]
    found[:, 1] *= np.where(is_beyond, -1, 1)
    return found


def layer_by_layer(x: np.ndarray, *, has_pole_rows: bool) -> np.ndarray:
    with torch.inference_mode():
        return network(has_pole_rows=has_pole_rows)(torch.from_numpy(x)).numpy()


def stored(path) -> np.ndarray:
    return xr.open_zarr(path / "output", consolidated=False)["output"].to_numpy()


@pytest.mark.parametrize("has_pole_rows", [False, True])
@pytest.mark.parametrize("amount", [1, 3])
def test_padding_takes_each_voxel_from_where_it_lies_on_the_sphere(has_pole_rows, amount):
    x = smooth((2, 3, 8 + has_pole_rows, 12))
    found = PadGlobe(amount, has_pole_rows=has_pole_rows, odd=(1,))(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, by_angle(x, amount, has_pole_rows=has_pole_rows))


@pytest.mark.parametrize("has_pole_rows", [False, True])
def test_bands_of_a_network_that_crosses_the_poles_in_its_layers_equal_the_whole_pass(tmp_path, has_pole_rows):
    x = smooth((3, 2, N_LAT, N_LON))
    options = engine.Options(tile=(14, N_LON), block=(8, N_LON), threads=2)
    model = network(has_pole_rows=has_pole_rows)
    report = engine.run(globe(tmp_path / "in.zarr", x), model, str(tmp_path / "out.zarr"), options=options)
    wanted = layer_by_layer(x, has_pole_rows=has_pole_rows)
    assert report.plan.n_tiles >= 9
    assert report.plan.tile_shape == (14, N_LON)
    assert any("cross the poles" in note or "crosses the poles" in note for note in report.plan.notes)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(stored(tmp_path / "out.zarr"), wanted, atol=1e-5)


def test_a_band_that_does_not_go_all_round_is_refused(tmp_path):
    source = globe(tmp_path / "in.zarr", smooth((1, 2, N_LAT, N_LON)))
    for options in (
        engine.Options(tile=(14, 16), threads=2),
        engine.Options(edges={"lon": Edge(EdgeKind.WRAP)}, threads=2),
    ):
        with pytest.raises(PlanError, match="lon"):
            engine.run(source, network(), str(tmp_path / "out.zarr"), options=options)


@pytest.mark.parametrize("has_pole_rows", [False, True])
def test_tiles_over_a_pole_edge_equal_the_pass_over_the_globe_padded_once(tmp_path, has_pole_rows):
    x = smooth((3, 2, N_LAT + has_pole_rows, N_LON))
    source = globe(tmp_path / "in.zarr", x, lat=np.linspace(-90, 90, N_LAT + 1) if has_pole_rows else None)
    pole = Edge(EdgeKind.POLE, around="lon", has_pole_rows=(has_pole_rows,) * 2, odd_channels=(1,))
    options = engine.Options(tile=(14, 14), block=(6, 6), edges={"lat": pole}, threads=2)
    report = engine.run(source, unpadded(), str(tmp_path / "out.zarr"), options=options)
    with torch.inference_mode():
        wanted = unpadded()(torch.from_numpy(by_angle(x, 4, has_pole_rows=has_pole_rows))).numpy()
    assert report.plan.n_tiles > 3 * 20
    assert wanted.std() > 0.01
    np.testing.assert_allclose(stored(tmp_path / "out.zarr"), wanted, atol=1e-5)


def test_a_climate_file_tells_a_pole_which_rows_lie_on_it_and_which_channels_are_odd(tmp_path):
    x = smooth((3, 2, N_LAT + 1, N_LON))
    dims, kinds = ("time", "lat", "lon"), ("air_temperature", "northward_wind")
    fields = {"tv"[i]: (dims, x[:, i], {"standard_name": kind}) for i, kind in enumerate(kinds)}
    axes = {"lat": np.linspace(90, -90, N_LAT + 1), "lon": np.arange(N_LON) * 360 / N_LON, "time": np.arange(3)}
    xr.Dataset(fields, axes).to_netcdf(tmp_path / "in.nc")
    pole = {"lat": Edge(EdgeKind.POLE, around="lon")}
    report = engine.run(
        str(tmp_path / "in.nc"), unpadded(), str(tmp_path / "out.zarr"), options=engine.Options(edges=pole, threads=2)
    )
    with torch.inference_mode():
        wanted = unpadded()(torch.from_numpy(by_angle(x, 4, has_pole_rows=True))).numpy()
    assert report.plan.tilings[0].edge == Edge(EdgeKind.POLE, 0.0, "lon", (True, True), (1,))
    np.testing.assert_allclose(stored(tmp_path / "out.zarr"), wanted, atol=1e-5)
    with pytest.raises(EdgeError, match="must go from pole to pole, and the last row"):
        engine.run(
            f"{tmp_path / 'in.nc'}#box=-45,90,0,350", unpadded(), str(tmp_path / "box.zarr"),
            options=engine.Options(edges=pole, threads=2),
        )  # fmt: skip


def test_an_odd_number_of_columns_at_a_pole_is_refused(tmp_path):
    source = globe(tmp_path / "in.zarr", smooth((1, 2, N_LAT, 31)), lon=np.arange(31) * 360 / 31)
    pole = engine.Options(edges={"lat": Edge(EdgeKind.POLE, around="lon")}, threads=2)
    with pytest.raises(EdgeError, match="even number of columns to cross a pole on 'lat', not 31"):
        engine.run(source, unpadded(), str(tmp_path / "out.zarr"), options=pole)
    with pytest.raises(EngineError, match="even number of columns"):
        engine.run(source, network(), str(tmp_path / "out.zarr"), options=engine.Options(threads=2))


def test_the_geometry_is_proved_and_layers_that_pad_nothing_are_refused():
    geometry = trace(Named(network()), n_channels=2, n_space=2, dtype=torch.float32)
    assert geometry.evidence == "proved"
    assert [program.is_around for program in geometry.programs] == [False, True]
    with pytest.raises(ModelError, match="1 row or more"):
        PadGlobe(0)
