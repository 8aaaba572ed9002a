"""Aggregators of slides: the field's own forward passes, written again with their own key names, are the oracle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError, WeightsError
from engine.models.mil import (
    DualStream,
    GatedAttention,
    MaxPool,
    MeanPool,
    TransformerAggregator,
    aggregate,
    sinusoids,
)
from engine.models.mil_weights import load_aggregator, load_clam, load_dsmil
from tests.patch_models import mixed

N, WIDTH = 23, 12


def bag(n: int = N, width: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(5)
    features = torch.randn(n, width, generator=chance)
    return features, torch.randint(0, 40, (n, 2), generator=chance)


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(2)
    return {key: torch.randn(shape, generator=chance) / 2 for key, shape in shapes.items()}


def clam_state(gate: str, n_classes: int = 3) -> dict[str, torch.Tensor]:
    """The keys that CLAM_SB saves: its gate is the layer ``gate``."""
    return drawn(
        {
            "attention_net.0.weight": (8, WIDTH),
            "attention_net.0.bias": (8,),
            f"attention_net.{gate}.attention_a.0.weight": (5, 8),
            f"attention_net.{gate}.attention_a.0.bias": (5,),
            f"attention_net.{gate}.attention_b.0.weight": (5, 8),
            f"attention_net.{gate}.attention_b.0.bias": (5,),
            f"attention_net.{gate}.attention_c.weight": (1, 5),
            f"attention_net.{gate}.attention_c.bias": (1,),
            "classifiers.weight": (n_classes, 8),
            "classifiers.bias": (n_classes,),
            "instance_classifiers.0.weight": (2, 8),
            "instance_classifiers.0.bias": (2,),
        }
    )


def clam_forward(
    state: dict[str, torch.Tensor], gate: str, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """CLAM_SB's forward (Lu et al. 2021, eq. 1 and 2), from its state dict: logits (1, class), attention (1, n)."""

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    h = dense(features, "attention_net.0").clamp(min=0)
    a = torch.tanh(dense(h, f"attention_net.{gate}.attention_a.0"))
    b = 1 / (1 + torch.exp(-dense(h, f"attention_net.{gate}.attention_b.0")))
    raw = dense(a * b, f"attention_net.{gate}.attention_c").T
    share = raw.exp() / raw.exp().sum(1, keepdim=True)
    return dense(share @ h, "classifiers"), share


