"""Fields with gaps: filled before any halo, so that tiles equal the whole pass over the field filled once."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import engine
from engine.budgets import budgets
from engine.errors import ModelError
from engine.geometry.edges import Edge, EdgeKind
from engine.measure.area import area_weights
from engine.models.missing import Missing
from engine.models.nearest import Nearest
from engine.models.trace import trace
from engine.prepare import prepare
from tests.oracle import Named
from tests.stored import smooth
from tests.test_globe import by_angle, unpadded
from tests.test_globe import network as globe_network
from tests.test_place import LAT, N_LAT, N_LON, N_TIMES, globe, network, ran, whole

SEES = 4
"""How far ``unpadded`` sees."""


def land(*, share: float = 0.2) -> np.ndarray:
    field = smooth((N_LAT, N_LON), seed=5)
    return field > np.quantile(field, 1 - share)


def nearest(wide: np.ndarray, margin: int) -> np.ndarray:
    """Fill the middle of a field with gaps: each by the mean of what is nearest, of all there is, one by one."""
    there = np.argwhere(~np.isnan(wide))
    middle = wide[(slice(margin, -margin),) * wide.ndim].copy()
    for gap in np.argwhere(np.isnan(middle)):
        distance = ((there - (gap + margin)) ** 2).sum(1)
        middle[tuple(gap)] = wide[tuple(there[distance == distance.min()].T)].mean(dtype=np.float64)
    return middle


def gappy(n_times: int = 1) -> np.ndarray:
    """Return (time, channel, lat, lon) with land in both channels, more of it in the second."""
    x = smooth((n_times, 2, N_LAT, N_LON)) + 3
    x[:, 0, land(share=0.15)] = np.nan
    x[:, 1, land(share=0.25)] = np.nan
    return x


@pytest.mark.parametrize("fill", [0.5, "mean"])
def test_gaps_are_filled_before_any_halo_and_are_gaps_in_the_result(tmp_path, fill):
    voxels = smooth((N_TIMES, 2, N_LAT, N_LON)) + 3
    is_land = land()
    voxels[:, 1, is_land] = np.nan
    found = ran(globe(tmp_path / "in.zarr", voxels), Missing(network(2), fill=fill, n_channels=2).eval(), tmp_path)
    value = 0.5 if fill == 0.5 else np.nanmean(voxels[:, 1], dtype=np.float64)
    wanted = whole(network(2), np.where(np.isnan(voxels), np.float32(value), voxels))
    assert np.isnan(found[:, 0]).tolist() == np.broadcast_to(is_land, (N_TIMES, N_LAT, N_LON)).tolist()
    np.testing.assert_allclose(found[:, :, ~is_land], wanted[:, :, ~is_land], atol=1e-5)


def test_the_nearest_is_sought_round_the_globe_and_over_its_poles_and_makes_tiles_that_equal_the_whole(tmp_path):
    x, margin = gappy(), N_LAT // 2
    wide = by_angle(x, margin, has_pole_rows=False)
    filled = np.stack([[nearest(wide[0, channel], margin) for channel in range(2)]]).astype(np.float32)
    with torch.inference_mode():
        wanted = unpadded()(torch.from_numpy(by_angle(filled, SEES, has_pole_rows=False))).numpy()
        other = unpadded()(torch.from_numpy(by_angle(np.nan_to_num(x), SEES, has_pole_rows=False))).numpy()
    pole = Edge(EdgeKind.POLE, around="lon", has_pole_rows=(False, False), odd_channels=(1,))
    options = engine.Options(tile=(24, 24), block=(4, 8), edges={"lat": pole}, threads=2)
    module = Missing(unpadded(), fill="nearest", sees=(SEES, SEES)).eval()
    report = engine.run(globe(tmp_path / "in.zarr", x), module, str(tmp_path / "out.zarr"), options=options)
    found = xr.open_zarr(tmp_path / "out.zarr/output", consolidated=False)["output"].to_numpy()
    there = ~land(share=0.25)
    assert report.plan.geometry.evidence == "proved"
    assert report.plan.n_tiles > 20
    assert np.abs(wanted - other)[:, :, there].max() > 0.2
    assert np.isnan(found[:, :, ~there]).all()
    np.testing.assert_allclose(found[:, :, there], wanted[:, :, there], atol=1e-5)


def test_cells_that_see_a_gap_are_flagged_and_their_share_by_area_is_reported(tmp_path):
    x = gappy(N_TIMES)
    source = globe(tmp_path / "in.zarr", x)
    module = Missing(network(2), sees=(2, 2), flags=True).eval()
    options = engine.Options(tile=(16, 16), block=(8, 16), threads=2)
    report = engine.run(source, module, str(tmp_path / "out.zarr"), options=options)
    found = xr.open_zarr(tmp_path / "out.zarr/saw_gap", consolidated=False)["saw_gap"].to_numpy()[:, 0]
    gaps = land(share=0.25)
    near = np.zeros_like(gaps)
    for i, j in np.argwhere(gaps):
        near[max(i - 2, 0) : i + 3, np.arange(j - 2, j + 3) % N_LON] = True
    wanted = np.where(gaps, np.nan, near)
    weights = np.broadcast_to(area_weights(LAT)[:, None], gaps.shape)
    budget = budgets(str(tmp_path / "out.zarr"), model=module)
    (row,) = budget.volumes["saw_gap"]
    assert report.is_complete
    assert 0.2 < near[~gaps].mean() < 0.9
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, found.shape))
    assert row.mean == pytest.approx(np.average(near[~gaps], weights=weights[~gaps]), rel=1e-6)


@pytest.mark.parametrize("shape", [(11,), (9, 7), (6, 5, 4)])
def test_the_nearest_of_any_number_of_axes_is_the_nearest_of_all(shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x[np.random.default_rng(2).random(shape) < 0.8] = np.nan
    wanted = nearest(np.pad(x, 1, constant_values=np.nan), 1)
    found = Nearest(12)(torch.from_numpy(x)[None, None]).numpy()[0, 0]
    assert 0 < np.isnan(x).sum() < x.size
    np.testing.assert_array_equal(found, wanted)


def test_what_is_turned_is_filled_alike_to_the_last_bit():
    x = torch.from_numpy(gappy())
    assert torch.equal(Nearest(5)(x.flip(-2, -1)).flip(-2, -1), Nearest(5)(x))


def test_a_voxel_with_nothing_in_reach_is_zero_and_a_reach_is_a_halo():
    x = torch.full((1, 1, 1, 30), torch.nan)
    x[..., 3] = 7
    assert Nearest(4)(x)[0, 0, 0].tolist() == [7.0] * 8 + [0.0] * 22
    module = Missing(unpadded(), fill="nearest", sees=(SEES, SEES))
    geometry = trace(Named(module), n_channels=2, n_space=2, dtype=torch.float32)
    assert [p.widest_halo for p in geometry.programs] == [(6, 6 + 2 * SEES)] * 2


class Unseen(nn.Module):
    """A network with an operation that the trace has no word for: the engine probes it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = unpadded()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.expit(torch.special.i0(self.network(x) / 9))


