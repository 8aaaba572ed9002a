"""Statistics in one pass: beside NumPy on the whole array and exact fractions, the same bits for any blocks."""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from math import sqrt
from threading import Lock

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import ModelError, VolumeError
from engine.models.fitted import constants, fit_all
from engine.models.intensity import MinMax, Window
from engine.models.pixels import Pixels
from engine.models.streamed import Streamed
from engine.models.summarised import Summarised
from engine.models.summary import quantile
from engine.models.wrappers import Compose, Normalise
from engine.models.zscore import ZScore
from engine.runtime import statistics
from engine.runtime.statistics import histogram, over_blocks
from engine.storage.volume import Readable, open_volume
from tests.stored import smooth, store

BLOCK_BYTES = (1, 500, 3_000, 1 << 25)  # one chunk, some chunks in a row, some planes, all in one


@dataclass
class Counted:
    """A volume that counts how often each of its voxels is read, and the largest read."""

    volume: Readable
    n_reads: np.ndarray = field(init=False)
    largest: int = 0
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self):
        self.n_reads = np.zeros(self.volume.shape, int)

    def __getattr__(self, name):
        return getattr(self.volume, name)

    def read(self, region, *, level=0):
        with self.lock:
            self.n_reads[region.slices] += 1
            self.largest = max(self.largest, region.n_voxels)
        return self.volume.read(region, level=level)


class Kept(Summarised):
    """Keeps the summaries that it is fitted to."""

    def __init__(self, n_channels=1, *, foreground=None, shares=()):
        super().__init__(n_channels, foreground, mean=torch.zeros(n_channels))
        self.shares = shares

    def derive(self, channels):
        self.channels = channels
        return {"mean": torch.tensor([summary.mean for summary in channels])}

    def forward(self, x):
        return x


class Power(nn.Module):
    def forward(self, x):
        return (x.abs() + 1) ** 0.4545


def volume_of(tmp_path, array, names="zyx", chunk=3):
    return open_volume(store(tmp_path / "volume.zarr", array, names, chunk=chunk))


def streamed(volume, *, block_bytes=1 << 25, nan="refuse", dtype=torch.float32):
    n_space = sum(axis.role.value == "space" for axis in volume.axes)
    return Streamed(partial(over_blocks, volume, nan=nan, block_bytes=block_bytes), dtype, n_space, nan)


def exact(values):
    """Mean and standard deviation by exact fractions, rounded once at the end."""
    numbers = [Fraction(float(value)) for value in np.ravel(values)]
    mean = sum(numbers) / len(numbers)
    return float(mean), sqrt(float(sum((number - mean) ** 2 for number in numbers) / len(numbers)))


# ---- the pass -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
@pytest.mark.parametrize("names", ["zyx", "czyx", "tzyx", "yxc"])
def test_every_voxel_is_read_once_in_blocks_of_the_wanted_size(tmp_path, names, block_bytes):
    shape = {"c": 2, "t": 4, "z": 7, "y": 8, "x": 10}
    array = np.random.default_rng(0).integers(-9, 9, [shape[name] for name in names]).astype(np.int16)
    volume = Counted(volume_of(tmp_path, array, names))
    total = over_blocks(volume, lambda voxels: voxels.sum(1), np.add, block_bytes=block_bytes)
    channels = np.moveaxis(array, names.index("c"), 0).reshape(2, -1) if "c" in names else array.reshape(1, -1)
    assert np.array_equal(total, channels.sum(1))
    assert (volume.n_reads == 1).all()
    assert 1 <= volume.largest <= max(block_bytes // 2, 3**3 * 3)


def test_blocks_are_planned_in_waves(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "N_BLOCKS_PER_WAVE", 10)
    array = np.random.default_rng(0).integers(0, 9, (7, 8, 10)).astype(np.int16)  # 36 chunks
    volume = Counted(volume_of(tmp_path, array))
    assert over_blocks(volume, lambda voxels: voxels.size, lambda a, b: a + b, block_bytes=1) == array.size
    assert (volume.n_reads == 1).all()


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 256),
        ("int8", -128, 128),
        ("int16", -32768, 32768),
        ("int32", -(2**31), 2**31 - 1),  # too wide for a table
        ("uint64", 2**63, 2**63 + 50),
        ("float32", -3, 3),
        ("bool", 0, 2),
    ],
)
@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_a_histogram_has_every_value_and_how_often_it_comes(tmp_path, dtype, low, high, block_bytes):
    array = np.random.default_rng(0).integers(low, high, (7, 8, 10), dtype=np.uint64 if low > 0 else np.int64).astype(dtype)
    values, counts = np.unique(array, return_counts=True)
    found = histogram(volume_of(tmp_path, array), block_bytes=block_bytes)
    assert len(values) > 1
    assert found.values.dtype == array.dtype
    assert np.array_equal(found.values, values)
    assert np.array_equal(found.counts, counts)


