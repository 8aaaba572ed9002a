"""Stain: deconvolution beside scikit-image, Macenko beside its formulas in NumPy, Reinhard beside scikit-image's Lab."""

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2hed, rgb2lab
from torch import nn

from engine.check import check
from engine.errors import ModelError
from engine.models.fingerprint import fingerprint
from engine.models.fitted import Fitted, provisional
from engine.models.lab import lab_of, rgb_of
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.stain import MACENKO_TARGET, Deconvolve, LabTarget, Macenko, Reinhard, StainTarget
from engine.models.wrappers import Compose

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def colours(n: int = 4000, seed: int = 1) -> np.ndarray:
    """Any colour at all, black and white among them: (n, 3) of 0 to 255."""
    chance = np.random.default_rng(seed)
    return np.concatenate([[[0, 0, 0], [255, 255, 255]], chance.integers(0, 256, (n - 2, 3))]).astype(np.float32)


def tissue(n: int = 6000, seed: int = 2) -> np.ndarray:
    """H&E by Beer-Lambert, with some noise: (n, 3) of 0 to 255."""
    chance = np.random.default_rng(seed)
    density = chance.gamma(2.0, 0.35, (n, 1)) * HAEMATOXYLIN + chance.gamma(3.0, 0.2, (n, 1)) * EOSIN
    light = 240 * np.exp(-density) + chance.normal(0, 1.5, (n, 3))
    return light.clip(0, 255).round().astype(np.float32)


def picture(rows: np.ndarray) -> torch.Tensor:
    """(n, 3) as an image (1, 3, y, x) of 20 columns."""
    return torch.from_numpy(rows).T.reshape(1, 3, -1, 20).contiguous()


def rows(image: torch.Tensor) -> np.ndarray:
    return image[0].flatten(1).T.numpy()


def fitted(module, pixels: np.ndarray):
    module.fit(torch.from_numpy(pixels))
    return module


def macenko_in_numpy(pixels: np.ndarray, reference: np.ndarray, strongest: np.ndarray):
    """Macenko et al. 2009, step by step as in M. Niethammer's MATLAB code and those written after it."""
    light, beta, alpha = 240, 0.15, 1
    density = -np.log((pixels.astype(np.float64) + 1) / light)
    stained = density[~(density < beta).any(axis=1)]
    _, vectors = np.linalg.eigh(np.cov(stained.T))
    plane = vectors[:, 1:3] * np.sign(vectors[:, 1:3].sum(axis=0))
    projected = stained @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    low, high = np.percentile(angles, alpha), np.percentile(angles, 100 - alpha)
    ends = [plane @ [np.cos(low), np.sin(low)], plane @ [np.cos(high), np.sin(high)]]
    stains = np.array(ends if ends[0][0] > ends[1][0] else ends[::-1]).T  # (3, 2)
    amounts = np.linalg.lstsq(stains, density.T, rcond=None)[0]
    scale = np.percentile(amounts, 99, axis=1) / strongest
    return (light * np.exp(-reference @ (amounts / scale[:, None]))).T.clip(0, 255), stains.T


def test_deconvolution_is_that_of_scikit_image_times_its_scale():
    wanted = rgb2hed(colours().astype(np.uint8))
    given = rows(Deconvolve()(picture(colours()))) / -np.log(1e-6)
    assert wanted.std(0).min() > 0.01
    assert np.abs(given - wanted).max() < 1e-5


def test_amounts_of_stain_come_back_from_the_light_that_they_let_through():
    amounts = np.random.default_rng(0).uniform(0, 2, (400, 2))
    light = 255 * np.exp(-amounts @ np.stack([HAEMATOXYLIN, EOSIN]))
    given = rows(Deconvolve([HAEMATOXYLIN, EOSIN])(picture(light.astype(np.float32))))
    assert np.abs(given[:, :2] - amounts).max() < 1e-4
    assert np.abs(given[:, 2]).max() < 1e-4  # nothing is left for the third