def test_the_reach_is_found_by_dye_where_the_network_cannot_be_proved():
    module = Missing(Unseen(), fill="nearest", sees=(SEES, SEES), flags=True).eval()
    report = engine.check(module, n_channels=2, n_space=2)
    assert report.geometry.evidence == "probed"
    assert [p.widest_halo for p in report.geometry.programs] == [(6, 6 + 2 * SEES)] * 2
    assert [one.output for one in report.outputs] == ["output", "saw_gap"]
    assert all(one.max_difference == 0 and one.std > 0 for one in report.outputs)


def test_an_infinite_voxel_is_taken_only_where_it_is_nearest():
    x = torch.tensor([[[torch.nan, 1, torch.inf, torch.nan, torch.nan, 5]]])
    assert Nearest(3)(x)[0, 0].tolist() == [1, 1, torch.inf, torch.inf, 5, 5]


def test_what_filling_costs_is_in_the_plan(tmp_path):
    network = nn.Conv2d(8, 1, 3, padding=1).eval()
    source = globe(tmp_path / "in.zarr", smooth((1, 8, N_LAT, N_LON)))
    costs = [
        prepare(source, module.eval(), engine.Options(threads=2)).plan.cost.bytes_per_voxel
        for module in (Missing(network), Missing(network, fill="nearest", sees=(1, 1)))
    ]
    assert costs[1] > costs[0] + 8 * 20


@pytest.mark.parametrize("network", [globe_network(), nn.Conv2d(2, 1, 3, padding=1, padding_mode="circular")])
@pytest.mark.parametrize("more", [{"flags": True}, {"fill": "nearest"}])
def test_a_network_that_goes_round_by_itself_is_refused_where_gaps_are_sought(tmp_path, network, more):
    module = Missing(network, sees=(SEES, SEES), **more).eval()
    with pytest.raises(ModelError, match="the network goes round the globe by itself"):
        engine.run(globe(tmp_path / "in.zarr", gappy()), module, str(tmp_path / "out.zarr"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"fill": "median"}, "a number, 'mean' or 'nearest', not 'median'"),
        ({"fill": "nearest"}, "how many voxels the network sees to each side"),
        ({"flags": True}, "how many voxels the network sees to each side"),
        ({"flags": True, "sees": (2, -1)}, "sees is \\(2, -1\\)"),
    ],
)
def test_what_cannot_be_filled_is_refused(arguments, text):
    with pytest.raises(ModelError, match=text):
        Missing(nn.Identity(), **arguments)


def test_axes_that_are_not_those_of_the_input_are_refused():
    with pytest.raises(ModelError, match="sees must be of the 2 axes of space of the input, and is \\(3,\\)"):
        Missing(nn.Identity(), fill="nearest", sees=(3,))(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ModelError, match="gave \\(4, 5\\) for \\(5, 4\\)"):
        Missing(nn.Conv2d(1, 1, 2, padding=(0, 1)))(torch.zeros(1, 1, 5, 4))
