"""Bundles of MONAI: MONAI's own transforms, networks and inferers on the same array are the oracle."""

import importlib
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.nets import DynUNet, SegResNet, UNet
from monai.transforms import (
    Activations,
    AsDiscrete,
    Compose,
    NormalizeIntensity,
    ScaleIntensity,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
    Spacing,
)
from torch import nn
from torch.nn import functional as F

from engine.errors import EngineError, ModelError, PlanError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.models.bundle import bundle
from engine.models.bundle_values import Values
from engine.models.card import card_of
from engine.models.fitted import unfitted
from engine.models.learn import learn
from engine.models.load import absolute_spec, load_model
from engine.models.programs import load_torchscript
from engine.models.resampled import Resampled
from engine.models.specification import parse_spec
from engine.models.turned import Turned, turned_layers
from engine.prepare import Options, prepare
from engine.run import run
from engine.storage.create import create_volume
from tests.oracle import plan_for, run_in_memory, whole_run
from tests.patch_models import save_scripted
from tests.stored import smooth, stored

SHAPE = (9, 14, 17)
"""Of the source along z, y and x."""

UNET = {
    "_target_": "UNet",
    "spatial_dims": "@spatial_dims",
    "in_channels": 1,
    "out_channels": "$len(@classes)",
    "channels": [4, 6],
    "strides": [2],
    "num_res_units": 1,
    "norm": "instance",
}
LOAD = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
ORIENTATION = {"_target_": "Orientationd", "keys": ["image"], "axcodes": "RAS"}
SPACING = {"_target_": "Spacingd", "keys": ["image", "label"], "pixdim": [1.0, 1.0, 2.0], "mode": ["bilinear", "nearest"]}
RANGE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -60, "a_max": 160, "b_min": 0, "b_max": 1, "clip": True}
WINDOW = {"_target_": "SlidingWindowInferer", "roi_size": [12, 8, "$4 * 2"], "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
INVERT = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False}
ARGMAX = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False]}
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def transform(name: str, key: str = "image", **arguments: object) -> dict:
    return {"_target_": name, "keys": key, **arguments}


def network(seed: int = 0, kind=UNet, **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, **changes}
    if kind is UNet:
        arguments = {"channels": (4, 6), "strides": (2,), "num_res_units": 1, "norm": "instance", **arguments}
    net = kind(**arguments).eval()
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
        elif "bias" in name:
            nn.init.normal_(parameter, std=0.1)
    return net


def folder(path: Path, net: nn.Module | None = None, *, before=None, after=None, is_yaml: bool = False, **changes: object) -> Path:
    """Write a bundle as the model zoo has them, with what a test changes; None takes an entry out."""
    config = {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "spatial_dims": 3,
        "classes": ["background", "spleen", "tumour"],
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": UNET,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [*LOAD, ORIENTATION, *([RANGE] if before is None else before)]},
        "inferer": WINDOW,
        "postprocessing": {"_target_": "Compose", "transforms": [SOFTMAX, INVERT, ARGMAX, SAVE] if after is None else after},
        "evaluator": {"_target_": "SupervisedEvaluator", "network": "@network", "amp": True},
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        **changes.pop("config", {}),
    }
    metadata = {
        "version": "0.1.0",
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1, "spatial_shape": [96, 96, 96]}},
            "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen", "2": "tumour"}}},
        },
    }
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    config = {key: value for key, value in config.items() if value is not None}
    if is_yaml:
        (path / "configs/inference.yaml").write_text(yaml.safe_dump(config))
    else:
        (path / "configs/inference.json").write_text(json.dumps(config))
    (path / "configs/metadata.json").write_text(json.dumps(metadata))
    torch.save((network() if net is None else net).state_dict(), path / "models" / str(changes.get("file", "model.pt")))
    return path


