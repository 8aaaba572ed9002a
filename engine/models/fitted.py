"""Modules with statistics that are fitted to a source once, before the run, and are constants after.

What such a module keeps is in its buffers, so that the constants of a fitted pipeline are the buffers of
its fitted modules by path, and any process can set them again, bit for bit, without the voxels.

A module is fitted either to the pixels of tissue of a slide, all channels together (:class:`Statistics`), or to a
summary of each channel of any volume, however large (``summarised.py``).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch

from engine.errors import ModelError
from engine.models.wrappers import Compose

Constants = dict[str, Any]
"""Numbers, or nested lists of them, by the path of the buffer that holds them."""


@runtime_checkable
class Fitted(Protocol):
    """A module that needs statistics of the source it will see."""

    is_fitted: bool

    def fit(self, pixels: torch.Tensor) -> None:
        """Set the statistics from ``pixels``, (n, channels) float32 in the source's units."""


class Statistics(torch.nn.Module, ABC):
    """A :class:`Fitted` module: its statistics are buffers, which no file of weights holds, for they are the source's.

    A new one says what it measures in :meth:`measure`, and calls :meth:`check_fitted` in its forward.
    """

    wants: ClassVar[str] = "statistics of the source"
    """What is fitted, in words."""

    def __init__(self, **stand_ins: torch.Tensor) -> None:
        """Register a float32 buffer of each name; ``stand_ins`` are valid values, used by :func:`provisional`."""
        super().__init__()
        self.is_fitted = False
        for name, value in stand_ins.items():
            self.register_buffer(name, value.to(torch.float32), persistent=False)

    @abstractmethod
    def measure(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return the value of each buffer, float64, from finite ``pixels`` (n, channels) float64.

        Raises:
            ModelError: If they hold no such statistics.
        """

    def fit(self, pixels: torch.Tensor) -> None:
        """Set the statistics from ``pixels``, (n, channels) in the source's units; their order does not matter.

        Raises:
            ModelError: If they are no such pixels, too few, or hold no such statistics.
        """
        if pixels.ndim != 2 or not len(pixels) or not bool(torch.isfinite(pixels).all()):
            n_bad = int((~torch.isfinite(pixels)).sum())
            raise ModelError(
                f"{type(self).__name__} is fitted to finite pixels (n, channels), not to {tuple(pixels.shape)} with "
                f"{n_bad} that are not finite. Give pixels of tissue."
            )
        self.keep(self.measure(pixels.detach().to("cpu", torch.float64)))

    def keep(self, values: Mapping[str, torch.Tensor]) -> None:
        """Set the value of each buffer: the module is fitted then."""
        for name, value in values.items():
            buffer = self.get_buffer(name)
            buffer.copy_(value.reshape(buffer.shape))
        self.is_fitted = True

    def check_fitted(self) -> None:
        """Refuse to run without statistics.

        Raises:
            ModelError: If there are none.
        """
        if not self.is_fitted:
            raise ModelError(
                f"{type(self).__name__} needs {self.wants}, and was fitted to nothing. Call its fit(pixels), or run "
                "it by the engine, which fits it to each source."
            )


def _fitted(module: torch.nn.Module) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, Fitted)]


def unfitted(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Return the submodules that still need statistics, by path; ``module`` itself has the path ''."""
    return [(name, part) for name, part in _fitted(module) if not part.is_fitted]


@contextmanager
def provisional(module: torch.nn.Module) -> Iterator[None]:
    """Let unfitted modules run on the values they stand at, so that geometry and cost can be learnt before a fit.

    Neither depends on the values. After it they are unfitted again.
    """
    parts = [part for _, part in unfitted(module)]
    for part in parts:
        part.is_fitted = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in parts:
            part.is_fitted = False  # type: ignore[assignment]


class Voxels(Protocol):
    """The voxels of a source, as they reach a part of a pipeline."""

    def fit(self, module: Any) -> None:  # noqa: ANN401 -- a module that is Fitted: types have no word for both
        """Fit a module to them, in place.

        Raises:
            ModelError: If it cannot be.
        """

    def after(self, part: torch.nn.Module, path: str) -> Self:
        """Return them as a part at ``path`` hands them on, which it must do voxel by voxel."""


def fit_all(module: torch.nn.Module, voxels: Voxels) -> None:
    """Fit every submodule that needs it, in place, each to the voxels as they reach it.

    In a :class:`Compose` or a ``Sequential`` they pass the parts before, which must look at single voxels only. What
    a module of the user's own holds is fitted to what that module is given; so is what a wrapper holds that says
    ``passes_voxels = True``, such as ``Resampled``: to the source's own voxels, before they are resampled.

    Args:
        module: A pipeline.
        voxels: Of the source.

    Raises:
        ModelError: If a module cannot be fitted, naming it.
    """
    _fit(module, voxels, "")


def _fit(module: torch.nn.Module, voxels: Voxels, path: str) -> None:
    if isinstance(module, Fitted):
        if not module.is_fitted:
            voxels.fit(module)
        return
    for name, part in module.named_children():
        if not unfitted(module):
            return
        where = f"{path}.{name}".lstrip(".")
        _fit(part, voxels, where)
        if isinstance(module, Compose | torch.nn.Sequential) and unfitted(module):
            if getattr(part, "passes_voxels", False):
                raise looks_around(part, where)
            voxels = voxels.after(part, where)


def looks_around(part: torch.nn.Module, path: str) -> ModelError:
    """Return the error of a part that does not work voxel by voxel, and has one that is fitted behind it."""
    return ModelError(
        f"what follows '{path}' ({type(part).__name__}) needs statistics of its output, which single voxels cannot "
        "give, for it does not look at single voxels. Put the part that is fitted before it."
    )


def constants(module: torch.nn.Module) -> Constants:
    """Return what was fitted, as JSON values, by the path of each buffer; float32 comes back to the bit."""
    return {
        f"{name}.{key}".lstrip("."): buffer.tolist()
        for name, part in _fitted(module)
        if part.is_fitted
        for key, buffer in part.named_buffers(recurse=False)
    }


def set_constants(module: torch.nn.Module, values: Mapping[str, Any]) -> None:
    """Set what was fitted before, in place: the modules are then fitted.

    Raises:
        ModelError: If a buffer is missing or another, or a module gets a part of its constants only.
    """
    known = dict(_fitted(module))
    buffers = {f"{n}.{key}".lstrip("."): b for n, p in known.items() for key, b in p.named_buffers(recurse=False)}
    for path, value in values.items():
        tensor = torch.as_tensor(value)
        if path not in buffers or tensor.shape != buffers[path].shape:
            has = f"has {tuple(buffers[path].shape)}" if path in buffers else "does not have"
            raise ModelError(
                f"the constant '{path}' of shape {tuple(tensor.shape)} must be a statistic of the model, which {has} "
                "it. Give the model that was fitted."
            )
        buffers[path].copy_(torch.as_tensor(value, dtype=buffers[path].dtype))
    for name, part in known.items():
        own = {f"{name}.{key}".lstrip(".") for key, _ in part.named_buffers(recurse=False)}
        if own & set(values):
            if own - set(values):
                raise ModelError(f"'{name}' needs all its constants, not without {sorted(own - set(values))}. Fit it.")
            part.is_fitted = True
