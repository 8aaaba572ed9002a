"""How each output is laid out: its axes, shape, chunks, shards, place, and the levels above it."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod

from engine.geometry.axes import Axis, Role, positions
from engine.geometry.model_geometry import OutputTensor
from engine.plan import BatchAxis, OutputFacts, SourceFacts
from engine.search import Tiling

SMALLEST_LEVEL = {1: 1024, 2: 512, 3: 128}
"""A pyramid ends at the first level whose longest shrunken axis is no longer than this."""

CHUNK_LENGTHS = {1: 4096, 2: 512, 3: 64}
"""Voxels per axis of a chunk, by number of space axes: in 2-d and 3-d a MiB of float32. Measured with zarr 3.1.6, a
shard of 1536 x 4096 noisy float32 in chunks of 256^2 takes 84 ms of CPU to store, of 512^2 46 ms."""

CHUNK_VOXELS = 1 << 18
"""About the most voxels per channel of a chunk: along batch axes it holds as many items as that leaves room for."""


def describe_output(
    source: SourceFacts, tensor: OutputTensor, tilings: Sequence[Tiling], batches: Sequence[BatchAxis]
) -> OutputFacts:
    """Return where and how one output of the model is stored: a shard per block, chunks that viewers like."""
    by_name = {axis.name: axis for axis in source.axes}
    axes = [by_name[axis.name] for axis in batches]
    shape, shard = [axis.size for axis in batches], [axis.block for axis in batches]
    if tensor.n_channels is not None:
        axes.append(Axis(_channel_name(source), Role.CHANNEL))
        shape.append(tensor.n_channels)
        shard.append(tensor.n_channels)
    target = CHUNK_LENGTHS.get(len(tilings), 64)
    chunk = list(shard)
    origin = source.translation or (0.0,) * len(source.axes)
    starts = dict(zip(by_name, origin, strict=True))
    translation = [starts[axis.name] for axis in batches] + [0.0] * (len(axes) - len(batches))
    for tiling in tilings:
        axis, scale = by_name[tiling.name], float(tiling.program.scale(tensor.name))
        axes.append(replace(axis, spacing=axis.spacing / scale))
        shape.append(tiling.kept[tensor.name])
        length = tiling.block_sizes[tensor.name]
        chunk.append(_divisor(length, target))
        shard.append(length)
        translation.append(starts[tiling.name] + _offset(tiling, tensor.name) * axis.spacing)
    together = _together(shard[: len(batches)], room=CHUNK_VOXELS // prod(chunk[-len(tilings) :]))
    return OutputFacts(
        tensor.name,
        tuple(axes),
        tuple(shape),
        _stored(tensor.dtype),
        (*together, *chunk[len(batches) :]),
        tuple(shard),
        tensor.n_channels is not None,
        tuple(translation),
    )


def _together(items: Sequence[int], *, room: int) -> tuple[int, ...]:
    """Return how many items along each batch axis share a chunk, where each shard has so many: the last axis first."""
    found: list[int] = []
    for n in reversed(items):
        found.append(_divisor(n, max(room, 1)))
        room //= found[-1]
    return tuple(reversed(found))


def _offset(tiling: Tiling, output: str) -> float:
    """Return where the centre of the first output voxel lies, in input voxels from the centre of the first."""
    return float(tiling.first_edge(output) + Fraction(1, 2) / tiling.program.scale(output) - Fraction(1, 2))


def _channel_name(source: SourceFacts) -> str:
    channel = positions(source.axes, Role.CHANNEL)
    return source.axes[channel[0]].name if channel else "c"


def _stored(dtype: str) -> str:
    return {"bfloat16": "float32", "float16": "float16", "bool": "uint8"}.get(dtype, dtype)


def _divisor(length: int, target: int) -> int:
    """Return the largest divisor of a length that is no longer than the target.

    >>> _divisor(768, 256), _divisor(300, 64), _divisor(40, 64)
    (256, 60, 40)
    """
    return next(length // parts for parts in range(-(-length // target), length + 1) if length % parts == 0)


def pyramid_factors(source: SourceFacts, tilings: Sequence[Tiling]) -> tuple[tuple[int, ...], ...]:
    """Return the factors of each pyramid level: at every level the axes near the finest spacing are halved."""
    spacing = [source.axes[i].spacing for i in positions(source.axes, Role.SPACE)]
    factor = tuple(2 if step < 2 * min(spacing) else 1 for step in spacing)
    longest = max(max(t.kept.values()) for t, f in zip(tilings, factor, strict=True) if f == 2)
    n_levels = 0
    while longest > SMALLEST_LEVEL.get(len(tilings), 128):
        longest, n_levels = -(-longest // 2), n_levels + 1
    return (factor,) * n_levels
