"""Tasks are numbers: the blocks of every level of a pyramid, and who waits for whom, by arithmetic."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from engine.errors import RegionError

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class BlockGraph:
    """A tree of blocks: one of level l + 1 waits for the blocks of level l that it covers.

    Tasks are numbered level by level, row-major within a level. Nothing is ever listed, so a
    graph of 10^9 blocks costs what one of 10 costs.

        level 0   |0|1|2|3|4|      counts (5,)
        level 1   |5  |6  |7|      factors ((2,), (2,))
        level 2   |8      |9|

    >>> graph = BlockGraph((5,), ((2,), (2,)))
    >>> graph.n_tasks, graph.dependencies(6), graph.dependencies(9), graph.dependents(4)
    (10, (2, 3), (7,), (7,))
    """

    counts: tuple[int, ...]
    """Blocks of level 0 per axis."""

    factors: tuple[tuple[int, ...], ...] = ()
    """Per coarser level, per axis: how many finer blocks one block covers (1 or 2)."""

    is_chain: bool = False
    """Whether the blocks at one place of the first axis all wait for all those at the place before."""

    def __post_init__(self) -> None:
        is_level_whole = all(len(f) == len(self.counts) and min(f, default=1) >= 1 for f in self.factors)
        if min(self.counts, default=1) < 1 or not is_level_whole:
            raise RegionError(f"a block graph needs positive counts and factors: {self.counts=}, {self.factors=}")

    @cached_property
    def level_counts(self) -> tuple[tuple[int, ...], ...]:
        """Blocks per level and axis."""
        levels = [self.counts]
        for factor in self.factors:
            levels.append(tuple(-(-n // f) for n, f in zip(levels[-1], factor, strict=True)))
        return tuple(levels)

    @cached_property
    def level_starts(self) -> tuple[int, ...]:
        """The first task of each level, then the number of tasks in all."""
        return tuple(accumulate((prod(counts) for counts in self.level_counts), initial=0))

    @property
    def n_levels(self) -> int:
        """Levels, the finest included."""
        return len(self.factors) + 1

    @property
    def n_blocks(self) -> int:
        """Blocks of level 0."""
        return self.level_starts[1]

    @property
    def link(self) -> int:
        """Blocks of level 0 that may be done at once: those at one place of the first axis in a chain, else all."""
        return prod(self.counts[1:]) if self.is_chain else self.n_blocks

    @property
    def n_tasks(self) -> int:
        """Blocks of all levels."""
        return self.level_starts[-1]

    def level_of(self, task: int) -> int:
        """Return the level of ``task``, 0 for the finest.

        Raises:
            RegionError: If there is no such task.
        """
        if not 0 <= task < self.n_tasks:
            raise RegionError(f"task number must be in [0, {self.n_tasks}), not {task}")
        return bisect_right(self.level_starts, task) - 1

    def index(self, task: int) -> tuple[int, ...]:
        """Return the position of ``task`` in its level's grid, per axis."""
        level = self.level_of(task)
        number = task - self.level_starts[level]
        position = []
        for count in reversed(self.level_counts[level]):
            number, i = divmod(number, count)
            position.append(i)
        return tuple(reversed(position))

    def task(self, level: int, index: tuple[int, ...]) -> int:
        """Return the task at ``index`` of ``level``; inverse of :meth:`level_of` and :meth:`index`."""
        number = 0
        for i, count in zip(index, self.level_counts[level], strict=True):
            number = number * count + i
        return self.level_starts[level] + number

    def dependencies(self, task: int) -> tuple[int, ...]:
        """Return the finer tasks that ``task`` waits for, in order; none for a block of level 0."""
        level = self.level_of(task)
        if level == 0:
            return ()
        spans = [
            range(i * f, min((i + 1) * f, n))
            for i, f, n in zip(self.index(task), self.factors[level - 1], self.level_counts[level - 1], strict=True)
        ]
        return tuple(self.task(level - 1, index) for index in product(*spans))

    def dependents(self, task: int) -> tuple[int, ...]:
        """Return the coarser tasks that wait for ``task``: one, or none on the last level."""
        level = self.level_of(task)
        if level == self.n_levels - 1:
            return ()
        index = tuple(i // f for i, f in zip(self.index(task), self.factors[level], strict=True))
        return (self.task(level + 1, index),)

    def completed_within(self, start: int, stop: int) -> IntArray:
        """Return the coarser tasks whose last block of level 0 is one of ``start`` to ``stop - 1``.

        Stretches that follow each other share none and miss none. Int64, ascending.

        >>> BlockGraph((5,), ((2,), (2,))).completed_within(2, 5)
        array([6, 7, 8, 9])
        """
        numbers = np.arange(start, stop, dtype=np.int64)
        found = []
        for level, factor in enumerate(self.factors):
            numbers = self._completed_parents(numbers, level, factor)
            found.append(numbers + self.level_starts[level + 1])
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _completed_parents(self, numbers: IntArray, level: int, factor: tuple[int, ...]) -> IntArray:
        """Return, as numbers in their own level, the parents whose last child is in ``numbers``."""
        finer, coarser = self.level_counts[level], self.level_counts[level + 1]
        index = np.unravel_index(numbers, finer)
        is_last = np.ones(len(numbers), bool)
        for i, f, n in zip(index, factor, finer, strict=True):
            is_last &= ((i + 1) % f == 0) | (i + 1 == n)
        parents = tuple(i[is_last] // f for i, f in zip(index, factor, strict=True))
        return np.ravel_multi_index(parents, coarser).astype(np.int64)
