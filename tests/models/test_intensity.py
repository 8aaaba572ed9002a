"""Windows, ends and z-scores beside NumPy and MONAI; histograms beside scikit-image."""

import numpy as np
import pytest
import torch
from monai.transforms import NormalizeIntensity, ScaleIntensityRange, ScaleIntensityRangePercentiles
from skimage.exposure import match_histograms
from torch import nn

from engine.errors import ModelError
from engine.models.fingerprint import fingerprint
from engine.models.fitted import constants, provisional, set_constants, unfitted
from engine.models.histogram import HistogramMatch, LandmarkMatch, chosen
from engine.models.intensity import Clip, MinMax, Window
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.pixels import Pixels
from engine.models.streamed import Streamed
from engine.models.summary import Histogram
from engine.models.wrappers import Compose
from engine.models.zscore import ZScore
from tests.stored import smooth


def hounsfield(shape=(2, 9, 10, 11), *, seed=0) -> np.ndarray:
    """Air around tissue and bone: (channel, *space) int16."""
    field = smooth(shape, seed=seed)
    return np.where(field < -0.5, -1024, field * 300 + 100).astype(np.int16)


def brain(shape=(2, 9, 10, 11), *, seed=0) -> np.ndarray:
    """Zeros around positive values: (channel, *space) float32."""
    return np.maximum(smooth(shape, seed=seed) * 80 + 40, 0)


def fitted(module, array: np.ndarray):
    """Fit a module to all voxels of an array (channel, *space)."""
    Pixels(torch.from_numpy(array.reshape(len(array), -1).astype(np.float32)).T).fit(module)
    return module


def given(module, array: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(array.astype(np.float32))[None])[0].numpy()


# ---- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_a_window_is_that_of_monai(to):
    array = hounsfield()
    monai = ScaleIntensityRange(a_min=-160, a_max=240, b_min=to[0], b_max=to[1], clip=True)
    wanted = np.asarray(monai(array))
    assert wanted.std() > 0.1
    assert np.abs(given(Window(40, 400, to=to), array) - wanted).max() <= 1e-6 * (to[1] - to[0])


def test_several_windows_make_channels_of_one():
    array = hounsfield((1, 9, 10, 11))
    both = given(Window([40, -600], [400, 1500]), array)
    assert both.shape == (2, 9, 10, 11)
    for channel, window in enumerate((Window(40, 400), Window(-600, 1500))):
        assert np.array_equal(both[channel], given(window, array)[0])
    assert not np.array_equal(*both)


def test_clip_is_numpy_s():
    array = hounsfield()
    assert np.array_equal(given(Clip(-200, 250), array), np.clip(array, -200, 250))
    limits = given(Clip([-200, 0], [250, 50]), array)
    assert np.array_equal(limits[1], np.clip(array[1], 0, 50))
    assert array.min() < -200 < 250 < array.max()


# ---- ends and z-scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentiles", [(0, 100), (1, 99), (0.5, 99.5), (0, 90)])
def test_ends_and_percentiles_are_those_of_monai(percentiles):
    array = hounsfield()
    monai = ScaleIntensityRangePercentiles(*percentiles, 0, 1, clip=True, channel_wise=True)
    wanted = np.asarray(monai(array.astype(np.float32)))
    assert wanted.std() > 0.1
    assert np.abs(given(fitted(MinMax(2, percentiles=percentiles), array), array) - wanted).max() <= 1e-6


def test_given_ends_need_no_source():
    module = MinMax.given([-1000, 0], 1000)
    assert not unfitted(module)
    array = hounsfield()
    assert np.allclose(given(module, array), given(Window([0, 500], [2000, 1000]), array), atol=1e-6)


@pytest.mark.parametrize("nonzero", [False, True])
def test_a_z_score_is_that_of_monai_and_leaves_background_at_0(nonzero):
    array = brain((1, 9, 10, 11))
    wanted = np.asarray(NormalizeIntensity(nonzero=nonzero)(array))
    found = given(fitted(ZScore(foreground="nonzero" if nonzero else None), array), array)
    assert np.abs(found - wanted).max() <= 1e-5
    assert wanted.std() > 0.5
    assert 0.1 < (array == 0).mean() < 0.9
    assert (found[array == 0] == 0).all() == nonzero


