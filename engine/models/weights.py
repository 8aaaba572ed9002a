"""How weights come from a file into a module: without ever running what the file says."""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engine.errors import WeightsError
from engine.models.specification import existing_file

NESTS = ("state_dict", "model_state_dict", "model", "net", "network_weights")
"""Keys under which trainers put the state dict beside other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""

StateDict = dict[str, torch.Tensor]


def load_weights(module: torch.nn.Module, path: str) -> None:
    """Copy the weights of a file into ``module``, in place: every key, no other, all shapes equal.

    Raises:
        WeightsError: If the file is missing, damaged or unsafe, or does not fit the module.
    """
    set_weights(module, read_state_dict(path), path=path)


def set_weights(module: torch.nn.Module, found: StateDict, *, path: str) -> None:
    """Copy tensors into ``module``, in place: every key, no other, all shapes equal; ``path`` is where they came from.

    Raises:
        WeightsError: If they do not fit the module.
    """
    wanted = module.state_dict(keep_vars=True)
    _check_keys(wanted, found, path)
    _check_shapes(wanted, found, path)
    try:
        module.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"weights '{path}' do not fit {type(module).__name__}: {one_line(error)}.") from error


def read_state_dict(path: str) -> StateDict:
    """Return the tensors of a safetensors file or of a state dict that torch saved, on the CPU.

    Raises:
        WeightsError: If the file is missing, damaged, holds more than tensors, or holds none.
    """
    file = existing_file(path, what="weights file", error=WeightsError)
    return tensors_of(_read_safetensors(file) if file.suffix == ".safetensors" else read_pickled(file), path=path)


def tensors_of(value: Any, *, path: str) -> StateDict:  # noqa: ANN401 -- a file may hold anything
    """Return the state dict that a file held, without what trainers put about it.

    Raises:
        WeightsError: If it is none.
    """
    if isinstance(value, torch.nn.Module):
        raise WeightsError(f"weights '{path}' hold a whole module, not a state dict. Save model.state_dict().")
    if isinstance(value, Mapping):
        nest = next((key for key in NESTS if isinstance(value.get(key), Mapping)), None)
        value = value[nest] if nest else value
    if not isinstance(value, Mapping) or not value:
        raise WeightsError(f"weights '{path}' must hold named tensors, not {_described(value)}. {SAVE_ANEW}")
    strangers = [str(key) for key, tensor in value.items() if not isinstance(tensor, torch.Tensor)]
    if strangers:
        raise WeightsError(
            f"weights '{path}' must hold tensors only, not {_first(strangers)} beside them. Save model.state_dict()."
        )
    return _without_prefix({str(key): tensor for key, tensor in value.items()})


SAVE_ANEW = "Save them with safetensors.torch.save_file(model.state_dict(), path)."


def _read_safetensors(file: Path) -> StateDict:
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights '{file}' are damaged or no safetensors file: {one_line(error)}. Fetch or save them again."
        ) from error


def read_pickled(file: Path, *, cure: str = SAVE_ANEW) -> object:
    """Return what a file holds: tensors, plain values and NumPy's numbers.

    Args:
        file: That torch saved.
        cure: How to come by one that holds no more, for a message.

    Raises:
        WeightsError: If it wants more, which is refused and not believed, or is damaged.
    """
    try:
        return unpickle_tensors(file, allowed=NUMBERS)
    except pickle.UnpicklingError as error:
        raise _refusal(file, error, cure) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        if "TorchScript" in str(error):
            raise WeightsError(
                f"weights '{file}' are a TorchScript program, not a state dict. Give the file itself as the model."
            ) from error
        raise WeightsError(
            f"weights '{file}' are damaged or no torch file: {one_line(error)}. Fetch or save them again."
        ) from error


_MAKE_NUMBER: Any = np.float64(0).__reduce__()[0]

NUMBERS: tuple[Any, ...] = (
    *((_MAKE_NUMBER, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "uint8", "float16", "float32", "float64")),
)
"""What a pickle imports to make a number of NumPy's, under its old path and its new: it runs nothing else."""


def unpickle_tensors(source: Path | BinaryIO, *, allowed: Sequence[Any] = ()) -> object:
    """Return what torch.load gives under ``weights_only``, without torch's warnings on what it refuses anyway.

    Args:
        source: What torch saved.
        allowed: What it may import beside tensors, as ``torch.serialization.safe_globals`` takes them.
    """
    with warnings.catch_warnings(), torch.serialization.safe_globals(list(allowed)):
        warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive.*")
        warnings.filterwarnings("ignore", message="Detected pickle protocol.*")
        loaded: object = torch.load(source, map_location="cpu", weights_only=True)
    return loaded


def _refusal(file: Path, error: Exception, cure: str) -> WeightsError:
    names = re.findall(r"(?:GLOBAL|global|Global|class) `?'?([\w.]+\.[\w.]+)", str(error))
    if names or "Unsupported" in str(error):
        what = f"asks to import {names[0]}" if names else "asks for more than tensors"
        return WeightsError(
            f"weights '{file}' must hold tensors only, but loading it {what}, which could run any code. "
            f"{cure} Do so where you trust the file."
        )
    return WeightsError(f"weights '{file}' are damaged or no torch file: {one_line(error)}. Fetch or save them again.")


def _without_prefix(state: StateDict) -> StateDict:
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _check_keys(wanted: Mapping[str, torch.Tensor], found: StateDict, path: str) -> None:
    tied = {_address(wanted[key]) for key in found if key in wanted} - {0}
    optional = ("num_batches_tracked",)
    missing = [
        key for key in wanted if key not in found and not key.endswith(optional) and _address(wanted[key]) not in tied
    ]
    unexpected = [key for key in found if key not in wanted]
    if not missing and not unexpected:
        return
    lacks = f"lack {_first(missing)}" if missing else ""
    has = f"have {_first(unexpected)} that the module has not" if unexpected else ""
    raise WeightsError(
        f"weights '{path}' do not fit the module: they {' and '.join(filter(None, (lacks, has)))} "
        f"({len(found)} keys, {len(wanted)} wanted). Build the module as it was when the weights were saved."
    )


def _address(tensor: torch.Tensor) -> int:
    return 0 if torch.nn.parameter.is_lazy(tensor) else tensor.data_ptr()


def _check_shapes(wanted: Mapping[str, torch.Tensor], found: StateDict, path: str) -> None:
    wrong = [
        f"{key} {tuple(found[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in found and not torch.nn.parameter.is_lazy(tensor) and tensor.shape != found[key].shape
    ]
    if wrong:
        raise WeightsError(
            f"weights '{path}' have other shapes than the module: {_first(wrong, quote='')}. "
            "Build the module with the widths and channels that it was trained with."
        )


def _first(names: list[str], *, quote: str = "'", n: int = 3) -> str:
    shown = ", ".join(f"{quote}{name}{quote}" for name in names[:n])
    return shown if len(names) <= n else f"{shown} and {len(names) - n} more"


def _described(value: object) -> str:
    return "nothing" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def one_line(error: BaseException) -> str:
    """Return an exception's kind and the beginning of its text, in one line without a full stop."""
    text = " ".join(str(error).split())[:240].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
