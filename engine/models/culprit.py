"""Which submodule is at fault when a model cannot be tiled, and what can be done about it."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from engine.errors import ModelError
from engine.models.load import submodule_name
from engine.models.shadow import UnboundedError
from engine.models.subject import Subject
from engine.models.witness import Witness, plain_kernels

STATISTICS = "Give it fixed statistics, or use the windowed contract, or run the volume whole"
POOLED = "Replace it by a pool of a fixed window or by a fitted constant, or use the windowed contract"
ATTENDS = "Use the windowed contract, where the window is the model, or run the volume whole"
TRAINING = "Its statistics are the batch's own: keep running statistics (track_running_stats=True) and use eval mode"
OTHERWISE = "Take what mixes all positions out of it, or use the windowed contract, or run the volume whole"

ADVICE: tuple[tuple[str, str], ...] = (
    (r"BatchNorm|batch_norm", TRAINING),
    (r"InstanceNorm|GroupNorm|LayerNorm|instance_norm|group_norm|layer_norm|var_mean|std", STATISTICS),
    (r"Pool|pool|Squeeze|SqEx|SE\b|mean|sum|amax|Linear", POOLED),
    (r"Attention|attention|Transformer|softmax|bmm|matmul|fft", ATTENDS),
)
"""What to do, by the class of the submodule or the name of the operation."""

VIEWS = frozenset(
    """select slice split split_with_sizes unbind chunk narrow as_strided index_select index view _unsafe_view squeeze
    unsqueeze expand permute transpose t detach alias clone copy_ _to_copy""".split()
)
"""Operations that may cut a dyed piece out, but spread nothing."""


def advice(kind: str) -> str:
    """Return what to do about a submodule of class ``kind`` or an operation of that name.

    >>> advice("GroupNorm").startswith("Give it fixed statistics")
    True
    """
    return next((cure for pattern, cure in ADVICE if re.search(pattern, kind)), OTHERWISE)


class Spread(Witness):  # type: ignore[no-untyped-call]
    """Notes the first operation that makes a partly dyed tensor wholly dyed."""

    def __init__(self, *, is_witnessed: bool) -> None:
        super().__init__()
        self.is_witnessed = is_witnessed
        self.operation = ""

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Return what the operation gives, or what stands for it."""
        name = func.overloadpacket.__name__
        is_candidate = not self.operation and name not in VIEWS and _is_partly(args)
        result = super().call(func, args, kwargs) if self.is_witnessed else func(*args, **kwargs)
        if is_candidate and _is_wholly(result):
            self.operation = name
        return result


def unbounded(subject: Subject, *, axis: int, length: int) -> UnboundedError:
    """Return the error that names the first submodule that sees the whole axis, found by dyeing one hyperplane."""
    path, module, operation = "", subject.module, ""
    for is_witnessed in (True, False):
        spread = Spread(is_witnessed=is_witnessed)
        try:
            found = _first_spread(subject, spread, axis=axis, length=length)
        except Exception:  # noqa: BLE001, S112, RUF100 -- what stands for an operation does not suit every model
            continue
        operation = spread.operation
        if found is not None:
            path, module = found
            break
    if _kind(module) not in ("NamedOutputs", "Module") and any(re.search(p, _kind(module)) for p, _ in ADVICE):
        operation = ""
    where = submodule_name(path, module) if path else _suspect(subject.module)
    by = f" in its operation '{operation}'" if operation else ""
    return UnboundedError(
        f"receptive field is unbounded: {where} sees the whole input{by} (axis {axis} of space, {length} voxels). "
        f"{advice(operation or where)}."
    )


def _first_spread(subject: Subject, spread: Spread, *, axis: int, length: int) -> tuple[str, torch.nn.Module] | None:
    found: list[tuple[str, torch.nn.Module]] = []

    def note(path: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
        if path and not found and _is_partly(inputs) and _is_wholly(output):
            found.append((path, module))

    x = torch.rand(subject.shape(axis, length), generator=torch.Generator().manual_seed(0)) + 0.5
    x.select(axis + 2, length // 2).fill_(torch.nan)
    with plain_kernels(), watched(subject.module, note), spread:
        subject.module(x.to(device=subject.device, dtype=subject.dtype))
    return found[0] if found else None


@contextmanager
def watched(module: torch.nn.Module, note: Callable[[str, torch.nn.Module, Any, Any], None]) -> Iterator[None]:
    """Call ``note(path, submodule, inputs, output)`` as each submodule ends: the inner before the outer."""

    def hook_for(path: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        return lambda submodule, inputs, output: note(path, submodule, inputs, output)

    handles = []
    for path, submodule in module.named_modules():
        if isinstance(submodule, torch.jit.ScriptModule):  # takes no hooks: the module round it tells
            continue
        handles.append(submodule.register_forward_hook(hook_for(path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _suspect(module: torch.nn.Module) -> str:
    """Return the first submodule whose class is known to see everything, or the model itself."""
    for path, submodule in module.named_modules():
        if path and any(re.search(pattern, _kind(submodule)) for pattern, _ in ADVICE[1:]):
            return submodule_name(path, submodule)
    return "the model itself"


def _kind(module: torch.nn.Module) -> str:
    return str(getattr(module, "original_name", type(module).__name__))


def _tensors(value: Any) -> Iterator[torch.Tensor]:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _is_partly(value: Any) -> bool:  # noqa: ANN401
    tensors = list(_tensors(value))
    dyed = [tensor.isnan() for tensor in tensors]
    return any(bool(mask.any()) and not bool(mask.all()) for mask in dyed)


def _is_wholly(value: Any) -> bool:  # noqa: ANN401
    first = next(_tensors(value), None)
    return first is not None and bool(first.isnan().all())


def check_determinism(module: torch.nn.Module, x: torch.Tensor) -> None:
    """Refuse a model that gives other bits for the same input when run again, whatever torch's seed is.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors.
        x: Such an input.

    Raises:
        ModelError: If two runs differ, naming the first submodule whose outputs do.
    """
    runs: list[list[tuple[str, torch.nn.Module, list[torch.Tensor]]]] = []
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        for seed in (0, 1):
            torch.manual_seed(seed)
            seen: list[tuple[str, torch.nn.Module, list[torch.Tensor]]] = []
            with watched(module, lambda p, m, _, out, seen=seen: seen.append((p, m, _copies(out)))):  # type: ignore[misc]
                module(x)
            runs.append(seen)
    for (path, submodule, first), (_, _, second) in zip(*runs, strict=False):
        if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)):
            raise ModelError(
                f"two runs on one input must agree, but {submodule_name(path, submodule)} gives other values each "
                f"time. {_stilled(submodule)}."
            )


def _copies(value: Any) -> list[torch.Tensor]:  # noqa: ANN401
    if isinstance(value, Mapping):
        value = list(value.values())
    items = value if isinstance(value, list | tuple) else [value]
    return [item.clone() for item in items if isinstance(item, torch.Tensor)]


def _stilled(module: torch.nn.Module) -> str:
    if "Dropout" in _kind(module):
        return "Dropout is active: call eval() on it, or take it out"
    return (
        "It draws at random: give functional dropout training=self.training, and derive other draws from the global "
        "voxel index, or take them out"
    )
