"""Model folders of nnU-Net: its steps, written out with NumPy, SciPy and torch's functions, are the oracle.

The names of the weights that ``weights`` writes are those of dynamic-network-architectures 0.4.4.
"""

import json
import os
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from engine.check import recommend
from engine.errors import EngineError, ModelError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.models.card import card_of
from engine.models.fitted import unfitted
from engine.models.load import absolute_spec, load_model
from engine.models.nnunet import nnunet
from engine.models.resampled import Resampled
from engine.models.specification import parse_spec
from engine.run import run
from engine.storage.create import create_volume
from tests.stored import smooth, stored

FEATURES = (3, 4, 5)
N_CONVS, N_DECODER = (2, 1, 2), (1, 2)
SPACING = (2.0, 1.0, 1.5)
WINDOW = (4, 8, 12)
MIRRORED = (0, 2)
CT = {"mean": 55.0, "std": 40.0, "percentile_00_5": -60.0, "percentile_99_5": 170.0, "median": 0.0, "min": 0.0, "max": 1.0}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def architecture(n_space: int = 3, *, residual: bool = False, **changes: object) -> dict:
    one, three = [1] * n_space, [3] * n_space
    arguments = {
        "n_stages": 3,
        "features_per_stage": list(FEATURES),
        "conv_op": f"torch.nn.modules.conv.Conv{n_space}d",
        "kernel_sizes": [[1, 3, 3][3 - n_space :], three, three],
        "strides": [one, [1, 2, 2][3 - n_space :], [2] * n_space],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": list(N_CONVS),
        "n_conv_per_stage_decoder": list(N_DECODER),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{n_space}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


OLD_STYLE = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 3,
    "unet_max_num_features": 5,
    "n_conv_per_stage_encoder": list(N_CONVS),
    "n_conv_per_stage_decoder": list(N_DECODER),
    "num_pool_per_axis": [1, 2, 2],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}


def order_of(n: int) -> dict:
    return {"is_seg": False, "order": n, "order_z": 0, "force_separate_z": None}


