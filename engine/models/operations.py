"""The table of traced operations: for each ATen operation, the integer shadow that it casts on every space axis.

A handler takes the shadows and the call's arguments (tensors already :class:`Traced`, or None for
constants) and gives the traced result. Three tables of plain names say what is pointwise, what is
reduced, and what is refused and why.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from engine.geometry.nodes import Node, Pad, Transposed, Upsample, Window
from engine.models.shadow import Constant, Label, Shadows, Traced

Handler = Callable[[Shadows, Mapping[str, Any], tuple[int, ...]], Traced]
"""(shadows, arguments by name, shape of the result) -> traced result."""

GIVE_STATISTICS = "Give it fixed statistics, or use the windowed contract, or run the volume whole"
DROP_IT = "Take it out of the model for the exact contract"

REFUSED: dict[str, tuple[str, str]] = {
    "instance_norm": ("normalises by moments of the whole input (instance norm)", GIVE_STATISTICS),
    "group_norm": ("normalises by moments of the whole input (group norm over space)", GIVE_STATISTICS),
    "native_group_norm": ("normalises by moments of the whole input (group norm over space)", GIVE_STATISTICS),
    "scaled_dot_product_attention": ("lets every position see every other (attention)", DROP_IT),
    "multi_head_attention_forward": ("lets every position see every other (attention)", DROP_IT),
    "grid_sampler": ("samples at positions that depend on the input's size", DROP_IT),
    "affine_grid_generator": ("builds a grid from the input's size", DROP_IT),
    "roll": ("rolls an axis round its own end", "Use the edge 'wrap' instead of rolling in the model"),
    "flip": ("reverses an axis of space, so the far end decides", DROP_IT),
}
for _name in ("adaptive_avg_pool", "adaptive_max_pool"):
    for _suffix in ("1d", "2d", "3d"):
        REFUSED[_name + _suffix] = (
            "pools over the whole input (global or adaptive pooling, squeeze-and-excite)",
            "Replace it by a pool of a fixed window, or give it a fitted constant",
        )
for _name in ("rand", "randn", "randint", "bernoulli", "normal", "multinomial", "randperm", "uniform", "poisson"):
    for _suffix in ("", "_like", "_"):
        REFUSED[_name + _suffix] = (
            "draws random numbers in forward, so two runs differ",
            "Draw them from the global voxel index, or remove the draw",
        )
for _name in ("fft_fft", "fft_fftn", "fft_rfft", "fft_rfftn", "fft_rfft2", "fft_fft2", "fft_ifft2", "fft_irfft2"):
    REFUSED[_name] = ("takes a Fourier transform of the whole axis", DROP_IT)
del _name, _suffix

POINTWISE = frozenset(
    """abs acos acosh add addcdiv addcmul alias asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or
    bitwise_xor celu ceil clamp clamp_max clamp_min clip clone contiguous copysign cos cosh detach detach_ div elu eq
    erf erfc exp exp2 expm1 fill floor floor_divide fmod frac full_like ge gelu gt hardshrink hardsigmoid hardswish
    hardtanh heaviside isfinite isinf isnan le leaky_relu lerp lift_fresh_copy log log10 log1p log2 log_sigmoid
    logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul nan_to_num ne neg
    ones_like positive pow reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sigmoid sign signbit silu
    sin sinh softplus softshrink sqrt square sub tan tanh tanhshrink threshold to trunc type_as where xlogy zero
    zeros_like _to_copy float_power true_divide __and__ __or__ __xor__ __lshift__ __rshift__""".split()
)
"""Operations that work voxel by voxel on tensors that broadcast."""

REDUCED = frozenset(
    """sum mean amax amin max min prod argmax argmin std var std_mean var_mean any all logsumexp norm
    linalg_vector_norm median count_nonzero softmax log_softmax _softmax _log_softmax cumsum cumprod cummax cummin sort
    topk argsort glu normalize""".split()
)
"""Operations along named dimensions: free along channels, unbounded along space."""

KEEPS_DIMENSION = frozenset(
    "softmax log_softmax _softmax _log_softmax cumsum cumprod cummax cummin sort topk argsort glu".split()
)


T = TypeVar("T")


def leaves(value: Any, kind: type[T]) -> list[T]:
    """Return what is of one kind inside an argument, in order."""
    if isinstance(value, kind):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [leaf for item in items for leaf in leaves(item, kind)]


def tensors(value: Any) -> list[Traced]:
    """Return the traced tensors inside an argument, in order."""
    return leaves(value, Traced)


def check_constants(shadows: Shadows, labels: Sequence[Label], constants: Sequence[Constant]) -> None:
    """Refuse a constant tensor that lies along space: a position encoding, a grid of coordinates."""
    for constant in constants:
        for length, label in zip(reversed(constant.shape), reversed(labels), strict=False):
            if isinstance(label, int) and length != 1:
                raise shadows.unbounded(
                    "meets a constant that lies along space (a position encoding or coordinates)",
                    "Compute it from the global voxel, or take it out",
                )


def broadcast(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Traced:
    """Return the result of a pointwise operation on tensors that broadcast to ``shape``."""
    sources = tensors(arguments)
    labels: list[Label] = []
    for from_end in range(len(shape), 0, -1):
        met = {s.labels[-from_end] for s in sources if len(s.labels) >= from_end and s.shape[-from_end] != 1}
        met = met or {s.labels[-from_end] for s in sources if len(s.labels) >= from_end}
        if len(met) > 1:
            raise shadows.unbounded(f"mixes different axes ({sorted(map(str, met))}) in one operation", DROP_IT)
        labels.append(met.pop() if met else "free")
    check_constants(shadows, labels, leaves(arguments, Constant))
    return Traced(tuple(labels), shape, shadows.join(sources))


def reduce(shadows: Shadows, name: str, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Traced:
    """Return the result of an operation along named dimensions."""
    source: Traced = arguments["self"] if "self" in arguments else arguments["input"]
    dims = arguments.get("dim")
    if dims is None and name in ("glu", "sort", "topk", "argsort"):
        dims = -1
    dims = range(len(source.labels)) if dims is None or dims == [] else dims
    dims = [d % len(source.labels) for d in ([dims] if isinstance(dims, int) else dims)]
    met = [source.labels[d] for d in dims]
    if any(isinstance(label, int) for label in met):
        cure = "Fit it in a pass before and make it a constant, or run the volume whole"
        raise shadows.unbounded(f"takes '{name}' over the whole of space", cure)
    if "batch" in met:
        raise shadows.unbounded(f"takes '{name}' over the batch, so items depend on each other", DROP_IT)
    is_kept = name in KEEPS_DIMENSION or len(shape) == len(source.shape)
    labels = source.labels if is_kept else tuple(x for d, x in enumerate(source.labels) if d not in dims)
    return Traced(labels, shape, source.nodes)


def windowed(shadows: Shadows, source: Traced, shape: tuple[int, ...], nodes: Sequence[Node | None]) -> Traced:
    """Return the result of one node per space axis; None leaves the axis as it is."""
    found = tuple(source.nodes[axis] if node is None else shadows.add(axis, node) for axis, node in enumerate(nodes))
    return Traced(source.labels, shape, found)


def per_axis(value: Any, n: int, default: int) -> list[int]:
    """Return a size argument as one number per space axis."""
    if value is None or value == []:
        return [default] * n
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * n if len(numbers) == 1 else numbers


def image(shadows: Shadows, arguments: Mapping[str, Any], name: str) -> Traced:
    """Return the tensor that a spatial layer works on: (batch, channel, *space), in storage order."""
    source = arguments.get("input", arguments.get("self"))
    if not isinstance(source, Traced):
        raise shadows.unknown(name)
    n = len(source.labels) - 2
    trailing = source.labels[2:]
    if source.labels[0] != "batch" or source.labels[1] != "free" or trailing != tuple(range(source.n_space)) or n < 1:
        raise shadows.unknown(f"{name} over dimensions {source.labels}")
    return source


def convolution(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Traced:
    """conv1d, conv2d, conv3d with numbers or 'same' / 'valid' for padding."""
    source = image(shadows, arguments, "convolution")
    n = source.n_space
    kernel = list(arguments["weight"].shape[2:])
    stride, dilation = per_axis(arguments.get("stride"), n, 1), per_axis(arguments.get("dilation"), n, 1)
    padding = arguments.get("padding", 0)
    nodes = []
    for axis in range(n):
        reach = dilation[axis] * (kernel[axis] - 1)
        if isinstance(padding, str):
            before = reach // 2 if padding == "same" else 0
            after = reach - before if padding == "same" else 0
        else:
            before = after = per_axis(padding, n, 0)[axis]
        nodes.append(Window((source.nodes[axis],), kernel[axis], stride[axis], before, after, dilation[axis]))
    return windowed(shadows, source, shape, [_unless_point(node) for node in nodes])


def _unless_point(node: Window) -> Window | None:
    is_point = node.kernel == 1 and node.stride == 1 and node.before == node.after == 0
    return None if is_point else node


def transposed(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Traced:
    """conv_transpose1d, 2d, 3d."""
    source = image(shadows, arguments, "transposed convolution")
    n = source.n_space
    kernel = list(arguments["weight"].shape[2:])
    stride, padding = per_axis(arguments.get("stride"), n, 1), per_axis(arguments.get("padding"), n, 0)
    extra, dilation = per_axis(arguments.get("output_padding"), n, 0), per_axis(arguments.get("dilation"), n, 1)
    nodes = [Transposed((source.nodes[a],), kernel[a], stride[a], padding[a], dilation[a], extra[a]) for a in range(n)]
    return windowed(shadows, source, shape, nodes)


def pool(
    shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...], *, wants_kernel: bool = False
) -> Traced:
    """Max, average and Lp pools; ``wants_kernel`` where the input must hold a whole kernel."""
    source = image(shadows, arguments, "pool")
    n = source.n_space
    kernel = per_axis(arguments["kernel_size"], n, 1)
    given = arguments.get("stride")
    stride = kernel if given is None or given == [] else per_axis(given, n, 1)
    padding, dilation = per_axis(arguments.get("padding"), n, 0), per_axis(arguments.get("dilation"), n, 1)
    is_ceil = bool(arguments.get("ceil_mode", False))
    nodes = [
        Window(
            (source.nodes[a],),
            kernel[a],
            stride[a],
            padding[a],
            padding[a],
            dilation[a],
            is_ceil,
            smallest=kernel[a] if wants_kernel else 1,
        )
        for a in range(n)
    ]
    return windowed(shadows, source, shape, nodes)


REACH = {"nearest": 0, "nearest-exact": 0, "linear": 1, "bilinear": 1, "trilinear": 1, "bicubic": 2}


def upsample(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...], *, mode: str) -> Traced:
    """Interpolation by a whole factor, up or down; every other ratio depends on position."""
    source = image(shadows, arguments, "interpolation")
    if arguments.get("align_corners"):
        cure = "Use align_corners=False"
        raise shadows.unbounded("interpolates with align_corners=True, which depends on position and size", cure)
    factors = arguments.get("scale_factors")
    nodes: list[Node | None] = []
    for axis in range(source.n_space):
        dimension = source.at(axis)
        had, gives = source.shape[dimension], shape[dimension]
        ratio = float(factors[axis]) if factors else gives / had
        nodes.append(_resample(shadows, source.nodes[axis], ratio, mode=mode, is_exact=not factors))
    return windowed(shadows, source, shape, nodes)


def _resample(shadows: Shadows, source: int, ratio: float, *, mode: str, is_exact: bool) -> Node | None:
    if ratio == 1:
        return None
    if ratio > 1 and ratio == int(ratio):
        return Upsample((source,), int(ratio), REACH[mode])
    shrink = round(1 / ratio)
    is_whole = ratio < 1 and ratio == 1 / shrink
    if not is_whole or mode == "bicubic":
        raise shadows.unbounded(
            f"interpolates by {ratio:g}, not a whole factor, so the result depends on position",
            "Use a whole scale_factor",
        )
    if mode == "nearest":
        return Window((source,), 1, shrink, after=1 - shrink, is_exact=is_exact)
    before = -((shrink - 1) // 2)
    kernel = 1 if shrink % 2 else 2
    return Window((source,), kernel, shrink, before, kernel - shrink - before, is_exact=is_exact)


def pad(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...], *, mode: str | None = None) -> Traced:
    """Padding and negative padding (crops), of any mode."""
    source: Traced = arguments["self"] if "self" in arguments else arguments["input"]
    amounts = list(arguments.get("pad", arguments.get("padding", [])))
    mode = mode or str(arguments.get("mode", "constant"))
    nodes = list(source.nodes)
    for pair in range(len(amounts) // 2):
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        label = source.labels[-1 - pair]
        if label == "batch" and (before or after):
            raise shadows.unbounded("pads the batch", DROP_IT)
        if isinstance(label, int) and (before or after):
            nodes[label] = shadows.add(label, Pad((nodes[label],), before, after, mode))
    return Traced(source.labels, shape, tuple(nodes))


def slice_(shadows: Shadows, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Traced:
    """A slice: a crop along space, free along channels."""
    source: Traced = arguments["self"]
    dimension = int(arguments.get("dim", 0)) % len(source.labels)
    label, size = source.labels[dimension], source.shape[dimension]
    start, stop, step = slice(arguments.get("start"), arguments.get("end"), arguments.get("step", 1)).indices(size)
    if label == "batch" and (start, stop, step) != (0, size, 1):
        raise shadows.unbounded("takes a part of the batch", DROP_IT)
    nodes = list(source.nodes)
    if isinstance(label, int):
        if start or stop != size:
            nodes[label] = shadows.add(label, Pad((nodes[label],), -start, stop - size))
        if step != 1:
            nodes[label] = shadows.add(label, Window((nodes[label],), 1, step))
    return Traced(source.labels, shape, tuple(nodes))
