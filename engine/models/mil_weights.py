"""Reads aggregators that the field trained, CLAM's and DSMIL's: their sizes from the shapes of their state dicts.

>>> isinstance(load_clam(GatedAttention(8, 3, n_hidden=6, n_attention=4).state_dict()), GatedAttention)
True
"""

import re
from collections.abc import Mapping

import torch
from torch import nn

from engine.errors import WeightsError
from engine.models.factories import described
from engine.models.load import load_model
from engine.models.mil import Aggregator, DualStream, GatedAttention
from engine.models.weights import StateDict, read_state_dict

CLAM_IGNORED = r"instance_classifiers\..*|instance_loss_fn\..*"
"""Keys that serve CLAM's training only."""

DSMIL_IGNORED = r"i_classifier\.feature_extractor\..*"
"""Keys of the encoder that DSMIL was trained with, where they were saved with it."""

CLAM_NAMES: tuple[tuple[str, str], ...] = (
    (r"attention_net\.(?:2|3)\.attention_(a|b)\.0\.", r"attention_net.3.attention_\1.0."),
    (r"attention_net\.(?:2|3)\.attention_c\.", "attention_net.3.attention_c."),
)
"""Its gate is the third layer, or the fourth where a dropout stands before it."""

DSMIL_NAMES: tuple[tuple[str, str], ...] = (
    (r"i_classifier\.fc\.(?:0\.)?", "instance."),
    (r"b_classifier\.q\.(weight|bias)", r"query.0.\1"),
    (r"b_classifier\.q\.", "query."),
    (r"b_classifier\.v\.1\.", "value.0."),
    (r"b_classifier\.fcc\.", "classifier."),
)


def load_clam(weights: StateDict | str) -> GatedAttention:
    """Return CLAM's single branch (CLAM_SB, gated) with the weights of a state dict, or of a file of one.

    Raises:
        WeightsError: If the file is unsafe or damaged, or keys are missing, unknown or of other shapes.
    """
    found, where = _state(weights)
    branches = [key for key in found if re.fullmatch(r"classifiers\.\d+\..*", key)]
    if branches:
        raise WeightsError(
            f"{where} must be of CLAM's single branch, and have '{branches[0]}': those of its multiple branches "
            "(CLAM_MB) give an attention per class. Train CLAM_SB, or write the module and use file.py:factory."
        )
    state = _renamed(found, CLAM_NAMES, ignored=CLAM_IGNORED)
    first = _matrix(state, "attention_net.0.weight", where)
    gate = _matrix(state, "attention_net.3.attention_a.0.weight", where)
    last = _matrix(state, "classifiers.weight", where)
    module = GatedAttention(first.shape[1], last.shape[0], n_hidden=first.shape[0], n_attention=gate.shape[0])
    _fill(module, state, where)
    return module


def load_dsmil(weights: StateDict | str) -> DualStream:
    """Return DSMIL's aggregator with the weights of a state dict, or of a file of one.

    Its value layer ends in a ReLU where its queries have two layers, as in its code since 2021; the older has neither.

    Raises:
        WeightsError: If the file is unsafe or damaged, or keys are missing, unknown or of other shapes.
    """
    found, where = _state(weights)
    state = _renamed(found, DSMIL_NAMES, ignored=DSMIL_IGNORED)
    instance = _matrix(state, "instance.weight", where)
    query = _matrix(state, "query.0.weight", where)
    is_deep = "query.2.weight" in state
    value = ("relu" if is_deep else "linear") if "value.0.weight" in state else "identity"
    n_classes, n_features = instance.shape
    module = DualStream(n_features, n_classes, n_query=query.shape[0], is_deep=is_deep, value=value)
    _fill(module, state, where)
    return module


READERS = {"clam": load_clam, "dsmil": load_dsmil}


def load_aggregator(spec: str | nn.Module) -> nn.Module:
    """Return the aggregator of ``clam@weights``, ``dsmil@weights`` or ``file.py:factory[@weights]``, or a module as is.

    Raises:
        ModelError: If the specification is malformed, or its factory fails.
        WeightsError: If the weights are unsafe, damaged, or do not fit.
    """
    if isinstance(spec, nn.Module):
        return spec
    name, at, weights = spec.partition("@")
    if at and name.strip() in READERS:
        return READERS[name.strip()](weights.strip())
    module = load_model(spec).module.get_submodule("model")
    module.eval()
    return module


def _state(weights: StateDict | str) -> tuple[StateDict, str]:
    if isinstance(weights, str):
        return read_state_dict(weights), f"weights '{weights}'"
    if not isinstance(weights, Mapping):
        raise WeightsError(f"a state dict or its file is wanted, not {described(weights)}. Give model.state_dict().")
    return dict(weights), "the weights"


def _renamed(found: StateDict, names: tuple[tuple[str, str], ...], *, ignored: str) -> StateDict:
    """Return the tensors under our names; a key that no rule knows keeps its own."""
    state = {}
    for key, tensor in found.items():
        if re.fullmatch(ignored, key):
            continue
        rule = next(((pattern, name) for pattern, name in names if re.match(pattern, key)), None)
        state[re.sub(rule[0], rule[1], key, count=1) if rule else key] = tensor
    return state


def _matrix(state: StateDict, key: str, where: str) -> torch.Tensor:
    if key not in state or state[key].dim() != 2:
        has = f"has {tuple(state[key].shape)} there" if key in state else f"holds {', '.join(sorted(state)[:4])}, ..."
        raise WeightsError(f"{where} must hold the matrix '{key}', and what came {has}. Check whose weights they are.")
    return state[key]


def _fill(module: Aggregator, state: StateDict, where: str) -> None:
    wanted = module.state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unknown:
        raise WeightsError(
            f"{where} do not fit {type(module).__name__}: missing are {missing or 'none'}, unknown are "
            f"{unknown or 'none'}. Check whose weights they are."
        )
    shapes = {key: (tuple(state[key].shape), tuple(tensor.shape)) for key, tensor in wanted.items()}
    wrong = [f"'{key}' {came} for {due}" for key, (came, due) in shapes.items() if came != due]
    if wrong:
        raise WeightsError(f"{where} have other shapes than each other allow: {', '.join(wrong)}. Save them again.")
    module.load_state_dict(state)
    module.eval()
