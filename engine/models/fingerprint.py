"""What identifies a model: a hash over its code and every weight."""

import hashlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import torch


def fingerprint(module: torch.nn.Module, *, programs: tuple[Path, ...] = ()) -> str:
    """Return a SHA-256 over everything that decides what a module computes, as far as it can be seen.

    That is: every tensor's name, dtype, shape and bytes; the layers and their settings as printed; the
    source of classes that are not torch's; TorchScript and graph code; the files in ``programs``.
    """
    digest = hashlib.sha256()
    for program in programs:
        digest.update(program.read_bytes())
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().to(memory_format=torch.contiguous_format, device="cpu").contiguous()
        digest.update(raw.reshape(-1).view(torch.uint8).numpy())
    for text in sorted({*_codes(module), *_settings(module)}):
        digest.update(text.encode())
    return digest.hexdigest()


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters, buffers and bare tensor attributes by their paths."""
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    for path, submodule in module.named_modules():
        bare = {key: value for key, value in vars(submodule).items() if isinstance(value, torch.Tensor)}
        found.update({f"{path}.{key}": value for key, value in bare.items()})
    return found


def _settings(module: torch.nn.Module) -> Iterator[str]:
    """Yield what submodules of Python keep as plain values: a threshold, a dtype, the range of a quantiser."""
    for path, submodule in module.named_modules():
        if isinstance(submodule, torch.jit.ScriptModule | torch.fx.GraphModule):
            continue
        for key, value in vars(submodule).items():
            if not key.startswith("_") and key != "training" and _is_plain(value):
                yield f"{path}.{key} = {value!r}"


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _codes(module: torch.nn.Module) -> Iterator[str]:
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        yield str(module.code)
        return
    yield re.sub(r"0x[0-9a-f]+", "", f"{type(module).__qualname__} {module!r}")
    if not type(module).__module__.startswith("torch."):
        try:
            yield inspect.getsource(type(module))
        except (OSError, TypeError):
            yield type(module).__qualname__
    for child in module.children():
        yield from _codes(child)
