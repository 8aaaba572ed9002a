"""Outputs as their field's own tools read them: OME-Zarr 0.5 by its reference models, CF by xarray, both by plain Zarr."""

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from ome_zarr_models.v05.image import Image
from torch import nn
from torch.nn import functional as F

import engine
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage.create import Coordinate, Flavour, create_volume
from tests.pipelines import seeded
from tests.stored import smooth, stored


class Scales(nn.Module):
    """A dense map, labels, a map at a quarter of the resolution, and one at twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.quarter = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 1, 4, stride=4)

    def forward(self, x):
        y = self.conv(x)
        return {
            "map": y,
            "label": (y[:, 0] > y[:, 1]).to(torch.uint8),
            "quarter": self.quarter(y),
            "twice": F.interpolate(y, scale_factor=2.0),
        }


def _slide(folder, shape=(3, 1300, 1100), origin=(0.0, 100.0, 40.0)) -> str:
    axes = (Axis("c", Role.CHANNEL), Axis("y", Role.SPACE, 0.5, "micrometer"), Axis("x", Role.SPACE, 0.5, "micrometer"))
    url = str(folder / "slide.zarr")
    volume = create_volume(url, axes=axes, dtype="float32", shape=shape, chunk_shape=(3, 128, 128), origin=origin)
    volume.write(Region.whole(shape), smooth(shape))
    return url


@pytest.fixture(scope="module")
def slide_output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ngff")
    options = engine.Options(tile=(264, 264), block=(256, 256), threads=2, batch=1)
    report = engine.run(_slide(folder), seeded(Scales()), str(folder / "out.zarr"), options=options)
    assert report.is_complete
    return report


SCALES = {"map": 0.5, "labels/label": 0.5, "quarter": 2.0, "twice": 0.25}


@pytest.mark.parametrize("name", SCALES)
def test_an_output_is_a_valid_image_of_ome_zarr(slide_output, name):
    group = zarr.open_group(f"{slide_output.url}/{name}", mode="r")
    image = Image.from_zarr(group)
    (multiscale,) = image.ome_attributes.multiscales
    assert [(axis.name, axis.type) for axis in multiscale.axes] == ([] if name == "labels/label" else [("c", "channel")]) + [
        ("y", "space"),
        ("x", "space"),
    ]
    assert all(axis.unit == "micrometer" for axis in multiscale.axes if axis.type == "space")
    assert len(multiscale.datasets) == slide_output.plan.graph.n_levels > 1


@pytest.mark.parametrize(("name", "spacing"), SCALES.items())
def test_every_level_says_where_its_first_voxel_lies(slide_output, name, spacing):
    attributes = zarr.open_group(f"{slide_output.url}/{name}", mode="r").attrs["ome"]["multiscales"][0]
    edge = np.array([100.0, 40.0]) - 0.25  # of the source's first voxel: the same for every output and level
    for level, dataset in enumerate(attributes["datasets"]):
        scale, translation = (np.array(one[one["type"]][-2:]) for one in dataset["coordinateTransformations"])
        np.testing.assert_allclose(scale, spacing * 2**level)
        np.testing.assert_allclose(translation - scale / 2, edge)


def test_levels_open_in_plain_zarr_and_each_is_the_mean_or_mode_of_the_finer(slide_output):
    url = slide_output.url
    for name in ("map", "labels/label"):
        fine, coarse = stored(url, name), stored(url, name, level=1)
        assert fine.std() > 0
        assert coarse.shape[-2:] == tuple(-(-n // 2) for n in fine.shape[-2:])
        lead = fine.shape[:-2]
        cells = fine[..., : fine.shape[-2] // 2 * 2, : fine.shape[-1] // 2 * 2].reshape(
            *lead, fine.shape[-2] // 2, 2, fine.shape[-1] // 2, 2
        )
        inner = coarse[..., : fine.shape[-2] // 2, : fine.shape[-1] // 2]
        if name == "map":
            np.testing.assert_allclose(inner, cells.mean((-3, -1)), rtol=0, atol=1e-5)
        else:
            count = cells.sum((-3, -1))
            assert (inner[count != 2] == (count > 2)[count != 2]).all()
    array = zarr.open_array(f"{url}/map/0", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.shards == (2, 256, 256)
    assert array.metadata.dimension_names == ("c", "y", "x")


def test_an_output_can_be_the_next_run_s_source(slide_output, tmp_path):
    report = engine.run(
        f"{slide_output.url}/map", seeded(nn.Conv2d(2, 1, 3, padding=1)), str(tmp_path / "next.zarr"), n_certified=2
    )
    assert report.is_complete
    assert [axis.spacing for axis in report.plan.source.axes[1:]] == [0.5, 0.5]
    assert report.plan.source.translation[1:] == (100.0, 40.0)


def _climate(folder) -> str:
    axes = (
        Axis("time", Role.BATCH),
        Axis("channel", Role.CHANNEL),
        Axis("lat", Role.SPACE, 2.5, "degree"),
        Axis("lon", Role.SPACE, 2.5, "degree"),
    )
    shape = (3, 2, 32, 48)
    coordinates = {
        "time": Coordinate(
            ("time",), np.arange(3, dtype=np.int64), {"units": "days since 2000-01-01", "calendar": "standard"}
        ),
        "lat": Coordinate(
            ("lat",), np.linspace(38.75, -38.75, 32), {"units": "degrees_north", "standard_name": "latitude"}
        ),
        "lon": Coordinate(("lon",), np.arange(48) * 7.5, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    url = str(folder / "climate.zarr")
    volume = create_volume(
        url,
        axes=axes,
        dtype="float32",
        shape=shape,
        chunk_shape=(1, 2, 16, 16),
        flavour=Flavour.CF,
        coordinates=coordinates,
    )
    volume.write(Region.whole(shape), smooth(shape))
    return url


def test_a_climate_output_opens_in_xarray_with_its_coordinates(tmp_path):
    source = _climate(tmp_path)
    network = seeded(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ELU()))
    report = engine.run(
        source,
        network,
        str(tmp_path / "out.zarr"),
        options=engine.Options(tile=(20, 20), block=(16, 16), threads=2, batch=1),
    )
    assert report.is_complete
    with (
        xr.open_zarr(tmp_path / "out.zarr" / "output", consolidated=False) as found,
        xr.open_zarr(source, consolidated=False) as given,
    ):
        array = found["output"]
        assert array.dims == ("time", "channel", "lat", "lon")
        assert array.shape == (3, 3, 32, 48)
        for name in ("time", "lat", "lon"):
            xr.testing.assert_identical(found[name].variable, given[name].variable)
        assert str(found["time"].values[1]).startswith("2000-01-02")
        assert float(found.sel(lat=38.75, lon=7.5, time="2000-01-03")["output"].isel(channel=0)) != 0
        values = given[next(iter(given.data_vars))].to_numpy()
        with torch.inference_mode():
            wanted = network(torch.from_numpy(values)).numpy()
        assert wanted.std() > 0
        np.testing.assert_allclose(array.to_numpy(), wanted, rtol=0, atol=1e-5)


def test_a_coarser_climate_output_does_not_carry_coordinates_that_are_not_its_own(tmp_path):
    report = engine.run(_climate(tmp_path), seeded(nn.Conv2d(2, 1, 2, stride=2)), str(tmp_path / "out.zarr"))
    assert report.is_complete
    with xr.open_zarr(tmp_path / "out.zarr" / "output", consolidated=False) as found:
        assert found["output"].shape == (3, 1, 16, 24)
        assert set(found.coords) == {"time"}
