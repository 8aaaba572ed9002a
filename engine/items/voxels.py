"""Outputs that are volumes: per output and bucket a Zarr array with the items along its first axis."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.items.outputs import Output
from engine.items.plan import Block, ItemPlan
from engine.storage.create import Flavour, create_volume
from engine.storage.stored import Volume, open_stored

VOXELS = "voxels.zarr"

Volumes = dict[tuple[str, int], Volume]
"""By output and bucket."""


def voxels_url(folder: str, name: str, bucket: int) -> str:
    """Return where the volumes of one output and bucket lie."""
    return f"{folder}/{VOXELS}/{name}/{bucket}"


def output_axes(shape: Sequence[int], *, n_space: int) -> tuple[Axis, ...]:
    """Return the axes of an output: item, perhaps channel, space.

    >>> "".join(axis.name[0] for axis in output_axes((3, 48, 48, 48), n_space=1))
    'iczyx'
    """
    has_channel = len(shape) == 4 or len(shape) == n_space + 1
    space = "zyx"[-(len(shape) - has_channel) :]
    channel = (Axis("c", Role.CHANNEL),) if has_channel else ()
    return (Axis("item", Role.BATCH), *channel, *(Axis(name, Role.SPACE) for name in space))


def create_voxels(folder: str, plan: ItemPlan, shapes: Mapping[int, Sequence[Output]]) -> None:
    """Describe the volumes of all buckets; a shard is a block, so that nobody else writes to it.

    Args:
        folder: Of the run.
        plan: What is computed.
        shapes: Per bucket, the outputs as they are for its items.
    """
    for number, outputs in shapes.items():
        bucket = plan.buckets[number]
        for output in outputs:
            if output.is_volume:
                create_volume(
                    voxels_url(folder, output.name, number),
                    axes=output_axes(output.shape, n_space=len(bucket.shape) - 1),
                    dtype=output.dtype,
                    shape=(len(bucket.numbers), *output.shape),
                    chunk_shape=(1, *output.shape),
                    shard_shape=(min(bucket.block_size, len(bucket.numbers)), *output.shape),
                    flavour=Flavour.CF,
                )


def open_voxels(folder: str, plan: ItemPlan, outputs: Sequence[Output]) -> Volumes:
    """Open the volumes of a run to be written; a bucket has none where no item of it could be computed."""
    numbers = range(len(plan.buckets))
    urls = {(out.name, n): voxels_url(folder, out.name, n) for n in numbers for out in outputs if out.is_volume}
    return {key: open_stored(url) for key, url in urls.items() if Path(url).exists()}


def write_voxels(volumes: Volumes, values: Mapping[str, NDArray[Any]], block: Block) -> int:
    """Store the volumes of a block, and return their bytes; items that failed are zero."""
    written = 0
    for name, array in values.items():
        volume = volumes.get((name, block.bucket))
        if volume is not None:
            start = (block.start, *(0 for _ in array.shape[1:]))
            volume.write(Region(start, (block.start + len(array), *array.shape[1:])), array)
            written += array.nbytes
    return written
