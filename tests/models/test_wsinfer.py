"""Model folders of the WSInfer zoo: Pillow and a plain script of the same steps are the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engine.check import check
from engine.errors import EngineError, ModelError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.models.learn import learn
from engine.models.load import absolute_spec, load_model
from engine.models.resolution import declared_mpp
from engine.models.specification import parse_spec
from engine.models.wsinfer import Resize, wsinfer
from engine.run import run
from engine.storage.create import create_volume
from engine.storage.volume import open_volume
from tests.patch_models import Residual, colours, mixed, save_scripted

MEAN, STD = [0.72, 0.62, 0.74], [0.2, 0.25, 0.18]
TRANSFORM = [
    {"name": "Resize", "arguments": {"size": 24}},
    {"name": "ToTensor"},
    {"name": "Normalize", "arguments": {"mean": MEAN, "std": STD}},
]


def network(n_classes: int = 3) -> nn.Module:
    found = mixed(nn.Sequential(Residual(), nn.Linear(7, n_classes)))
    alike = torch.from_numpy(colours((3, 96, 96))).float().unfold(1, 24, 24).unfold(2, 24, 24)
    patches = (alike.permute(1, 2, 0, 3, 4).flatten(0, 1) / 255 - 0.7) / 0.2
    with torch.no_grad():
        found[1].weight *= 20  # patches that resemble each other get classes that do not
        found[1].bias -= found(patches).mean(dim=0)
    return found


def folder(path: Path, *, n_classes: int = 3, **changes: object) -> Path:
    """Write a model folder as the zoo has them, with what a test changes."""
    config = {
        "spec_version": "1.0",
        "architecture": "resnet",
        "num_classes": n_classes,
        "class_names": [f"class {n}" for n in range(n_classes)],
        "name": "a test",
        "patch_size_pixels": 35,
        "spacing_um_px": 0.25,
        "transform": TRANSFORM,
        **changes,
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    save_scripted(network(n_classes), path / "torchscript_model.pt")
    return path


def oracle(array: np.ndarray, *, n_classes: int = 3) -> np.ndarray:
    """Return (class, rows, columns): each patch resized by Pillow, scaled, normalised, classified."""
    rows = []
    for top in range(0, array.shape[1] - 34, 35):
        row = []
        for left in range(0, array.shape[2] - 34, 35):
            patch = Image.fromarray(np.moveaxis(array[:, top : top + 35, left : left + 35], 0, -1))
            small = np.asarray(patch.resize((24, 24), Image.Resampling.BILINEAR), np.float32) / 255
            x = (np.moveaxis((small - np.float32(MEAN)) / np.float32(STD), -1, 0))[None]
            with torch.inference_mode():
                logits = network(n_classes)(torch.from_numpy(x))
            row.append((logits.softmax(1) if n_classes > 1 else logits.sigmoid())[0].numpy())
        rows.append(row)
    return np.moveaxis(np.array(rows), -1, 0)


@pytest.mark.parametrize("n_classes", [3, 1])  # softmax, sigmoid
def test_a_folder_classifies_as_wsinfer_does(tmp_path, n_classes):
    array = colours((3, 110, 145))
    model = wsinfer(folder(tmp_path / "zoo", n_classes=n_classes))
    with torch.inference_mode():
        ours = model(torch.from_numpy(array)[None].float())[0].numpy()
    wanted = oracle(array, n_classes=n_classes)
    assert ours.shape == wanted.shape == (n_classes, 3, 4)
    np.testing.assert_allclose(ours, wanted, atol=5e-4)  # a level here and there is rounded the other way
    assert wanted.std(axis=(1, 2)).max() > 0.05
    assert model.class_names == tuple(f"class {n}" for n in range(n_classes))
    assert declared_mpp(model) == (0.25, 0.05)


def test_resizing_gives_the_levels_that_pillow_gives():
    array = colours((3, 35, 35))
    ours = Resize(24)(torch.from_numpy(array)[None].float())[0].numpy()
    theirs = np.asarray(Image.fromarray(np.moveaxis(array, 0, -1)).resize((24, 24), Image.Resampling.BILINEAR))
    difference = np.abs(ours - np.moveaxis(theirs, -1, 0).astype(float))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005
    assert theirs.std() > 10


def test_a_folder_is_a_model_specification(tmp_path, monkeypatch):
    path = folder(tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    (part,) = parse_spec("zoo")
    assert part.kind == "wsinfer"
    assert absolute_spec("zoo + engine.models.wrappers:ArgMax") == f"{path} + engine.models.wrappers:ArgMax"
    model = load_model("zoo")
    assert (model.kind, model.spec) == ("module", str(path))
    assert learn(model, n_channels=3, n_space=2).programs[0].sizes(100) == {"output": 2}


def test_check_shows_that_tiles_equal_the_whole(tmp_path):
    found = check(str(folder(tmp_path / "zoo", patch_size_pixels=24)))
    (output,) = found.outputs
    assert found.n_tiles > 1
    assert output.max_difference < 1e-6
    assert output.std > 0.001


def test_a_run_by_specification_writes_the_grid_of_classes(tmp_path):
    array = colours((3, 110, 145))
    axes = (Axis("c", Role.CHANNEL), *(Axis(n, Role.SPACE, 0.25, "micrometer") for n in "yx"))
    source = create_volume(
        str(tmp_path / "slide.zarr"), axes=axes, dtype="uint8", shape=array.shape, chunk_shape=(3, 64, 64)
    )
    source.write(Region.whole(array.shape), array)
    report = run(source.url, str(folder(tmp_path / "zoo")), str(tmp_path / "out.zarr"))
    assert report.is_complete
    out = open_volume(str(tmp_path / "out.zarr/output"))
    wanted = oracle(array)
    np.testing.assert_allclose(out.read(Region.whole(out.shape)), wanted, atol=5e-4)
    assert out.levels[0].spacing[1:] == (35 * 0.25, 35 * 0.25)
    assert wanted.std() > 0.05


def test_the_fingerprint_covers_both_files(tmp_path):
    first = load_model(str(folder(tmp_path / "a"))).fingerprint
    assert load_model(str(folder(tmp_path / "b"))).fingerprint == first
    assert load_model(str(folder(tmp_path / "c", name="another"))).fingerprint != first
    save_scripted(mixed(network(), seed=1), tmp_path / "b/torchscript_model.pt")
    assert load_model(str(tmp_path / "b")).fingerprint != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": [{"name": "ColorJitter"}]}, "asks for the transform 'ColorJitter', and known are Resize"),
        ({"transform": [{"name": "Resize", "arguments": {"sise": 8}}]}, "the transform Resize in .* cannot take"),
        ({"spacing_um_px": None}, "must give spacing_um_px, and holds nothing"),
        ({"patch_size_pixels": "big"}, "must give patch_size_pixels, and holds 'big'"),
        ({"class_names": ["one"]}, "must name as many classes as it has, 3, not .'one',."),
        ({"num_classes": 2, "class_names": ["a", "b"]}, r"names 2 classes, and the network gives logits of \(2, 3\)"),
        ({"transform": [{"name": "CenterCrop", "arguments": {"size": 64}}]}, r"CenterCrop to \(64, 64\) needs larger"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        learn(load_model(str(folder(tmp_path / "zoo", **changes))), n_channels=3, n_space=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "torchscript_model.pt").unlink(), "WSInfer network is missing"),
        (lambda p: (p / "torchscript_model.pt").write_bytes(b"PK"), "is damaged"),
        (lambda p: (p / "config.json").write_text("[1"), "must be a JSON object, and does not read"),
        (lambda p: (p / "config.json").write_text("[1]"), "must be a JSON object, not a list"),
        (lambda p: (p / "config.json").unlink(), "the folder .* is not a model: it has no config.json"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, damage, message):
    path = folder(tmp_path / "zoo")
    damage(path)
    with pytest.raises(EngineError, match=message) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)
