"""Traced operations that only move dimensions about: views, permutations, joins, and the layers tied to them."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.geometry.nodes import Upsample, Window
from engine.models.operations import (
    DROP_IT,
    GIVE_STATISTICS,
    check_constants,
    image,
    leaves,
    tensors,
    windowed,
)
from engine.models.shadow import Constant, Label, Shadows, Traced

Shape = tuple[int, ...]


def reshape(shadows: Shadows, source: Traced, shape: Shape) -> Traced:
    """Match the old dimensions with the new, group by group.

    A group of one old and one new dimension keeps its label. A space axis that is split into (n/r, r) is a
    space-to-depth; one that is merged with an r behind it a depth-to-space.
    """
    labels: list[Label] = []
    nodes = list(source.nodes)
    for old, new in _groups(source.shape, shape):
        came = [source.labels[d] for d in old if source.shape[d] != 1] or [source.labels[d] for d in old]
        space = [label for label in came if isinstance(label, int)]
        gives: list[Label] = ["free"] * len(new)
        if "batch" in came and (len(came) > 1 or len([d for d in new if shape[d] != 1]) > 1):
            raise shadows.unknown("reshape that merges or splits the batch")
        if "batch" in came:
            gives[_largest(new, shape)] = "batch"
        elif len(space) > 1:
            raise shadows.unbounded("flattens axes of space into one (attention or a dense layer)", DROP_IT)
        elif space:
            _reshape_space(shadows, source, nodes, (space[0], old, new, shape), gives)
        labels += gives
    return Traced(tuple(labels), shape, tuple(nodes))


def _reshape_space(
    shadows: Shadows,
    source: Traced,
    nodes: list[int],
    group: tuple[int, Sequence[int], Sequence[int], Shape],
    gives: list[Label],
) -> None:
    """Label the new dimensions of a group that holds one space axis, and add its node."""
    axis, old, new, shape = group
    had = source.shape[source.at(axis)]
    first = next((i for i, d in enumerate(new) if shape[d] != 1), 0)
    length = shape[new[first]]
    before = [d for d in old if d < source.at(axis) and source.shape[d] != 1]
    if before:
        raise shadows.unbounded("reshapes space so that neighbours are far apart", DROP_IT)
    if length < had and had % length == 0:
        nodes[axis] = shadows.add(axis, Window((nodes[axis],), had // length, had // length, is_exact=True))
    elif length > had and length % had == 0:
        nodes[axis] = shadows.add(axis, Upsample((nodes[axis],), length // had))
    elif length != had:
        raise shadows.unknown("reshape of space")
    gives[first] = axis


def _largest(dims: Sequence[int], shape: Shape) -> int:
    return max(range(len(dims)), key=lambda i: shape[dims[i]])


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes of one size into the finest groups of dimensions of equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news, a, b = [], [], 1, 1
        while True:
            if (a <= b and i < len(old)) or j >= len(new):
                olds.append(i)
                a *= old[i]
                i += 1
            else:
                news.append(j)
                b *= new[j]
                j += 1
            if a == b and olds and news:
                break
            if i >= len(old) and j >= len(new):
                break
        if not olds or not news:
            groups[-1] = (groups[-1][0] + olds, groups[-1][1] + news)
        else:
            groups.append((olds, news))
    return groups


def permute(source: Traced, dims: Sequence[int], shape: Shape) -> Traced:
    """Reorder the dimensions."""
    return Traced(tuple(source.labels[d % len(source.labels)] for d in dims), shape, source.nodes)


def transpose(source: Traced, first: int, second: int, shape: Shape) -> Traced:
    """Swap two dimensions."""
    dims = list(range(len(source.labels)))
    dims[first], dims[second] = dims[second], dims[first]
    return permute(source, dims, shape)


def unsqueeze(source: Traced, dim: int, shape: Shape) -> Traced:
    """Add a free dimension of one."""
    labels = list(source.labels)
    labels.insert(dim % len(shape), "free")
    return Traced(tuple(labels), shape, source.nodes)


def squeeze(shadows: Shadows, source: Traced, dims: Any, shape: Shape) -> Traced:
    """Drop dimensions of one."""
    count = len(source.labels)
    given = range(count) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {d % count for d in given if source.shape[d] == 1}
    if any(source.labels[d] != "free" for d in gone):
        raise shadows.unknown("squeeze of space or batch")
    return Traced(tuple(x for d, x in enumerate(source.labels) if d not in gone), shape, source.nodes)


def cat(shadows: Shadows, arguments: Any, dim: int, shape: Shape) -> Traced:
    """Concatenate along a free dimension."""
    sources = tensors(arguments)
    labels = sources[0].labels
    check_constants(shadows, labels, leaves(arguments, Constant))
    if any(source.labels != labels for source in sources):
        raise shadows.unknown("concatenation of tensors with other axes")
    if labels[dim % len(labels)] != "free":
        raise shadows.unbounded("concatenates along space or batch", DROP_IT)
    return Traced(labels, shape, shadows.join(sources))


def stack(shadows: Shadows, arguments: Any, dim: int, shape: Shape) -> Traced:
    """Join along a new, free dimension."""
    sources = tensors(arguments)
    check_constants(shadows, sources[0].labels, leaves(arguments, Constant))
    whole = Traced(sources[0].labels, sources[0].shape, shadows.join(sources))
    return unsqueeze(whole, dim, shape)


def take(shadows: Shadows, source: Traced, dim: int, shape: Shape, *, drops: bool) -> Traced:
    """Take a part of one free dimension: select, narrow, split, chunk, unbind."""
    dim %= len(source.labels)
    if source.labels[dim] != "free":
        raise shadows.unbounded("takes a part of space or batch by absolute position", "Crop both ends alike instead")
    labels = tuple(x for d, x in enumerate(source.labels) if not (drops and d == dim))
    return Traced(labels, shape, source.nodes)


def expand(source: Traced, shape: Shape) -> Traced:
    """Repeat dimensions of one."""
    added: tuple[Label, ...] = ("free",) * (len(shape) - len(source.labels))
    return Traced(added + source.labels, shape, source.nodes)


def shuffle(shadows: Shadows, source: Traced, factor: int, shape: Shape) -> Traced:
    """Pixel shuffle: channels to space."""
    return windowed(shadows, source, shape, [Upsample((node,), factor) for node in source.nodes])


def unshuffle(shadows: Shadows, source: Traced, factor: int, shape: Shape) -> Traced:
    """Pixel unshuffle: space to channels."""
    nodes = [Window((node,), factor, factor, is_exact=True) for node in source.nodes]
    return windowed(shadows, source, shape, nodes)


def batch_norm(shadows: Shadows, arguments: Mapping[str, Any], shape: Shape) -> Traced:
    """Batch norm: pointwise with its running statistics, refused with the batch's."""
    if arguments.get("training", arguments.get("train", False)):
        cure = "Call eval() and keep track_running_stats=True, or freeze its statistics"
        raise shadows.unbounded("normalises by the batch's own moments (batch norm in train mode)", cure)
    source = image(shadows, arguments, "batch norm")
    return Traced(source.labels, shape, source.nodes)


