"""Random one-axis networks as twins: a torch module, and the program that should be its shadow."""

from fractions import Fraction
from functools import partial

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from engine.geometry.nodes import Join, Node, Opaque, Pad, Transposed, Upsample, Window
from engine.geometry.receptive_field import AxisProgram

CHANNELS = 2
KINDS = ("conv", "pool", "unshuffle", "transposed", "upsample", "pad", "opaque", "unet", "residual")


class Network(nn.Module):
    """Operations wired like the nodes of ``program``; gives every output by name, in float64."""

    def __init__(self, program, operations, *, seed):
        super().__init__()
        self.program, self.operations = program, operations
        layers = [part for operation in operations for part in operation if isinstance(part, nn.Module)]
        self.layers = nn.ModuleList(layers).double().eval()
        generator = torch.Generator().manual_seed(seed)
        for weight in self.layers.parameters():
            weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) / 2

    def forward(self, voxels):
        tensors = [voxels]
        for node, operation in zip(self.program.nodes[1:], self.operations, strict=True):
            tensor = torch.stack([tensors[source] for source in node.sources]).sum(0)
            for part in operation:
                tensor = part(tensor)
            if tensor.shape[-1] < 1:
                raise RuntimeError("nothing left")
            tensors.append(tensor)
        return {name: tensors[index] for name, index in self.program.outputs}


def run(network, voxels):
    """Return each output (item, channel, x) of ``voxels`` (item, channel, x), or None where torch refuses them."""
    try:
        with torch.no_grad():
            return {name: out.numpy() for name, out in network(torch.from_numpy(np.ascontiguousarray(voxels))).items()}
    except (RuntimeError, ValueError):
        return None


def unshuffle(tensor, *, stride):
    """Fold ``stride`` neighbours into one voxel, each with a weight of its own."""
    weights = torch.linspace(0.3, 1.0, stride, dtype=tensor.dtype)
    return (tensor.reshape(*tensor.shape[:-1], tensor.shape[-1] // stride, stride) * weights).sum(-1)


def enlarge(tensor, *, factor, mode):
    """Grow by ``factor``; torch has no cubic along one axis, so it goes through two."""
    if mode == "bicubic":
        return F.interpolate(tensor[:, :, None], scale_factor=(1.0, float(factor)), mode=mode)[:, :, 0]
    return F.interpolate(tensor, scale_factor=float(factor), mode=mode)


def cover(tensor, *, before, after, mode):
    """Pad, by 0.7 where the mode is constant."""
    if mode == "circular" and max(before, after) > tensor.shape[-1] + min(before, 0) + min(after, 0):
        raise RuntimeError("torch would copy voxels that it has not written")
    return F.pad(tensor, (before, after), mode=mode, **({"value": 0.7} if mode == "constant" else {}))


@st.composite
def convolutions(draw, *, is_same=False):
    kernel, dilation = draw(st.sampled_from([1, 3, 5] if is_same else [1, 2, 3, 4, 5])), draw(st.integers(1, 2))
    stride = 1 if is_same else draw(st.sampled_from([1, 1, 1, 2, 3]))
    before = dilation * (kernel - 1) // 2 if is_same else draw(st.integers(0, 3))
    after = before if is_same or draw(st.booleans()) else draw(st.integers(0, 3))
    conv = nn.Conv1d(CHANNELS, CHANNELS, kernel, stride=stride, dilation=dilation)
    padding = partial(F.pad, pad=(before, after))
    return (padding, conv, torch.tanh), partial(
        Window, kernel=kernel, stride=stride, before=before, after=after, dilation=dilation
    )


@st.composite
def pools(draw, *, stride=None):
    kernel = stride or draw(st.integers(1, 4))
    stride = stride or draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel // 2))
    is_ceil = draw(st.booleans())
    common = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": is_ceil}
    dilation = 1
    if draw(st.booleans()):
        dilation = draw(st.integers(1, 2))
        pool = nn.MaxPool1d(**common, dilation=dilation)
    else:
        pool = nn.AvgPool1d(**common, count_include_pad=draw(st.booleans()))
    return (pool,), partial(
        Window, kernel=kernel, stride=stride, before=padding, after=padding, dilation=dilation, is_ceil=is_ceil
    )


@st.composite
def unshuffles(draw):
    stride = draw(st.integers(2, 3))
    return (partial(unshuffle, stride=stride),), partial(Window, kernel=stride, stride=stride, is_exact=True)


@st.composite
def transposed_convolutions(draw, *, stride=None):
    if stride:
        conv = nn.ConvTranspose1d(CHANNELS, CHANNELS, stride, stride=stride)
        return (conv, torch.tanh), partial(Transposed, kernel=stride, stride=stride)
    kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 3))
    output_padding = draw(st.integers(0, max(stride, dilation) - 1))
    common = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": output_padding}
    conv = nn.ConvTranspose1d(CHANNELS, CHANNELS, kernel, **common)
    return (conv, torch.tanh), partial(Transposed, kernel=kernel, **common)