def scan(shape=SHAPE, n_channels: int = 1) -> np.ndarray:
    """Return smooth values about those of soft tissue, (channel, z, y, x), with blocks of 0."""
    array = np.stack([smooth(shape, seed=7 + n) for n in range(n_channels)]) * 80 + 50
    array[:, 1:3, 3:6] = 0
    array[0, 4:6] = 0
    return array.astype(np.float32)


def monai_has(array: np.ndarray) -> torch.Tensor:
    """Return an array (channel, z, y, x) as MONAI loads the scan: (channel, x, y, z)."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, *reversed(range(1, array.ndim)))))


def stored_as(y: torch.Tensor) -> np.ndarray:
    """Return MONAI's result (channel, x, y, z) as it is stored here."""
    return y.as_tensor().permute(0, *reversed(range(1, y.dim()))).numpy() if isinstance(y, MetaTensor) else y.permute(0, *reversed(range(1, y.dim()))).numpy()


def ours(pipeline: nn.Module, array: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Return what the pipeline gives for a whole array, each part fitted to what reaches it."""
    x = torch.from_numpy(array)[None]
    parts = [inner for part in pipeline.children() for inner in (part.children() if type(part).__name__ == "Compose" else [part])]
    with torch.inference_mode():
        for part in parts:
            for _, fitted in unfitted(part):
                fitted.fit(x[0].flatten(1).T.clone())
            for resampled in (m for m in part.modules() if isinstance(m, Resampled)):
                resampled.source_spacing = spacing
            x = part.eval()(x)
    return x[0].numpy()


def shown(net: nn.Module, x: torch.Tensor, **changes: object) -> torch.Tensor:
    settings = {"roi_size": (12, 8, 8), "overlap": 0.5, "mode": "gaussian", **changes}
    with torch.inference_mode():
        return SlidingWindowInferer(**settings)(x[None], net)[0]


PREPROCESSING = {
    "a window of HU": ([RANGE], ScaleIntensityRange(-60, 160, 0, 1, clip=True)),
    "a window that lets others pass": (
        [transform("ScaleIntensityRangeD", a_min=-60, a_max=160, b_min=-1, b_max=1)],
        ScaleIntensityRange(-60, 160, -1, 1),
    ),
    "a z-score": ([transform("NormalizeIntensityd")], NormalizeIntensity()),
    "a z-score by constants": (
        [transform("NormalizeIntensityd", subtrahend=40.0, divisor=60.0)],
        NormalizeIntensity(subtrahend=40.0, divisor=60.0),
    ),
    "a z-score of what is not 0, then ends": (
        [transform("monai.transforms.NormalizeIntensityd", nonzero=True), transform("ScaleIntensityd", minv=-1.0, maxv=1.0)],
        Compose([NormalizeIntensity(nonzero=True), ScaleIntensity(-1.0, 1.0)]),
    ),
    "percentiles": (
        [transform("ScaleIntensityRangePercentilesd", lower=1, upper=99, b_min=-1, b_max=2, clip=True)],
        ScaleIntensityRangePercentiles(1, 99, -1, 2, clip=True),
    ),
}


@pytest.mark.parametrize("is_yaml", [False, True])
@pytest.mark.parametrize("name", PREPROCESSING)
def test_a_bundle_segments_as_monai_does(tmp_path, name, is_yaml):
    before, theirs = PREPROCESSING[name]
    pipeline = bundle(folder(tmp_path / "b", before=before, after=[SOFTMAX], is_yaml=is_yaml))
    array = scan()
    wanted = stored_as(Activations(softmax=True)(shown(network(), theirs(monai_has(array)))))
    found = ours(pipeline, array)
    assert np.abs(found - wanted).max() < 1e-5
    assert wanted.std(axis=(1, 2, 3)).min() > 0.01


def test_channels_are_normalised_each_by_its_own_voxels(tmp_path):
    net = network(in_channels=3)
    before = [transform("NormalizeIntensityd", nonzero=True, channel_wise=True)]
    pipeline = bundle(folder(tmp_path / "b", net, before=before, after=[], config={"network_def": {**UNET, "in_channels": 3}}))
    array = scan(n_channels=3)
    wanted = stored_as(shown(net, NormalizeIntensity(nonzero=True, channel_wise=True)(monai_has(array))))
    assert np.abs(ours(pipeline, array) - wanted).max() < 2e-5 * np.abs(wanted).max()
    assert wanted.std() > 0.1
    assert ((array[0] == 0) != (array[1] == 0)).any()


POSTPROCESSING = {
    "labels": ([SOFTMAX, ARGMAX, SAVE], [Activations(softmax=True), AsDiscrete(argmax=True)]),
    "regions": (
        [transform("Activationsd", "pred", sigmoid=True), transform("AsDiscreted", "pred", threshold=0.5)],
        [Activations(sigmoid=True), AsDiscrete(threshold=0.5)],
    ),
}


@pytest.mark.parametrize("name", POSTPROCESSING)
def test_labels_are_those_of_monai(tmp_path, name):
    after, theirs = POSTPROCESSING[name]
    found = ours(bundle(folder(tmp_path / "b", after=after)), scan())
    wanted = stored_as(Compose(theirs)(shown(network(), PREPROCESSING["a window of HU"][1](monai_has(scan())))))
    wanted = wanted[0] if name == "labels" else wanted
    assert found.dtype == np.uint8
    assert (found == wanted).all()
    assert 0.05 < (wanted == 1).mean() < 0.95


NETWORKS = {
    "SegResNet": (SegResNet, {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
    "monai.networks.nets.dynunet.DynUNet": (
        DynUNet,
        {"kernel_size": [[3, 3, 1], 3, 3], "strides": [1, [2, 2, 1], [2, 1, 2]], "upsample_kernel_size": [[2, 2, 1], [2, 1, 2]], "filters": [4, 6, 8]},
    ),
}


@pytest.mark.parametrize("target", NETWORKS)
def test_other_networks_of_monai_are_made_from_plain_arguments(tmp_path, target):
    kind, arguments = NETWORKS[target]
    net = network(kind=kind, **arguments)
    definition = {"_target_": target, "spatial_dims": 3, "in_channels": 1, "out_channels": 3, **arguments}
    pipeline = bundle(folder(tmp_path / "b", net, after=[], config={"network_def": definition}))
    wanted = stored_as(shown(net, PREPROCESSING["a window of HU"][1](monai_has(scan()))))
    assert np.abs(ours(pipeline, scan()) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert wanted.std() > 0.1


def test_a_program_serves_where_there_are_no_weights(tmp_path):
    path = folder(tmp_path / "b", after=[], config={"network_def": None})
    save_scripted(network(), path / "models/model.ts")
    (path / "models/model.pt").unlink()
    wanted = stored_as(shown(network(), PREPROCESSING["a window of HU"][1](monai_has(scan()))))
    assert np.abs(ours(bundle(path), scan()) - wanted).max() < 1e-5
    prints = set()
    for slope in (0.1, 0.2):  # the weights are the same
        save_scripted(network(act=("leakyrelu", {"negative_slope": slope})), path / "models/model.ts")
        prints.add(load_model(str(path)).fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize("is_high", [True, False])
def test_the_weights_are_those_that_the_configuration_loads(tmp_path, is_high):
    config = {
        "is_high": is_high,
        "shown": {"file": "$'model.pt' if @is_high else 'model_low.pt'"},
        "handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/' + @shown#file"}],
    }
    path = folder(tmp_path / "b", after=[], config=config)
    torch.save(network(1).state_dict(), path / "models/model_low.pt")
    wanted = stored_as(shown(network(0 if is_high else 1), PREPROCESSING["a window of HU"][1](monai_has(scan()))))
    assert np.abs(ours(bundle(path), scan()) - wanted).max() < 1e-5


@pytest.mark.parametrize("is_inverted_first", [True, False])
def test_a_source_of_another_spacing_is_resampled_and_brought_back(tmp_path, is_inverted_first):
    after = [SOFTMAX, INVERT, ARGMAX] if is_inverted_first else [SOFTMAX, ARGMAX, INVERT]
    pipeline = bundle(folder(tmp_path / "b", before=[SPACING, RANGE], after=after))
    array, own = scan((12, 14, 10)), (1.0, 1.0, 2.0)  # along z, y, x; the bundle wants 2, 1, 1
    x = monai_has(array)
    x = F.interpolate(x[None], (20, 14, 6), mode="trilinear", align_corners=False)[0]
    y = shown(network(), PREPROCESSING["a window of HU"][1](x)).softmax(0)
    wanted = stored_as(F.interpolate(y[None], (10, 14, 12), mode="trilinear", align_corners=False)[0].argmax(0, keepdim=True))[0]
    assert (ours(pipeline, array, own) == wanted).all()
    assert max(np.bincount(wanted.ravel())) < 0.9 * wanted.size
    notes = " ".join(card_of(pipeline).notes)
    assert "scale_extent=True" in notes
    assert ("brought back to it by the nearest" in notes) != is_inverted_first


def test_the_grid_is_that_of_spacing_with_scale_extent():
    array = scan((12, 14, 10))
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = 10  # MONAI's own grid lies half a voxel off where the origin is 0
    theirs = Spacing((1.0, 1.0, 2.0), scale_extent=True)(MetaTensor(monai_has(array), affine=affine))
    inner = Kept()
    pipeline = Resampled(inner, spacing=(2.0, 1.0, 1.0))
    pipeline.source_spacing = (1.0, 1.0, 2.0)
    pipeline(torch.from_numpy(array)[None])
    assert inner.seen.shape == (1, 1, 6, 14, 20)
    assert np.abs(inner.seen[0].numpy() - stored_as(theirs)).max() < 1e-3
    assert theirs.std() > 1


@pytest.mark.parametrize(("pixdim", "spacing"), [(1.5, (1.5, 1.5, 1.5)), ([1.0, "$4 / 2", -1], (None, 2.0, 1.0)), ([1, 2], (2, 2, 1))])
def test_spacing_is_given_for_some_axes_or_all(tmp_path, pixdim, spacing):
    pipeline = bundle(folder(tmp_path / "b", before=[transform("Spacingd", pixdim=pixdim)]))
    assert [part.spacing for part in pipeline.modules() if isinstance(part, Resampled)] == [spacing]


class Kept(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x.clone()
        return x


BATCH_NORM = {**UNET, "norm": "batch", "channels": [4, 6, 8], "strides": [[1, 2, 2], 2], "kernel_size": [3, 1, 5]}


def exact_network() -> nn.Module:
    net = network(norm="batch", channels=(4, 6, 8), strides=((1, 2, 2), 2), kernel_size=(3, 1, 5))
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 2)
    return net


def test_a_network_that_sees_the_whole_is_turned_and_proved(tmp_path):
    changes = {"inferer": {"_target_": "SimpleInferer"}, "network_def": BATCH_NORM}
    path = folder(tmp_path / "b", exact_network(), after=[], config=changes)
    array = scan((12, 16, 20))
    with torch.inference_mode():
        wanted = SimpleInferer()(PREPROCESSING["a window of HU"][1](monai_has(array))[None], exact_network())[0]
    assert np.abs(ours(bundle(path), array) - stored_as(wanted)).max() < 1e-5 * wanted.abs().max()
    assert wanted.std() > 0.1
    geometry = learn(load_model(str(path)), n_channels=1, n_space=3)
    assert geometry.evidence == "proved"
    assert [program.step for program in geometry.programs] == [4, 4, 2]


def test_tiles_of_such_a_bundle_equal_the_whole(tmp_path):
    changes = {"inferer": {"_target_": "SimpleInferer"}, "network_def": BATCH_NORM}
    model = load_model(str(folder(tmp_path / "b", exact_network(), after=[], config=changes)))
    array = scan((8, 8, 96))
    plan = plan_for(learn(model, n_channels=1, n_space=3), array, tile=(8, 8, 56), block=(8, 8, 32), with_pyramid=False)
    assert plan.n_tiles > 2
    found = run_in_memory(plan, model.module, array, torch.float32)["output"].levels[0]
    wanted = whole_run(model.module, array, torch.float32)["output"]
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert wanted.std() > 0.1


class Sized(nn.Module):
    """What it does along an axis is in no layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(2)


def test_turning_layers_is_refused_where_it_changes_the_result(tmp_path):
    assert isinstance(turned_layers(nn.Conv3d(1, 1, (3, 1, 1), padding="same"), order=(2, 1, 0), n_channels=1), nn.Conv3d)
    save_scripted(nn.Conv3d(1, 1, 1), tmp_path / "a.pt")
    program = load_torchscript(tmp_path / "a.pt")
    for net, why in ((Sized(), "another result"), (program, "a TorchScript program"), (nn.Linear(3, 1), "none of the sizes")):
        with pytest.raises(ModelError, match=f"turned from axes x, y, z .* cannot: .*{why}"):
            turned_layers(net, order=(2, 1, 0), n_channels=1)
    circular = nn.Conv3d(1, 2, (3, 5, 1), padding=(1, 2, 0), padding_mode="circular", dilation=(1, 1, 1))
    x = torch.randn(1, 1, 6, 7, 8)
    turned = turned_layers(circular, order=(2, 0, 1), n_channels=1)
    assert torch.allclose(turned(x), Turned(circular, order=(2, 0, 1))(x), atol=1e-6)


def test_a_bundle_of_two_dimensions_is_turned_too(tmp_path):
    net = network(spatial_dims=2)
    inferer = {**WINDOW, "roi_size": [12, 8]}
    pipeline = bundle(folder(tmp_path / "b", net, after=[], config={"spatial_dims": 2, "inferer": inferer}))
    array = scan()[:, 4]
    array[:, 3:9] += 40
    wanted = stored_as(shown(net, PREPROCESSING["a window of HU"][1](monai_has(array)), roi_size=(12, 8)))
    assert np.abs(ours(pipeline, array) - wanted).max() < 1e-5
    assert wanted.std() > 0.05


def turned(folder: Path, array: np.ndarray) -> str:
    """Return a scan whose x points to the left."""
    image = nibabel.Nifti1Image(array.T, np.diag([-1.0, 1.0, 1.0, 1.0]))
    nibabel.save(image, folder / "turned.nii")
    return str(folder / "turned.nii")


def test_a_folder_is_a_model_specification_and_a_run_equals_the_whole(tmp_path, monkeypatch):
    before = [transform("NormalizeIntensityd", nonzero=True), {**SPACING, "pixdim": [1.3, 1.0, 1.5]}]
    path = folder(tmp_path / "spleen", before=before)
    monkeypatch.chdir(tmp_path)
    (part,) = parse_spec("spleen")
    assert (part.kind, absolute_spec("spleen")) == ("bundle", str(path))
    first = load_model("spleen")
    array, spacing = scan((13, 18, 21)), (1.5, 1.1, 1.0)
    axes = tuple(Axis(n, Role.SPACE, s, "millimeter") for n, s in zip("zyx", spacing, strict=True))
    source = create_volume(str(tmp_path / "scan.zarr"), axes=axes, dtype="float32", shape=array.shape[1:], chunk_shape=(8, 8, 8))
    source.write(Region.whole(array.shape[1:]), array[0])
    assert run(source.url, str(path), str(tmp_path / "out.zarr")).is_complete
    wanted = ours(bundle(path), array, spacing)
    assert (stored(tmp_path / "out.zarr") != wanted).mean() < 1e-3
    assert max(np.bincount(wanted.ravel())) < 0.9 * wanted.size
    with pytest.raises(PlanError, match="point to RAS, and those of .* point to LAS"):
        prepare(turned(tmp_path, array[0]), str(path), Options())
    config = path / "configs/inference.json"
    config.write_text(config.read_text().replace("1.3", "1.4"))
    assert load_model(str(path)).fingerprint != first.fingerprint


def test_the_card_says_what_differs(tmp_path):
    after = [SOFTMAX, ARGMAX, transform("KeepLargestConnectedComponentd", "pred", applied_labels=[1]), SAVE]
    inferer = {**WINDOW, "padding_mode": "replicate"}
    card = card_of(bundle(folder(tmp_path / "b", before=[RANGE, transform("CropForegroundd", source_key="image")], after=after, config={"inferer": inferer})))
    assert (card.class_names, card.orientation) == (("background", "spleen", "tumour"), "RAS")
    assert (card.n_channels, card.n_space) == (1, 3)
    for said in ("KeepLargestConnectedComponentd after the network is left out", "CropForegroundd is left out", "not by 'replicate'"):
        assert any(said in note for note in card.notes)


def of_network(**changes: object) -> dict:
    return {"config": {"network_def": {**UNET, **changes}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (of_network(_target_="scripts.net.MyNet"), "names 'scripts.net.MyNet', and known of monai.networks.nets are AttentionUnet"),
        (of_network(_target_="os.system"), "names 'os.system'"),
        (of_network(_target_="monai.networks.nets.FlexibleUNet"), "names 'monai.networks.nets.FlexibleUNet'"),
        (of_network(channels="$__import__('os').mkdir('boom')"), "which would have to be run"),
        (of_network(act="$torch.nn.ReLU"), "gives '.torch.nn.ReLU', which would have to be run"),
        (of_network(channels="@nowhere"), "'@nowhere' must be an entry of .*, which has none at 'nowhere'"),
        (of_network(channels={"_target_": "list"}), "an object of class 'list'"),
        (of_network(chanels=[1]), "UNet of .* cannot be made: TypeError"),
        (of_network(strides=[2, 2, 2]), "UNet of .* cannot be made"),
        ({"config": {"network_def": None}}, "must give network_def as an object"),
        ({"before": [transform("Lambdad", func="$lambda x: x")]}, "the transform Lambdad .* is not known here; known are Spacingd"),
        ({"before": [transform("Spacingd", pixdim=[1, 1, 1], diagonal=True)]}, "Spacingd .* has diagonal=True"),
        ({"before": [transform("Spacingd", pixdim="@bundle_root")]}, "pixdim='.', which has no counterpart"),
        ({"before": [SPACING, SPACING]}, "comes twice"),
        ({"before": [transform("ScaleIntensityRanged", a_min="$@low", a_max=1)]}, "'@low' must be an entry"),
        ({"before": [transform("ScaleIntensityRanged", a_min=2, a_max=1, b_min=0, b_max=1)]}, r"a_min, a_max=\(2, 1\)"),
        ({"before": [transform("ScaleIntensityd", factor=2)]}, "factor=2, which has no counterpart"),
        ({"before": [transform("CropForegroundd"), transform("NormalizeIntensityd")]}, "measures what CropForegroundd before it leaves"),
        ({"before": [transform("NormalizeIntensityd")], **of_network(in_channels=2)}, "channel_wise=False, which has no counterpart"),
        ({"config": {"preprocessing": "$[LoadImaged()]"}}, "preprocessing .* must be a list of transforms"),
        ({"after": [transform("Lambdad", "pred", func="$f"), ARGMAX]}, "AsDiscreted .* works on what Lambdad makes before it"),
        ({"after": [transform("AsDiscreted", "pred", to_onehot=3)]}, "to_onehot=3, which has no counterpart"),
        ({"config": {"inferer": {"_target_": "SliceInferer", "roi_size": [8, 8]}}}, "the inferer .* is SliceInferer, and known are SlidingWindowInferer"),
        ({"config": {"inferer": {**WINDOW, "roi_size": [8, 8, -1]}}}, "means the whole of an axis"),
        ({"config": {"inferer": {**WINDOW, "with_coord": True}}}, "has with_coord, which has no counterpart"),
        ({"config": {"inferer": {**WINDOW, "mode": "maximum"}}}, "has mode='maximum'"),
        ({"file": "weights.pt"}, "weights of the bundle is missing"),
        ({"config": {"handlers": [{"_target_": "CheckpointLoader", "load_path": "$os.getcwd()"}]}}, "which would have to be run"),
        ({"net": network(out_channels=2)}, "other shapes than the module"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path, monkeypatch, changes, message):
    path = folder(tmp_path / "b", **changes)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=message) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "boom").exists()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("boom",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: torch.save({"a": Bomb()}, p / "models/model.pt"), r"asks to import (posix|os)\.mkdir, which could run any code"),
        (lambda p: (p / "models/model.pt").write_bytes(b""), "damaged or no torch file"),
        (lambda p: (p / "configs/inference.json").write_text("[1"), "must be a JSON object, and does not read"),
        (lambda p: (p / "configs/metadata.json").write_text("1"), "must be a JSON object, not a int"),
        (lambda p: (p / "configs/inference.json").rename(p / "configs/train.json"), "is not a model: .* no configs/inference.json .MONAI."),
        (lambda p: (p / "configs/inference.json").rename(p / "configs/inference.yaml").write_text("a: &b [1]\nc: *b"), "has YAML aliases"),
        (lambda p: (p / "configs/inference.json").rename(p / "configs/inference.yml").write_text("a: !!python/object/apply:os.mkdir [boom]"), "must be YAML, and does not read"),
        (lambda p: (p / "configs/inference.json").rename(p / "configs/inference.yml").write_text("- 1"), "must be a YAML mapping, not a list"),
    ],
)
def test_a_damaged_or_unsafe_folder_is_refused_in_one_line(tmp_path, monkeypatch, damage, message):
    path = folder(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    damage(path)
    with pytest.raises(EngineError, match=message) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "boom").exists()


