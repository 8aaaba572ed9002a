"""Models that no tile can equal: each is refused by the name of its submodule, with the way out; nothing is written."""

import dask.array as da
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import engine
from engine.errors import ModelError
from engine.geometry.edges import Edge, EdgeKind
from tests import real_models
from tests.stored import smooth, store


class Among(nn.Module):
    """A network whose one fault sits deep inside, between sound layers."""

    def __init__(self, fault: nn.Module, *, n_in: int = 1, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, width, 3, padding=1)
        self.encoder = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.encoder.add_module("fault", fault)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        return self.last(self.encoder(self.first(x)))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)


class SqueezeByMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, x):
        return x * torch.sigmoid(self.dense(x.mean(dim=(2, 3))))[:, :, None, None]


class GlobalPool(nn.Module):
    def forward(self, x):
        return x - F.adaptive_avg_pool2d(x, 1)


class Attention(nn.Module):
    """Every position asks every other."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return mixed.transpose(1, 2).reshape(x.shape)


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.heads(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)


class AlignedUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x):
        return self.up(F.max_pool2d(x, 2))


class FixedSize(nn.Module):
    def forward(self, x):
        return F.interpolate(F.interpolate(x, size=(64, 64)), size=x.shape[-2:])


class ActiveDropout(nn.Module):
    """Functional dropout is on by default, in eval mode too."""

    def forward(self, x):
        return F.dropout(x, 0.5)


class RandomDraw(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class RandomState(nn.Module):
    """Draws from a shape, not from its input: a published LSTM does."""

    def forward(self, x):
        return x + torch.randn(x.shape)


class LearnedPosition(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 4, 144, 288))

    def forward(self, x):
        return x + self.place


class Coordinates(nn.Module):
    def forward(self, x):
        y = torch.linspace(0, 1, x.shape[-2], dtype=x.dtype)
        return x + y[:, None]


class CoordinatesByRange(nn.Module):
    def forward(self, x):
        return torch.cat(
            [x[:, :3], torch.arange(x.shape[-1], dtype=x.dtype).expand(x.shape[0], 1, *x.shape[-2:])], dim=1
        )


class SpatialSoftmax(nn.Module):
    def forward(self, x):
        return x.softmax(dim=-1)


class LayerNormOverSpace(nn.Module):
    def forward(self, x):
        return F.layer_norm(x, x.shape[-2:])


class Flipped(nn.Module):
    def forward(self, x):
        return x + x.flip(-1)


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[-2:])


REFUSED = [
    # what is wrong, the submodule and class that must be named, the way out that must be shown
    pytest.param(nn.InstanceNorm2d(4), r"'encoder\.fault' \(InstanceNorm2d\)", "fixed statistics", id="instance norm"),
    pytest.param(nn.GroupNorm(2, 4), r"'encoder\.fault' \(GroupNorm\)", "fixed statistics", id="group norm over space"),
    pytest.param(
        LayerNormOverSpace(), r"'encoder\.fault' \(LayerNormOverSpace\)", "fixed statistics", id="layer norm over space"
    ),
    pytest.param(
        SqueezeExcite(), r"'encoder\.fault\.gate\.0' \(AdaptiveAvgPool2d\)", "fixed window", id="squeeze-and-excite"
    ),
    pytest.param(SqueezeByMean(), r"'encoder\.fault' \(SqueezeByMean\)", "constant", id="squeeze by mean"),
    pytest.param(GlobalPool(), r"'encoder\.fault' \(GlobalPool\)", "fixed window", id="global average pool"),
    pytest.param(Attention(), r"'encoder\.fault' \(Attention\)", "Take it out", id="attention"),
    pytest.param(
        TorchAttention(),
        r"'encoder\.fault(\.heads)?' \(TorchAttention|MultiheadAttention\)",
        "Take it out",
        id="multihead attention",
    ),
    pytest.param(AlignedUp(), r"'encoder\.fault\.up' \(Upsample\)", "align_corners=False", id="align_corners=True"),
    pytest.param(
        FixedSize(), r"'encoder\.fault' \(FixedSize\)", "scale_factor|fixed factors", id="interpolation to a fixed size"
    ),
    pytest.param(
        nn.BatchNorm2d(4, track_running_stats=False),
        r"'encoder\.fault' \(BatchNorm2d\)",
        "track_running_stats=True",
        id="batch norm in train mode",
    ),
    pytest.param(
        ActiveDropout(), r"'encoder\.fault' \(ActiveDropout\)", r"training=self\.training", id="active dropout"
    ),
    pytest.param(
        RandomDraw(), r"'encoder\.fault' \(RandomDraw\)", "global voxel index", id="random draw like its input"
    ),
    pytest.param(RandomState(), r"'encoder\.fault' \(RandomState\)", "global voxel index", id="random draw of a shape"),
    pytest.param(
        LearnedPosition(),
        r"'encoder\.fault' \(LearnedPosition\)",
        "global voxel|position",
        id="learned position encoding",
    ),
    pytest.param(Coordinates(), r"'encoder\.fault' \(Coordinates\)", "global voxel", id="linspace coordinates"),
    pytest.param(
        CoordinatesByRange(),
        r"'encoder\.fault' \(CoordinatesByRange\)",
        "global voxel",
        id="arange coordinates as a channel",
    ),
    pytest.param(SpatialSoftmax(), r"'encoder\.fault' \(SpatialSoftmax\)", "constant", id="softmax over space"),
    pytest.param(Flipped(), r"'encoder\.fault' \(Flipped\)", "Take it out", id="flip"),
    pytest.param(Fourier(), r"'encoder\.fault' \(Fourier\)", "Take it out", id="Fourier transform"),
]


@pytest.mark.parametrize(("fault", "where", "way_out"), REFUSED)
def test_a_model_that_no_tile_can_equal_is_refused_by_name_with_the_way_out(tmp_path, fault, where, way_out):
    model = Among(fault)
    source = store(tmp_path / "in.zarr", smooth((144, 288)), "yx")
    with pytest.raises(ModelError, match=where) as from_check:
        engine.check(model, n_space=2, n_channels=1)
    with pytest.raises(ModelError, match=where) as from_run:
        engine.run(source, model, str(tmp_path / "out.zarr"))
    for error in (from_check, from_run):
        assert error.match(way_out)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out.zarr").exists()


SOUND = [
    pytest.param(nn.BatchNorm2d(4), id="batch norm with running statistics"),
    pytest.param(nn.InstanceNorm2d(4, track_running_stats=True), id="instance norm with running statistics"),
    pytest.param(nn.Dropout2d(0.5), id="dropout that eval mode turns off"),
    pytest.param(nn.Softmax(dim=1), id="softmax over channels"),
    pytest.param(nn.Upsample(scale_factor=2, mode="bilinear"), id="bilinear without align_corners"),
]


@pytest.mark.parametrize("layer", SOUND)
def test_the_sound_twin_of_a_refused_layer_passes(layer):
    found = engine.check(Among(layer), n_space=2, n_channels=1)
    assert found.n_tiles > 1
    assert all(one.max_difference <= 1e-5 * one.largest and one.std > 0 for one in found.outputs)


def test_the_published_ocean_network_is_refused_for_its_mean_over_the_whole_domain(tmp_path):
    _refuse_published(tmp_path, real_models.pyqg_twin(is_published=True), smooth((2, 64, 64)))


@pytest.mark.real
def test_the_published_ocean_network_with_its_trained_weights_is_refused_for_the_mean(tmp_path):
    _refuse_published(tmp_path, real_models.pyqg(is_published=True), smooth((2, 64, 64)))


def _refuse_published(tmp_path, network: nn.Module, field: np.ndarray) -> None:
    source = store(tmp_path / "in.zarr", field, "cyx")
    wrap = {"y": Edge(EdgeKind.WRAP), "x": Edge(EdgeKind.WRAP)}
    for attempt in (
        lambda: engine.check(network, n_space=2, n_channels=2),
        lambda: engine.run(source, network, str(tmp_path / "out.zarr"), options=engine.Options(edges=wrap)),
    ):
        with pytest.raises(
            ModelError, match=r"the model itself \(EddyNetwork\) takes 'mean' over the whole of space.*constant"
        ):
            attempt()
    assert not (tmp_path / "out.zarr").exists()


def test_a_layer_padded_otherwise_than_the_rest_is_refused_on_a_periodic_axis(tmp_path):
    network = real_models.pyqg_twin(is_published=True)
    network.is_published = False  # the mean is gone, and the last layer still pads with zeros
    source = store(tmp_path / "in.zarr", smooth((2, 64, 64)), "cyx")
    wrap = {"y": Edge(EdgeKind.WRAP), "x": Edge(EdgeKind.WRAP)}
    for attempt in (
        lambda: engine.check(network, n_space=2, n_channels=2),
        lambda: engine.run(
            source, network, str(tmp_path / "out.zarr"), options=engine.Options(edges=wrap, tile=(40, 40))
        ),
        lambda: engine.predict(network, da.zeros((2, 64, 64), np.float32), axes="cyx", edges=wrap),
    ):
        with pytest.raises(ModelError, match=r"'layers\.9' \(Conv2d\) pads with 'zeros'.*padding_mode='circular'"):
            attempt()
    assert not (tmp_path / "out.zarr").exists()


def test_a_network_that_pads_all_its_layers_circularly_is_checked_on_a_periodic_axis():
    found = engine.check(real_models.pyqg_twin(), n_space=2, n_channels=2)
    assert found.n_tiles > 1
    assert all(one.max_difference <= 1e-5 * one.largest and one.std > 0 for one in found.outputs)
