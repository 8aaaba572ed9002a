"""How a model is run so that every output voxel tells which input voxels it depends on.

A NaN in the input reaches every output that depends on it, whatever the weights are: it survives
convolution (0 * NaN is NaN), pooling, ReLU and normalisation. Some operations lose it: a comparison, an
argmax, a cast to integers, ``nan_to_num``. The :class:`Witness` puts in their place operations of
the same geometry that lose nothing, so that labels and quantised outputs can be probed as well.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LOSSY = frozenset(
    """gt ge lt le eq ne isnan isfinite isinf logical_and logical_or logical_xor logical_not bitwise_and bitwise_or
    bitwise_xor bitwise_not nan_to_num sign sgn signbit round floor ceil trunc heaviside fmax fmin
    floor_divide""".split()
)
"""Pointwise operations that lose values: the sum of their arguments stands for them."""

CHOOSING = frozenset(("where", "masked_fill"))
"""Pointwise operations that lose values only where their mask came from the input."""

PICKING = frozenset(("argmax", "argmin", "any", "all"))
"""Reductions to an index or a truth value: the largest value stands for them."""


class Witness(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, operations that would lose a value are replaced by ones of the same geometry that keep it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 -- torch calls it so
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        return self.call(func, args, dict(kwargs or {}))

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Return what the operation gives, or what stands for it."""
        name = func.overloadpacket.__name__
        if name == "_assert_tensor_metadata":
            return None
        is_in_place = name.endswith("_") and not name.endswith("__")
        stand_in = _stand_in(name.rstrip("_"), args, kwargs)
        if stand_in is None:
            return func(*args, **kwargs)
        return args[0].copy_(stand_in()) if is_in_place else stand_in()


def _stand_in(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], torch.Tensor] | None:
    """Return what computes the witness of an operation, or None where the operation itself keeps all."""
    if name == "fill_nearest":
        return lambda: _about(*args)
    floats = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.is_floating_point()]
    if not floats:
        return None
    if name in LOSSY or (name in CHOOSING and _mask(name, args).is_floating_point()):
        return lambda: _sum([arg for arg in args if isinstance(arg, torch.Tensor)])
    if name in PICKING:
        return lambda: _largest(args, kwargs)
    if name == "_to_copy" and _is_narrower(kwargs.get("dtype"), floats[0].dtype):
        return lambda: floats[0].to(device=kwargs.get("device"), copy=True)
    return None


def _mask(name: str, args: tuple[Any, ...]) -> torch.Tensor:
    mask: torch.Tensor = args[0] if name == "where" else args[1]
    return mask


def _about(x: torch.Tensor, reach: int) -> torch.Tensor:
    """Return the mean over the box about each voxel of (batch, channel, *space), one axis at a time."""
    for dim in range(2, x.dim()):
        line = x.movedim(dim, -1)
        flat = torch.nn.functional.avg_pool1d(line.reshape(-1, 1, line.shape[-1]), 2 * reach + 1, 1, reach)
        x = flat.reshape(line.shape).movedim(-1, dim)
    return x


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _largest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    keepdim = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    return torch.amax(args[0]) if dim is None else torch.amax(args[0], dim, keepdim)


def _is_narrower(dtype: torch.dtype | None, than: torch.dtype) -> bool:
    return dtype is not None and (not dtype.is_floating_point or dtype.itemsize < than.itemsize)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Keep to kernels in which an output voxel touches only its own inputs: Winograd and FFT spread a NaN."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        yield


def observe(module: torch.nn.Module, x: torch.Tensor, *, mode: Witness | None) -> dict[str, torch.Tensor]:
    """Return a model's named outputs for ``x`` (batch, channel, *space), under ``mode`` if one is given.

    Raises:
        ModelError: If the outputs are not named tensors.
        Exception: Whatever the module raises.
    """
    with plain_kernels(), ExitStack() as stack:
        if mode is not None:
            stack.enter_context(mode)
        outputs: dict[str, torch.Tensor] = module(x)
        return outputs


def in_double(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a module in float64."""
    return copy.deepcopy(module).double()


def on_meta(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a module without its weights: it computes shapes only, and copies no bytes."""
    tensors: list[torch.Tensor] = [*module.parameters(), *module.buffers()]
    empty: dict[int, Any] = {}
    for tensor in tensors:
        there = torch.empty_like(tensor, device="meta", requires_grad=False)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        empty[id(tensor)] = torch.nn.Parameter(there, requires_grad=False) if is_parameter else there
    return copy.deepcopy(module, empty)