def test_without_monai_the_way_out_is_said(tmp_path, monkeypatch):
    path = folder(tmp_path / "b")

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModelError, match="cannot be imported: .* Install monai, or give the bundle's models/model.ts alone"):
        bundle(path)


def test_expressions_are_worked_out_or_refused():
    config = {"a": 2, "b": [1, "$@a + 1", {"c": "%a"}], "d": "@b::2::c", "e": "@e", "f": "$@f", "g": "$@h + @h", "h": "$@g"}
    values = Values(config, where="'a file'")
    worked_out = {
        "@d": 2,
        "@b#1": 3,
        "$@a * 3 // 4 - 1": 0,
        "$[0.5, 1] if @a > 1 else None": [0.5, 1],
        "$not @b[0]": False,
        "$max(@b[0], -@a)": 1,
        "$None": None,
        "$'x' + str(@a)": "x2",
        "plain": "plain",
        "$(1, 2)[-1]": 2,
    }
    assert {text: values.plain(text) for text in worked_out} == worked_out
    for text in ("$open('x')", "$a", "$().__class__", "$[i for i in (1,)]", "$'a' * 9", "$'%9d' % 1", "$f'{1}'", "$lambda: 1", "$1 +", "$9 ** 9", "$import os"):
        with pytest.raises(ModelError, match="which would have to be run"):
            values.plain(text)
    for text in ("@e", "@f", "@g", "$1 / 0", "$[1][2]", "$int('a')"):
        with pytest.raises(ModelError, match="refers to itself|cannot be worked out"):
            values.plain(text)
    doubling = {f"n{i}": f"$@n{i + 1} + @n{i + 1}" for i in range(40)} | {"n40": [1]}
    with pytest.raises(ModelError, match="or to too much"):
        Values(doubling, where="'a file'").plain("@n0")
