"""Statistics that are fitted once and are constants after: through a pipeline, and to another process."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from engine.errors import ModelError
from engine.models import moments
from engine.models.fitted import Fitted, constants, fit_all, provisional, set_constants, unfitted
from engine.models.intensity import MinMax
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.pixels import Pixels, handed_on
from engine.models.resampled import Resampled
from engine.models.stain import Deconvolve, Macenko, Reinhard
from engine.models.wrappers import Compose, Named, Normalise
from engine.models.zscore import ZScore


def pixels(n_channels: int = 3, n: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, n_channels, generator=generator) * 200 + 20


def test_a_z_score_is_the_mean_and_spread_of_its_pixels():
    rows = pixels(5)
    zscore = ZScore(5)
    zscore.fit(rows)
    given = zscore(rows.T[None])[0].T.double()
    assert rows.std(0).min() > 1
    assert given.mean(0).abs().max() < 1e-5
    assert (given.std(0, correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("n_space", [1, 2, 3])
def test_a_z_score_runs_on_any_number_of_axes_and_is_proved(n_space):
    module = ZScore(2)
    module.fit(pixels(2))
    geometry = learn(load_model(module), n_channels=2, n_space=n_space)
    assert geometry.evidence == "proved"
    assert [program.halo("output") for program in geometry.programs] == [(0, 0)] * n_space


def test_sums_are_those_of_any_order():
    rows = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    assert rows.sum(0).tolist() != turned.sum(0).tolist()  # torch's are not
    for measure in (moments.mean, moments.std, moments.covariance):
        assert torch.equal(measure(rows), measure(turned))
    assert torch.allclose(moments.covariance(rows), torch.cov(rows.T, correction=0))


def test_what_is_not_fitted_is_found_by_its_path():
    module = Compose(ZScore(3), Compose(nn.Identity(), Macenko()))
    assert [(name, type(part)) for name, part in unfitted(module)] == [("0", ZScore), ("1.1", Macenko)]
    assert [name for name, _ in unfitted(load_model(module).module)] == ["model.0", "model.1.1"]
    assert unfitted(ZScore(1))[0][0] == ""
    assert not unfitted(Normalise(0.0, 1.0))


def test_each_part_is_fitted_to_the_pixels_as_they_reach_it():
    module = Compose(Normalise(100.0, 50.0), ZScore(3), Deconvolve())
    twice = Compose(Reinhard(), ZScore(3))
    fit_all(module, Pixels(pixels()))
    fit_all(twice, Pixels(pixels()))
    assert not unfitted(module)
    assert torch.allclose(module.get_buffer("1.mean"), ((pixels() - 100) / 50).mean(0), atol=1e-5)
    passed = twice.get_submodule("0")(pixels().T[None])[0].T  # what Reinhard gives once it is fitted
    assert torch.allclose(twice.get_buffer("1.mean"), passed.mean(0), atol=1e-3)
    assert not torch.allclose(passed.mean(0), pixels().mean(0), atol=1.0)


def test_heads_on_one_input_are_fitted_to_the_same_pixels():
    module = Named(a=ZScore(3), b=Compose(ZScore(3), nn.Conv2d(3, 1, 3)))
    fit_all(module, Pixels(pixels()))
    found = [module.get_buffer(path) for path in ("heads.a.mean", "heads.b.0.mean")]
    assert torch.equal(*found)
    assert not unfitted(module)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.stain, self.net = ZScore(3), nn.Conv2d(3, 1, 3)

    def forward(self, x):
        return self.net(self.stain(x))


def test_what_a_module_of_the_user_s_own_holds_is_fitted_to_what_that_module_is_given():
    model = load_model(Compose(Normalise(1.0, 2.0), Own()))
    fit_all(model.module, Pixels(pixels()))
    assert torch.allclose(model.module.get_buffer("model.1.stain.mean"), ((pixels() - 1) / 2).mean(0), atol=1e-4)


def test_statistics_of_what_a_network_gives_are_refused_naming_it():
    module = Compose(nn.Conv2d(3, 2, 3, padding=1), ZScore(2))
    with pytest.raises(ModelError, match=r"what follows '0' \(Conv2d\) needs statistics of its output"):
        fit_all(module, Pixels(pixels()))
    fit_all(Compose(nn.Conv2d(3, 2, 1), ZScore(2)), Pixels(pixels()))  # this one looks at single voxels


class Elsewhere(nn.Module):
    """As Resampled: what is inside sees other voxels than the source's, and is fitted to the source's own."""

    passes_voxels = True

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(nn.functional.avg_pool2d(x, 2))


def test_what_a_wrapper_holds_is_fitted_to_the_voxels_that_come_to_it():
    module = Compose(Normalise(1.0, 2.0), Elsewhere(Compose(Normalise(3.0, 4.0), ZScore(3), nn.Conv2d(3, 1, 3))))
    fit_all(module, Pixels(pixels()))
    wanted = (((pixels() - 1) / 2) - 3) / 4
    assert torch.allclose(module.get_buffer("1.inner.1.mean"), wanted.mean(0), atol=1e-4)
    assert set(constants(module)) == {"1.inner.1.mean", "1.inner.1.std"}


@pytest.mark.parametrize("inner", [nn.Identity(), ZScore(3)])
def test_what_follows_a_wrapper_cannot_be_fitted(inner):
    with pytest.raises(ModelError, match=r"what follows '0' \(Elsewhere\) needs statistics of its output"):
        fit_all(Compose(Elsewhere(inner), ZScore(3)), Pixels(pixels()))


def test_resampled_is_such_a_wrapper():
    network = Compose(ZScore(3), nn.Conv2d(3, 1, 3, padding=1))
    module = Compose(Normalise(1.0, 2.0), Resampled(network, spacing=2.0))
    fit_all(module, Pixels(pixels()))
    assert torch.allclose(network.get_buffer("0.mean"), ((pixels() - 1) / 2).mean(0), atol=1e-4)


def test_voxels_that_come_often_count_often():
    rows, counts = pixels()[:40], torch.arange(1, 41).numpy()
    one, other = (Compose(Normalise(1.0, 2.0), ZScore(3), MinMax(3, percentiles=(5, 80))) for _ in range(2))
    fit_all(one, Pixels(rows, counts))
    fit_all(other, Pixels(rows.repeat_interleave(torch.from_numpy(counts), 0)))
    assert constants(one) == constants(other)
    assert one.get_buffer("1.mean").tolist() != pytest.approx(((rows - 1) / 2).mean(0).tolist(), rel=1e-3)


class Power(nn.Module):
    """Torch computes a power otherwise at the end of an array than within it."""

    def forward(self, x):
        return x**0.4545


@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_voxel_is_handed_on_as_the_same_bits_whatever_lies_beside_it(n_channels):
    columns = pixels(n_channels, 3000).T
    whole = handed_on(Power(), columns, n_space=2, path="0")
    parts = [handed_on(Power(), part, n_space=2, path="0") for part in columns[:, :300].split(7, dim=1)]
    assert torch.equal(torch.cat(parts, dim=1), whole[:, :300])
    assert torch.allclose(whole, columns**0.4545)
    assert whole.std() > 1


def test_an_instance_norm_is_seen_to_look_around():
    with pytest.raises(ModelError, match=r"what follows '0' \(InstanceNorm2d\)"):
        fit_all(Compose(nn.InstanceNorm2d(3), ZScore(3)), Pixels(pixels()))


def test_a_part_that_was_fitted_before_keeps_its_statistics():
    first = ZScore(3)
    first.fit(pixels() * 0.5)
    kept = first.mean.clone()
    fit_all(Compose(first, ZScore(3)), Pixels(pixels()))
    assert torch.equal(first.mean, kept)


@pytest.mark.parametrize("make", [lambda: Compose(Macenko(), ZScore(3)), Reinhard, lambda: ZScore(3)])
def test_constants_come_back_to_the_bit_through_json(make):
    one, other = make(), make()
    generator = torch.Generator().manual_seed(5)
    amounts = torch.rand(800, 2, generator=generator)
    rows = 240 * torch.exp(-amounts @ torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]))
    fit_all(one, Pixels(rows))
    set_constants(other, json.loads(json.dumps(constants(one))))
    assert not unfitted(other)
    x = rows.T.reshape(1, 3, 40, 20)
    assert one(x).std() > 0
    assert torch.equal(one(x), other(x))
    assert torch.equal(deepcopy(one)(x), one(x))  # as actors get it
    assert constants(one)
    assert all(not path.startswith(".") for path in constants(one))


def test_only_what_is_fitted_has_constants_and_no_file_of_weights_holds_them():
    module = Compose(ZScore(3), nn.Conv2d(3, 1, 1))
    assert constants(module) == {}
    assert list(module.state_dict()) == ["1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"0.mean": [0.0, 0.0]}, r"'0.mean' of shape \(2,\) .* has \(3,\)"),
        ({"1.mean": [0.0, 0.0, 0.0]}, "does not have it"),
        ({"0.mean": [0.0, 0.0, 0.0]}, r"without \['0.std'\]"),
    ],
)
def test_constants_of_another_model_are_refused(values, said):
    with pytest.raises(ModelError, match=said):
        set_constants(Compose(ZScore(3)), values)


def test_geometry_is_learnt_before_a_fit_and_leaves_no_trace():
    module = Compose(ZScore(3), nn.Conv2d(3, 1, 3, padding=1))
    with provisional(module):
        assert learn(load_model(module), n_channels=3, n_space=2).evidence == "proved"
    assert len(unfitted(module)) == 1
    with pytest.raises(ModelError, match="fitted to nothing"):
        module(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pixels(2), "made for 3 channels, not 2"),
        (torch.ones(9, 3), "channel 0 is always 1"),
        (pixels()[:0], "finite pixels"),
        (pixels()[0], "finite pixels"),
        (pixels() / 0, "1500 that are not finite"),
    ],
)
def test_pixels_that_tell_nothing_are_refused(rows, said):
    with pytest.raises(ModelError, match=said):
        ZScore(3).fit(rows)


def test_what_has_fit_and_says_whether_it_is_fitted_is_fitted():
    assert isinstance(ZScore(1), Fitted)
    assert not isinstance(nn.Conv2d(1, 1, 1), Fitted)
    with pytest.raises(ModelError, match="at least 1 channel"):
        ZScore(0)
