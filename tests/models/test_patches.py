"""Patch models over whole volumes: the plain loop over patches is the oracle."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.check import check
from engine.errors import ModelError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.models.fingerprint import fingerprint
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.patches import Patches
from engine.models.resolution import declared_mpp
from engine.models.skeleton import skeletons
from engine.models.wrappers import Compose, Normalise
from engine.prepare import Options
from engine.run import run
from engine.storage.create import create_volume
from engine.storage.volume import open_volume
from tests.patch_models import Attending, Residual, Whitening, colours, loop, mixed, residual, scripted


def x(shape=(2, 3, 75, 98)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("encoder", "stride", "batch_size"),
    [
        (Residual(), 32, 16),  # batch norm and a global mean; the last batch is filled up
        (Attending(32), 32, 4),  # attention and positions
        (Whitening(), 32, 5),  # instance norm; a map of one voxel
        (Residual(), 8, 16),  # patches overlap
        (Residual(), 40, 16),  # patches leave gaps
        (Residual(), 32, 1),  # one at a time
    ],
)
def test_the_grid_equals_a_loop_over_patches(encoder, stride, batch_size):
    mixed(encoder)
    ours = Patches(encoder, size=32, stride=stride, batch_size=batch_size)(x()).detach()
    wanted = loop(encoder, x(), size=32, stride=stride)
    assert ours.shape == wanted.shape
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
    assert wanted.std() > 0.01


def test_features_do_not_depend_on_what_else_is_in_the_tile():
    patches = Patches(mixed(Attending(32)), size=32, batch_size=16)
    whole = patches(x((1, 3, 160, 160)))
    assert torch.equal(patches(x((1, 3, 160, 160))[:, :, 64:128, 96:]), whole[:, :, 2:4, 3:])
    assert whole.std() > 0.01


@pytest.mark.parametrize(
    ("size", "stride", "halo"),
    [
        (32, 32, (0, 0)),
        (32, 8, (0, 24)),  # overlapping: an output sees three strides beyond its own
        (32, 40, (0, -8)),  # with gaps
        (700, 50, (0, 650)),  # longer than any length that is tried blindly
    ],
)
def test_geometry_is_that_of_a_convolution_without_padding(size, stride, halo):
    model = load_model(residual(size=size, stride=stride))
    geometry = learn(model, n_channels=3, n_space=2)
    assert geometry.evidence == "proved"
    assert [(o.name, o.n_channels, o.dtype) for o in geometry.outputs] == [
        ("embedding", 7, "float32"),
        ("probability", 3, "float32"),
    ]
    for program in geometry.programs:
        assert (program.step, program.halo("embedding"), program.legal_size(1)) == (stride, halo, size)
        for n in (size, size + 1, size + stride - 1, size + stride, 3 * size):
            assert program.sizes(n) == dict.fromkeys(["embedding", "probability"], (n - size) // stride + 1)


def test_learning_runs_the_encoder_on_two_patches_only():
    seen = []
    encoder = mixed(Residual())
    encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    learn(load_model(Patches(encoder, size=224)), n_channels=3, n_space=2)
    assert seen
    assert set(seen) == {(2, 3, 224, 224)}
    assert len(seen) <= 3


@pytest.mark.parametrize(
    "model",
    [
        residual(),  # a usual pipeline
        Patches(mixed(Attending(16)), size=16, stride=8, batch_size=4),  # attention, overlap
        Compose(nn.AvgPool2d(2), Patches(mixed(Whitening()), size=16), nn.Conv2d(6, 2, 3, padding=1)),  # before, after
        Patches(scripted(mixed(Residual())), size=16),  # TorchScript inside
    ],
)
def test_check_shows_that_tiles_equal_the_whole(model):
    found = check(model)
    assert found.geometry.evidence == "proved"
    assert found.n_tiles > 1
    for output in found.outputs:
        assert output.max_difference <= 1e-6 * max(output.largest, 1)
        assert output.std > 0.01


def test_an_exported_encoder_of_a_fixed_size_is_no_model_of_a_fixed_size():
    batch = torch.export.Dim("batch", min=2, max=64)
    example = (torch.zeros(4, 3, 16, 16),)
    program = torch.export.export(mixed(Residual()), example, dynamic_shapes=({0: batch},)).module()
    model = load_model(Patches(program, size=16, batch_size=4))
    assert learn(model, n_channels=3, n_space=2).programs[0].sizes(40) == {"output": 2}
    y = model.module(x((1, 3, 32, 48)))["output"]
    torch.testing.assert_close(y, loop(mixed(Residual()), x((1, 3, 32, 48)), size=16, stride=16), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "shape"), [(32, (202, 285)), (16, (131, 97)), (40, (150, 170)), (32, (20, 200))])
def test_a_run_writes_the_grid_of_a_plain_loop_in_its_place(tmp_path: Path, stride, shape):
    source, array = tmp_path / "slide.zarr", colours((3, *shape))
    axes = (Axis("c", Role.CHANNEL), *(Axis(n, Role.SPACE, 0.5, "micrometer") for n in "yx"))
    volume = create_volume(str(source), axes=axes, dtype="uint8", shape=array.shape, chunk_shape=(3, 64, 64))
    volume.write(Region.whole(array.shape), array)
    model = residual(stride=stride)
    report = run(str(source), model, str(tmp_path / "out.zarr"), options=Options(block=(3 * stride, 4 * stride)))
    assert report.is_complete
    out = open_volume(str(tmp_path / "out.zarr/embedding"))
    got = out.read(Region.whole(out.shape))
    normalise, patches, _ = model.children()
    far = [(0, 0), *((0, max(32 - n, 0)) for n in shape)]  # an axis shorter than a patch is mirrored up to one
    x = normalise(torch.from_numpy(np.pad(array, far, mode="reflect"))[None].float())
    wanted = loop(patches.encoder, x, size=32, stride=stride)[0].numpy()
    assert got.shape == wanted.shape == (7, *(max(n - 32, 0) // stride + 1 for n in shape))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert wanted.std(axis=(1, 2)).min() > 0.005
    assert out.levels[0].spacing[1:] == (stride * 0.5, stride * 0.5)
    assert out.levels[0].translation[1:] == (31 / 2 * 0.5, 31 / 2 * 0.5)  # the centre of the first patch


def test_settings_and_weights_are_a_part_of_the_fingerprint():
    prints = {
        fingerprint(residual()),
        fingerprint(residual(stride=16)),
        fingerprint(residual(mpp=0.25)),
        fingerprint(Compose(Patches(mixed(Residual(), seed=1), size=32))),
    }
    assert len(prints) == 4
    assert fingerprint(residual()) == fingerprint(residual())


def test_a_skeleton_has_the_true_shape_and_dtype():
    patches = Patches(mixed(Residual()).double(), size=32, stride=24)
    with skeletons():
        there = patches(x().double())
    true = patches(x().double())
    assert (there.shape, there.dtype) == (true.shape, true.dtype)
    assert not torch.equal(there, true)


class Tokens(nn.Module):
    def forward(self, x):
        return x.flatten(2)


class Pair(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


class Dictionary(nn.Module):
    def forward(self, x):
        return {"pooled": x.mean((2, 3))}


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Tokens(), r"'Tokens' of Patches must give \(patch, feature\) for 2 patches, not \(2, 3, 1024\)"),
        (Pair(), "'Pair' of Patches must give one tensor, not a tuple of 2"),
        (Dictionary(), "'Dictionary' of Patches must give one tensor, not a dict of 'pooled'"),
        (mixed(nn.Conv2d(4, 2, 32)), r"'Conv2d' of Patches fails on a batch of \(2, 3, 32, 32\)"),  # other channels
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()), "every patch must be seen alone"),
    ],
)
def test_an_encoder_that_gives_no_vector_per_patch_is_refused_by_name(encoder, message):
    with pytest.raises(ModelError, match=message) as caught:
        learn(load_model(Patches(encoder, size=32)), n_channels=3, n_space=2)
    assert "\n" not in str(caught.value)


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x.flatten(1), 0.5, training=True)


def test_active_dropout_is_refused_naming_the_encoder():
    with pytest.raises(ModelError, match=r"'encoder' \(Dropping\) gives other values each time"):
        check(Patches(Dropping(), size=8), n_channels=3)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 32, "stride": 0}, {"size": 32, "batch_size": 2.5}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ModelError, match="needs a"):
        Patches(nn.Flatten(), **settings)


def test_the_resolution_that_a_pipeline_declares_is_found():
    assert declared_mpp(load_model(residual(mpp_tolerance=0.1)).module) == (0.5, 0.1)
    assert declared_mpp(Compose(Normalise(0, 1))) is None
    same = Compose(Patches(nn.Flatten(), size=2, mpp=1), Patches(nn.Flatten(), size=2, mpp=1))
    assert declared_mpp(same) == (1.0, 0.05)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Patches(nn.Flatten(), size=2, mpp=0.5), "declare '0' .Patches. 1 to 5%, '1' .Patches. 0.5 to 5%"),
        (Patches(nn.Flatten(), size=2, mpp=-1), "mpp of '1' .Patches. must be a positive number, not -1"),
        (Patches(nn.Flatten(), size=2, mpp=1, mpp_tolerance=float("nan")), "mpp_tolerance of '1'"),
    ],
)
def test_resolutions_that_disagree_or_make_no_sense_are_refused(second, message):
    with pytest.raises(ModelError, match=message):
        declared_mpp(Compose(Patches(nn.Flatten(), size=2, mpp=1), second))


def test_a_copy_in_double_precision_is_the_same_model():
    patches = Patches(mixed(Residual()), size=32)
    torch.testing.assert_close(
        copy.deepcopy(patches).double()(x().double()).float(), patches(x()), rtol=1e-4, atol=1e-5
    )
