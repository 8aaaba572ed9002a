"""Whether dye stays where a geometry says that it may go, and how close it comes to that."""

from bisect import bisect_left
from dataclasses import dataclass

import torch

from engine.errors import ModelError
from engine.geometry.model_geometry import ModelGeometry
from engine.geometry.nodes import Interval
from engine.geometry.receptive_field import AxisProgram
from engine.models.dye import Dyed, Method, Probe, choose_probe
from engine.models.subject import subject_of


@dataclass(frozen=True, slots=True)
class Fit:
    """How close the dyed outputs come to what the geometry says, for one output and axis."""

    output: str
    axis: int
    method: Method
    """A perturbation may show less than the truth, so looseness then says nothing."""
    loose_before: int
    """Output voxels by which the geometry's first dependent output lies before the dyed one, at most."""
    loose_after: int

    @property
    def is_tight(self) -> bool:
        """Whether the geometry claims nothing that the dye does not show."""
        return self.loose_before == self.loose_after == 0


@dataclass(frozen=True, slots=True)
class DyeReport:
    """The dye of all axes beside the geometry; there is one only where all dye lies inside."""

    fits: tuple[Fit, ...]

    @property
    def is_tight(self) -> bool:
        """Whether every output is tight on every axis."""
        return all(fit.is_tight for fit in self.fits)


def check_dye(
    module: torch.nn.Module, geometry: ModelGeometry, *, dtype: torch.dtype, space: tuple[int, ...] | None = None
) -> DyeReport:
    """Compare what dyed hyperplanes reach with what ``geometry`` says depends on them, over one step of each axis.

    Hyperplanes next to both ends are compared too, but where the model pads circularly. Between two that reach the
    same and should reach the same, those in the middle are left out: what they reach lies between.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors; in eval mode.
        geometry: Traced or probed.
        dtype: Of the model's input.
        space: Length of each axis while it is checked; chosen to hold the halo where not given.

    Raises:
        ModelError: If dye lies outside: the geometry is wrong, and tiles would be too.
    """
    subject = subject_of(module, geometry, dtype=dtype)
    fits: list[Fit] = []
    for axis, program in enumerate(geometry.programs):
        length = space[axis] if space else _length(program)
        run, method = choose_probe(subject, axis)
        ends: set[int] = set() if program.is_circular else {0, length - 1}
        start = max(0, min(length // 2, length - program.step - 1) // program.step * program.step)
        visits = _Visits(program, run, axis=axis, length=length)
        for position in sorted(ends):
            visits.look(position)
        visits.between(start, min(start + program.step, length - 1))
        for name, _ in program.outputs:
            before, after = visits.looseness(name, skip=ends)
            fits.append(Fit(name, axis, method, before, after))
    return DyeReport(tuple(fits))


def _length(program: AxisProgram) -> int:
    """Return a legal length that holds a step's outputs with their whole reach."""
    reach = max(max(before, 0) + max(after, 0) for before, after in (program.halo(n) for n, _ in program.outputs))
    wanted = 2 * reach + 3 * program.step + 2
    return program.legal_size(wanted) or program.legal_size(1) or 1


def dependents(program: AxisProgram, output: str, *, position: int, size: int) -> Interval:
    """Return the first and last of ``size`` outputs whose demand holds an input voxel; (size, -1) where none does."""
    outputs = range(size)
    first = bisect_left(outputs, position, key=lambda g: program.demand(output, g, g)[1])
    last = bisect_left(outputs, position + 1, key=lambda g: program.demand(output, g, g)[0]) - 1
    return (first, last) if first <= last else (size, -1)


class _Visits:
    """The hyperplanes of one axis looked at so far: what each reached, and what it should."""

    def __init__(self, program: AxisProgram, run: Probe, *, axis: int, length: int) -> None:
        self.program, self.run, self.axis, self.length = program, run, axis, length
        self.seen: dict[int, dict[str, tuple[Interval, Interval]]] = {}

    def look(self, position: int) -> dict[str, tuple[Interval, Interval]]:
        """Return (dyed, expected) of every output, and refuse dye outside what is expected."""
        if position not in self.seen:
            reached = self.run(self.axis, self.length, position)
            self.seen[position] = {name: self._compare(name, dyed, position) for name, dyed in reached.items()}
        return self.seen[position]

    def _compare(self, name: str, dyed: Dyed, position: int) -> tuple[Interval, Interval]:
        expected = dependents(self.program, name, position=position, size=dyed.size)
        found = (dyed.first, dyed.last)
        if not dyed.is_empty and not (expected[0] <= found[0] and found[1] <= expected[1]):
            raise ModelError(
                f"input voxel {position} of axis {self.axis} of space (of {self.length}) must reach at most "
                f"{expected[0]} to {expected[1]} of output '{name}', but reaches {found[0]} to {found[1]}: the "
                "geometry is wrong, or the model pads from the far end (use the edge 'wrap' then)."
            )
        return found, expected

    def between(self, low: int, high: int) -> None:
        """Look at all hyperplanes of ``low..high`` that can tell something new."""
        if self.look(low) == self.look(high) or high - low < 2:
            return
        middle = (low + high) // 2
        self.between(low, middle)
        self.between(middle, high)

    def looseness(self, name: str, *, skip: set[int]) -> Interval:
        """Return by how much what is expected exceeds what was reached, before and after, at most."""
        pairs = [seen[name] for position, seen in self.seen.items() if position not in skip]
        pairs = [(dyed, expected) for dyed, expected in pairs if expected[1] >= 0]
        before = max((dyed[0] - expected[0] for dyed, expected in pairs), default=0)
        after = max((expected[1] - dyed[1] for dyed, expected in pairs), default=0)
        return before, after
