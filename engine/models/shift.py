"""Whether a model commutes with shifts: f of the shifted input is the shifted f of the input."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

import torch

from engine.errors import ModelError
from engine.geometry.model_geometry import ModelGeometry
from engine.models.subject import Subject, subject_of
from engine.models.witness import Witness, in_double, observe

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-5}
"""Largest difference that is rounding, as a share of the largest value; 0.02 for shorter floats."""


@dataclass
class Shifter:
    """A model at a fixed length of one axis, run on windows of one random input."""

    subject: Subject
    axis: int
    scales: Mapping[str, Fraction]
    """Output voxels per input voxel."""
    before: int
    """Input voxels seen before an output's own, as far as known."""
    after: int
    is_witnessed: bool
    length: int = 0
    """Of the input, along the axis; see :meth:`reserve`."""
    difference: float = 0.0
    """Largest difference met, as a share of the largest value."""
    _known: dict[tuple[int, int], dict[str, torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: Subject, axis: int, *, scales: Mapping[str, Fraction], before: int, after: int) -> Self:
        """Return a shifter that runs in float64, and keeps lossy outputs whole, wherever the model lets it."""
        for dtype, is_witnessed in ((torch.float64, True), (torch.float64, False), (subject.dtype, True)):
            try:
                module = subject.module if dtype == subject.dtype else in_double(subject.module)
                shifter = cls(subject.on(module, dtype), axis, scales, before, after, is_witnessed)
                shifter._run(subject.lengths[axis].at_least(32), 0)
            except Exception:  # noqa: BLE001, S112, RUF100 -- not every model can be copied or run in float64
                continue
            return shifter
        return cls(subject, axis, scales, before, after, False)

    def commutes(self, shift: int) -> bool:
        """Return whether shifting the input by ``shift`` voxels shifts all outputs, away from both ends.

        Where the model takes too short a length only to see it, the answer is no.
        """
        self.reserve(shift)
        length = self.length
        if shift > length:
            return False
        here, there = self._run(length, 0), self._run(length, shift)
        return all(self._agree(here[name], there[name], name, length, shift) for name in here)

    def reserve(self, shift: int) -> None:
        """Make the input long enough for shifts up to ``shift``; a longer input is a new run."""
        finest = max(scale.denominator for scale in self.scales.values())
        wanted = max(self.before, 0) + max(self.after, 0) + 6 * shift + 3 * finest
        self.length = max(self.length, self.subject.lengths[self.axis].at_least(wanted))

    def _run(self, length: int, start: int) -> dict[str, torch.Tensor]:
        key = (length, start)
        if key not in self._known:
            shape = list(self.subject.shape(self.axis, length))
            shape[self.axis + 2] = 2 * length
            chance = torch.Generator().manual_seed(7)
            whole = torch.randn(shape, generator=chance, dtype=torch.float64).to(self.subject.dtype)
            x = whole.narrow(self.axis + 2, start, length).contiguous().to(self.subject.device)
            mode = Witness() if self.is_witnessed else None
            self._known[key] = observe(self.subject.module, x, mode=mode)
        return self._known[key]

    def _agree(self, here: torch.Tensor, there: torch.Tensor, name: str, length: int, shift: int) -> bool:
        scale = self.scales[name]
        dim = here.dim() - self.subject.n_space + self.axis
        moved = int(shift * scale)
        first = int((max(self.before, 0) + 2 * shift) * scale)
        stop = min(int((length - 3 * shift - max(self.after, 0)) * scale), here.shape[dim] - moved)
        if stop - first < max(moved, 1):
            return False
        a = here.narrow(dim, first + moved, stop - first)
        b = there.narrow(dim, first, stop - first)
        if not a.is_floating_point():
            return torch.equal(a, b)
        largest = float(a.abs().max()) or 1.0
        self.difference = float((a - b).abs().max()) / largest
        return self.difference <= TOLERANCES.get(self.subject.dtype, 0.02)


def check_equivariance(module: torch.nn.Module, geometry: ModelGeometry, *, dtype: torch.dtype) -> None:
    """Refuse a model whose output does not move with its input by whole steps, on random input, axis by axis.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors; in eval mode.
        geometry: Traced or probed.
        dtype: Of the model's input.

    Raises:
        ModelError: If it does not: the step is wrong, a layer knows its position, or pads otherwise than the rest.
    """
    subject = subject_of(module, geometry, dtype=dtype)
    for axis, program in enumerate(geometry.programs):
        names = [name for name, _ in program.outputs]
        shifter = Shifter.of(
            subject,
            axis,
            scales={name: program.scale(name) for name in names},
            before=max(program.halo(name)[0] for name in names),
            after=max(program.halo(name)[1] for name in names),
        )
        if not shifter.commutes(program.step):
            raise ModelError(
                f"shifting the input along axis {axis} of space by {program.step} voxels must shift the output, but it "
                f"differs by {shifter.difference:.2g} of its largest value: the step is wrong, a layer depends on "
                "position, or it pads otherwise than the rest. Look for position encodings and odd padding modes."
            )
