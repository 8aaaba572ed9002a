"""engine.predict: lazy, equal to the whole pass, and at home inside xarray and dask."""

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

import engine
from engine.errors import ModelError, PlanError, UsageError
from engine.geometry.edges import Edge, EdgeKind
from tests import real_models
from tests.pipelines import Labelled, is_real, seeded
from tests.stored import smooth, whole

WRAP = Edge(EdgeKind.WRAP)


class Counted(nn.Module):
    """A convolution that counts its calls on true voxels; the count stays in the process."""

    n_calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 5, padding=2)

    def forward(self, x):
        Counted.n_calls += is_real(x)
        return torch.relu(self.conv(x))


class Scales(nn.Module):
    """Outputs at half, one and two voxels per input voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return {
            "half": F.avg_pool2d(y, 2),
            "one": y.argmax(dim=1).to(torch.uint8),
            "two": F.interpolate(y, scale_factor=2.0),
        }


def labelled_array(shape=(1, 90, 70), chunks=(1, 32, 32)) -> xr.DataArray:
    coords = {
        "lat": np.linspace(60, 30, shape[1]),
        "lon": np.linspace(0, 20, shape[2]),
        "time": 7,
        "land": (("lat", "lon"), np.ones(shape[1:])),
    }
    return xr.DataArray(da.from_array(smooth(shape), chunks=chunks), dims=("channel", "lat", "lon"), coords=coords)


def test_nothing_is_computed_until_it_is_asked_for():
    n_read = []
    source = da.from_array(smooth((1, 90, 70)), chunks=(1, 32, 32)).map_blocks(
        lambda b: n_read.append(1) or b, dtype="float32", meta=np.empty((0, 0, 0), "float32")
    )
    lazy = engine.predict(seeded(Counted()), source, axes="cyx", tile=(40, 40), block=(32, 32))
    n_planning = Counted.n_calls
    assert isinstance(lazy, da.Array)
    assert lazy.shape == (2, 90, 70)
    assert lazy.chunks == ((2,), (32, 32, 26), (32, 32, 6))
    assert not n_read
    corner = lazy[:, :10, :10].compute()
    assert 1 <= Counted.n_calls - n_planning <= 4
    assert len(n_read) <= 4
    wanted = whole(seeded(Counted()), smooth((1, 90, 70)))
    np.testing.assert_allclose(corner, wanted[:, :10, :10], rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunks", [(1, 32, 32), (1, 17, 70), (1, 90, 70), (1, 1, 13)], ids=str)
def test_a_dask_array_of_any_chunks_gives_the_whole_pass(chunks):
    network = seeded(
        nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.MaxPool2d(2), nn.ELU(), nn.Upsample(scale_factor=2))
    )
    array = smooth((1, 90, 70))
    wanted = whole(network, array)
    found = engine.predict(
        network, da.from_array(array, chunks=chunks), axes="cyx", tile=(36, 36), block=(32, 32)
    ).compute()
    assert wanted.std() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_data_array_keeps_its_coordinates_where_the_grid_is_the_same():
    array = labelled_array()
    lazy = engine.predict(seeded(Counted()), array, tile=(40, 40), block=(32, 32))
    assert isinstance(lazy.data, da.Array)
    assert lazy.dims == ("channel", "lat", "lon")
    for name in ("lat", "lon", "time", "land"):
        xr.testing.assert_identical(lazy[name].variable, array[name].variable)
    np.testing.assert_allclose(lazy.to_numpy(), whole(seeded(Counted()), array.to_numpy()), rtol=0, atol=1e-5)
    assert lazy.sel(lat=60).shape == (2, 70)


def test_outputs_of_several_scales_come_as_a_dict_and_keep_only_what_is_true_of_them():
    array = xr.DataArray(smooth((2, 64, 48)), dims=("c", "y", "x"), coords={"y": np.arange(64.0), "x": np.arange(48.0)})
    network = seeded(Scales())
    found = engine.predict(network, array, tile=(24, 24), block=(16, 16))
    with torch.inference_mode():
        wanted = network(torch.from_numpy(array.to_numpy())[None])
    assert found.keys() == {"half", "one", "two"}
    assert [found[name].shape for name in ("half", "one", "two")] == [(3, 32, 24), (64, 48), (3, 128, 96)]
    assert set(found["one"].coords) == {"y", "x"}
    assert not set(found["half"].coords) & {"y", "x"}
    assert found["one"].dtype == np.uint8
    for name, reference in wanted.items():
        assert reference.float().std() > 0
        np.testing.assert_allclose(found[name].to_numpy(), reference[0].numpy(), rtol=0, atol=1e-5)


def test_wrapped_edges_join_the_far_side():
    field = smooth((2, 48, 64))
    lazy = engine.predict(
        real_models.pyqg_twin().double(),
        da.from_array(field, chunks=(2, 20, 20)),
        axes="cyx",
        edges={"y": WRAP, "x": WRAP},
        tile=(30, 30),
        block=(16, 16),
    )
    wanted = whole(real_models.pyqg_twin().double(), field, torch.float64)
    assert wanted.std() > 0
    np.testing.assert_allclose(lazy.compute(), wanted, rtol=0, atol=1e-12 * wanted.std())


def test_it_is_one_step_of_a_larger_dask_computation():
    array = labelled_array()
    scaled = (array - 1) / 2
    found = (engine.predict(seeded(Counted()), scaled, tile=(40, 40), block=(32, 32)) ** 2).mean(("lat", "lon"))
    assert isinstance(found.data, da.Array)
    wanted = (whole(seeded(Counted()), scaled.to_numpy()).astype(np.float64) ** 2).mean((1, 2))
    np.testing.assert_allclose(found.to_numpy(), wanted, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_scheduler_of_dask_gives_the_same_bits(scheduler):
    pixels = (smooth((3, 80, 72)) * 30 + 190).clip(0, 255).astype(np.uint8)
    network = seeded(Labelled(), seed=1)
    found = engine.predict(
        network, da.from_array(pixels, chunks=(3, 32, 32)), axes="cyx", tile=(48, 48), block=(32, 32)
    )
    with torch.inference_mode():
        wanted = network(torch.from_numpy(pixels)[None].float())
    with dask.config.set(scheduler=scheduler, num_workers=2):
        (probability,) = dask.compute(found["probability"])
    np.testing.assert_allclose(probability, wanted["probability"][0].numpy(), rtol=0, atol=1e-5)


def test_batch_axes_are_run_item_by_item():
    steps = smooth((3, 2, 40, 36))
    array = xr.DataArray(
        da.from_array(steps, chunks=(1, 2, 20, 20)), dims=("time", "channel", "lat", "lon"), coords={"time": [3, 4, 5]}
    )
    lazy = engine.predict(real_models.pyqg_twin(), array)
    assert lazy.dims == ("time", "channel", "lat", "lon")
    assert list(lazy["time"].values) == [3, 4, 5]
    for i, step in enumerate(steps):
        np.testing.assert_allclose(lazy[i].to_numpy(), whole(real_models.pyqg_twin(), step), rtol=0, atol=1e-5)


def test_what_does_not_fit_is_refused_at_once():
    array = da.zeros((2, 40, 40), dtype="float32")
    with pytest.raises(UsageError, match="axes='cyx'"):
        engine.predict(seeded(Counted()), array)
    with pytest.raises(ModelError, match=r"takes no input of \(batch, 2 channels"):
        engine.predict(seeded(Counted()), array, axes="cyx")
    with pytest.raises(PlanError, match="edges are given for q"):
        engine.predict(seeded(Counted()), array[:1], axes="cyx", edges={"q": WRAP})
