"""What a model is once it is loaded: one module from a tensor to named tensors, and its fingerprint."""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from engine.errors import ModelError
from engine.models.bundle import bundle
from engine.models.factories import described, make
from engine.models.fingerprint import fingerprint
from engine.models.nnunet import nnunet
from engine.models.programs import load_exported, load_torchscript
from engine.models.specification import Part, absolute_part, absolute_spec, existing_file, parse_spec
from engine.models.weights import load_weights
from engine.models.wrappers import Compose
from engine.models.wsinfer import wsinfer

Kind = Literal["module", "exported", "torchscript"]

KINDS: tuple[Kind, ...] = ("module", "exported", "torchscript")
"""From the most to the least that can be learnt from a model's graph."""

FOLDERS: Mapping[str, Callable[[str], torch.nn.Module]] = {"wsinfer": wsinfer, "nnunet": nnunet, "bundle": bundle}
"""What reads each kind of model folder."""

OUTPUT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model that is ready to run: in eval mode, without gradients, on the CPU."""

    module: torch.nn.Module
    """Takes (batch, channel, *space), gives a dict of named tensors."""
    spec: str
    """What loads it again, in any process: absolute paths; ``<module Class>`` where it came as an object."""
    fingerprint: str
    """SHA-256, in hexadecimal, over its code or program and every weight."""
    dtype: torch.dtype
    """Of its floating parameters, and so of its input; float32 where it has none."""
    kind: Kind
    n_parameter_bytes: int
    """Bytes of parameters and buffers."""

    def own(self) -> "Model":
        """Return the same with a module that can be fitted and leaves this one as it is; they share the weights."""
        shared = {id(weight): weight for weight in self.module.parameters()}
        return replace(self, module=deepcopy(self.module, shared))


class NamedOutputs(torch.nn.Module):
    """A user's model whose output is always a dict of named tensors; it stays in eval mode.

    The model itself is the submodule ``model``: :func:`submodule_name` takes that off a path.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the named outputs for ``x`` of (batch, channel, *space).

        Raises:
            ModelError: If the model gives neither a tensor nor a dict of named tensors.
        """
        value = self.model(x)
        if isinstance(value, torch.Tensor):
            return {"output": value}
        if not isinstance(value, dict) or not value:
            raise ModelError(
                f"the model must return a tensor or a dict of named tensors, not {described(value)}. {CURE}"
            )
        for name, tensor in value.items():
            if not isinstance(name, str) or not OUTPUT_NAME.fullmatch(name):
                raise ModelError(
                    f"output names become file names, and {name!r} cannot. Use letters, digits, '_', '-' and '.'."
                )
            if not isinstance(tensor, torch.Tensor):
                raise ModelError(f"output '{name}' must be a tensor, not {described(tensor)}. {CURE}")
        return dict(value)

    def train(self, mode: bool = True) -> "NamedOutputs":  # noqa: ARG002 -- the name is torch's
        """Return this module as it is: it was put in eval mode when loaded, and programs cannot be."""
        return self


CURE = "Wrap it in a module that returns one tensor, or a dict such as {'logits': a, 'distance': b}."


def submodule_name(path: str, module: torch.nn.Module) -> str:
    """Return a submodule of a loaded model as users know it: its path in their module, and its class.

    >>> submodule_name("model.down.norm", torch.nn.InstanceNorm2d(1))
    "'down.norm' (InstanceNorm2d)"
    """
    known = path.removeprefix("model").removeprefix(".")
    kind = getattr(module, "original_name", type(module).__name__)
    return f"'{known}' ({kind})" if known else f"the model itself ({kind})"


def load_model(spec: str | torch.nn.Module, *, weights: str | None = None) -> Model:
    """Return the model of a specification, or of a module at hand, ready to run.

    Args:
        spec: See ``specification.py``; a module is used as it is, not copied, and put in eval mode.
        weights: File of weights for the first part, where the specification names none.

    Raises:
        ModelError: If the specification, a file, a factory or the dtype of its parameters is at fault.
        WeightsError: If weights are missing, damaged, unsafe, or do not fit.
    """
    if isinstance(spec, torch.nn.Module):
        if weights:
            load_weights(spec, weights)
        return _model(spec, spec=f"<module {type(spec).__qualname__}>", kind=_kind_of(spec), programs=())
    parts = _with_weights(parse_spec(spec), weights)
    parts = tuple(absolute_part(part) for part in parts)
    loaded = [_load_part(part) for part in parts]
    whole = loaded[0] if len(loaded) == 1 else Compose(*loaded)
    kind = max(map(_kind_of_part, parts), key=KINDS.index)
    programs = tuple(file for part in parts for file in part.programs)
    return _model(whole, spec=" + ".join(map(str, parts)), kind=kind, programs=programs)


def _kind_of(module: torch.nn.Module) -> Kind:
    if isinstance(module, torch.jit.ScriptModule):
        return "torchscript"
    return "exported" if isinstance(module, torch.fx.GraphModule) else "module"


def _kind_of_part(part: Part) -> Kind:
    return "exported" if part.kind == "exported" else "torchscript" if part.kind == "torchscript" else "module"


def _with_weights(parts: tuple[Part, ...], weights: str | None) -> tuple[Part, ...]:
    if not weights:
        return parts
    first = parts[0]
    if first.kind != "module" or first.weights:
        has = "holds its own" if first.kind != "module" else f"names '{first.weights}' already"
        raise ModelError(f"weights '{weights}' have no place: '{first}' {has}. Leave one of them out.")
    return (replace(first, weights=weights), *parts[1:])


def _model(module: torch.nn.Module, *, spec: str, kind: Kind, programs: tuple[Path, ...]) -> Model:
    _put_in_eval(module)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    tensors = [*module.parameters(), *module.buffers()]
    return Model(
        module=NamedOutputs(module),
        spec=spec,
        fingerprint=fingerprint(module, programs=programs),
        dtype=_dtype(module),
        kind=kind,
        n_parameter_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def _put_in_eval(module: torch.nn.Module) -> None:
    """Put all submodules in eval mode but those of exported programs, which have no other."""
    if not isinstance(module, torch.fx.GraphModule):
        module.training = False
        for child in module.children():
            _put_in_eval(child)
    if isinstance(module, torch.jit.ScriptModule):
        module.eval()


def _dtype(module: torch.nn.Module) -> torch.dtype:
    dtypes = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise ModelError(f"the model's parameters must share one dtype, not {names}. Convert it: model.float().")
    return dtypes.pop() if dtypes else torch.float32


def _load_part(part: Part) -> torch.nn.Module:
    if part.kind == "module":
        module = make(part)
        if part.weights:
            load_weights(module, part.weights)
        return module
    if part.kind in FOLDERS:
        return FOLDERS[part.kind](part.location)
    file = existing_file(part.location, what="model file")
    return load_exported(file) if part.kind == "exported" else load_torchscript(file)


__all__ = ["Model", "absolute_spec", "fingerprint", "load_model", "parse_spec", "submodule_name"]