def test_a_z_score_of_what_is_nonzero_in_any_channel_is_that_of_nnunet():
    array = brain()
    mask = (array != 0).any(0)
    wanted = array.copy()
    for channel in wanted:  # nnunetv2.preprocessing.normalization.ZScoreNormalization, with its mask
        channel[mask] = (channel[mask] - channel[mask].mean()) / channel[mask].std()
    found = given(fitted(ZScore(2, foreground="nonzero"), array), array)
    assert (mask & (array == 0).any(0)).any()
    assert np.abs(found - wanted).max() <= 1e-5


def test_a_z_score_above_a_threshold_measures_there_and_normalises_all():
    array = hounsfield()
    found = given(fitted(ZScore(2, foreground=-500.0), array), array)
    for channel, values in zip(found, array, strict=True):
        body = values[values > -500].astype(float)
        assert np.abs(channel - (values - body.mean()) / body.std()).max() <= 1e-5
    assert found.min() < -3


# ---- histograms -----------------------------------------------------------------------------------------------------


def test_few_values_are_matched_as_scikit_image_does():
    array, reference = hounsfield() // 32, (hounsfield(seed=5) // 24 + 3) ** 2
    n_values = max(len(np.unique(channel)) for channel in array)
    module = fitted(HistogramMatch(*reference, n_knots=n_values + 5), array)
    wanted = np.stack([match_histograms(*pair) for pair in zip(array, reference, strict=True)])
    assert n_values > 20
    assert np.abs(wanted - array).max() > 100
    assert np.abs(given(module, array) - wanted).max() <= 1e-6 * np.ptp(wanted)


def test_a_ct_of_many_values_is_matched_as_scikit_image_does_value_for_value():
    array, reference = hounsfield((1, 20, 20, 20)), hounsfield((1, 20, 20, 20), seed=5) * 2 + 300
    wanted = match_histograms(array[0], reference[0])
    assert len(np.unique(array)) > 500
    assert np.abs(wanted - array[0]).max() > 100
    module = fitted(HistogramMatch(reference[0]), array)
    assert np.abs(given(module, array)[0] - wanted).max() <= 1e-6 * np.ptp(wanted)


def test_beyond_the_source_s_ends_a_match_is_level():
    module = fitted(HistogramMatch([10, 20, 40]), np.array([[1.0, 2.0, 3.0]]))
    assert given(module, np.array([[-9.0, 1.0, 2.5, 3.0, 99.0]])).tolist() == [[10.0, 10.0, 30.0, 40.0, 40.0]]


@pytest.mark.parametrize("n_knots", [6, 24, 96])
def test_many_values_are_matched_the_nearer_the_more_knots_there_are(n_knots):
    array, reference = hounsfield((1, 20, 20, 20)), hounsfield((1, 20, 20, 20), seed=5) * 2 + 300
    wanted = match_histograms(array[0], reference[0])
    assert len(np.unique(array)) > 500
    errors = np.abs(given(fitted(HistogramMatch(reference[0], n_knots=n_knots), array), array)[0] - wanted)
    assert errors.max() <= 2.5 * np.ptp(wanted) / n_knots
    assert errors.mean() <= 0.05 * np.ptp(wanted) / n_knots


def test_a_source_without_a_histogram_is_matched_by_its_quantiles():
    array, reference = smooth((1, 20, 20, 20)), np.exp(smooth((20, 20, 20), seed=5))
    module = HistogramMatch(reference, n_knots=64)
    voxels = torch.from_numpy(array.reshape(1, -1)).numpy()
    Streamed(lambda do, merge: merge(do(voxels[:, :3000]), do(voxels[:, 3000:])), torch.float32, 3, "refuse").fit(module)
    found, wanted = given(module, array)[0], match_histograms(array[0], reference)
    assert wanted.std() > 0.5
    assert np.abs(found - wanted).mean() <= 0.05 * wanted.std()
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(found, share) == pytest.approx(np.quantile(reference, share), rel=0.02)


def test_a_histogram_stands_for_its_voxels_as_a_reference():
    array, reference = hounsfield((1, 9, 10, 11)), hounsfield(seed=5)
    one, other = (fitted(HistogramMatch(r), array) for r in (reference, Histogram.of(reference)))
    assert constants(one) == constants(other)
    assert fingerprint(one) == fingerprint(other) != fingerprint(HistogramMatch(reference[0]))