class Net:
    """A network's weights as a checkpoint of nnU-Net holds them, and what they compute."""

    def __init__(self, n_channels: int, n_classes: int, *, n_space=3, residual=False, features=FEATURES, seed=0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.n_space, self.residual, self.features = n_space, residual, features
        self.state: dict[str, torch.Tensor] = {}
        self.kernels = ([1, 3, 3][3 - n_space :], [3] * n_space, [3] * n_space)
        self.strides = ([1] * n_space, [1, 2, 2][3 - n_space :], [2] * n_space)
        n_in = n_channels
        if residual:
            self.block("encoder.stem.convs.0", n_in, features[0], self.kernels[0])
            n_in = features[0]
        for stage, (n_out, n) in enumerate(zip(features, N_CONVS, strict=True)):
            for i in range(n):
                if residual:
                    at = f"encoder.stages.{stage}.blocks.{i}"
                    self.block(f"{at}.conv1", n_in, n_out, self.kernels[stage])
                    self.block(f"{at}.conv2", n_out, n_out, self.kernels[stage])
                    if n_in != n_out:
                        place = 1 if max(self.strides[stage]) > 1 and i == 0 else 0
                        self.block(f"{at}.skip.{place}", n_in, n_out, [1] * n_space, bias=False)
                else:
                    self.block(f"encoder.stages.{stage}.0.convs.{i}", n_in, n_out, self.kernels[stage])
                n_in = n_out
        self.state |= {f"decoder.{key}": tensor for key, tensor in self.state.items()}
        for stage, n in enumerate(N_DECODER):
            n_out, below = features[-2 - stage], features[-1 - stage]
            for i in range(n):
                self.block(f"decoder.stages.{stage}.convs.{i}", n_out if i else 2 * n_out, n_out, self.kernels[-2 - stage])
            self.put(f"decoder.transpconvs.{stage}", (below, n_out, *self.strides[-1 - stage]), n_out)
            self.put(f"decoder.seg_layers.{stage}", (n_classes, n_out, *[1] * n_space), n_classes)
        last = f"decoder.seg_layers.{len(N_DECODER) - 1}"
        weight = self.state[f"{last}.weight"]
        self.state[f"{last}.weight"] = weight - weight.mean(1, keepdim=True)  # no class wins everywhere
        self.state[f"{last}.bias"] = torch.zeros(n_classes)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator) * 0.4

    def put(self, name: str, shape: tuple[int, ...], n_bias: int | None) -> None:
        self.state[f"{name}.weight"] = self.random(*shape)
        if n_bias:
            self.state[f"{name}.bias"] = self.random(n_bias)

    def block(self, name: str, n_in: int, n_out: int, kernel, *, bias: bool = True) -> None:
        self.put(f"{name}.conv", (n_out, n_in, *kernel), n_out if bias else None)
        self.state[f"{name}.norm.weight"] = 1 + self.random(n_out)
        self.state[f"{name}.norm.bias"] = self.random(n_out)
        for layer, number in (("conv", 0), ("norm", 1)):
            for kind in ("weight", "bias"):
                if f"{name}.{layer}.{kind}" in self.state:
                    self.state[f"{name}.all_modules.{number}.{kind}"] = self.state[f"{name}.{layer}.{kind}"]

    def run(self, name: str, x: torch.Tensor, stride=1, *, active: bool = True) -> torch.Tensor:
        """Convolution, instance norm and leaky ReLU."""
        weight, bias = self.state[f"{name}.conv.weight"], self.state.get(f"{name}.conv.bias")
        convolve = {2: F.conv2d, 3: F.conv3d}[self.n_space]
        x = convolve(x, weight, bias, stride, [n // 2 for n in weight.shape[2:]])
        dims = list(range(2, x.dim()))
        x = (x - x.mean(dims, keepdim=True)) / torch.sqrt(x.var(dims, keepdim=True, unbiased=False) + 1e-5)
        along = (1, -1, *[1] * self.n_space)
        x = x * self.state[f"{name}.norm.weight"].reshape(along) + self.state[f"{name}.norm.bias"].reshape(along)
        return torch.where(x > 0, x, 0.01 * x) if active else x

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        x = self.run("encoder.stem.convs.0", x) if self.residual else x
        for stage, n in enumerate(N_CONVS):
            for i in range(n):
                stride = self.strides[stage] if i == 0 else [1] * self.n_space
                x = self.residual_block(stage, i, x, stride) if self.residual else self.run(f"encoder.stages.{stage}.0.convs.{i}", x, stride)
            skips.append(x)
        raise_size = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[self.n_space]
        for stage, n in enumerate(N_DECODER):
            name, stride = f"decoder.transpconvs.{stage}", self.strides[-1 - stage]
            x = torch.cat([raise_size(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride), skips[-2 - stage]], 1)
            for i in range(n):
                x = self.run(f"decoder.stages.{stage}.convs.{i}", x)
        weight = self.state[f"decoder.seg_layers.{len(N_DECODER) - 1}.weight"]
        return torch.einsum("bi...,oi->bo...", x, weight.flatten(1))

    def residual_block(self, stage: int, i: int, x: torch.Tensor, stride) -> torch.Tensor:
        at = f"encoder.stages.{stage}.blocks.{i}"
        y = self.run(f"{at}.conv2", self.run(f"{at}.conv1", x, stride), active=False)
        pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[self.n_space]
        x = pool(x, stride, stride) if max(stride) > 1 else x
        for place in (0, 1):
            if f"{at}.skip.{place}.conv.weight" in self.state:
                x = self.run(f"{at}.skip.{place}", x, active=False)
        return F.leaky_relu(x + y, 0.01)


def folder(path: Path, nets, *, schemes=("CTNormalization",), masks=None, labels=None, regions=None, **changes) -> Path:
    """Write a model folder as nnU-Net does, with what a test changes."""
    n_space = changes.get("n_space", 3)
    name = changes.get("name", {2: "2d", 3: "3d_fullres"}[n_space])
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": list(WINDOW[3 - n_space :]),
        "spacing": list(changes.get("spacing", SPACING[3 - n_space :])),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(masks or [False] * len(schemes)),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": order_of(changes.get("order", 3)),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": order_of(1),
        **(changes.get("style") or {"architecture": architecture(n_space, residual=changes.get("residual", False))}),
        **changes.get("configuration", {}),
    }
    plans = {
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: configuration, "small": {"inherits_from": name, "patch_size": [4] * n_space}},
        "foreground_intensity_properties_per_channel": {str(n): CT for n in range(len(schemes))},
        **changes.get("plans", {}),
    }
    dataset = {
        "channel_names": {str(n): f"channel {n}" for n in range(len(schemes))},
        "labels": labels or {"background": 0, "liver": 1, "tumour": 2},
        "file_ending": ".nii.gz",
        **({"regions_class_order": regions} if regions else {}),
    }
    path.mkdir(parents=True)
    (path / "plans.json").write_text(json.dumps(plans))
    (path / "dataset.json").write_text(json.dumps(dataset))
    for fold, net in enumerate(nets):
        checkpoint = {
            "network_weights": net.state,
            "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.2)]},
            "_best_ema": np.float64(0.61),
            "current_epoch": 1000,
            "init_args": {"configuration": name, "fold": fold, "plans": plans, "device": torch.device("cuda")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": MIRRORED if n_space == 3 else (0, 1),
            **changes.get("checkpoint", {}),
        }
        (path / f"fold_{fold}").mkdir()
        torch.save(checkpoint, path / f"fold_{fold}" / changes.get("file", "checkpoint_final.pth"))
    return path


def normalised(array: np.ndarray, schemes, masks) -> np.ndarray:
    found = array.astype(np.float32).copy()
    inside = (found != 0).any(axis=0)
    for x, scheme, mask in zip(found, schemes, masks, strict=True):
        if scheme == "CTNormalization":
            x[:] = (np.clip(x, CT["percentile_00_5"], CT["percentile_99_5"]) - CT["mean"]) / CT["std"]
        elif scheme == "ZScoreNormalization":
            chosen = inside if mask else np.ones_like(inside)
            x[chosen] = (x[chosen] - x[chosen].mean()) / x[chosen].std()
        elif scheme == "RescaleTo01Normalization":
            x[:] = (x - x.min()) / (x.max() - x.min())
        elif scheme == "RGBTo01Normalization":
            x[:] = x / 255
    return found


def windowed(x: torch.Tensor, nets, *, window, axes=MIRRORED) -> torch.Tensor:
    """nnU-Net's sliding window over (1, channel, *space): steps of half a window, Gaussian, mirrored, mean of folds."""
    space = x.shape[2:]
    point = np.zeros(window)
    point[tuple(n // 2 for n in window)] = 1
    weights = gaussian_filter(point, [n / 8 for n in window], mode="constant")
    weights = torch.from_numpy(np.maximum(weights / weights.max() * 10, weights[weights > 0].min())).float()
    starts = []
    for n, w in zip(space, window, strict=True):
        n_steps = int(np.ceil((n - w) / (w / 2))) + 1
        starts.append([round((n - w) / max(n_steps - 1, 1) * i) for i in range(n_steps)])
    total = count = 0
    for start in product(*starts):
        at = (slice(None), slice(None), *(slice(a, a + w) for a, w in zip(start, window, strict=True)))
        flips = [flip for n in range(len(axes) + 1) for flip in combinations([axis + 2 for axis in axes], n)]
        logits = sum(net(x[at].flip(flip)).flip(flip) for net in nets for flip in flips) / len(flips) / len(nets)
        pad = [n for a, w, size in reversed(list(zip(start, window, space, strict=True))) for n in (a, size - a - w)]
        total, count = total + F.pad(logits * weights, pad), count + F.pad(weights, pad)
    return total / count


def logits_of(pipeline: torch.nn.Module, array: np.ndarray, spacing=SPACING) -> torch.Tensor:
    """Return what comes before the labels for a whole array (channel, *space), after a fit to it."""
    before = pipeline[:-1] if isinstance(pipeline, torch.nn.Sequential) else list(pipeline.children())[:-1]
    x = torch.from_numpy(array)[None]
    with torch.inference_mode():
        for part in before:
            for _, fitted in unfitted(part):
                fitted.fit(torch.from_numpy(array.reshape(len(array), -1).T.copy()))
            for resampled in (m for m in part.modules() if isinstance(m, Resampled)):
                resampled.source_spacing = spacing
            x = part.eval()(x)
    return x


def labels_of(pipeline: torch.nn.Module, logits: torch.Tensor) -> np.ndarray:
    return list(pipeline.children())[-1](logits)[0].numpy()


def scan(shape, n_channels: int = 1) -> np.ndarray:
    """Return smooth values about those of soft tissue, with a block of 0 in all channels."""
    array = np.stack([smooth(shape, seed=7 + n) for n in range(n_channels)]) * 80 + 50
    array[:, 1:3, 3:6] = 0
    return array.astype(np.float32)


SCHEMES = {
    "a CT": (("CTNormalization",), (False,)),
    "MR behind a mask": (("ZScoreNormalization", "ZScoreNormalization"), (True, True)),
    "each channel another": (
        ("CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization", "RGBTo01Normalization"),
        (False, True, False, False, False),
    ),
    "MR without a mask": (("ZScoreNormalization",), (False,)),
}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_folder_segments_as_nnunet_does(tmp_path, name, residual):
    schemes, masks = SCHEMES[name]
    nets = [Net(len(schemes), 3, residual=residual, seed=seed) for seed in ((0, 1) if name == "a CT" else (0,))]
    pipeline = nnunet(folder(tmp_path / "model", nets, schemes=schemes, masks=masks, residual=residual))
    array = scan((7, 11, 15), len(schemes))
    wanted = windowed(torch.from_numpy(normalised(array, schemes, masks))[None], nets, window=WINDOW)
    ours = logits_of(pipeline, array)
    assert (ours - wanted).abs().max() < 2e-5 * wanted.abs().max()
    labels = labels_of(pipeline, ours)
    assert (labels == wanted.argmax(1)[0].numpy()).all()
    assert labels.dtype == np.uint8
    assert max(np.bincount(labels.ravel())) < 0.9 * labels.size


def test_plans_of_the_first_releases_and_inherited_ones_are_read(tmp_path):
    net = Net(1, 3)
    array = scan((7, 11, 15))
    new = logits_of(nnunet(folder(tmp_path / "new", [net])), array)
    net.features = (3, 5, 5)
    old_net = Net(1, 3, features=(3, 5, 5))
    old = logits_of(nnunet(folder(tmp_path / "old", [old_net], style=OLD_STYLE)), array)
    small = nnunet(folder(tmp_path / "small", [net], checkpoint={"init_args": {"configuration": "small"}}))
    wanted = windowed(torch.from_numpy(normalised(array, ["CTNormalization"], [False]))[None], [old_net], window=WINDOW)
    assert (old - wanted).abs().max() < 2e-5 * wanted.abs().max()
    assert (old - new).abs().max() > 0.1
    assert [part.window for part in small.modules() if hasattr(part, "window")] == [(4, 4, 4)]


def test_axes_that_the_plans_turn_are_turned_back(tmp_path):
    net = Net(1, 3)
    order = (2, 0, 1)  # the network's first axis is the last of storage
    turned = [SPACING[axis] for axis in order]
    pipeline = nnunet(folder(tmp_path / "model", [net], spacing=turned, plans={"transpose_forward": list(order)}))
    array = scan((9, 13, 6))
    x = torch.from_numpy(normalised(array, ["CTNormalization"], [False]))[None].permute(0, 1, 4, 2, 3)
    wanted = windowed(x, [net], window=WINDOW).permute(0, 1, 3, 4, 2)
    ours = logits_of(pipeline, array)
    assert (ours - wanted).abs().max() < 2e-5 * wanted.abs().max()
    assert wanted.std() > 0.05


@pytest.mark.parametrize(("n_space", "order", "mode"), [(3, 1, "trilinear"), (2, 3, "bicubic")])
def test_a_source_of_another_spacing_is_normalised_resampled_and_brought_back(tmp_path, n_space, order, mode):
    net = Net(1, 3, n_space=n_space)
    pipeline = nnunet(folder(tmp_path / "model", [net], n_space=n_space, order=order))
    shape, own, sizes = ((4, 14, 25), (4.0, 0.8, 0.9), (8, 11, 15)) if n_space == 3 else ((22, 40), (0.8, 0.9), (18, 24))
    array = scan(shape[-3:] if n_space == 3 else (1, *shape))
    array = array if n_space == 3 else array[:, 0]
    x = torch.from_numpy(normalised(array, ["CTNormalization"], [False]))[None]
    x = F.interpolate(x, sizes, mode=mode, align_corners=False)
    wanted = windowed(x, [net], window=WINDOW[3 - n_space :], axes=MIRRORED if n_space == 3 else (0, 1))
    wanted = F.interpolate(wanted, shape, mode={3: "trilinear", 2: "bilinear"}[n_space], align_corners=False)
    ours = logits_of(pipeline, array, own)
    assert (ours - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert wanted.std() > 0.05
    assert max(np.bincount(labels_of(pipeline, ours).ravel())) < 0.9 * array.size


def test_regions_lie_over_one_another_in_their_order(tmp_path):
    net = Net(1, 2)
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    pipeline = nnunet(folder(tmp_path / "model", [net], labels=labels, regions=[1, 2]))
    array = scan((5, 9, 12))
    logits = logits_of(pipeline, array)
    wanted = np.zeros(array.shape[1:], np.uint8)
    for region, label in ((0, 1), (1, 2)):
        wanted[torch.sigmoid(logits)[0, region].numpy() > 0.5] = label
    assert (labels_of(pipeline, logits) == wanted).all()
    assert set(np.unique(wanted)) == {0, 1, 2}
    assert card_of(pipeline).class_names == ("whole", "core")


def test_one_fold_or_all_of_them_and_the_best_checkpoint_where_no_other_is(tmp_path):
    nets = [Net(1, 3, seed=seed) for seed in range(2)]
    path = folder(tmp_path / "final", nets)
    array = scan((5, 9, 12))
    each = [logits_of(nnunet(path / f"fold_{fold}"), array) for fold in (0, 1)]
    assert (logits_of(nnunet(path), array) - sum(each) / 2).abs().max() < 1e-5
    assert (each[0] - each[1]).abs().max() > 0.1
    best = folder(tmp_path / "best", nets[:1], file="checkpoint_best.pth")
    assert torch.equal(logits_of(nnunet(best), array), each[0])
    (best / "fold_0").rename(best / "fold_all")
    assert torch.equal(logits_of(nnunet(best), array), each[0])
    plain = logits_of(nnunet(path / "fold_0", is_mirrored=False), array)
    assert (plain - each[0]).abs().max() > 0.01


def test_a_folder_is_a_model_specification_and_a_run_equals_the_whole(tmp_path, monkeypatch):
    schemes, masks = ("ZScoreNormalization", "CTNormalization"), (True, False)
    path = folder(tmp_path / "Trainer__Plans__3d", [Net(2, 3)], schemes=schemes, masks=masks)
    monkeypatch.chdir(tmp_path)
    for spec in ("Trainer__Plans__3d", "Trainer__Plans__3d/fold_0"):
        (part,) = parse_spec(spec)
        assert (part.kind, absolute_spec(spec)) == ("nnunet", str(tmp_path / spec))
    first = load_model("Trainer__Plans__3d")
    assert (first.kind, first.spec) == ("module", str(path))
    array, spacing = scan((8, 13, 18), 2), (2.0, 1.3, 1.5)
    axes = (Axis("c", Role.CHANNEL), *(Axis(n, Role.SPACE, s, "millimeter") for n, s in zip("zyx", spacing, strict=True)))
    source = create_volume(str(tmp_path / "scan.zarr"), axes=axes, dtype="float32", shape=array.shape, chunk_shape=(2, 8, 8, 8))
    source.write(Region.whole(array.shape), array)
    report = run(source.url, str(path), str(tmp_path / "out.zarr"))
    assert report.is_complete
    pipeline = nnunet(path)
    wanted = labels_of(pipeline, logits_of(pipeline, array, spacing))
    assert (stored(tmp_path / "out.zarr") != wanted).mean() < 1e-3
    assert max(np.bincount(wanted.ravel())) < 0.9 * wanted.size
    assert set(card_of(pipeline).notes) <= set(report.plan.notes)
    found = recommend(str(path))  # what is fitted need not be, and the folder tells axes and channels
    assert found.name == "windowed"
    assert found.check.outputs[0].max_difference == 0
    assert found.check.outputs[0].std > 0
    again = json.loads((path / "plans.json").read_text())
    again["plans_name"] = "another"
    (path / "plans.json").write_text(json.dumps(again))
    assert load_model(str(path)).fingerprint != first.fingerprint


def test_the_card_says_what_differs(tmp_path):
    card = card_of(nnunet(folder(tmp_path / "a", [Net(1, 3, n_space=2)], n_space=2, plans={"image_reader_writer": "NibabelIOWithReorient"})))
    assert (card.class_names, card.orientation) == (("background", "liver", "tumour"), "RAS")
    assert (card.n_channels, card.n_space) == (1, 2)
    assert any("#slices=1" in note for note in card.notes)
    assert any("cubic" in note for note in card.notes)
    no_spacing = nnunet(folder(tmp_path / "b", [Net(1, 3)], plans={"image_reader_writer": "NaturalImage2DIO"}))
    assert not any(isinstance(part, Resampled) for part in no_spacing.modules())
    assert card_of(no_spacing).orientation is None


def changed(key: str, value: object) -> dict:
    return {"style": {"architecture": architecture(**{key: value})}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"configuration": {"previous_stage": "3d_lowres"}}, "is the second stage of a cascade.*Use a configuration that stands alone"),
        ({"schemes": ["MyNormalization"]}, "asks for the normalisation 'MyNormalization', and known are CTNormalization"),
        ({"style": {"architecture": {"network_class_name": "my.Net", "arch_kwargs": {}}}}, "names the network 'Net', and known are PlainConvUNet"),
        (changed("norm_op", "torch.nn.GroupNorm"), "names the layer 'torch.nn.GroupNorm' as norm_op"),
        (changed("nonlin", "os.system"), "names the layer 'os.system' as nonlin"),
        (changed("nonlin_kwargs", {"inplaced": 1}), "LeakyReLU .* cannot take .'inplaced': 1."),
        (changed("squeeze_excitation", True), "squeeze_excitation=True, which is not known"),
        (changed("n_stages", 4), "must give features_per_stage as 4 numbers"),
        (changed("strides", [[1, 1], [2, 2], [2, 2]]), "must give strides as 3 numbers"),
        (changed("conv_op", "torch.nn.Conv2d"), "has patches of 3 axes and the convolution 'Conv2d'"),
        ({"configuration": {"patch_size": "big"}}, "must give patch_size as a list, and holds 'big'"),
        ({"spacing": [1.0, 1.0, 0.0]}, "must give a positive spacing per axis"),
        ({"configuration": {"resampling_fn_data_kwargs": {"order": 2}}}, "resamples by order 2"),
        ({"plans": {"transpose_forward": [0, 1, 1]}}, "must name the axes 0, 1 and 2"),
        ({"plans": {"foreground_intensity_properties_per_channel": {}}}, "must give mean as a number, and holds nothing"),
        ({"labels": {"background": 0, "liver": 2}}, "must be 0, 1, 2 and so on"),
        ({"checkpoint": {"init_args": {"configuration": "3d_huge"}}}, "the configuration '3d_huge' .* is not there: there are 3d_fullres"),
        ({"checkpoint": {"inference_allowed_mirroring_axes": (0, 7)}}, "must name the axes to mirror as 0, 1 and 2"),
        ({"masks": [False, False]}, "must give one of normalization_schemes and use_mask_for_norm per channel"),
        ({"configuration": {"inherits_from": "small"}}, "inherits from itself"),
        ({"n_space": 2, "plans": {"transpose_forward": [2, 0, 1]}}, "the slices of a 2-d configuration must lie along the first axis"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder(tmp_path / "model", [Net(1, 3, n_space=changes.get("n_space", 3))], **changes)))
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("boom",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c | {"logging": Bomb()}, r"asks to import (posix|os)\.mkdir, which could run any code. Keep only what is read here"),
        (lambda c: c | {"logging": Path("a")}, "asks to import pathlib"),
        (lambda c: c["network_weights"], "must be a checkpoint of nnU-Net's, with network_weights"),
        (lambda c: c | {"network_weights": {k: v for k, v in c["network_weights"].items() if "seg_layers.1" not in k}}, "lack 'decoder.seg_layers.1"),
        (lambda c: c | {"network_weights": c["network_weights"] | {"more": torch.ones(1)}}, "have 'more' that the module has not"),
        (lambda c: c | {"network_weights": Net(2, 3).state}, r"encoder.stages.0.0.convs.0.conv.weight \(3, 2, 1, 3, 3\) for \(3, 1, 1, 3, 3\)"),
    ],
)
def test_a_checkpoint_that_is_unsafe_or_does_not_fit_is_refused(tmp_path, monkeypatch, damage, message):
    path = folder(tmp_path / "model", [Net(1, 3)])
    file = path / "fold_0/checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    torch.save(damage(checkpoint), file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=message) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "boom").exists()


