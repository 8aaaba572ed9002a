"""The proof of a model's geometry: its graph from ``torch.export``, walked once per question of shape.

The graph is taken at two input sizes. Every operation casts its integer shadow (``operations.py``,
``reshaping.py``) on each space axis; the two sizes must give the same programs, or something in the
model depends on its input's size. An operation that sees everything is refused with the name of its
submodule; one that is not in the table leaves the model unproved.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from engine.errors import EngineError, ModelError
from engine.geometry.model_geometry import ModelGeometry, OutputTensor
from engine.geometry.receptive_field import AxisProgram
from engine.models import operations as ops
from engine.models.handlers import HANDLERS, VIEWS
from engine.models.patches import longest_patch
from engine.models.shadow import Constant, Label, Shadows, Traced, UnknownError

BASES = (144, 216, 160, 240, 112, 176)
"""Lengths tried for the first space axis, the others being its multiples: between them, multiples of most steps."""

GROWTH = 48
"""By how much the second graph is longer, at least."""

IGNORED = frozenset(("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size", "_guards_fn"))


def trace(module: torch.nn.Module, *, n_channels: int, n_space: int, dtype: torch.dtype) -> ModelGeometry:
    """Return the geometry of ``module``, proved from its graph.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors; in eval mode.
        n_channels: Channels of its input.
        n_space: Space axes of its input.
        dtype: Of its input.

    Raises:
        UnboundedError: If an operation sees the whole input or depends on position, size or chance.
        UnknownError: If an operation is not in the table.
        ModelError: If the model takes no input of this kind, or cannot be exported.
    """

    def walked(sizes: tuple[int, ...]) -> tuple[Shadows, ModelGeometry]:
        shadows, outputs = walk(_export(module, (2, n_channels, *sizes), dtype), n_space=n_space)
        return shadows, _geometry(shadows, outputs, n_channels=n_channels)

    sizes = _legal_sizes(module, n_channels=n_channels, n_space=n_space, dtype=dtype)
    shadows, geometry = walked(sizes)
    longer = tuple(p.legal_size(n + GROWTH) or n for p, n in zip(geometry.programs, sizes, strict=True))
    others, _ = walked(longer)
    for axis in range(n_space):
        _check_same(shadows, others, axis)
    return geometry


def _geometry(shadows: Shadows, outputs: Mapping[str, tuple[Traced, torch.dtype]], *, n_channels: int) -> ModelGeometry:
    programs = []
    for axis, nodes in enumerate(shadows.programs):
        ends = tuple((name, traced.nodes[axis]) for name, (traced, _) in outputs.items())
        programs.append(AxisProgram(tuple(nodes), ends))
    tensors = []
    for name, (traced, dtype) in outputs.items():
        spaces = tuple(range(traced.n_space))
        if traced.labels not in (("batch", "free", *spaces), ("batch", *spaces)):
            shadows.place = f"output '{name}'"
            raise shadows.unbounded(
                f"has dimensions {traced.labels}, not (batch, channel, *space) or (batch, *space)", "Permute it"
            )
        n_free = traced.shape[1] if "free" in traced.labels else None
        tensors.append(OutputTensor(name, n_free, str(dtype).removeprefix("torch.")))
    return ModelGeometry(tuple(programs), tuple(tensors), n_channels, "proved")


def _check_same(shadows: Shadows, others: Shadows, axis: int) -> None:
    ours, theirs = shadows.programs[axis], others.programs[axis]
    if ours == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    places = shadows.places[axis]
    shadows.place = places[min(at, len(places) - 1)]
    raise shadows.unbounded("changes its geometry with the input's size", "Use fixed factors instead of fixed sizes")


def _legal_sizes(module: torch.nn.Module, *, n_channels: int, n_space: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Return input lengths that the model takes, all different, found on fake tensors."""
    first_error: Exception | None = None
    for sizes in _candidates(module, n_space):
        try:
            _run_fake(module, (2, n_channels, *sizes), dtype)
        except EngineError:
            raise
        except Exception as error:  # whatever a user's module raises means "not this size"
            if type(error).__name__.startswith("DataDependent"):
                raise UnknownError("its code depends on its voxels' values. The engine can still probe it.") from error
            first_error = first_error or error
        else:
            return sizes
    reason = " ".join(str(first_error).split())[:200].rstrip(". ")
    raise ModelError(
        f"the model takes no input of (batch, {n_channels} channels, {n_space} space axes) at lengths near "
        f"{BASES[0]}: {reason}. Check its channels and axes."
    ) from first_error


def _candidates(module: torch.nn.Module, n_space: int) -> Iterator[tuple[int, ...]]:
    """Yield input lengths to try: multiples of common steps, their neighbours, and lengths that parameters have."""
    patch = longest_patch(module)
    for base in (*((3 * patch, 12 * patch) if patch else ()), *BASES):
        yield tuple(base * (axis + 1) for axis in range(n_space))
    for extra in range(1, 33):
        yield tuple(BASES[0] * (axis + 1) + extra for axis in range(n_space))
    tensors = [*module.parameters(), *module.buffers()]
    fixed = {tuple(t.shape[-n_space:]) for t in tensors if t.ndim >= n_space and min(t.shape[-n_space:]) > 7}
    for lengths in sorted(fixed):
        for factor in (1, 2, 4, 8, 16):
            yield tuple(n * factor for n in lengths)


