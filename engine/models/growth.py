"""How much longer each output becomes as the input grows."""

from fractions import Fraction

import torch

from engine.errors import ModelError
from engine.models.dye import Reached
from engine.models.subject import Subject
from engine.models.witness import plain_kernels


def scales_of(subject: Subject, axis: int, length: int, reached: Reached) -> dict[str, Fraction]:
    """Return each output's voxels per input voxel: the simplest ratio that explains its growth over a long stretch.

    Raises:
        ModelError: If an output's length does not grow with the input's.
    """
    sizes = {name: dyed.size for name, dyed in reached.items()}
    if subject.lengths[axis].only:
        return {name: _nearest_ratio(Fraction(size, length)) for name, size in sizes.items()}
    longer = subject.lengths[axis].at_least(length + 720)
    x = torch.zeros(subject.shape(axis, longer), dtype=subject.dtype, device=subject.device)
    with plain_kernels():
        outputs = subject.module(x)
    growth = longer - length
    found = {}
    for name, tensor in outputs.items():
        grown = tensor.shape[tensor.dim() - subject.n_space + axis] - sizes[name]
        if grown <= 0:
            raise ModelError(
                f"output '{name}' must grow with axis {axis} of space, but has {sizes[name]} voxels at any length. "
                "It is pooled or interpolated to a fixed size: use fixed factors instead."
            )
        found[name] = next(
            Fraction(round(Fraction(grown * d, growth)), d)
            for d in range(1, growth + 1)
            if abs(Fraction(round(Fraction(grown * d, growth)), d) * growth - grown) <= 1
        )
    return found


def _nearest_ratio(ratio: Fraction) -> Fraction:
    return Fraction(round(ratio)) if ratio > Fraction(2, 3) else Fraction(1, round(1 / ratio))
