"""The geometry of a model found by running it: reach, jump, scale and legal lengths, with no look inside.

One axis at a time, the others as short as the model allows. Dye on one hyperplane shows its reach; the
step by which the model commutes with shifts of a random float64 input is its jump; the hyperplanes of
one jump give the halo, since the dyed outputs ``first..last`` of input voxel p say

    before = max over p of (voxel under ``last``) - p        after = max over p of p - (voxel under ``first``)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import torch

from engine.errors import ModelError
from engine.geometry.model_geometry import ModelGeometry, OutputTensor
from engine.geometry.nodes import Node, Opaque
from engine.geometry.receptive_field import AxisProgram
from engine.models.culprit import unbounded
from engine.models.dye import Dyed, Method, Probe, Reached, choose_probe
from engine.models.growth import scales_of
from engine.models.shift import Shifter
from engine.models.subject import Subject, fixed_shape, meet
from engine.models.witness import plain_kernels

GROWING = (64, 256, 1024)
"""Lengths at which the reach is sought; a model that dyes the longest from end to end sees everything."""

LONGEST_JUMP = 64
"""Steps up to this are tried one by one; longer ones only if the legal lengths suggest them."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What probing found."""

    geometry: ModelGeometry
    """One opaque node per output and axis; its evidence is "probed"."""
    methods: tuple[Method, ...]
    """Per space axis: "dye" shows the true reach, "perturbation" may show less of it."""


@dataclass(frozen=True, slots=True)
class Rough:
    """A first look at one axis: what one hyperplane reaches, well inside."""

    length: int
    scales: Mapping[str, Fraction]
    before: int
    """Input voxels that any output sees before its own, at this one place."""
    after: int


def probe(
    module: torch.nn.Module,
    *,
    dtype: torch.dtype,
    n_space: int | None = None,
    n_channels: int | None = None,
) -> Probed:
    """Return the geometry of ``module``, found by running it on small inputs.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors; in eval mode.
        dtype: Of its input.
        n_space: Space axes of its input; found from its first convolution where not given.
        n_channels: Channels of its input; likewise.

    Raises:
        UnboundedError: If an output voxel sees the whole input, naming the submodule.
        ModelError: If the model runs on nothing tried, depends on position, or has outputs that are no volumes.
    """
    subject = meet(module, dtype=dtype, n_space=n_space, n_channels=n_channels)
    axes = [probe_axis(subject, axis) for axis in range(subject.n_space)]
    is_frozen = any(fixed_shape(module)[:1])
    geometry = ModelGeometry(
        programs=tuple(program for program, _ in axes),
        outputs=_outputs(subject),
        n_channels=subject.n_channels,
        evidence="probed",
        n_batch=subject.n_batch if is_frozen else None,
    )
    return Probed(geometry, tuple(method for _, method in axes))


def _outputs(subject: Subject) -> tuple[OutputTensor, ...]:
    x = torch.ones(subject.shape(0, subject.lengths[0].at_least(1)), dtype=subject.dtype, device=subject.device)
    with plain_kernels():
        outputs = subject.module(x)
    return tuple(
        OutputTensor(
            name,
            tensor.shape[1] if tensor.dim() == subject.n_space + 2 else None,
            str(tensor.dtype).removeprefix("torch."),
        )
        for name, tensor in outputs.items()
    )


def probe_axis(subject: Subject, axis: int) -> tuple[AxisProgram, Method]:
    """Return the model along one space axis, an opaque node per output, and how it was found.

    Raises:
        UnboundedError: If the model sees the whole axis.
        ModelError: If it commutes with no shift of up to 64 voxels, or pads the axis from its far end.
    """
    run, method = choose_probe(subject, axis)
    rough = _look(subject, axis, run)
    jump = _jump(subject, axis, rough, run)
    halos = _halos(rough, jump, run, axis)
    names = tuple(rough.scales)
    nodes = [_node(subject, axis, rough, jump, name=name, halo=halos[name], run=run) for name in names]
    program = AxisProgram((Node(()), *nodes), tuple((name, i + 1) for i, name in enumerate(names)))
    _check_ends(program, rough.length, run, axis=axis)
    return program, method


