"""A learned step applied again and again: each state from the one before, by members, kept in the output, resumable."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import engine
from engine.errors import PlanError, VolumeError
from engine.geometry.axes import axes_from_names
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.models.noise import Noisy, normal, philox
from engine.plan_json import plan_to_json
from engine.runtime.serial import SerialRunner
from engine.storage.create import Coordinate, create_volume
from engine.storage.ledger import State
from engine.storage.output import open_output
from tests.faults import Fault, FaultyFactory
from tests.stored import checksums, smooth, whole

WRAP = {"lon": Edge(EdgeKind.WRAP)}
SHAPE = (2, 24, 32)
OPTIONS = engine.Options(tile=(16, 16), block=(8, 16), threads=2, batch=1)


class Stepper(nn.Module):
    """A step that mixes neighbours and channels, and stays bounded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="zeros")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.3 * torch.tanh(self.conv(x))


def stepper() -> nn.Module:
    """Return the step."""
    return Stepper().eval()


def noisy() -> nn.Module:
    """Return the step with noise."""
    return Noisy(Stepper(), std=0.1, seed=3).eval()


def globe(path, *, dtype="float32") -> str:
    """Write a small state with coordinates, periodic in longitude; return its URL."""
    axes = axes_from_names(["channel", "lat", "lon"])
    lat, lon = np.linspace(-86.25, 86.25, SHAPE[1]), np.arange(SHAPE[2]) * 11.25
    volume = create_volume(
        str(path), axes=axes, dtype=dtype, shape=SHAPE, chunk_shape=SHAPE, flavour="cf", edges=WRAP,
        coordinates={
            "lat": Coordinate(("lat",), lat, {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": Coordinate(("lon",), lon, {"standard_name": "longitude", "units": "degrees_east"}),
        },
    )  # fmt: skip
    volume.write(Region.whole(SHAPE), smooth(SHAPE, dtype=dtype))
    return str(path)


def states(url) -> np.ndarray:
    """Return all steps that are stored."""
    return xr.open_zarr(f"{url}/output", consolidated=False)["output"].to_numpy()


def by_hand(state: np.ndarray, n: int) -> np.ndarray:
    """Apply the step to the whole state, padded round the globe by its halo, ``n`` times."""
    found = []
    for _ in range(n):
        wide = np.concatenate([state[..., -1:], state, state[..., :1]], -1)
        state = whole(stepper(), wide)[..., 1:-1]
        found.append(state)
    return np.stack(found)


def test_each_step_is_that_of_the_whole_state_before_it(tmp_path):
    url = globe(tmp_path / "in.zarr")
    report = engine.run(f"{url}#steps=4", f"{__file__}:stepper", str(tmp_path / "out.zarr"), options=OPTIONS)
    assert report.is_complete
    assert report.certificate.n_tiles == 4
    assert report.plan.graph.n_blocks == 4 * 6
    found, wanted = states(tmp_path / "out.zarr"), by_hand(smooth(SHAPE), 4)
    assert np.abs(np.diff(wanted, axis=0)).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_run_that_lost_a_step_waits_there_and_goes_on_to_the_same_bits(tmp_path):
    url, model = globe(tmp_path / "in.zarr"), f"{__file__}:stepper"
    plan = plan_to_json(engine.prepare(f"{url}#steps=4", model, OPTIONS).plan)
    engine.run(f"{url}#steps=4", model, str(tmp_path / "undisturbed.zarr"), plan=plan)

    def faulty(factory, plan):
        return SerialRunner(FaultyFactory(factory, (Fault(task=8, kind="raise"),)), n_in_flight=3)

    report = engine.run(f"{url}#steps=4", model, str(tmp_path / "out.zarr"), plan=plan, runner=faulty)
    done = [open_output(str(tmp_path / "out.zarr")).ledger.state(task) for task in range(24)]
    assert report.summary.n_failed == 1
    assert [state for i, state in enumerate(done[:12]) if i != 8] == [State.DONE] * 11
    assert done[12:] == [State.PENDING] * 12
    assert engine.resume(str(tmp_path / "out.zarr")).is_complete
    assert checksums(tmp_path / "out.zarr/output") == checksums(tmp_path / "undisturbed.zarr/output")


def test_members_differ_by_noise_that_belongs_to_the_voxel_and_not_to_the_tile(tmp_path):
    url = f"{globe(tmp_path / 'in.zarr')}#members=3&steps=2"
    model = f"{__file__}:noisy"
    engine.run(url, model, str(tmp_path / "small.zarr"), options=OPTIONS)
    engine.run(url, model, str(tmp_path / "large.zarr"), options=engine.Options(threads=2, batch=1))
    small, large = states(tmp_path / "small.zarr"), states(tmp_path / "large.zarr")
    assert small.shape == (2, 3, *SHAPE)
    np.testing.assert_allclose(small, large, atol=1e-5)
    noise = small[0] - by_hand(smooth(SHAPE), 1)[0]
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    correlations = np.corrcoef(noise.reshape(6, -1))[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 0.15


def test_philox_gives_the_words_that_its_authors_publish():
    def words(counter, key):
        return [int(word) for word in philox(tuple(torch.tensor(value) for value in counter), key)]

    ones = 0xFFFFFFFF
    assert words((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words((ones,) * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert words(pi, (0xA4093822, 0x299F31D0)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_the_noise_is_normal():
    count = torch.arange(100_000)
    drawn = normal((count, torch.zeros_like(count), torch.zeros_like(count), torch.zeros_like(count)), (0, 0)).numpy()
    moments = [(drawn**n).mean() for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)


@pytest.mark.parametrize(
    ("url", "module", "error", "text"),
    [
        ("#steps=2", nn.Conv2d(2, 1, 1), PlanError, "must give what it takes"),
        ("#steps=0", nn.Identity(), VolumeError, "whole number from 1"),
        ("#members=x", nn.Identity(), VolumeError, "whole number from 1"),
    ],
)
def test_what_cannot_be_stepped_is_refused(tmp_path, url, module, error, text):
    source = globe(tmp_path / "in.zarr") + url
    with pytest.raises(error, match=text):
        engine.run(source, module.eval(), str(tmp_path / "out.zarr"), options=OPTIONS)
    assert not (tmp_path / "out.zarr").exists()
