"""Which outputs depend on one hyperplane of the input: found by dyeing it, or by disturbing it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from engine.errors import ModelError
from engine.models.subject import Subject
from engine.models.witness import Witness, observe

Method = Literal["dye", "perturbation"]

N_DRAWS = 3
"""Random disturbances per position, each of another size."""


@dataclass(frozen=True, slots=True)
class Dyed:
    """What of one output a dyed hyperplane reached, along the axis that it is normal to."""

    size: int
    """Voxels of the output along the axis."""
    first: int
    """First position reached; ``size`` where nothing was."""
    last: int
    """Last position reached; -1 where nothing was."""
    n_positions: int
    """Positions reached; less than ``last - first + 1`` where there are gaps."""
    is_plane: bool
    """Whether every voxel of every reached position was reached: all channels, all places along other axes."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was reached."""
        return self.last < 0

    @property
    def touches_end(self) -> bool:
        """Whether an end was reached, so that the true reach may be longer."""
        return self.first <= 0 or self.last >= self.size - 1


Reached = dict[str, Dyed]
Probe = Callable[[int, int, int], Reached]
"""(axis, length, position) -> what was reached, per output."""


def dye_axis(
    module: torch.nn.Module,
    *,
    shape: tuple[int, ...],
    axis: int,
    position: int,
    dtype: torch.dtype,
    device: torch.device,
    is_witnessed: bool = True,
) -> Reached:
    """Return what NaN on one hyperplane of an input of positive values reaches, per output.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors.
        shape: (batch, channel, *space).
        axis: Space axis that the hyperplane is normal to.
        position: Where on that axis.
        dtype: Of the input.
        device: Of the module.
        is_witnessed: Whether operations that lose NaN are replaced by ones that keep it.

    Raises:
        ModelError: If an output has no such axis.
        Exception: Whatever the module raises at this shape.
    """
    chance = torch.Generator().manual_seed(0)
    x = (torch.rand(shape, generator=chance) + 0.5).to(device=device, dtype=dtype)
    x.select(axis + 2, position).fill_(torch.nan)
    outputs = observe(module, x, mode=Witness() if is_witnessed else None)
    return _reached({name: tensor.isnan() for name, tensor in outputs.items()}, axis=axis, n_space=len(shape) - 2)


def disturb_axis(
    module: torch.nn.Module,
    *,
    shape: tuple[int, ...],
    axis: int,
    position: int,
    dtype: torch.dtype,
    device: torch.device,
    is_witnessed: bool = False,
) -> Reached:
    """Return what other random values on one hyperplane of a random input change, per output, over several draws.

    Never more than the truth, but less where a change is lost in rounding, in a dead ReLU or in a label.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors.
        shape: (batch, channel, *space).
        axis: Space axis that the hyperplane is normal to.
        position: Where on that axis.
        dtype: Of the input.
        device: Of the module.
        is_witnessed: Whether operations that lose values are replaced by ones that keep them.

    Raises:
        ModelError: If an output has no such axis.
        Exception: Whatever the module raises at this shape.
    """
    chance = torch.Generator().manual_seed(position)
    changed: dict[str, torch.Tensor] = {}
    for draw in range(N_DRAWS):
        x = torch.randn(shape, generator=chance, dtype=torch.float32).to(device=device, dtype=dtype)
        before = observe(module, x, mode=Witness() if is_witnessed else None)
        plane = x.select(axis + 2, position)
        plane.copy_(torch.randn(plane.shape, generator=chance) * 10.0**draw)
        after = observe(module, x, mode=Witness() if is_witnessed else None)
        for name, tensor in before.items():
            differs = tensor != after[name]
            changed[name] = changed[name] | differs if name in changed else differs
    return _reached(changed, axis=axis, n_space=len(shape) - 2)


def _reached(masks: Mapping[str, torch.Tensor], *, axis: int, n_space: int) -> Reached:
    found = {}
    for name, mask in masks.items():
        if mask.dim() not in (n_space + 1, n_space + 2):
            raise ModelError(
                f"output '{name}' must be (batch, channel, *space) or (batch, *space) with {n_space} space axes, "
                f"not of shape {tuple(mask.shape)}. A single answer for the whole input cannot be tiled: run it whole."
            )
        along = mask.movedim(mask.dim() - n_space + axis, 0).flatten(1)
        some = along.any(1).nonzero().flatten().tolist()
        size = along.shape[0]
        is_plane = bool(along[some].all()) if some else False
        found[name] = Dyed(size, some[0] if some else size, some[-1] if some else -1, len(some), is_plane)
    return found


def choose_probe(subject: Subject, axis: int) -> tuple[Probe, Method]:
    """Return how to probe a model along an axis: by dye where it keeps NaN, else by disturbing it.

    Dye is taken if it reaches every output, and all that a disturbance reaches.
    """
    length = subject.lengths[axis].at_least(32)
    position = length // 2
    for is_witnessed in (True, False):
        dyer = prober(subject, dye_axis, is_witnessed=is_witnessed)
        try:
            dyed = dyer(axis, length, position)
            changed = prober(subject, disturb_axis, is_witnessed=is_witnessed)(axis, length, position)
        except ModelError:
            raise
        except Exception:  # noqa: BLE001, S112, RUF100 -- what stands for an operation does not suit every model
            continue
        if all(_holds(dyed[name], changed[name]) for name in dyed):
            return dyer, "dye"
    return prober(subject, disturb_axis, is_witnessed=False), "perturbation"


def _holds(dyed: Dyed, changed: Dyed) -> bool:
    return not dyed.is_empty and dyed.first <= changed.first and dyed.last >= changed.last


def prober(subject: Subject, probe: Callable[..., Reached], *, is_witnessed: bool) -> Probe:
    """Return a probe of ``subject`` at inputs that are short along all other axes."""

    def run(axis: int, length: int, position: int) -> Reached:
        return probe(
            subject.module,
            shape=subject.shape(axis, length),
            axis=axis,
            position=position,
            dtype=subject.dtype,
            device=subject.device,
            is_witnessed=is_witnessed,
        )

    return run
