"""Scores of slides from features, by the front door: NumPy by hand is the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engine.errors import EngineError, UsageError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.models.mil import GatedAttention, MeanPool, TransformerAggregator
from engine.run import run
from engine.score import KEY, percentiles, round_length, score
from engine.storage.create import create_volume
from engine.storage.features import FeatureBag, write_features
from engine.storage.volume import open_volume
from tests.patch_models import colours, mixed, residual

SHAPE = (6, 9)


def slide(path: Path, shape: tuple[int, int] = (210, 300)) -> str:
    array = colours((3, *shape))
    axes = (Axis("c", Role.CHANNEL), *(Axis(n, Role.SPACE, 0.5, "micrometer") for n in "yx"))
    volume = create_volume(str(path), axes=axes, dtype="uint8", shape=array.shape, chunk_shape=(3, 64, 64))
    volume.write(Region.whole(array.shape), array)
    return str(path)


def grid(path: Path) -> tuple[str, np.ndarray]:
    values = np.random.default_rng(1).standard_normal((7, *SHAPE)).astype(np.float32)
    axes = (Axis("c", Role.CHANNEL), *(Axis(n, Role.SPACE, 16.0, "micrometer") for n in "yx"))
    volume = create_volume(
        str(path), axes=axes, dtype="float32", shape=values.shape, chunk_shape=values.shape, origin=(0.0, 7.75, 7.75)
    )
    volume.write(Region.whole(values.shape), values)
    return str(path), values


def stored(url: str) -> np.ndarray:
    volume = open_volume(url)
    return volume.read(Region.whole(volume.shape))


def test_a_masked_grid_is_scored_and_its_attention_stored_in_place(tmp_path):
    url, values = grid(tmp_path / "features.zarr")
    mask = np.random.default_rng(2).random(SHAPE) < 0.5
    model = mixed(GatedAttention(7, 3, n_hidden=8, n_attention=5))
    found = score(url, model, output=str(tmp_path / "score"), mask=mask)
    rows, columns = np.nonzero(mask)
    wanted = model(torch.from_numpy(values[:, rows, columns].T.copy()), None)
    shares = wanted.attention.detach().numpy()
    np.testing.assert_allclose(found.logits, wanted.logits.detach().numpy(), rtol=1e-5)
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.n_instances == mask.sum()
    assert found.n_effective == pytest.approx(1 / (shares.astype(float) ** 2).sum(), rel=1e-5)
    attention, coverage = stored(found.attention), stored(found.coverage)
    np.testing.assert_array_equal(coverage, mask)
    np.testing.assert_allclose(attention[rows, columns], shares, rtol=1e-5)
    assert not attention[~mask].any()
    assert shares.std() > 0.001
    level = open_volume(found.attention).levels[0]
    assert (level.spacing, level.translation) == ((16.0, 16.0), (7.75, 7.75))
    facts = json.loads((tmp_path / "score/attention/zarr.json").read_text())["attributes"][KEY]
    assert facts["n_instances"] == mask.sum()
    assert facts["aggregator"] == "GatedAttention"


def test_a_vector_of_zeros_is_an_instance_like_any_other(tmp_path):
    url, values = grid(tmp_path / "features.zarr")
    values[:, 1:3] = 0
    open_volume(url).write(Region.whole(values.shape), values)
    model = mixed(MeanPool(7))
    found = score(url, model, output=str(tmp_path / "score"))
    weight, bias = (p.detach().numpy() for p in model.classifier.parameters())
    np.testing.assert_allclose(found.logits, weight @ values.reshape(7, -1).mean(1) + bias, rtol=1e-4, atol=1e-6)
    dropped = values.reshape(7, -1)[:, values.reshape(7, -1).any(0)].mean(1)
    assert not np.allclose(found.logits, weight @ dropped + bias, atol=1e-4)
    assert found.n_instances == 54
    assert found.n_effective == pytest.approx(54)


def test_a_run_of_a_patch_model_is_scored_over_its_slide(tmp_path):
    source = slide(tmp_path / "slide.zarr")
    run(source, residual(), str(tmp_path / "out.zarr"))
    save_file(GatedAttention(7, 2, n_hidden=8, n_attention=5).state_dict(), tmp_path / "clam.safetensors")
    found = score(
        f"{tmp_path}/out.zarr/embedding",
        f"clam@{tmp_path}/clam.safetensors",
        output=str(tmp_path / "score"),
        thumbnail=source,
    )
    assert found.n_instances == (210 // 32) * (300 // 32)
    assert stored(found.attention).sum() == pytest.approx(1, abs=1e-5)
    picture = np.asarray(Image.open(found.figure).convert("RGB"))
    assert picture.shape[0] > 400
    assert picture.std() > 10


def test_a_feature_file_and_the_grid_that_it_came_from_score_the_same(tmp_path):
    url, values = grid(tmp_path / "features.zarr")
    mask = np.random.default_rng(2).random(SHAPE) < 0.5
    mask[0, 0] = True
    rows, columns = np.nonzero(mask)
    coords = np.stack([32 * columns, 32 * rows], axis=1)
    bag = FeatureBag(values[:, rows, columns].T.copy(), coords, {"patch_size_level0": 32})
    write_features(tmp_path / "slide.h5", bag)
    model = mixed(TransformerAggregator(7, 3, width=16, n_heads=2))
    source = slide(tmp_path / "slide.zarr")
    one = score(url, model, output=str(tmp_path / "one"), mask=mask)
    two = score(str(tmp_path / "slide.h5"), model, output=str(tmp_path / "two"), thumbnail=source)
    np.testing.assert_allclose(two.logits, one.logits, rtol=1e-5)
    there = stored(two.attention)
    np.testing.assert_allclose(there, stored(one.attention)[: there.shape[0], : there.shape[1]], rtol=1e-4)
    for url in (one.attention, two.attention):
        level = open_volume(url).levels[0]
        assert (level.spacing, level.translation) == ((16.0, 16.0), (7.75, 7.75))
    assert np.std(one.logits) > 0.01


def test_a_mask_may_be_a_volume(tmp_path):
    url, _ = grid(tmp_path / "features.zarr")
    mask = (np.arange(54).reshape(SHAPE) % 3 == 0).astype(np.uint8)
    axes = tuple(Axis(n, Role.SPACE) for n in "yx")
    volume = create_volume(str(tmp_path / "mask.zarr"), axes=axes, dtype="uint8", shape=SHAPE, chunk_shape=SHAPE)
    volume.write(Region.whole(SHAPE), mask)
    found = score(url, mixed(MeanPool(7)), output=str(tmp_path / "score"), mask=str(tmp_path / "mask.zarr"))
    np.testing.assert_array_equal(stored(found.coverage), mask)


def test_percentiles_rank_attention_whatever_its_scale():
    values = np.random.default_rng(0).standard_normal(101).astype(np.float32)
    ranked = percentiles(values)
    np.testing.assert_allclose(np.sort(ranked), (np.arange(101) + 0.5) / 101, rtol=1e-6)
    np.testing.assert_array_equal(percentiles(np.exp(20 * values)), ranked)
    assert [round_length(n) for n in (999.0, 0.3, 5.0)] == [500.0, 0.2, 5.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": "nothing.zarr"}, VolumeError, "nothing"),
        ({"features": "nothing.h5"}, VolumeError, "there is none at"),
        ({"features": "nothing.h5", "mask": np.ones(SHAPE, bool)}, UsageError, "a mask chooses cells of a grid"),
        ({"mask": np.zeros(SHAPE, bool)}, VolumeError, "the mask leaves none"),
        (
            {"aggregator": mixed(MeanPool(8))},
            EngineError,
            r"needs a bag of \(instance, 8 features\), not one of \(54, 7\)",
        ),
        ({"aggregator": "clam@nothing.pt"}, EngineError, "weights file is missing"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_leaves_nothing(tmp_path, change, error, message):
    url, _ = grid(tmp_path / "features.zarr")
    given = {"features": url, "aggregator": mixed(MeanPool(7)), **change}
    with pytest.raises(error, match=message) as caught:
        score(given.pop("features"), given.pop("aggregator"), output=str(tmp_path / "score"), **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "score").exists()


def test_a_score_is_not_written_over_another(tmp_path):
    url, _ = grid(tmp_path / "features.zarr")
    score(url, mixed(MeanPool(7)), output=str(tmp_path / "score"))
    with pytest.raises(VolumeError, match="exists"):
        score(url, mixed(MeanPool(7)), output=str(tmp_path / "score"))