def test_a_long_reference_is_kept_at_even_shares():
    reference = np.random.default_rng(0).normal(size=200_000)
    module = HistogramMatch(reference)
    shares, values = module.reference[1:].numpy()
    assert len(values) <= 1 << 16
    assert np.abs(np.interp([0.01, 0.3, 0.99], shares, values) - np.quantile(reference, [0.01, 0.3, 0.99])).max() < 1e-3


def test_landmarks_are_matched_as_nyul_and_udupa_do():
    array, reference = brain((1, 20, 20, 20)), brain((1, 20, 20, 20), seed=5) ** 1.3
    percentiles = (50, 60, 70, 80, 90, 99)
    landmarks = LandmarkMatch.landmarks_of(reference, percentiles)
    found = given(fitted(LandmarkMatch(landmarks), array), array)
    x, y = np.percentile(array.astype(float), percentiles), np.percentile(reference.astype(float), percentiles)
    wanted = np.interp(array, x, y)
    wanted = np.where(array < x[0], y[0] + (array - x[0]) * (y[1] - y[0]) / (x[1] - x[0]), wanted)
    wanted = np.where(array > x[-1], y[-1] + (array - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2]), wanted)
    assert np.abs(found - wanted).max() <= 1e-5 * np.ptp(wanted)
    assert found.max() > y[-1] > y[0] > found.min()
    assert np.abs(found - array).max() > 10


def test_points_are_chosen_where_lines_miss_most_voxels():
    x = np.arange(100.0)
    y = np.where(x < 50, 0.0, x - 50)
    once, often = np.ones(100, int), np.where(x < 50, 1, 10**6)
    assert chosen(x, y, once, 3).tolist() == [0, 50, 99]
    assert chosen(x, 3 * x, once, 10).tolist() == [0, 99]  # a line needs no more
    assert len(chosen(x, np.sin(x), once, 17)) == 17
    assert (chosen(x, np.sin(x), often, 17)[1:-1] >= 50).all()  # where the voxels are


# ---- all of them ----------------------------------------------------------------------------------------------------

REFERENCE = hounsfield()[0]
MAKERS = {
    "window": lambda: Window([40, -600], [400, 1500]),
    "clip": lambda: Clip(-200, 250),
    "ends": lambda: MinMax(2),
    "z-score": lambda: ZScore(2),
    "z-score of the nonzero": lambda: ZScore(2, foreground="nonzero"),
    "histogram": lambda: HistogramMatch(REFERENCE, -REFERENCE, n_knots=8),
    "histogram of the nonzero": lambda: HistogramMatch(REFERENCE, REFERENCE, n_knots=4, foreground="nonzero"),
    "landmarks": lambda: LandmarkMatch([(1, 0), (99, 1)], [(0, 0), (50, 3), (99, 5)]),
}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@each
@pytest.mark.parametrize("n_space", [1, 3])
def test_each_is_proved_to_see_one_voxel(make, n_space):
    module = make()
    with provisional(module):
        geometry = learn(load_model(module), n_channels=2, n_space=n_space)
    assert geometry.evidence == "proved"
    assert [program.halo("output") for program in geometry.programs] == [(0, 0)] * n_space
    assert [output.n_channels for output in geometry.outputs] == [2]


@each
def test_each_keeps_the_dtype_lets_nan_through_and_treats_a_voxel_alike_anywhere(make):
    array = hounsfield()
    module = fitted(make(), array) if unfitted(make()) else make()
    x = torch.from_numpy(array.astype(np.float32))[None]
    x[0, :, 2, 3, 4] = torch.nan
    y = module(x)
    assert torch.isnan(y[0, :, 2, 3, 4]).all()
    assert int(torch.isnan(y).sum()) == 2
    assert y.dtype == torch.float32
    assert module(x.double()).dtype == torch.float64
    assert torch.equal(module(x[:, :, 4:, 5:]), y[:, :, 4:, 5:])
    assert y.nan_to_num().std() > 0


