"""What probing needs to know of a model before it can run it: channels, space axes, and the lengths that it takes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import lcm

import torch

from engine.errors import ModelError
from engine.geometry.model_geometry import ModelGeometry
from engine.models.patches import longest_patch
from engine.models.skeleton import skeletons
from engine.models.weights import one_line
from engine.models.witness import on_meta, plain_kernels

FIRST_TRIES = (32, 64, 16, 48, 96, 128)
"""Lengths that most models take."""

LONGEST_TRY = 300
"""A model that takes no length up to this is refused."""

MODULI = (*(2**k for k in range(8)), *(n for n in range(3, 101) if n & (n - 1)))
"""Distances between legal lengths, powers of two first: where one is a period, so is no other but its divisors."""

DEFECTS = (AttributeError, NameError, ImportError, OSError)
"""What a model raises whatever its input's shape: no other length needs to be tried."""

Takes = Callable[[tuple[int, ...]], bool]
"""Whether the model runs on an input of this shape."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of one space axis that a model was seen to take."""

    smallest: int
    modulus: int
    """Legal lengths lie this far apart."""
    only: int = 0
    """The one legal length of a model that takes no other; 0 where there are more."""

    def at_least(self, length: int) -> int:
        """Return the shortest legal length from ``length`` on, or the only one."""
        if self.only:
            return self.only
        return self.smallest + max(0, -(-(length - self.smallest) // self.modulus)) * self.modulus

    def every(self, step: int) -> "Lengths":
        """Return these lengths thinned to one class modulo ``step``."""
        return self if self.only else Lengths(self.smallest, lcm(self.modulus, step))


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with all that is needed to run it on inputs of a length of our choice."""

    module: torch.nn.Module
    """Takes (batch, channel, *space), gives a dict of named tensors."""
    n_channels: int
    n_batch: int
    """Batch size to run at: 1, or the only one that it takes."""
    dtype: torch.dtype
    device: torch.device
    lengths: tuple[Lengths, ...]
    """Per space axis."""

    @property
    def n_space(self) -> int:
        """Space axes of the input."""
        return len(self.lengths)

    def shape(self, axis: int, length: int) -> tuple[int, ...]:
        """Return the input shape that is ``length`` along one space axis and as short as can be along the others."""
        space = [lengths.at_least(1) for lengths in self.lengths]
        space[axis] = length
        return (self.n_batch, self.n_channels, *space)

    def on(self, module: torch.nn.Module, dtype: torch.dtype) -> "Subject":
        """Return the same subject with another module of the same geometry."""
        return Subject(module, self.n_channels, self.n_batch, dtype, self.device, self.lengths)


def device_of(module: torch.nn.Module) -> torch.device:
    """Return where a module's tensors lie; the CPU where it has none."""
    tensors: Iterable[torch.Tensor] = (*module.parameters(), *module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def meet(
    module: torch.nn.Module, *, dtype: torch.dtype, n_space: int | None = None, n_channels: int | None = None
) -> Subject:
    """Return the subject of a model, its channels, space axes and legal lengths found by trial.

    Raises:
        ModelError: If the model runs on no input that was tried.
    """
    fixed = fixed_shape(module)
    n_batch = fixed[0] if fixed and fixed[0] else 1
    failures: list[str] = []
    for axes, channels in _guesses(module, fixed, n_space=n_space, n_channels=n_channels):
        lead = (n_batch, channels)
        static = fixed[2:] if len(fixed) == axes + 2 else (0,) * axes
        for takes in _trials(module, dtype, failures):
            lengths = _lengths(takes, lead, static, longest_patch(module))
            if lengths is not None:
                return Subject(module, channels, n_batch, dtype, device_of(module), lengths)
    tried = f"{n_channels or 'any'} channels, {n_space or 'any'} space axes"
    raise ModelError(
        f"the model takes no input of (batch, channel, *space) that was tried ({tried}, lengths to {LONGEST_TRY}): "
        f"{failures[-1] if failures else 'nothing fits its first layer'}. State its channels and space axes."
    )


def subject_of(module: torch.nn.Module, geometry: ModelGeometry, *, dtype: torch.dtype) -> Subject:
    """Return how to run a model whose geometry is known."""
    lengths = []
    for program in geometry.programs:
        smallest = program.legal_size(1)
        if smallest is None:
            raise ModelError("the model must take some length, and takes none up to 512. Check its geometry.")
        steps = range(program.step, program.step * max(MODULI) + 1, program.step)
        modulus = next((d for d in steps if all(program.sizes(smallest + d * k) for k in (1, 2, 3))), 0)
        lengths.append(Lengths(smallest, modulus) if modulus else Lengths(smallest, 1, smallest))
    return Subject(module, geometry.n_channels, geometry.n_batch or 1, dtype, device_of(module), tuple(lengths))


def fixed_shape(module: torch.nn.Module) -> tuple[int, ...]:
    """Return the input shape that an exported program was frozen to, 0 where it is free; () for other models.

    What a network that something stands in for was frozen to is its patch or column, not the input.
    """
    if any(getattr(part, "stands_in", False) for part in module.modules()):
        return ()
    first = next((m for m in module.modules() if not any(True for _ in m.children())), module)
    graph = next((m for m in module.modules() if isinstance(m, torch.fx.GraphModule)), None)
    if graph is None or not _holds_first(module, graph, first):
        return ()
    value = next(node.meta.get("val") for node in graph.graph.nodes if node.op == "placeholder")
    return tuple(n if isinstance(n, int) else 0 for n in value.shape) if value is not None else ()


def _holds_first(module: torch.nn.Module, graph: torch.fx.GraphModule, first: torch.nn.Module) -> bool:
    return module is graph or any(inner is first for inner in graph.modules())


def _guesses(
    module: torch.nn.Module, fixed: tuple[int, ...], *, n_space: int | None, n_channels: int | None
) -> Iterator[tuple[int, int]]:
    """Yield likely numbers of space axes and channels, the likeliest first."""
    axes, channels = _first_convolution(module)
    if fixed:
        axes, channels = len(fixed) - 2, fixed[1] or channels
    spaces = [n_space] if n_space else [axes] if axes else [2, 3, 1]
    wanted = [n_channels] if n_channels else list(dict.fromkeys([*([channels] if channels else []), 1, 3, 2, 4]))
    yield from ((space, count) for space in spaces for count in wanted)


def _first_convolution(module: torch.nn.Module) -> tuple[int, int]:
    """Return the space axes and input channels of the first convolution, or of what says its own; zeros if none."""
    for part in module.modules():
        if getattr(part, "stands_in", False) and isinstance(said := getattr(part, "n_channels", None), int):
            return 0, said
        weight = getattr(part, "weight", None)
        channels = getattr(part, "in_channels", None)
        if isinstance(weight, torch.Tensor) and weight.dim() >= 3 and isinstance(channels, int):
            return weight.dim() - 2, channels
    for weight in module.state_dict().values():
        if weight.dim() >= 3:
            return weight.dim() - 2, weight.shape[1]
    return 0, 0


def _trials(module: torch.nn.Module, dtype: torch.dtype, failures: list[str]) -> Iterator[Takes]:
    """Yield the ways to try a shape: without computing where the model allows, and by a true run."""
    try:
        light = on_meta(module)
    except Exception:  # noqa: BLE001 -- not every module can be copied
        light = None
    for tried, device in ((light, torch.device("meta")), (module, device_of(module))):
        if tried is not None:
            yield _trial(tried, dtype, device, failures)


def _trial(module: torch.nn.Module, dtype: torch.dtype, device: torch.device, failures: list[str]) -> Takes:
    def takes(shape: tuple[int, ...]) -> bool:
        try:
            with plain_kernels(), skeletons():
                outputs = module(torch.zeros(shape, dtype=dtype, device=device))
        except ModelError:
            raise
        except DEFECTS as error:
            if device.type != "meta":
                raise ModelError(f"the model fails at any size: {one_line(error)}. Correct its forward.") from error
            failures.append(one_line(error))
            return False
        except Exception as error:  # noqa: BLE001 -- whatever a user's module raises means "not this shape"
            failures.append(one_line(error))
            return False
        return all(min(tensor.shape, default=0) > 0 for tensor in outputs.values())

    return takes


def _lengths(takes: Takes, lead: tuple[int, ...], fixed: tuple[int, ...], patch: int) -> tuple[Lengths, ...] | None:
    """Return the legal lengths of every axis, or None where no shape is taken."""
    tries = (*FIRST_TRIES, *((patch, 4 * patch) if patch else ())) if not all(fixed) else (0,)
    common = next((n for n in tries if takes((*lead, *(f or n for f in fixed)))), None)
    if common is None and not all(fixed):
        common = next((n for n in range(4, LONGEST_TRY) if takes((*lead, *(f or n for f in fixed)))), None)
    if common is None:
        return None
    space = [f or common for f in fixed]
    found = []
    for axis, length in enumerate(fixed):
        along = Lengths(length, 1, length) if length else _along(takes, lead, space, axis)
        space[axis] = along.at_least(1)
        found.append(along)
    return tuple(found)


def _along(takes: Takes, lead: tuple[int, ...], space: list[int], axis: int) -> Lengths:
    def is_legal(length: int) -> bool:
        return takes((*lead, *space[:axis], length, *space[axis + 1 :]))

    start = space[axis]
    modulus = next((d for d in MODULI if all(is_legal(start + d * k) for k in (1, 2, 3))), None)
    if modulus is None:
        return Lengths(start, 1, start)
    while start > modulus and is_legal(start - modulus):
        start -= modulus
    return Lengths(start, modulus)
