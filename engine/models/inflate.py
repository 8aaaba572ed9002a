"""A network of two dimensions made one of three: each kernel repeated along a new axis and divided by its length.

Carreira and Zisserman 2017 (https://arxiv.org/abs/1705.07750, section 2.4): on a volume that is constant along the new
axis the inflated network gives what the network gave, and so its weights are a start, or an end, for volumes.

    layer                         of two dimensions      along the new axis
    convolution, transposed too   kernel k x k           kernel ``length`` of w / length, stride 1, dilation 1
    convolution of 1 x 1          kernel 1 x 1           kernel 1: it looks at no neighbours
    pool, upsampling              k x k                  1
    padding layer                 before, after          0
    batch norm                    as it is               as it is
    instance and group norm       over a slice           over a slice: each for itself

A kernel of ``length`` sees ``length // 2`` slices on either side, so the halo along the new axis is that many for each
inflated layer on a path. At the ends of the volume a layer pads the new axis as it pads the others, in most networks
with zeros (``padding="model"``): outputs within the halo of an end differ from those of two dimensions there. With
``padding="replicate"`` every layer repeats its end slices, and none differs.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from engine.errors import ModelError
from engine.models.inflate_check import check_slices
from engine.models.load import submodule_name
from engine.models.slicewise import (
    EachSlice,
    EachSliceGroupNorm,
    EachSliceInstanceNorm,
    RepeatedEnds,
    RepeatedEndsConv3d,
    RepeatedEndsConvTranspose3d,
)

Padding = Literal["model", "replicate"]

ALONE = "Run the network slice by slice instead: scan.zarr#slices=1"


@dataclass(frozen=True, slots=True)
class NewAxis:
    """The axis that every layer is given."""

    axis: int
    """Where it stands among the three of space: 0 before y and x, as z does."""
    length: int
    """Of a repeated kernel, odd."""
    padding: Padding

    def joined(self, plane: Any, value: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401 -- sizes, or None
        """Return a setting for three axes from that of the plane, one value or two, and that of the new axis."""
        first, second = plane if isinstance(plane, tuple | list) else (plane, plane)
        found = [first, second]
        found.insert(self.axis, value)
        return tuple(found)

    def ends(self, plane: Sequence[int], value: int) -> tuple[int, ...]:
        """Return amounts of padding as ``F.pad`` takes them, last axis first, from those of the plane.

        >>> NewAxis(0, 3, "model").ends((1, 2, 3, 4), 0), NewAxis(2, 3, "model").ends((1, 2, 3, 4), 0)
        ((1, 2, 3, 4, 0, 0), (0, 0, 1, 2, 3, 4))
        """
        at = 2 * (2 - self.axis)
        return (*plane[:at], value, value, *plane[at:])


Maker = Callable[[Any, NewAxis], nn.Module]


def inflate(network: nn.Module, *, axis: int = 0, length: int = 3, padding: Padding = "model") -> nn.Module:
    """Return a network of three space axes made of one of two; the one given is left as it is.

    Args:
        network: Takes (batch, channel, y, x). Every layer that works on y and x stands in its tree as a layer of torch.
        axis: Where the new axis stands: 0 for a network of axial slices on volumes of (z, y, x).
        length: Slices that a kernel sees, odd; 1 gives the network slice by slice.
        padding: What lies beyond the ends of the new axis, for every layer: ``model``, what it pads its own axes with,
            or ``replicate``, its end slices.

    Raises:
        ModelError: If an argument is none of its values, a layer has no counterpart, or the forward does by itself what
            cannot be carried over: see :mod:`engine.models.inflate_check`.
    """
    _check_arguments(axis=axis, length=length, padding=padding)
    trial = deepcopy(network).eval()
    check_slices(trial, _inflated(trial, NewAxis(axis, 1, "model")), axis=axis)
    return _inflated(network, NewAxis(axis, length, padding))


def _check_arguments(*, axis: int, length: int, padding: str) -> None:
    if length < 1 or length % 2 == 0:
        raise ModelError(
            f"an inflated kernel needs an odd length, as many slices before as behind, not {length}. "
            f"Use {max(length, 2) + 1}, or 1."
        )
    if axis not in (0, 1, 2):
        raise ModelError(
            f"the new axis is 0, 1 or 2 of the three of space, not {axis}. Use 0 for volumes of (z, y, x)."
        )
    if padding not in get_args(Padding):
        raise ModelError(f"padding must be {' or '.join(get_args(Padding))}, not '{padding}'. Name one of them.")


def _inflated(network: nn.Module, new: NewAxis) -> nn.Module:
    """Return a copy with every layer of two dimensions replaced; one that stands in two places stays one."""
    copied = deepcopy(network)
    modules = dict(copied.named_modules())
    if not any(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in modules.values()):
        raise ModelError(
            f"a network of two dimensions is wanted, and {submodule_name('', network)} has no Conv2d in its tree. Give "
            "the module itself, not a TorchScript or exported program of it."
        )
    made = {id(layer): _counterpart(path, layer, new) for path, layer in modules.items()}
    for parent in modules.values():
        for name, child in list(parent._modules.items()):
            if child is not None:
                setattr(parent, name, made[id(child)])
    return made[id(copied)]


def _counterpart(path: str, layer: nn.Module, new: NewAxis) -> nn.Module:
    """Return the layer of three dimensions, or the layer itself where it serves as it is."""
    kind = next((kind for kind in COUNTERPARTS if isinstance(layer, kind)), None)
    try:
        _check_layer(layer, kind)
        return layer if kind is None else COUNTERPARTS[kind](layer, new).train(layer.training)
    except ValueError as error:
        name = submodule_name(path, layer)
        raise ModelError(f"a layer with a counterpart of three dimensions is wanted, and {name} {error}") from error


def _check_layer(layer: nn.Module, kind: type[nn.Module] | None) -> None:
    """Raise ValueError where a layer is not what torch's own of its kind does, or has no counterpart."""
    if isinstance(layer, WITHOUT):
        raise ValueError(f"has none. {ALONE}.")
    if kind is None:
        return
    if type(layer).forward is not kind.forward:
        raise ValueError(f"has a forward of its own. Put a plain {kind.__name__} in its place. {ALONE}.")
    if layer._forward_hooks or layer._forward_pre_hooks or is_parametrized(layer):
        raise ValueError("has hooks or parametrisations, as weight_norm and spectral_norm add them. Remove them first.")