@each
def test_constants_of_each_come_back_and_settings_are_in_the_fingerprint(make):
    one, other = make(), make()
    assert fingerprint(one) == fingerprint(other)
    if not unfitted(one):
        return
    fitted(one, hounsfield())
    set_constants(other, constants(one))
    x = torch.from_numpy(hounsfield().astype(np.float32))[None]
    assert torch.equal(one(x), other(x))
    assert list(one.state_dict()) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: Window(40, 400), lambda: Window(40, 401)),
        (lambda: Window(40, 400), lambda: Window(40, 400, to=(0, 2))),
        (lambda: Clip(0, 1), lambda: Clip(0, 2)),
        (MinMax, lambda: MinMax(percentiles=(1, 100))),
        (ZScore, lambda: ZScore(foreground=0.0)),
        (lambda: ZScore(foreground=1.0), lambda: ZScore(foreground=0.0)),
        (lambda: HistogramMatch([1, 2, 3]), lambda: HistogramMatch([1, 2, 4])),
        (lambda: LandmarkMatch([(1, 0), (99, 1)]), lambda: LandmarkMatch([(1, 0), (98, 1)])),
    ],
)
def test_other_settings_are_another_model(one, other):
    assert fingerprint(Compose(one())) != fingerprint(Compose(other()))


def test_modules_are_named_in_a_specification():
    model = load_model("engine.models.intensity:Window + engine.models.intensity:MinMax + engine.models.zscore:ZScore")
    assert [type(part) for _, part in unfitted(model.module)] == [MinMax, ZScore]
    assert load_model("engine.models.intensity:Window").module(torch.full((1, 1, 2), 40.0))["output"].tolist() == [[[0.5, 0.5]]]


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (lambda: Window(40, 0), "positive width, not 0"),
        (lambda: Window(40, 400, to=(1, 0)), "low end is below"),
        (lambda: Window([1, 2], [1, 2, 3]), "one for all channels or one for each"),
        (lambda: Clip(1, 1), "low below high, not 1 and 1"),
        (lambda: MinMax(percentiles=(99, 1)), r"the low one first, not \(99, 1\)"),
        (lambda: MinMax(0), "at least 1 channel"),
        (lambda: MinMax.given(2, 1), "low below high, not 2 and 1"),
        (lambda: ZScore(foreground="brain"), "a number, 'nonzero' or None, not 'brain'"),
        (HistogramMatch, "at least 1 channel"),
        (lambda: HistogramMatch([3, 3]), "1 different values"),
        (lambda: HistogramMatch([3, np.nan, 4]), "some perhaps NaN"),
        (lambda: HistogramMatch([1, 2], n_knots=1), "at least 2 knots, not 1"),
        (lambda: LandmarkMatch([(1, 5), (99, 5)]), "both ascending"),
        (lambda: LandmarkMatch([(1, 5)]), "two or more pairs"),
        (lambda: MinMax()(torch.zeros(1, 1, 2)), "fitted to nothing"),
        (lambda: HistogramMatch([1, 2])(torch.zeros(1, 1, 2)), "fitted to nothing"),
        (lambda: fitted(MinMax(2), np.ones((2, 5))), "over 5 voxels channel 0 is always 1"),
        (lambda: fitted(HistogramMatch([1, 2]), np.ones((1, 5))), "channel 0 is always 1"),
        (lambda: fitted(MinMax(percentiles=(1, 99)), np.eye(1, 900)), "at 1 and 99 of channel 0 are both 0"),
        (lambda: fitted(LandmarkMatch([(1, 0), (90, 1)]), np.eye(1, 900)), "all of channel 0 are 0"),
        (lambda: fitted(ZScore(foreground="nonzero"), np.zeros((1, 5))), "finite voxels that are not 0, and channel 0"),
        (lambda: fitted(ZScore(3), hounsfield()), "made for 3 channels, not 2"),
        (lambda: fitted(ZScore(1), np.full((1, 3), np.nan)), "make 3 of 3 NaN or infinite"),
    ],
)
def test_what_cannot_be_is_refused(deed, said):
    with pytest.raises(ModelError, match=said):
        deed()


def test_voxels_that_are_not_finite_may_be_left_out():
    module = ZScore()
    rows = torch.tensor([[1.0], [torch.nan], [3.0], [torch.inf]])
    Pixels(rows, nan="keep").fit(module)
    assert (module.mean.item(), module.std.item()) == (2.0, 1.0)


def test_a_network_s_normalisation_is_proved_with_it():
    module = Compose(Window(40, 400), ZScore(), nn.Conv3d(1, 2, 3, padding=1))
    with provisional(module):
        geometry = learn(load_model(module), n_channels=1, n_space=3)
    assert geometry.evidence == "proved"
    assert [program.halo("output") for program in geometry.programs] == [(1, 1)] * 3