def test_a_volume_of_too_many_values_has_no_histogram_and_that_is_seen_early(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "MOST_VALUES", 100)
    array = np.random.default_rng(0).random((30, 30, 30), np.float32)
    volume = Counted(volume_of(tmp_path, array, chunk=5))
    assert histogram(volume, block_bytes=1) is None
    assert volume.n_reads.mean() < 0.5


# ---- moments and quantiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1000.0])  # far from 0 the naive sum of squares loses its digits
def test_moments_are_exact_and_no_bit_depends_on_the_blocks(tmp_path, offset):
    array = np.concatenate([smooth((7, 8, 9)), 1e-12 * smooth((7, 8, 3), seed=1)], axis=2) + np.float32(offset)
    summaries = []
    for block_bytes in BLOCK_BYTES:
        module = Kept()
        streamed(volume_of(tmp_path, array), block_bytes=block_bytes).fit(module)
        summaries.append(module.channels[0])
        (tmp_path / "volume.zarr").rename(tmp_path / f"{block_bytes}.zarr")
    mean, std = exact(array)
    assert std > 0.5
    assert {(s.n, s.low, s.high) for s in summaries} == {(array.size, array.min(), array.max())}
    assert {s.mean for s in summaries} == {mean}
    assert {s.std for s in summaries} == {summaries[0].std}
    assert abs(summaries[0].std - std) <= 1e-15 * std


SHARES = (0.0, 0.003, 0.25, 0.5, 0.77, 0.999, 1.0)


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_quantiles_of_floats_are_those_of_numpy_to_the_last_bit(tmp_path, scale, block_bytes):
    array = smooth((7, 8, 9)) * np.float32(scale)
    array[0, 0, :4] = (-0.0, 0.0, 3e6 * scale, -3e6 * scale)  # far outliers cost no digit
    module = Kept(shares=SHARES)
    streamed(volume_of(tmp_path, array), block_bytes=block_bytes).fit(module)
    found = module.channels[0].quantiles
    wanted = np.quantile(array.astype(np.float64), SHARES)
    assert len(set(wanted)) == len(SHARES)
    assert [found[share] for share in SHARES] == list(wanted)


def test_any_quantile_is_numpy_s_to_the_last_bit():
    chance = np.random.default_rng(0)
    for n in (1, 2, 3, 50, 1001):
        values, shares = np.sort(chance.normal(size=n)), chance.random(200)
        assert [quantile(n, share, values.__getitem__) for share in shares] == list(np.quantile(values, shares))


