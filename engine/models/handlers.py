"""Which handler each ATen operation has, by name: the dispatch of the trace."""

from collections.abc import Callable, Mapping
from typing import Any

from engine.models import operations as ops
from engine.models import own_operations as own
from engine.models import reshaping
from engine.models.shadow import Shadows, Traced

Shape = tuple[int, ...]


def _upsampler(mode: str) -> ops.Handler:
    return lambda shadows, arguments, shape: ops.upsample(shadows, arguments, shape, mode=mode)


def _padder(mode: str) -> ops.Handler:
    return lambda shadows, arguments, shape: ops.pad(shadows, arguments, shape, mode=mode)


def _taker(*, drops: bool) -> ops.Handler:
    return lambda s, a, shape: reshaping.take(s, a["self"], a.get("dim", 0), shape, drops=drops)


def _as(name: str) -> ops.Handler:
    """Return the handler of an operation that looks at single voxels of one argument, and at constants beside it."""

    def handle(s: Shadows, a: Mapping[str, Any], shape: Shape) -> Traced:
        seen = a[name]
        if not isinstance(seen, Traced) or sum(isinstance(value, Traced) for value in a.values()) > 1:
            raise s.unknown("a table that depends on the input")
        return Traced(seen.labels, shape, seen.nodes)

    return handle


def _reshaper(s: Shadows, a: Mapping[str, Any], shape: Shape) -> Traced:
    return reshaping.reshape(s, a["self"] if "self" in a else a["input"], shape)


def _expander(s: Shadows, a: Mapping[str, Any], shape: Shape) -> Traced:
    if not isinstance(a["self"], Traced):
        raise s.unknown("a constant that is spread over the input's shape")
    return reshaping.expand(a["self"], shape)


HANDLERS: dict[str, Callable[[Shadows, Mapping[str, Any], Shape], Traced]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), ops.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), ops.transposed),
    **{f"{kind}_pool{n}d": ops.pool for kind in ("max", "avg", "lp") for n in (1, 2, 3)},
    "avg_pool3d": lambda s, a, shape: ops.pool(s, a, shape, wants_kernel=True),
    **{f"max_pool{n}d_with_indices": ops.pool for n in (2, 3)},
    **{f"upsample_nearest{n}d": _upsampler("nearest") for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": _upsampler("nearest-exact") for n in (1, 2, 3)},
    "upsample_linear1d": _upsampler("linear"),
    "upsample_bilinear2d": _upsampler("bilinear"),
    "upsample_trilinear3d": _upsampler("trilinear"),
    "upsample_bicubic2d": _upsampler("bicubic"),
    "pad": ops.pad,
    "constant_pad_nd": _padder("constant"),
    **{f"reflection_pad{n}d": _padder("reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": _padder("replicate") for n in (1, 2, 3)},
    "pad_globe": own.pad_globe,
    "fill_nearest": own.fill_nearest,
    "slice": ops.slice_,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as"), _reshaper),
    "permute": lambda s, a, shape: reshaping.permute(a["self"], a["dims"], shape),
    "transpose": lambda s, a, shape: reshaping.transpose(a["self"], a["dim0"], a["dim1"], shape),
    "unsqueeze": lambda s, a, shape: reshaping.unsqueeze(a["self"], a["dim"], shape),
    "squeeze": lambda s, a, shape: reshaping.squeeze(s, a["self"], a.get("dim"), shape),
    "cat": lambda s, a, shape: reshaping.cat(s, a["tensors"], a.get("dim", 0), shape),
    "stack": lambda s, a, shape: reshaping.stack(s, a["tensors"], a.get("dim", 0), shape),
    **dict.fromkeys(("select", "unbind"), _taker(drops=True)),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "narrow", "index_select"), _taker(drops=False)),
    **dict.fromkeys(("expand", "expand_as"), _expander),
    "pixel_shuffle": lambda s, a, shape: reshaping.shuffle(s, a["self"], a["upscale_factor"], shape),
    "pixel_unshuffle": lambda s, a, shape: reshaping.unshuffle(s, a["self"], a["downscale_factor"], shape),
    "channel_shuffle": lambda s, a, shape: Traced(a["self"].labels, shape, a["self"].nodes),
    "batch_norm": reshaping.batch_norm,
    "instance_norm": reshaping.instance_norm,
    "layer_norm": reshaping.layer_norm,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), reshaping.dropout),
    "linear": reshaping.linear,
    **dict.fromkeys(("prelu", "bucketize"), _as("self")),
    "take": _as("index"),
    **dict.fromkeys(("flip", "roll"), lambda s, a, shape: Traced(a["self"].labels, shape, a["self"].nodes)),
}
"""What each operation does to the traced tensor; see the tables in ``operations.py`` for the rest."""

VIEWS = frozenset(
    (
        "slice",
        "select",
        "view",
        "permute",
        "transpose",
        "unsqueeze",
        "squeeze",
        "expand",
        "narrow",
        "split",
        "chunk",
        "unbind",
        "split_with_sizes",
    )
)
