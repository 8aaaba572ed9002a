"""Trained MeshNets as brainchop publishes them: model.json in Keras-JS's layout, and model.bin of raw float32.

    kernel   (first, second, third axis, channel in, channel out)   as Keras has it, channels last
    weight   (channel out, channel in, first, second, third axis)   as torch has it, channels first

The space axes stay as the network was trained; :func:`turned` makes it one for scans that lie otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.errors import WeightsError

ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU}

OWN_AXES = "LIA"
"""Where the networks' axes run to: they were trained on what FreeSurfer's mri_convert --conform writes."""

OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
"""Directions in the patient: right, left, anterior, posterior, superior, inferior."""

State = dict[str, torch.Tensor]


def read_meshnet(folder: Path) -> tuple[dict[str, Any], State]:
    """Return the arguments of :class:`networks.MeshNet`, but for its intensity of 1, and its weights.

    Raises:
        WeightsError: If a file is missing or says something else.
    """
    try:
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        raw = np.fromfile(folder / "model.bin", "<f4")
        layers = described["modelTopology"]["model_config"]["config"]["layers"]
        convolutions = [one["config"] for one in layers if one["class_name"] == "Conv3D"]
        kinds = {one["config"]["activation"] for one in layers if one["class_name"] == "Activation"}
        (activation,) = kinds
        arguments = {
            "width": convolutions[0]["filters"],
            "dilations": tuple(one["dilation_rate"][0] for one in convolutions[:-1]),
            "n_classes": convolutions[-1]["filters"],
            "activation": ACTIVATIONS[activation],
        }
        entries = [entry for manifest in described["weightsManifest"] for entry in manifest["weights"]]
        state = _state(entries, raw, names=[one["name"] for one in convolutions])
    except OSError as error:
        raise WeightsError(
            f"a MeshNet is a folder of model.json and model.bin, and in '{folder}' one cannot be read "
            f"({error.strerror or error}). Copy it again."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"a chain of Conv3D layers with one activation is wanted in Keras-JS's layout, and '{folder}' holds "
            f"something else ({type(error).__name__}: {error}). Name a MeshNet of brainchop's."
        ) from error
    return arguments, state


def _state(entries: Sequence[Mapping[str, Any]], raw: np.ndarray, *, names: Sequence[str]) -> State:
    """Return the tensors of ``networks.MeshNet``: a convolution and its activation take two places in its chain."""
    state, at = {}, 0
    for entry in entries:
        shape = entry["shape"]
        n = int(np.prod(shape))
        values = torch.from_numpy(raw[at : at + n].reshape(shape).copy())
        layer, kind = entry["name"].split("/")
        name = f"layers.{2 * names.index(layer)}"
        if kind == "kernel":
            state[f"{name}.weight"] = values.permute(4, 3, 0, 1, 2).contiguous()
        else:
            state[f"{name}.bias"] = values
        at += n
    if at != len(raw):
        raise ValueError(f"{at} weights are described, and {len(raw)} are there")
    return state


def turned(state: State, *, own: str, scan: str) -> State:
    """Return the weights of a network that sees scans as they lie: turning the kernels is turning the scan.

    A chain of convolutions of one step knows its axes by its kernels alone, so with these, mirrored and in another
    order, it gives for a scan what it gave for the same scan turned to its own axes; and no voxel is moved.

    Args:
        state: Of :func:`read_meshnet`.
        own: Where the network's first, second and third axis run to, as "LIA".
        scan: Where the scan's do, in storage order.
    """
    order = [next(k for k, way in enumerate(own) if way in (to, OPPOSITE[to])) for to in scan]
    mirrored = [axis + 2 for axis, to in enumerate(scan) if own[order[axis]] != to]
    return {
        name: values.permute(0, 1, *(k + 2 for k in order)).flip(mirrored).contiguous() if values.dim() > 1 else values
        for name, values in state.items()
    }
