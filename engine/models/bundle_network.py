"""The network of a MONAI bundle, with its weights: a class of MONAI's that is known here, or a TorchScript program."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from engine.errors import ModelError
from engine.models.bundle_values import Values
from engine.models.programs import load_torchscript
from engine.models.specification import BUNDLE_PROGRAM, BUNDLE_WEIGHTS, existing_file
from engine.models.weights import load_weights, one_line

NETWORKS = (
    "AttentionUnet",
    "BasicUNet",
    "DynUNet",
    "HighResNet",
    "SegResNet",
    "SegResNetDS",
    "SwinUNETR",
    "UNETR",
    "UNet",
    "VNet",
)
"""Classes of ``monai.networks.nets`` that a bundle may name: they take plain arguments, and read no files."""

HOME = "monai.networks.nets"

FACTORY = "Write a factory that builds the network: file.py:factory@weights"


def read_network(folder: Path, values: Values) -> nn.Module:
    """Return the network of a bundle with its weights.

    The weights are those that the configuration's ``CheckpointLoader`` names, in the folder ``models``, or else
    ``model.pt``. Where there are none, ``model.ts`` is the network.

    Raises:
        ModelError: If the network is not known, its arguments are not plain, MONAI is not installed, or files lack.
        WeightsError: If the weights are damaged, unsafe, or do not fit.
    """
    weights = folder / Path(BUNDLE_WEIGHTS).parent / _weights_name(values)
    program = folder / BUNDLE_PROGRAM
    if not weights.is_file() and program.is_file():
        return load_torchscript(program)
    existing_file(str(weights), what="weights of the bundle")
    network = _made(values.node("@network_def") if "network_def" in values.config else None, values)
    load_weights(network, str(weights))
    return network


def _made(definition: Any, values: Values) -> nn.Module:  # noqa: ANN401 -- JSON
    if not isinstance(definition, Mapping) or "_target_" not in definition:
        raise ModelError(
            f"{values.where} must give network_def as an object with _target_, and holds {definition!r}. {FACTORY}."
        )
    target = str(definition["_target_"])
    path, _, name = target.rpartition(".")
    kinds = _kinds()
    if (path and not path.startswith(HOME)) or name not in kinds:
        raise ModelError(
            f"network_def of {values.where} names '{target}', and known of {HOME} are {', '.join(NETWORKS)}. "
            f"{FACTORY}, or give the bundle's {BUNDLE_PROGRAM}."
        )
    arguments = {key: values.plain(value) for key, value in definition.items() if not key.startswith("_")}
    try:
        inspect.signature(kinds[name]).bind(**arguments)
        return kinds[name](**arguments)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name} of {values.where} cannot be made: {one_line(error)}. Correct network_def.") from error


def _kinds() -> dict[str, type[nn.Module]]:
    """Return the known classes by every name that MONAI gives them."""
    try:
        home = importlib.import_module(HOME)
    except ImportError as error:
        raise ModelError(
            f"the network of this bundle is a class of MONAI's, which cannot be imported: {one_line(error)}. "
            f"Install monai, or give the bundle's {BUNDLE_PROGRAM} alone."
        ) from error
    known = {getattr(home, name) for name in NETWORKS if hasattr(home, name)}
    return {name: kind for name, kind in vars(home).items() if isinstance(kind, type) and kind in known}


def _weights_name(values: Values) -> str:
    """Return the file name of the weights that the configuration loads."""
    for found in _objects(values.config):
        if str(found.get("_target_", "")).rpartition(".")[2] == "CheckpointLoader" and "load_path" in found:
            return Path(str(values.plain(found["load_path"]))).name
    return Path(BUNDLE_WEIGHTS).name


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 -- JSON
    """Yield every object in a configuration, from the outermost on."""
    if isinstance(value, Mapping):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _objects(item)