def test_what_a_refusal_says_to_keep_is_enough(tmp_path):
    path = folder(tmp_path / "model", [Net(1, 3)], checkpoint={"logging": Path("a")})
    with pytest.raises(EngineError) as caught:
        load_model(str(path))
    code = str(caught.value).partition("Keep only what is read here: ")[2].partition(" in Python.")[0]
    exec(code, {"torch": torch, "path": path / "fold_0/checkpoint_final.pth"})
    assert load_model(str(path)).fingerprint == load_model(str(folder(tmp_path / "other", [Net(1, 3)]))).fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "dataset.json").unlink(), "nnU-Net file is missing"),
        (lambda p: (p / "plans.json").write_text("[1"), "must be a JSON object, and does not read"),
        (lambda p: (p / "plans.json").unlink(), "has no config.json .WSInfer., no plans.json .nnU-Net v2."),
        (lambda p: (p / "fold_0/checkpoint_final.pth").unlink(), "must hold checkpoint_final.pth or checkpoint_best.pth in a fold"),
        (lambda p: (p / "fold_0/checkpoint_final.pth").write_bytes(b"PK"), "must hold tensors only"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, damage, message):
    path = folder(tmp_path / "model", [Net(1, 3)])
    damage(path)
    with pytest.raises(EngineError, match=message) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)


def test_folds_of_different_trainings_are_refused(tmp_path):
    path = folder(tmp_path / "model", [Net(1, 3), Net(1, 3)])
    file = path / "fold_1/checkpoint_final.pth"
    torch.save(torch.load(file, weights_only=False) | {"trainer_name": "nnUNetTrainerBN"}, file)
    with pytest.raises(ModelError, match="must be of one trainer, .* has 'nnUNetTrainer', .* 'nnUNetTrainerBN'. Name one fold"):
        nnunet(path)
