"""Modules with statistics that are fitted to a source once, before the run, and are constants after."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class Fitted(Protocol):
    """A module that needs statistics of the source it will see."""

    is_fitted: bool

    def fit(self, pixels: torch.Tensor) -> None:
        """Set the statistics from ``pixels``, (n, channels) float32 in the source's units."""


def _all(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [(name, part) for name, part in module.named_modules() if callable(getattr(part, "fit", None))]


def unfitted(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Return the submodules that still need statistics, by name."""
    return [(name, part) for name, part in _all(module) if not bool(part.is_fitted)]


def fit_all(module: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Fit every submodule that needs it, in place."""
    for _, part in unfitted(module):
        part.fit(pixels)  # type: ignore[operator]


def constants(module: torch.nn.Module) -> dict[str, Any]:
    """Return what was fitted, as JSON values, by module and buffer."""
    found = {}
    for name, part in _all(module):
        for key, buffer in part.named_buffers(recurse=False):
            found[f"{name}.{key}"] = buffer.tolist()
    return found


def set_constants(module: torch.nn.Module, values: Mapping[str, Any]) -> None:
    """Set what was fitted before, in place."""
    for path, value in values.items():
        buffer = module.get_buffer(path)
        buffer.copy_(torch.as_tensor(value, dtype=buffer.dtype))
