"""Models that depend on position: tiles equal the whole pass over the whole place."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import engine
from engine.errors import ModelError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.models.place import Derived, cos_solar_zenith
from engine.storage.create import Coordinate, create_volume
from tests.stored import smooth

N_TIMES, N_LAT, N_LON = 3, 24, 32
LAT, LON = np.linspace(-86.25, 86.25, N_LAT), np.arange(N_LON) * 11.25
HOURS = np.array([0.0, 3.0, 30.0])
DERIVED = ("cos_solar_zenith", "sin_latitude", "cos_day")


def network(n_channels: int) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(n_channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)).eval()


def globe(path, voxels: np.ndarray, *, units: str = "hours since 2001-06-20 18:00", lat=None, lon=None) -> str:
    """Write (time, channel, lat, lon) with its coordinates; return the URL."""
    lat, lon, hours = LAT if lat is None else lat, LON if lon is None else lon, HOURS[: len(voxels)]
    names = ("time", "channel", "lat", "lon")
    roles = (Role.BATCH, Role.CHANNEL, Role.SPACE, Role.SPACE)
    named = {
        "lat": Coordinate(("lat",), lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": Coordinate(("lon",), lon, {"standard_name": "longitude", "units": "degrees_east"}),
        "time": Coordinate(("time",), hours, {"standard_name": "time", "units": units}),
    }
    volume = create_volume(
        str(path), axes=[Axis(*pair) for pair in zip(names, roles, strict=True)], dtype=voxels.dtype,
        shape=voxels.shape, chunk_shape=voxels.shape, flavour="cf", coordinates=named,
        edges={"lon": Edge(EdgeKind.WRAP)},
    )  # fmt: skip
    volume.write(Region.whole(voxels.shape), voxels)
    return str(path)


def ran(source: str, module: nn.Module, folder) -> np.ndarray:
    """Run in small tiles, and return what is stored."""
    options = engine.Options(tile=(16, 16), block=(8, 16), threads=2)
    report = engine.run(source, module, str(folder / "out.zarr"), options=options)
    assert report.is_complete
    assert report.plan.n_tiles > N_TIMES * 4
    return xr.open_zarr(folder / "out.zarr/output", consolidated=False)["output"].to_numpy()


def whole(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return one pass over (time, channel, lat, lon), wrapped in longitude by a halo of 2."""
    wide = np.concatenate([x[..., -2:], x, x[..., :2]], -1)
    with torch.inference_mode():
        return module(torch.from_numpy(wide)).numpy()[..., 2:-2]


def sun(moment: np.datetime64) -> np.ndarray:
    """Return the cosine of the zenith angle from the sun's ecliptic longitude (Astronomical Almanac, low precision)."""
    days = (moment - np.datetime64("2000-01-01T12:00")) / np.timedelta64(1, "D")
    mean, anomaly = np.deg2rad(280.460 + 0.9856474 * days), np.deg2rad(357.528 + 0.9856003 * days)
    ecliptic = mean + np.deg2rad(1.915) * np.sin(anomaly) + np.deg2rad(0.020) * np.sin(2 * anomaly)
    tilt = np.deg2rad(23.439 - 4e-7 * days)
    declination = np.arcsin(np.sin(tilt) * np.sin(ecliptic))
    ascension = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    sidereal = np.deg2rad((280.46062 + 360.985647 * days) % 360)
    angle = sidereal + np.deg2rad(LON)[None] - ascension
    lat = np.deg2rad(LAT)[:, None]
    return np.clip(np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(angle), 0, None)


def test_inputs_that_are_derived_from_place_make_tiles_that_equal_the_whole_pass(tmp_path):
    voxels = smooth((N_TIMES, 2, N_LAT, N_LON))
    found = ran(globe(tmp_path / "in.zarr", voxels), Derived(network(5), derived=DERIVED).eval(), tmp_path)
    moments = np.datetime64("2001-06-20T18:00") + (HOURS * 60).astype("timedelta64[m]")
    day = np.array([170.75, 170.875, 172.0])
    derived = np.stack(
        [
            np.stack([sun(moment) for moment in moments]),
            np.broadcast_to(np.sin(np.deg2rad(LAT))[None, :, None], (N_TIMES, N_LAT, N_LON)),
            np.broadcast_to(np.cos(2 * np.pi * day / 365.25)[:, None, None], (N_TIMES, N_LAT, N_LON)),
        ],
        axis=1,
    )
    wanted = whole(network(5), np.concatenate([voxels, derived], 1).astype(np.float32))
    without = whole(network(5), np.concatenate([voxels, 0 * derived], 1).astype(np.float32))
    assert np.abs(wanted - without).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=0.01)


def test_the_sun_stands_where_the_almanac_has_it():
    year = np.arange("2003-01-01T00:00", "2004-01-01T00:00", np.timedelta64(509, "m"), "datetime64[m]")
    worst = 0.0
    for moment in year[::7]:
        since = (moment - np.datetime64("2003-01-01")) / np.timedelta64(1, "D")
        place = {
            "latitude": torch.from_numpy(LAT)[:, None].expand(N_LAT, N_LON),
            "longitude": torch.from_numpy(LON)[None].expand(N_LAT, N_LON),
            "day_of_year": torch.full((N_LAT, N_LON), since, dtype=torch.float64),
            "hour": torch.full((N_LAT, N_LON), since % 1 * 24, dtype=torch.float64),
        }
        worst = max(worst, float(np.abs(cos_solar_zenith(place).numpy() - sun(moment)).max()))
    assert 0 < worst < 0.01


class Asks(nn.Module):
    """An identity that asks for places."""

    def __init__(self, *place: str) -> None:
        super().__init__()
        self.wants_place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1]


@pytest.mark.parametrize(
    ("module", "units", "error", "text"),
    [
        (Asks("altitude"), "hours since 2001-01-01", VolumeError, "a place is one of latitude"),
        (Asks("index:x"), "hours since 2001-01-01", VolumeError, "asks for index:x, and the axes"),
        (Asks("hour"), "hours", VolumeError, "a time that says its units"),
        (nn.Sequential(Asks("hour"), Asks("latitude")), "hours since 2001-01-01", ModelError, "takes its place once"),
    ],
)
def test_a_place_that_cannot_be_told_is_refused(tmp_path, module, units, error, text):
    source = globe(tmp_path / "in.zarr", smooth((N_TIMES, 1, N_LAT, N_LON)), units=units)
    with pytest.raises(error, match=text):
        engine.run(source, module.eval(), str(tmp_path / "out.zarr"))


def test_a_place_that_a_volume_has_no_coordinate_for_is_refused(tmp_path):
    volume = create_volume(
        str(tmp_path / "in.zarr"), axes=[Axis("y", Role.SPACE), Axis("x", Role.SPACE)], dtype="float32",
        shape=(8, 8), chunk_shape=(8, 8),
    )  # fmt: skip
    with pytest.raises(VolumeError, match="no coordinate whose standard_name is latitude"):
        engine.open_volume(f"{volume.url}#place=latitude")
    placed = engine.open_volume(f"{volume.url}#place=index:x,index:y")
    found = placed.read(Region((0, 2, 1), (3, 4, 3)))
    np.testing.assert_array_equal(found[1:], [[[1, 2], [1, 2]], [[2, 2], [3, 3]]])