def _run_fake(module: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415 -- private in all releases; kept in one place

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        module(torch.empty(shape, dtype=dtype))


def _export(module: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> ExportedProgram:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (torch.empty(shape, dtype=dtype),), strict=False)
    except Exception as error:  # torch.export raises whatever the user's module raises
        reason = " ".join(str(error).split())[:200]
        raise UnknownError(f"torch.export cannot take this model: {reason}. The engine can still probe it.") from error


def walk(program: ExportedProgram, *, n_space: int) -> tuple[Shadows, dict[str, tuple[Traced, torch.dtype]]]:
    """Walk a graph and return the shadows with each named output.

    Raises:
        UnboundedError, UnknownError: As :func:`trace`.
    """
    shadows = Shadows.begin(n_space)
    (input_name,) = program.graph_signature.user_inputs
    values: dict[str, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node.name] = _first(node, n_space) if node.name == input_name else None
        elif node.op == "call_function":
            shadows.place = _place(node)
            values[node.name] = _call(shadows, node, values)
    found = {}
    output = next(node for node in program.graph.nodes if node.op == "output")
    names = list(program.call_spec.out_spec.context)
    for name, node in zip(names, output.args[0], strict=True):
        traced = values[node.name]
        if traced is None:
            shadows.place = f"output '{name}'"
            raise shadows.unbounded("does not depend on the input", "Return something computed from it")
        found[name] = (traced, node.meta["val"].dtype)
    return shadows, found


def _first(node: torch.fx.Node, n_space: int) -> Traced:
    labels: tuple[Label, ...] = ("batch", "free", *range(n_space))
    return Traced(labels, tuple(node.meta["val"].shape), (0,) * n_space)


def _place(node: torch.fx.Node) -> str:
    """Return the path and class of the submodule that a graph node came from, and its line where known."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the model"
    path, kind = stack[-1]
    kind = kind if isinstance(kind, str) else kind.__name__
    kind = kind.rsplit(".", 1)[-1]
    known = path.removeprefix("model").removeprefix(".")
    return f"'{known}' ({kind})" if known else f"the model itself ({kind})"


def _call(shadows: Shadows, node: torch.fx.Node, values: dict[str, Any]) -> Any:
    """Return what one operation gives: a traced tensor, a tuple of them, or None for a constant."""
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        came = values[node.args[0].name]  # type: ignore[union-attr, index]
        return came[node.args[1]] if came is not None else None
    name = _name(target)
    arguments = _arguments(node, values)
    if name in IGNORED:
        return None
    if name in ops.REFUSED and (name != "instance_norm" or arguments.get("use_input_stats", True)):
        _refuse(shadows, name, arguments)
    sources = ops.tensors(arguments)
    if not sources:
        return None
    is_in_place = name.endswith("_") and not name.startswith("_")
    if is_in_place and isinstance(node.args[0], torch.fx.Node) and node.args[0].name in shadows.views:
        raise shadows.unknown(f"{name} into a view")
    result = _apply(shadows, name.rstrip("_") if is_in_place else name, arguments, node.meta["val"])
    if is_in_place:
        values[node.args[0].name] = result  # type: ignore[union-attr, index]
    if name in VIEWS:
        shadows.views.add(node.name)
    return result


def _refuse(shadows: Shadows, name: str, arguments: Mapping[str, Any]) -> None:
    why, cure = ops.REFUSED[name]
    source = next(iter(ops.tensors(arguments)), None)
    dims = arguments.get("dims")
    if name in ("flip", "roll") and source is not None and dims and _are_free(source, dims):
        return
    if source is None and not name.startswith(("rand", "normal", "bernoulli")):
        return
    raise shadows.unbounded(why, cure)


def _are_free(source: Traced, dims: int | list[int]) -> bool:
    return all(source.labels[d] == "free" for d in ([dims] if isinstance(dims, int) else dims))


def _name(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    if schema is None:
        return getattr(target, "__name__", str(target))
    return str(schema.name).split("::")[-1]


def _arguments(node: torch.fx.Node, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call's arguments by name: traced tensors, constants, plain values."""

    def known(value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            traced = values.get(value.name)
            if traced is not None:
                return traced
            meta = value.meta.get("val")
            return Constant(tuple(meta.shape)) if isinstance(meta, torch.Tensor) else None
        return [known(item) for item in value] if isinstance(value, list | tuple) else value

    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    found = dict(zip(names, (known(value) for value in node.args), strict=False))
    found.update({key: known(value) for key, value in node.kwargs.items()})
    return found


def _apply(shadows: Shadows, name: str, arguments: dict[str, Any], meta: Any) -> Any:
    """Return the traced result of one operation, by the table."""
    if isinstance(meta, list | tuple):
        return tuple(_apply(shadows, name, arguments, one) for one in meta)
    shape = tuple(int(n) for n in meta.shape)
    if name in ops.POINTWISE:
        return ops.broadcast(shadows, arguments, shape)
    if name in ops.REDUCED:
        return ops.reduce(shadows, name, arguments, shape)
    handler = HANDLERS.get(name)
    if handler is None:
        raise shadows.unknown(name)
    return handler(shadows, arguments, shape)