def test_macenko_is_its_formulas_written_out():
    pixels = tissue()
    target = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
    wanted, stains = macenko_in_numpy(pixels, target, np.array([1.9705, 1.0308]))
    module = fitted(Macenko(), pixels)
    given = rows(module(picture(pixels)))
    assert np.abs(module.stains.numpy() - stains).max() < 1e-6
    assert np.abs(wanted - pixels).max() > 20  # it does change something
    assert np.abs(given - wanted).max() < 0.01


def test_macenko_finds_the_stains_that_were_mixed():
    stains = fitted(Macenko(), tissue(20_000)).stains.numpy()
    for found, true in zip(stains, (HAEMATOXYLIN, EOSIN), strict=True):
        assert found @ true / np.linalg.norm(true) > 0.985


def test_macenko_brings_two_laboratories_together():
    ours = tissue(seed=3)
    theirs = 240 * (np.maximum(ours, 1) / 240) ** [0.7, 0.85, 0.6]  # the same tissue, paler and of another hue
    theirs = theirs.round().astype(np.float32)
    a, b = (rows(fitted(Macenko(), pixels)(picture(pixels))) for pixels in (ours, theirs))
    assert np.abs(ours - theirs).mean() > 15
    assert np.abs(a - b).mean() < 4


def test_a_slide_is_its_own_target():
    pixels = tissue()
    target = Macenko.target_of(torch.from_numpy(pixels))
    assert isinstance(target, StainTarget)
    given = rows(fitted(Macenko(target), pixels)(picture(pixels)))
    assert np.abs(given - pixels).mean() < 2.5  # what is not of the two stains, the noise, is lost
    lab = Reinhard.target_of(torch.from_numpy(pixels))
    assert isinstance(lab, LabTarget)
    assert np.abs(rows(fitted(Reinhard(lab), pixels)(picture(pixels))) - pixels).max() < 0.05


def test_lab_there_and_back_is_that_of_scikit_image():
    wanted = rgb2lab(colours().astype(np.uint8))
    lab = lab_of(picture(colours()))
    assert np.abs(rows(lab) - wanted).max() < 1e-4
    assert np.abs(rows(rgb_of(lab)) - colours()).max() < 0.01
    odd = wanted + np.random.default_rng(0).normal(0, 10, wanted.shape)  # colours that no screen has among them
    with pytest.warns(UserWarning, match="negative Z"):
        clipped = lab2rgb(odd) * 255
    assert np.abs(rows(rgb_of(picture(odd))) - clipped).max() < 0.01


def test_reinhard_gives_the_target_s_mean_and_spread_in_lab():
    pixels = tissue()
    target = LabTarget((60.0, 20.0, -12.0), (8.0, 5.0, 4.0))
    lab = rgb2lab(pixels / 255.0)
    wanted = (lab - lab.mean(0)) / lab.std(0) * target.std + target.mean
    with np.errstate(all="ignore"):
        wanted_rgb = lab2rgb(wanted) * 255
    given = rows(fitted(Reinhard(target), pixels)(picture(pixels)))
    assert np.abs(given - wanted_rgb).max() < 0.02
    found = rgb2lab(given / 255.0)
    assert np.abs(found.mean(0) - target.mean).max() < 0.3
    assert np.abs(found.std(0) - target.std).max() < 0.3


@pytest.mark.parametrize("make", [Macenko, Reinhard])
def test_black_and_white_stay_dark_and_bright_and_nothing_leaves_the_range(make):
    given = rows(fitted(make(), tissue())(picture(colours())))
    assert np.isfinite(given).all()
    assert given.min() >= 0
    assert given.max() <= 255
    assert given[1].min() > 215  # glass
    assert given[0].max() < 60  # black


@pytest.mark.parametrize("make", [Macenko, Reinhard])
def test_statistics_do_not_depend_on_the_order_of_the_pixels(make):
    pixels = torch.from_numpy(tissue())
    one, other = make(), make()
    one.fit(pixels)
    other.fit(pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))])
    for (name, a), (_, b) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(a, b), name
        assert a.unique().numel() > 1