def instance_norm(shadows: Shadows, arguments: Mapping[str, Any], shape: Shape) -> Traced:
    """Instance norm: pointwise with running statistics, refused with the input's."""
    if arguments.get("use_input_stats", True):
        raise shadows.unbounded("normalises by moments of the whole input (instance norm)", GIVE_STATISTICS)
    source = image(shadows, arguments, "instance norm")
    return Traced(source.labels, shape, source.nodes)


def layer_norm(shadows: Shadows, arguments: Mapping[str, Any], shape: Shape) -> Traced:
    """Layer norm over trailing dimensions: pointwise over channels, refused over space."""
    source: Traced = arguments["input"]
    count = len(arguments["normalized_shape"])
    if any(label != "free" for label in source.labels[-count:]):
        raise shadows.unbounded("normalises by moments of space (layer norm)", GIVE_STATISTICS)
    return Traced(source.labels, shape, source.nodes)


def dropout(shadows: Shadows, arguments: Mapping[str, Any], shape: Shape) -> Traced:
    """Dropout: the identity when it is off."""
    source: Traced = arguments["input"]
    if arguments.get("train", False) and arguments.get("p", 0.5) > 0:
        cure = "Call eval(), and pass training=self.training to functional dropout"
        raise shadows.unbounded("drops voxels at random (active dropout)", cure)
    return Traced(source.labels, shape, source.nodes)


def linear(shadows: Shadows, arguments: Mapping[str, Any], shape: Shape) -> Traced:
    """A dense layer over the last dimension, which must be free."""
    source: Traced = arguments["input"]
    if source.labels[-1] != "free":
        raise shadows.unbounded("applies a dense layer along space", "Use a convolution instead")
    return Traced(source.labels, shape, source.nodes)