def _look(subject: Subject, axis: int, run: Probe) -> Rough:
    """Return the reach of one hyperplane, at the first length that holds it."""
    lengths = subject.lengths[axis]
    for wanted in GROWING:
        length = lengths.at_least(wanted)
        reached = run(axis, length, length // 2)
        if all(not dyed.touches_end for dyed in reached.values()):
            scales = scales_of(subject, axis, length, reached)
            spans = [_halo(reached[name], length // 2, scales[name]) for name in reached]
            return Rough(length, scales, max(b for b, _ in spans), max(a for _, a in spans))
        if lengths.only:
            raise ModelError(
                f"the model must take inputs longer than its reach, but takes {length} voxels only along axis {axis} "
                "of space and sees them all. Export it with dynamic shapes, or run the volume whole."
            )
    raise unbounded(subject, axis=axis, length=length)


def _halo(dyed: Dyed, position: int, scale: Fraction) -> tuple[int, int]:
    """Return how far before and after the voxels under it an output sees, as far as one position shows."""
    if dyed.is_empty:
        return -(2**30), -(2**30)
    under_last = dyed.last * scale.denominator // scale.numerator
    under_first = -(-(dyed.first + 1) * scale.denominator // scale.numerator) - 1
    return under_last - position, position - under_first


def _jump(subject: Subject, axis: int, rough: Rough, run: Probe) -> int:
    """Return the smallest step by which shifting the input shifts every output, and the dye with it."""
    shifter = Shifter.of(subject, axis, scales=rough.scales, before=rough.before, after=rough.after)
    unit = lcm(*(scale.denominator for scale in rough.scales.values()))
    lengths = subject.lengths[axis]
    first = lcm(unit, 1 if lengths.only else lengths.modulus)
    shifter.reserve(first)
    jump = _reduced(first, unit, shifter.commutes) if shifter.commutes(first) else 0
    if not jump:
        steps = range(unit, max(LONGEST_JUMP, 2 * unit) + 1, unit)
        jump = next((step for step in steps if first % step and shifter.commutes(step)), 0)
    while jump and not _dye_commutes(rough, run, axis, jump):
        jump = jump * 2 if jump * 2 <= LONGEST_JUMP else 0
    if not jump:
        raise ModelError(
            f"shifting the input along axis {axis} of space by {unit} to {max(LONGEST_JUMP, 2 * unit)} voxels must "
            f"shift the output, and does not (largest difference {shifter.difference:.2g}): the model depends on "
            "position. Look for position encodings, align_corners=True, interpolation to a fixed size, or flips."
        )
    return jump


def _reduced(jump: int, unit: int, commutes: Callable[[int], bool]) -> int:
    """Return the smallest step of which ``jump`` is a multiple and that is a multiple of ``unit``.

    The steps that commute are the multiples of one, so a prime that cannot be taken off once never can.
    """
    rest, prime = jump // unit, 2
    while rest > 1:
        if rest % prime:
            prime += 1
            continue
        rest //= prime
        if commutes(jump // prime):
            jump //= prime
        else:
            while rest % prime == 0:
                rest //= prime
    return jump


def _dye_commutes(rough: Rough, run: Probe, axis: int, jump: int) -> bool:
    position = rough.length // 2
    if position + jump >= rough.length:
        return True
    here, there = run(axis, rough.length, position), run(axis, rough.length, position + jump)
    for name, scale in rough.scales.items():
        shift = int(jump * scale)
        a, b = here[name], there[name]
        if not b.touches_end and (a.first + shift, a.last + shift) != (b.first, b.last):
            return False
    return True


def _halos(rough: Rough, jump: int, run: Probe, axis: int) -> dict[str, tuple[int, int]]:
    """Return each output's reach over the hyperplanes of one jump.

    What a hyperplane reaches moves one way as the hyperplane does: two that reach the same have nothing
    new between them.
    """
    start = min(rough.length // 2, max(rough.length - jump - 1, 0))
    known: dict[int, Reached] = {}

    def at(position: int) -> Reached:
        if position not in known:
            known[position] = run(axis, rough.length, position)
        return known[position]

    def visit(low: int, high: int) -> None:
        if _same(at(low), at(high)) or high - low < 2:
            return
        middle = (low + high) // 2
        visit(low, middle)
        visit(middle, high)

    visit(start, min(start + jump, rough.length - 1))
    found = {}
    for name, scale in rough.scales.items():
        spans = [_halo(reached[name], position, scale) for position, reached in known.items()]
        found[name] = max(b for b, _ in spans), max(a for _, a in spans)
    return found


def _same(a: Reached, b: Reached) -> bool:
    return all((a[name].first, a[name].last) == (b[name].first, b[name].last) for name in a)


def _node(
    subject: Subject, axis: int, rough: Rough, jump: int, *, name: str, halo: tuple[int, int], run: Probe
) -> Opaque:
    """Return the opaque node of one output; lengths are thinned until one formula gives the output's size."""
    lengths, scale = subject.lengths[axis], rough.scales[name]
    sizes = {n: run(axis, n, n // 2)[name].size for n in _sample(subject, axis, jump)}
    surpluses = {n: size - n * scale.numerator // scale.denominator for n, size in sizes.items()}
    if len(set(surpluses.values())) > 1:
        lengths = lengths.every(jump)
        surpluses = {n: s for n, s in surpluses.items() if (n - lengths.smallest) % lengths.modulus == 0}
    if len(set(surpluses.values())) != 1:
        raise ModelError(
            f"the length of output '{name}' must follow from the input's along axis {axis} of space, and does not: "
            f"{sizes}. Use layers of fixed strides and factors."
        )
    return Opaque(
        sources=(0,),
        before=halo[0],
        after=halo[1],
        jump=jump,
        numerator=scale.numerator,
        denominator=scale.denominator,
        remainder=lengths.smallest % lengths.modulus,
        modulus=lengths.modulus,
        smallest=lengths.smallest,
        surplus=surpluses.popitem()[1],
        only=lengths.only,
    )


def _sample(subject: Subject, axis: int, jump: int) -> list[int]:
    lengths = subject.lengths[axis]
    if lengths.only:
        return [lengths.only]
    start = lengths.at_least(1)
    return [start + i * lengths.modulus for i in range(min(2 * lcm(jump, lengths.modulus) // lengths.modulus, 24) + 1)]


def _check_ends(program: AxisProgram, length: int, run: Probe, *, axis: int) -> None:
    """Refuse a model in which one end of an axis reaches the other: it is padded from its far side."""
    for position in (0, length - 1):
        for name, dyed in run(axis, length, position).items():
            if dyed.is_empty:
                continue
            last_from = program.demand(name, dyed.last, dyed.last)[0]
            first_to = program.demand(name, dyed.first, dyed.first)[1]
            if last_from > position or first_to < position:
                raise ModelError(
                    f"output '{name}' must see input voxel {position} of axis {axis} of space (of {length}) from close "
                    f"by only, but {dyed.first} to {dyed.last} see it: the model pads circularly, or mirrors the axis. "
                    "Use the edge 'wrap' and no padding in the model."
                )