@st.composite
def enlargements(draw, *, factor=None):
    mode, reach = draw(st.sampled_from([("nearest", 0), ("nearest-exact", 0), ("linear", 1), ("bicubic", 2)]))
    factor = factor or draw(st.integers(1, 3))
    return (partial(enlarge, factor=factor, mode=mode),), partial(Upsample, factor=factor, reach=reach)


@st.composite
def paddings(draw):
    mode = draw(st.sampled_from(["constant", "replicate", "reflect", "circular"]))
    before, after = draw(st.integers(-2, 4)), draw(st.integers(-2, 4))
    return (partial(cover, before=before, after=after, mode=mode),), partial(Pad, before=before, after=after, mode=mode)


@st.composite
def opaques(draw):
    common = {"modulus": 1, "remainder": 0, "numerator": 1, "denominator": 1, "jump": 1}
    if draw(st.booleans()):
        kernel, padding = draw(st.integers(1, 4)), draw(st.integers(0, 2))
        conv = nn.Conv1d(CHANNELS, CHANNELS, kernel, padding=padding)
        smallest, surplus = max(kernel - 2 * padding, 1), 2 * padding - kernel + 1
        reach = {"before": padding, "after": kernel - 1 - padding}
        return (conv, torch.tanh), partial(Opaque, **reach, **common, smallest=smallest, surplus=surplus)
    factor = draw(st.integers(2, 3))
    operation = (partial(unshuffle, stride=factor), partial(enlarge, factor=factor, mode="nearest"))
    common |= {"modulus": factor, "jump": factor, "smallest": factor, "surplus": 0}
    return operation, partial(Opaque, before=factor - 1, after=factor - 1, **common)


MAKERS = {
    "conv": convolutions,
    "pool": pools,
    "unshuffle": unshuffles,
    "transposed": transposed_convolutions,
    "upsample": enlargements,
    "pad": paddings,
    "opaque": opaques,
}


def chains(draw, kind):
    """Return the operations of one kind, and whether a join with their source follows."""
    if kind == "residual":
        return [draw(convolutions(is_same=True))], True
    if kind == "unet":
        factor = draw(st.integers(2, 3))
        ascent = draw(st.one_of(transposed_convolutions(stride=factor), enlargements(factor=factor)))
        kernel_only = ((nn.MaxPool1d(factor),), partial(Window, kernel=factor, stride=factor))
        return [kernel_only, draw(convolutions(is_same=True)), ascent], True
    return [draw(MAKERS[kind]())], False


@st.composite
def networks(draw, *, kinds=KINDS, max_kinds=4, max_outputs=2):
    """Return a network of a few operations whose step and growth stay small."""
    nodes, operations = [Node(())], []
    scale = Fraction(1)
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=max_kinds)):
        made, is_joined = chains(draw, kind)
        wired = [make((len(nodes) - 1 + i,)) for i, (_, make) in enumerate(made)]
        grown = scale
        for node in wired:
            grown *= node.scale
        if max(grown.numerator, grown.denominator) > 6:
            continue
        source, scale = len(nodes) - 1, grown
        nodes += wired
        operations += [operation for operation, _ in made]
        if is_joined:
            nodes.append(Join((source, len(nodes) - 1)))
            operations.append(())
    outputs = [("out", len(nodes) - 1)]
    if max_outputs > 1 and len(nodes) > 2 and draw(st.booleans()):
        outputs.append(("side", draw(st.integers(1, len(nodes) - 2))))
    return Network(AxisProgram(tuple(nodes), tuple(outputs)), operations, seed=draw(st.integers(0, 9)))


def axis_of(length, *, seed=0):
    """Return random voxels (1, channel, x)."""
    return np.random.default_rng(seed).standard_normal((1, CHANNELS, length))


def is_tight(node, *, longest=24):
    """Say whether a node uses its whole source: no crop, and no output that sees nothing."""
    sizes = [(n, node.size(n)) for n in range(1, longest)]
    has_gaps = any(node.demand(g, g)[0] > node.demand(g, g)[1] for g in range(6))
    uses_left = node.demand(-1, -1)[0] < 0 and node.demand(0, 0)[0] <= 0
    return uses_left and not has_gaps and all(node.demand(m, m)[1] >= n for n, m in sizes if m)