@pytest.mark.parametrize("values", [(5, 5), (0, 5), (-1024, 3071)])
def test_a_histogram_gives_the_same_summary_as_the_pass_and_as_numpy(tmp_path, values):
    array = np.random.default_rng(0).integers(values[0], values[1] + 1, (7, 8, 9)).astype(np.int16)
    volume = volume_of(tmp_path, array)
    by_pass, by_histogram = Kept(shares=SHARES), Kept(shares=SHARES)
    streamed(volume, block_bytes=1).fit(by_pass)
    found = histogram(volume)
    Pixels(torch.from_numpy(found.values).float().reshape(-1, 1), found.counts, n_space=3).fit(by_histogram)
    one, other = by_pass.channels[0], by_histogram.channels[0]
    assert (one.n, one.low, one.high, one.mean, one.std) == (other.n, other.low, other.high, other.mean, other.std)
    assert one.quantiles == other.quantiles
    assert list(one.quantiles.values()) == list(np.quantile(array.astype(np.float64), SHARES))
    assert (one.mean, one.std) == pytest.approx(exact(array), rel=1e-15)


@pytest.mark.parametrize("names", ["czyx", "tczyx", "yxc"])
def test_channels_are_apart_and_batch_axes_are_all_taken_together(tmp_path, names):
    shape = {"c": 3, "t": 2, "z": 5, "y": 6, "x": 7}
    array = smooth([shape[name] for name in names]) * 3
    array += np.arange(3, dtype=np.float32).reshape([3 if name == "c" else 1 for name in names])
    module = Kept(3, shares=(0.3,))
    streamed(volume_of(tmp_path, array, names), block_bytes=300).fit(module)
    for channel, summary in enumerate(module.channels):
        own = np.take(array, channel, names.index("c")).astype(np.float64)
        assert (summary.n, summary.low, summary.high) == (own.size, own.min(), own.max())
        assert (summary.mean, summary.std) == pytest.approx((own.mean(), own.std()), rel=1e-12)
        assert summary.quantiles[0.3] == np.quantile(own, 0.3)
    assert len({summary.mean for summary in module.channels}) == 3


@pytest.mark.parametrize("foreground", [0.5, "nonzero"])
def test_only_the_foreground_counts(tmp_path, foreground):
    array = smooth((2, 7, 8, 9))
    array[:, :3] = 0
    array[0, 4] = 0  # not background: the other channel is not 0 there
    module = Kept(2, foreground=foreground, shares=(0.1,))
    streamed(volume_of(tmp_path, array, "czyx"), block_bytes=1).fit(module)
    for channel, summary in enumerate(module.channels):
        own = array[channel][(array != 0).any(0) if foreground == "nonzero" else array[channel] > 0.5].astype(float)
        assert 0 < own.size < array[0].size
        assert (summary.n, summary.low) == (own.size, own.min())
        assert (summary.mean, summary.std) == pytest.approx((own.mean(), own.std()), rel=1e-12)
        assert summary.quantiles[0.1] == np.quantile(own, 0.1)


def test_wide_models_keep_their_digits(tmp_path):
    array = 1.0 + 1e-9 * smooth((7, 8, 9)).astype(np.float64)
    module = Kept()
    streamed(volume_of(tmp_path, array), dtype=torch.float64).fit(module)
    assert (module.channels[0].mean, module.channels[0].std) == pytest.approx(exact(array), rel=1e-15)
    assert module.channels[0].low == array.min() != np.float32(array.min())


# ---- through a pipeline ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Compose(Power(), ZScore()), lambda: Compose(MinMax(percentiles=(1, 99)), Power(), ZScore())])
def test_constants_are_the_same_bits_for_any_blocks_and_threads(tmp_path, make, monkeypatch):
    array = smooth((13, 14, 15)) * 100
    volume = volume_of(tmp_path, array, chunk=7)
    found = []
    for block_bytes, n_threads in [(1, 1), (1, 4), (3_000, 2), (1 << 25, 1)]:
        monkeypatch.setattr(statistics, "n_cpus", lambda n=n_threads: n)
        module = make()
        fit_all(module, streamed(volume, block_bytes=block_bytes))
        found.append(constants(module))
    assert all(values == found[0] for values in found)
    x = torch.from_numpy(array)[None, None]
    y = module(x).double()
    assert y.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert y.mean() == pytest.approx(0, abs=1e-4)