@pytest.mark.parametrize("gate", ["2", "3"])  # without and with a dropout layer before it
def test_clam_weights_give_what_clam_gives(gate, tmp_path):
    state, (features, positions) = clam_state(gate), bag()
    path = tmp_path / "clam.pt"
    torch.save(state, path)
    for model in (load_clam(state), load_clam(str(path)), load_aggregator(f"clam@{path}")):
        found = model(features, positions)
        logits, attention = clam_forward(state, gate, features)
        torch.testing.assert_close(found.logits, logits[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.attention, attention[0], rtol=1e-6, atol=1e-6)
    assert logits.std() > 0.05
    assert attention.std() > 0.001


def dsmil_state(form: str, n_classes: int = 2) -> dict[str, torch.Tensor]:
    """The keys that DSMIL saves: its first code (linear), its later (deep), and that with values passed (value)."""
    instance = "i_classifier.fc" if form == "linear" else "i_classifier.fc.0"
    shapes = {f"{instance}.weight": (n_classes, WIDTH), f"{instance}.bias": (n_classes,)}
    if form == "linear":
        shapes |= {"b_classifier.q.weight": (16, WIDTH), "b_classifier.q.bias": (16,)}
    else:
        shapes |= {"b_classifier.q.0.weight": (16, WIDTH), "b_classifier.q.0.bias": (16,)}
        shapes |= {"b_classifier.q.2.weight": (16, 16), "b_classifier.q.2.bias": (16,)}
    if form != "deep":
        shapes |= {"b_classifier.v.1.weight": (WIDTH, WIDTH), "b_classifier.v.1.bias": (WIDTH,)}
    shapes |= {"b_classifier.fcc.weight": (n_classes, n_classes, WIDTH), "b_classifier.fcc.bias": (n_classes,)}
    return drawn(shapes)


def dsmil_forward(state: dict[str, torch.Tensor], form: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """DSMIL's forward (Li et al. 2021, eq. 3 to 6), class by class: logits (class,), attention (n, class)."""
    instance = "i_classifier.fc" if form == "linear" else "i_classifier.fc.0"
    scores = x @ state[f"{instance}.weight"].T + state[f"{instance}.bias"]

    def query(v: torch.Tensor) -> torch.Tensor:
        if form == "linear":
            return v @ state["b_classifier.q.weight"].T + state["b_classifier.q.bias"]
        hidden = F.relu(v @ state["b_classifier.q.0.weight"].T + state["b_classifier.q.0.bias"])
        return torch.tanh(hidden @ state["b_classifier.q.2.weight"].T + state["b_classifier.q.2.bias"])

    values = x if form == "deep" else x @ state["b_classifier.v.1.weight"].T + state["b_classifier.v.1.bias"]
    values = F.relu(values) if form == "value" else values
    bags, attention = [], []
    for c in range(scores.shape[1]):
        critical = query(x[scores[:, c].argsort(descending=True)[0]])
        weight = torch.softmax(torch.stack([query(one) @ critical for one in x]) / 4.0, 0)  # sqrt(16)
        attention.append(weight)
        bags.append(sum(w * v for w, v in zip(weight, values, strict=True)))
    kernel = state["b_classifier.fcc.weight"]
    logits = [
        sum((kernel[o, i] * bags[i]).sum() for i in range(len(bags))) + state["b_classifier.fcc.bias"][o]
        for o in range(len(kernel))
    ]
    return torch.stack(logits), torch.stack(attention, dim=1)


@pytest.mark.parametrize("form", ["linear", "deep", "value"])
def test_dsmil_weights_give_what_dsmil_gives(form, tmp_path):
    state, (features, positions) = dsmil_state(form), bag()
    path = tmp_path / "dsmil.safetensors"
    save_file({**state, "i_classifier.feature_extractor.conv1.weight": torch.zeros(1)}, path)
    logits, attention = dsmil_forward(state, form, features)
    for model in (load_dsmil(state), load_aggregator(f"dsmil@{path}")):
        found = model(features, positions)
        torch.testing.assert_close(found.logits, logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.attention, attention[:, logits.argmax()], rtol=1e-5, atol=1e-6)
    assert logits.std() > 0.05
    assert attention.std() > 0.001
    scored = aggregate(model, features.numpy(), positions.numpy())
    np.testing.assert_allclose(scored.probabilities, 1 / (1 + np.exp(-logits.numpy())), rtol=1e-5)


def test_our_own_weights_come_back(tmp_path: Path):
    for model, reader in (
        (GatedAttention(WIDTH, n_hidden=6, n_attention=4), load_clam),
        (DualStream(WIDTH), load_dsmil),
    ):
        mixed(model)
        save_file(model.state_dict(), tmp_path / "ours.safetensors")
        again = reader(str(tmp_path / "ours.safetensors"))
        assert torch.equal(again(*bag()).logits, model(*bag()).logits)


MODELS = [
    lambda: MeanPool(WIDTH, 3),
    lambda: MaxPool(WIDTH, 3),
    lambda: GatedAttention(WIDTH, 3, n_hidden=8, n_attention=5),
    lambda: DualStream(WIDTH, 3, n_query=8),
    lambda: TransformerAggregator(WIDTH, 3, width=16, n_heads=2),
]


@pytest.mark.parametrize("make", MODELS)
def test_attention_sums_to_one_and_the_order_of_instances_does_not_matter(make):
    model, (features, positions) = mixed(make()), bag()
    found = model(features, positions)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    shuffled = model(features[order], positions[order])
    assert found.logits.shape == (3,)
    assert found.attention.shape == (N,)
    assert float(found.attention.detach().sum()) == pytest.approx(1, abs=1e-6)
    assert (found.attention >= 0).all()
    torch.testing.assert_close(shuffled.logits, found.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shuffled.attention, found.attention[order], rtol=1e-5, atol=1e-6)
    assert found.logits.std() > 0.01


def test_baselines_are_the_mean_and_the_maximum():
    features, positions = bag()
    for model, pooled in (
        (mixed(MeanPool(WIDTH, 3)), lambda m: m.classifier(features).mean(0)),
        (mixed(MaxPool(WIDTH, 3)), lambda m: m.classifier(features).amax(0)),
    ):
        torch.testing.assert_close(model(features, positions).logits, pooled(model), rtol=1e-5, atol=1e-6)
    strongest = int(model.classifier(features).amax(1).argmax())
    assert model(features, positions).attention.tolist() == [float(i == strongest) for i in range(N)]


def test_an_instance_of_zeros_counts():
    features, positions = bag()
    features[3] = 0
    model = mixed(MeanPool(WIDTH))
    wanted = model.classifier(features.sum(0) / N)
    torch.testing.assert_close(model(features, positions).logits, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wanted, model.classifier(features.sum(0) / (N - 1)))


def test_the_transformer_is_torchs_own_with_positions():
    model, (features, positions) = mixed(TransformerAggregator(WIDTH, 3, width=16, n_heads=2, n_layers=1)), bag()
    layer = model.last
    theirs = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(layer.mixed.weight)
        theirs.self_attn.in_proj_bias.copy_(layer.mixed.bias)
        for ours, target in (
            (layer.out, theirs.self_attn.out_proj),
            (layer.before, theirs.norm1),
            (layer.after, theirs.norm2),
            (layer.dense[0], theirs.linear1),
            (layer.dense[2], theirs.linear2),
        ):
            target.load_state_dict(ours.state_dict())
    tokens = torch.cat([model.token[None], model.project(features) + sinusoids(positions, 16)])[None]
    x = theirs.train()(tokens)[0]  # dropout 0: train mode only keeps to the plain path
    y = theirs.norm1(tokens)
    _, weights = theirs.self_attn(y, y, y, average_attn_weights=True)
    found = model(features, positions)
    torch.testing.assert_close(found.logits, model.classifier(model.norm(x[0])), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.attention, weights[0, 0, 1:] / weights[0, 0, 1:].sum(), rtol=1e-4, atol=1e-6)
    moved = model(features, positions + torch.arange(N)[:, None])
    assert not torch.allclose(moved.logits, found.logits, atol=1e-4)


def test_positions_differ_and_do_not_mix_rows_with_columns():
    cells = torch.cartesian_prod(torch.arange(30), torch.arange(30))
    codes = sinusoids(cells, 32)
    assert float(torch.cdist(codes, codes).fill_diagonal_(9).min()) > 0.1
    assert torch.equal(codes[:, :16].reshape(30, 30, 16)[:, 0], codes[:, :16].reshape(30, 30, 16)[:, 7])


@pytest.mark.parametrize(
    ("change", "reader", "message"),
    [
        (lambda s: s.pop("attention_net.0.weight"), load_clam, "must hold the matrix 'attention_net.0.weight'"),
        (lambda s: s.pop("classifiers.bias"), load_clam, "missing are .'classifiers.bias'., unknown are none"),
        (lambda s: s.update(odd=torch.zeros(1)), load_clam, "missing are none, unknown are .'odd'."),
        (
            lambda s: s.update({"classifiers.weight": torch.zeros(3, 9)}),
            load_clam,
            r"'classifiers.weight' \(3, 9\) for \(3, 8\)",
        ),
        (lambda s: s.update({"classifiers.0.weight": torch.zeros(1, 8)}), load_clam, "CLAM_MB"),
        (lambda s: None, load_dsmil, "must hold the matrix 'instance.weight'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, reader, message):
    state = clam_state("3")
    change(state)
    with pytest.raises(WeightsError, match=message) as caught:
        reader(state)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_is_more_than_tensors_is_refused(tmp_path):
    torch.save(GatedAttention(WIDTH), tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match="asks to import"):
        load_aggregator(f"clam@{tmp_path / 'whole.pt'}")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((0, WIDTH), np.float32), "needs a bag of .instance, 12 features., not one of .0, 12."),
        (np.zeros((4, 5), np.float32), "not one of .4, 5."),
        (np.full((4, WIDTH), np.nan, np.float32), "4 of 4 instances hold NaN"),
    ],
)
def test_a_bag_that_makes_no_sense_is_refused(features, message):
    with pytest.raises(ModelError, match=message):
        aggregate(MeanPool(WIDTH), features, np.zeros((len(features), 2), np.int64))