@pytest.mark.parametrize(
    "module",
    [
        Deconvolve(),  # nothing to fit
        Macenko(),
        Reinhard(),  # with powers, roots and choices
        Compose(Macenko(), nn.Conv2d(3, 2, 5, padding=2)),  # before a network
        Compose(Reinhard(), Deconvolve(), nn.Conv2d(3, 2, 5, padding=2)),
    ],
)
def test_the_engine_proves_that_colour_adds_nothing_to_the_halo(module):
    with provisional(module):
        geometry = learn(load_model(module), n_channels=3, n_space=2)
    halo = 2 if isinstance(module, Compose) else 0
    assert geometry.evidence == "proved"
    assert [program.halo("output") for program in geometry.programs] == [(halo, halo)] * 2
    assert [program.step for program in geometry.programs] == [1, 1]


def test_tiles_of_normalised_tissue_equal_the_whole():
    torch.manual_seed(0)
    module = Compose(fitted(Macenko(), tissue()), Deconvolve(), nn.Conv2d(3, 2, 5, padding=2))
    found = check(module, n_space=2, n_channels=3)
    assert found.n_tiles > 1
    assert found.outputs[0].std > 0
    assert found.outputs[0].max_difference <= 1e-5 * found.outputs[0].largest


def test_the_channels_of_a_colour_module_are_found_by_trial():
    found = check(fitted(Reinhard(), tissue()), n_space=2)
    assert found.geometry.n_channels == 3


def test_every_setting_is_part_of_the_fingerprint():
    other = StainTarget(MACENKO_TARGET.stains, (1.5, 1.0))
    modules = [
        Macenko(),
        Macenko(other),
        Macenko(light=255.0),
        Macenko(beta=0.2),
        Reinhard(),
        Reinhard(LabTarget((50.0, 0.0, 0.0), (9.0, 9.0, 9.0))),
    ]
    assert len({fingerprint(module) for module in modules}) == len(modules)


GREY = np.repeat(np.arange(40, 200, dtype=np.float32), 5)[:, None].repeat(3, 1)


@pytest.mark.parametrize(
    ("make", "pixels", "said"),
    [
        (Macenko, tissue(99), "needs 100 pixels of tissue at least, and 99 came"),
        (Macenko, np.full((500, 3), 255, np.float32), "needs 100 pixels with stain, and 0 of 500"),  # glass
        (Macenko, GREY, "one colour"),
        (Macenko, np.full((500, 3), 100, np.float32), "one colour"),  # no variance at all
        (Macenko, np.full((500, 3), np.nan, np.float32), "1500 that are not finite"),
        (Macenko, np.full((500, 4), 100, np.float32), "not 4 channels"),
        (Reinhard, tissue(99), "and 99 came"),
        (Reinhard, GREY, "a\\* of 800 pixels .* grey"),
        (Reinhard, np.zeros((0, 3), np.float32), r"not to \(0, 3\)"),
    ],
)
def test_a_slide_without_such_statistics_is_refused_by_name(make, pixels, said):
    module = make()
    with pytest.raises(ModelError, match=said):
        module.fit(torch.from_numpy(pixels))
    assert not module.is_fitted


@pytest.mark.parametrize("make", [Macenko, Reinhard])
def test_nothing_runs_before_it_is_fitted(make):
    module = make()
    assert isinstance(module, Fitted)
    with pytest.raises(ModelError, match=rf"{make.__name__} needs .* fitted to nothing. Call its fit"):
        module(picture(tissue(400)))


@pytest.mark.parametrize(
    ("stains", "said"),
    [
        ("masson", "'masson'"),
        ([[1.0, 0.0, 0.0]], r"not \(1, 3\)"),
        ([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]], "must differ in colour"),
    ],
)
def test_stains_that_cannot_be_told_apart_are_refused(stains, said):
    with pytest.raises(ModelError, match=said):
        Deconvolve(stains)


def test_a_fourth_channel_is_refused_by_its_number():
    with pytest.raises(ValueError, match="not 4"):
        Deconvolve()(torch.zeros(1, 4, 2, 2))
