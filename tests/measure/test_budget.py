"""Means over the globe and budgets: one pass in NumPy over the whole is the oracle."""

import numpy as np
import pytest

from engine.errors import AxisError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.measure.area import cell_areas, cosine_weights, gaussian_weights
from engine.measure.budget import Known, channel_budgets, closure
from engine.storage.create import create_volume

SHAPE = (5, 3, 8, 12)
LATITUDES = -90 + (np.arange(8) + 0.5) * 22.5


def stored(tmp_path, values, *, names="time channel lat lon", chunk=(2, 2, 3, 5)):
    roles = {"time": Role.BATCH, "channel": Role.CHANNEL}
    axes = [Axis(name, roles.get(name, Role.SPACE)) for name in names.split()]
    volume = create_volume(str(tmp_path / "grid.zarr"), axes=axes, dtype="float32", shape=values.shape, chunk_shape=chunk, flavour="cf")
    volume.write(Region.whole(values.shape), values)
    return volume


def field(shape=SHAPE):
    return np.random.default_rng(0).normal(280, 20, shape).astype(np.float32) - 270


@pytest.mark.parametrize("weights", [cosine_weights(LATITUDES), cell_areas(LATITUDES, np.arange(12) * 30.0)], ids=["rows", "cells"])
def test_streamed_block_by_block_the_budget_is_that_of_the_whole(tmp_path, weights):
    values = field()
    values[1, 2, 3, 4], values[0, 1, 2, :] = np.nan, np.inf
    mean, std = [10.0, 12.0, 8.0], [5.0, 20.0, 7.0]
    found = channel_budgets(stored(tmp_path, values), weights, names=["a", "b", "c"], known=Known(mean, std))
    area = np.broadcast_to(weights[:, None] if weights.ndim == 1 else weights, SHAPE[2:])
    for i, one in enumerate(found):
        of = values[:, i].astype(np.float64)
        ok = np.isfinite(of)
        spread = np.broadcast_to(area, of.shape)
        assert one.name == "abc"[i]
        assert one.mean == pytest.approx(np.average(of[ok], weights=spread[ok]), rel=1e-12)
        assert (one.low, one.high) == (of[ok].min(), of[ok].max())
        assert (one.n, one.n_missing, one.n_negative) == (ok.sum(), (~ok).sum(), (of[ok] < 0).sum())
        assert one.n_beyond == (np.abs(of[ok] - mean[i]) > 3 * std[i]).sum()
    assert found[0].n_negative > 0 < found[0].n_beyond
    assert abs(found[0].mean - np.nanmean(values[:, 0])) > 1e-3  # the poles would weigh too much


def test_the_mean_does_not_hang_on_how_it_is_stored(tmp_path):
    means = set()
    for n, chunk in enumerate([(5, 3, 8, 12), (1, 1, 2, 12), (2, 3, 3, 7)]):
        (tmp_path / str(n)).mkdir()
        found = channel_budgets(stored(tmp_path / str(n), field(), chunk=chunk), cosine_weights(LATITUDES))
        means.add(round(found[1].mean, 10))
    assert len(means) == 1


def test_a_grid_without_channels_is_one_channel(tmp_path):
    values = field((8, 12))
    (one,) = channel_budgets(stored(tmp_path, values, names="lat lon", chunk=(3, 5)), cosine_weights(LATITUDES))
    assert one.mean == pytest.approx(np.average(values.mean(1), weights=cosine_weights(LATITUDES)), rel=1e-6)
    assert one.n_beyond is None


def test_a_budget_closes_or_says_what_is_left_over():
    assert closure(a=3.0, b=-3.0).residual == 0
    assert closure(a=4.0, b=-3.0).share == pytest.approx(0.25)
    with pytest.raises(VolumeError, match="must be numbers, and b are not"):
        closure(a=1.0, b=float("nan"))


@pytest.mark.parametrize(
    ("weights", "names", "known", "message"),
    [
        (np.ones(7), None, None, r"the weights \(7,\)"),
        (np.ones(8), ["a"], None, "one of names for each of the 3 channels"),
        (np.ones(8), None, Known([1.0], [1.0]), "one of mean for each of the 3 channels"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused_in_a_line(tmp_path, weights, names, known, message):
    with pytest.raises(VolumeError, match=message):
        channel_budgets(stored(tmp_path, field()), weights, names=names, known=known)


def test_weights_of_area_integrate_what_is_known():
    nodes = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
    for rows, weights in ((nodes, gaussian_weights(nodes)), (nodes[::-1], gaussian_weights(nodes[::-1]))):
        assert weights @ np.sin(np.radians(rows)) ** 2 == pytest.approx(1 / 3, rel=1e-12)
    rows = -90 + (np.arange(180) + 0.5)
    areas = cell_areas(rows, np.arange(0, 360, 5.0))
    assert areas.shape == (180, 72)
    assert (areas.sum(1) / areas.sum()) @ np.sin(np.radians(rows)) ** 2 == pytest.approx(1 / 3, abs=1e-4)
    assert cosine_weights(rows) == pytest.approx(areas.sum(1) / areas.sum(), rel=1e-3)
    bounded = cell_areas(rows[:2], [0.0], bounds=([[-90, -60], [-60, 0]], [[0, 360]]))
    assert bounded[1, 0] / bounded[0, 0] == pytest.approx(np.sin(np.pi / 3) / (1 - np.sin(np.pi / 3)))


def test_latitudes_that_are_none_or_not_gaussian_are_refused():
    with pytest.raises(AxisError, match="degrees from -90 to 90"):
        cosine_weights([0.0, 120.0])
    with pytest.raises(AxisError, match=r"lies .* degrees from its one"):
        gaussian_weights(LATITUDES)