def test_a_pipeline_of_several_is_fitted_in_one_pass_by_the_histogram(tmp_path):
    array = (smooth((7, 8, 9)) * 200).astype(np.int16)
    volume = Counted(volume_of(tmp_path, array))
    both = []
    for by_histogram in (True, False):
        module = Compose(Window(0.0, 600.0), MinMax(percentiles=(5, 95)), Normalise(0.5, 2.0), ZScore())
        volume.n_reads[:] = 0
        if by_histogram:
            found = histogram(volume, block_bytes=1)
            fit_all(module, Pixels(torch.from_numpy(found.values).float().reshape(-1, 1), found.counts, n_space=3))
        else:
            fit_all(module, streamed(volume, block_bytes=1))
        assert (volume.n_reads == (1 if by_histogram else 3)).all()  # quantiles take two passes, the z-score one
        both.append(constants(module))
    assert both[0] == both[1]
    assert both[0]["3.std"][0] > 0


def test_what_comes_before_must_look_at_single_voxels(tmp_path):
    volume = volume_of(tmp_path, smooth((7, 8, 9)))
    for part in (nn.Conv3d(1, 1, 3, padding=1), nn.InstanceNorm3d(1), nn.MaxPool3d(2, ceil_mode=True), nn.Conv3d(1, 1, 3)):
        with pytest.raises(ModelError, match=rf"'0' \({type(part).__name__}\)"):
            fit_all(Compose(part, ZScore()), streamed(volume, block_bytes=1))
    fit_all(Compose(nn.Conv3d(1, 1, 1), ZScore()), streamed(volume, block_bytes=1))  # this one does


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused_by_their_place_or_left_out(tmp_path, bad):
    array = smooth((2, 7, 8, 9))
    array[1, 4, 3, 2] = bad
    volume = volume_of(tmp_path, array, "czyx")
    with pytest.raises(VolumeError, match=r"1 of \d+ voxels .* first at c 1, z 4, y 3, x 2 in"):
        streamed(volume, block_bytes=1).fit(ZScore(2))
    with pytest.raises(VolumeError, match="first at c 1, z 4, y 3, x 2 in"):
        histogram(volume)
    module = Kept(2, shares=(0.5,))
    streamed(volume, block_bytes=1, nan="keep").fit(module)
    own = array[1][np.isfinite(array[1])].astype(float)
    assert [summary.n for summary in module.channels] == [504, 503]
    assert module.channels[1].mean == pytest.approx(own.mean(), rel=1e-12)
    assert module.channels[1].quantiles[0.5] == np.quantile(own, 0.5)


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def test_what_parts_make_not_finite_is_refused_too(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    volume = volume_of(tmp_path, array)
    with pytest.raises(ModelError, match="the parts before it make 1 of"):
        fit_all(Compose(Log(), ZScore()), streamed(volume))
    fit_all(Compose(Log(), ZScore()), streamed(volume, nan="keep"))


def test_what_tells_nothing_is_refused(tmp_path):
    volume = volume_of(tmp_path, np.full((4, 5, 6), 7, np.int16))
    for module, said in [
        (ZScore(), "over 120 voxels channel 0 is always 7"),
        (MinMax(), "channel 0 is always 7"),
        (ZScore(foreground=7.0), "finite voxels above 7, and channel 0 of the source has none"),
        (MinMax(foreground=7.0, percentiles=(1, 99)), "has none"),
        (ZScore(2), "made for 2 channels, not 1"),
    ]:
        with pytest.raises(ModelError, match=said):
            streamed(volume).fit(module)
    huge = volume_of(tmp_path / "huge", np.linspace(0, 1e300, 8).reshape(2, 2, 2))
    with pytest.raises(ModelError, match="values up to 3e.38, not 0 to 1e.300"):
        streamed(huge, dtype=torch.float64).fit(ZScore())
