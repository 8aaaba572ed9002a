"""How items are taken together: by their shape, in batches of one size, in blocks of whole batches.

    manifest    a b a a c a b a            one letter a shape
    bucket a    |0 2 3|5 7 -|              batches of 3; the last is filled up
    bucket b    |1 6 -|
    block       a run of whole batches of one bucket: a task

Which items share a batch, and where each lies in it, follows from the manifest alone. So bits do not depend on who
computes what, nor on where a run was broken off, nor on how long blocks are.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from engine.errors import PlanError
from engine.geometry.block_graph import BlockGraph

UNKNOWN: tuple[int, ...] = ()
"""The shape of items that could not be looked at: they are tried, and fail, in blocks of their own."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """The items of one shape."""

    shape: tuple[int, ...]
    """(channel, *space) of each item's array."""
    numbers: NDArray[np.int64]
    """The items' rows in the manifest, ascending."""
    batch_size: int
    block_size: int
    """Items of a block, a multiple of the batch size."""

    @property
    def n_blocks(self) -> int:
        """Blocks, the last perhaps shorter."""
        return -(-len(self.numbers) // self.block_size)


@dataclass(frozen=True, eq=False)
class Block:
    """A run of items of one bucket: one task."""

    bucket: int
    start: int
    """Place of the first item in its bucket."""
    numbers: NDArray[np.int64]
    """The items' rows in the manifest."""


@dataclass(frozen=True, eq=False)
class ItemPlan:
    """All buckets, and so all blocks."""

    buckets: tuple[Bucket, ...]

    @cached_property
    def _first_tasks(self) -> tuple[int, ...]:
        return tuple(accumulate((bucket.n_blocks for bucket in self.buckets), initial=0))

    @property
    def graph(self) -> BlockGraph:
        """The blocks as tasks that wait for nothing."""
        return BlockGraph((self._first_tasks[-1],))

    @property
    def n_items(self) -> int:
        """Items in all."""
        return sum(len(bucket.numbers) for bucket in self.buckets)

    def block(self, task: int) -> Block:
        """Return the block that a task computes.

        >>> bucket = Bucket((1, 4), np.arange(5), batch_size=2, block_size=2)
        >>> ItemPlan((bucket, bucket)).block(5).numbers
        array([4])
        """
        number = bisect_right(self._first_tasks, task) - 1
        bucket = self.buckets[number]
        start = (task - self._first_tasks[number]) * bucket.block_size
        return Block(number, start, bucket.numbers[start : start + bucket.block_size])


def bucketed(shapes: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Return each shape with the rows that have it, the shape with the first row first.

    >>> bucketed([(1, 8), (1, 9), (1, 8)])
    [((1, 8), array([0, 2])), ((1, 9), array([1]))]
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, shape in enumerate(shapes):
        rows.setdefault(shape, []).append(row)
    return [(shape, np.array(found, np.int64)) for shape, found in rows.items()]


def batch_size_within(n_bytes: int, *, per_item: int, most: int) -> int:
    """Return the largest power of two, at most ``most``, of items that fit.

    >>> batch_size_within(1000, per_item=100, most=16), batch_size_within(1000, per_item=100, most=4)
    (8, 4)

    Raises:
        PlanError: If one item does not fit.
    """
    if per_item > n_bytes:
        raise PlanError(
            f"one item needs {per_item:,} bytes of activations, and {max(n_bytes, 0):,} are left in the memory. Give "
            "more with --memory, or fewer --workers."
        )
    size = 1
    while 2 * size <= most and 2 * size * per_item <= n_bytes:
        size *= 2
    return size