def _convolution(layer: Any, new: NewAxis) -> nn.Module:  # noqa: ANN401 -- each maker is given its own kind
    length = new.length if max(layer.kernel_size) > 1 else 1
    is_repeated = new.padding == "replicate" and length > 1
    padding = _explicit(layer)
    if padding == "same" and is_repeated:
        raise ValueError(f"pads the two sides unequally (kernel {layer.kernel_size}, 'same'). Use padding='model'.")
    made = (RepeatedEndsConv3d if is_repeated else nn.Conv3d)(
        layer.in_channels,
        layer.out_channels,
        new.joined(layer.kernel_size, length),
        stride=new.joined(layer.stride, 1),
        padding=padding if padding == "same" else new.joined(padding, 0 if is_repeated else length // 2),
        dilation=new.joined(layer.dilation, 1),
        groups=layer.groups,
        padding_mode=layer.padding_mode,
    )
    return _weighted(made, layer, new, length)


def _explicit(layer: Any) -> Any:  # noqa: ANN401
    """Return the padding of a convolution in numbers; "same" only where its two sides are unequal."""
    if layer.padding != "same":
        return 0 if layer.padding == "valid" else layer.padding
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return "same" if any(n % 2 for n in reach) else tuple(n // 2 for n in reach)


def _transposed(layer: Any, new: NewAxis) -> nn.Module:  # noqa: ANN401
    length = new.length if max(layer.kernel_size) > 1 else 1
    is_repeated = new.padding == "replicate" and length > 1
    made = (RepeatedEndsConvTranspose3d if is_repeated else nn.ConvTranspose3d)(
        layer.in_channels,
        layer.out_channels,
        new.joined(layer.kernel_size, length),
        stride=new.joined(layer.stride, 1),
        padding=new.joined(layer.padding, length - 1 if is_repeated else length // 2),
        output_padding=new.joined(layer.output_padding, 0),
        groups=layer.groups,
        dilation=new.joined(layer.dilation, 1),
    )
    return _weighted(made, layer, new, length)


def _weighted(made: Any, layer: Any, new: NewAxis, length: int) -> nn.Module:  # noqa: ANN401
    """Give a convolution the weights of its original, spread over the new axis."""
    spread = layer.weight.detach().unsqueeze(2 + new.axis).repeat_interleave(length, 2 + new.axis) / length
    made.weight = nn.Parameter(spread, requires_grad=layer.weight.requires_grad)
    made.bias = layer.bias
    if isinstance(made, RepeatedEnds):
        made.ends = new.ends((0, 0, 0, 0), length // 2)
    return made  # type: ignore[no-any-return]


def _max_pool(layer: Any, new: NewAxis) -> nn.Module:  # noqa: ANN401
    if layer.return_indices:
        raise ValueError(f"returns indices. {ALONE}.")
    kernel, stride = new.joined(layer.kernel_size, 1), new.joined(layer.stride, 1)
    padding, dilation = new.joined(layer.padding, 0), new.joined(layer.dilation, 1)
    return nn.MaxPool3d(kernel, stride, padding, dilation, ceil_mode=layer.ceil_mode)


def _average_pool(layer: Any, new: NewAxis) -> nn.Module:  # noqa: ANN401
    kernel, stride = new.joined(layer.kernel_size, 1), new.joined(layer.stride, 1)
    rest = layer.ceil_mode, layer.count_include_pad, layer.divisor_override
    return nn.AvgPool3d(kernel, stride, new.joined(layer.padding, 0), *rest)


def _upsample(layer: Any, new: NewAxis) -> nn.Module:  # noqa: ANN401
    if layer.scale_factor is None or layer.mode == "bicubic":
        what = "interpolates by cubes" if layer.mode == "bicubic" else f"upsamples to a fixed size of {layer.size}"
        raise ValueError(f"{what}. Use torch.nn.Upsample(scale_factor=..., mode='bilinear') or nearest.")
    return nn.Upsample(
        scale_factor=new.joined(layer.scale_factor, 1.0),
        mode="trilinear" if layer.mode == "bilinear" else layer.mode,
        align_corners=layer.align_corners,
        recompute_scale_factor=layer.recompute_scale_factor,
    )


def _instance_norm(layer: Any, new: NewAxis) -> nn.Module:  # noqa: ANN401
    return _as(nn.InstanceNorm3d)(layer, new) if layer.track_running_stats else _as(EachSliceInstanceNorm)(layer, new)


def _as(kind: type[nn.Module]) -> Maker:
    """Return what makes a layer one of another class that has the same settings and weights."""

    def make(layer: nn.Module, new: NewAxis) -> nn.Module:
        layer.__class__ = kind
        if isinstance(layer, EachSlice):
            layer.axis = new.axis
        return layer

    return make


def _constant_pad(layer: Any, new: NewAxis) -> nn.Module:  # noqa: ANN401
    ends: Any = new.ends(layer.padding, 0)
    return nn.ConstantPad3d(ends, layer.value)


def _padder(kind: type[nn.Module]) -> Maker:
    return lambda layer, new: kind(new.ends(layer.padding, 0))


def _adaptive(kind: type[nn.Module]) -> Maker:
    return lambda layer, new: kind(new.joined(layer.output_size, None))


COUNTERPARTS: dict[type[nn.Module], Maker] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.BatchNorm2d: _as(nn.BatchNorm3d),
    nn.InstanceNorm2d: _instance_norm,
    nn.GroupNorm: _as(EachSliceGroupNorm),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive(nn.AdaptiveAvgPool3d),
    nn.AdaptiveMaxPool2d: _adaptive(nn.AdaptiveMaxPool3d),
    nn.Upsample: _upsample,
    nn.Dropout2d: _as(nn.Dropout3d),
    nn.ConstantPad2d: _constant_pad,
    nn.ReflectionPad2d: _padder(nn.ReflectionPad3d),
    nn.ReplicationPad2d: _padder(nn.ReplicationPad3d),
    nn.CircularPad2d: _padder(nn.CircularPad3d),
    nn.Softmax2d: lambda layer, new: nn.Softmax(dim=1),
}
"""What makes the layer of three dimensions, by the class of that of two; torch's subclasses of these are the same."""

WITHOUT = (
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Fold,
    nn.Unfold,
    nn.LPPool2d,
    nn.MaxUnpool2d,
    nn.FractionalMaxPool2d,
    LazyModuleMixin,
    torch.jit.ScriptModule,
)
"""Layers of two dimensions that have no counterpart; what else is not in the table serves as it is, or is found out."""
