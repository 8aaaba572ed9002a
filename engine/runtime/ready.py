"""Tasks that can be started, in order; those that read parts of one chunk of the source go to one worker."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from engine.geometry.axes import Role, positions
from engine.plan import Plan

ChunkOf = Callable[[int], int | None]
"""Says which chunk of the source a task reads a part of; None where it reads whole ones, or none."""


def chunk_of(plan: Plan, chunk_shape: Sequence[int]) -> ChunkOf:
    """Return which chunk each block of a plan begins in, where blocks are parts of chunks: a globe in one chunk, say.

    A coarser block is of the chunk of its first.

    Args:
        plan: What is run.
        chunk_shape: What is decoded at once of the source, per axis.
    """
    kept = (*positions(plan.source.axes, Role.BATCH), *positions(plan.source.axes, Role.SPACE))
    chunks = tuple(chunk_shape[axis] for axis in kept)
    blocks = (*(axis.block for axis in plan.batches), *(tiling.block for tiling in plan.tilings))
    graph = plan.graph
    if all(block >= chunk or n == 1 for block, chunk, n in zip(blocks, chunks, graph.counts, strict=True)):
        return lambda _: None
    n_chunks = [-(-n * block // chunk) for n, block, chunk in zip(graph.counts, blocks, chunks, strict=True)]

    def find(task: int) -> int:
        while task >= graph.n_blocks:
            task = graph.dependencies(task)[0]
        number = 0
        for i, block, chunk, n in zip(graph.index(task), blocks, chunks, n_chunks, strict=True):
            number = number * n + i * block // chunk
        return number

    return find


class Ready:
    """Tasks in the order of their ranks, but for one rule: a worker stays with a chunk that it has decoded.

    >>> ready = Ready(lambda task: task // 3)
    >>> for task in range(6):
    ...     ready.add(task, task)
    >>> ready.take(None), ready.take(None), ready.take(0), ready.take(3), ready.take(1), ready.take(2)
    (0, 3, 1, 4, 2, 5)
    """

    def __init__(self, chunk_of: ChunkOf) -> None:
        self._chunk_of = chunk_of
        self._tasks: dict[int | None, list[tuple[int, int]]] = {}
        """(rank, task) by chunk: heaps, none of them empty."""
        self._untouched: list[tuple[int, int]] = []
        """(rank, chunk) of chunks of which no task was taken: a heap, with some of which that is no longer true."""
        self._begun: set[int] = set()

    def __len__(self) -> int:
        return sum(map(len, self._tasks.values()))

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, rank: int, task: int) -> None:
        """Take in a task; the least rank comes first."""
        chunk = self._chunk_of(task)
        if chunk is not None and chunk not in self._begun:
            heappush(self._untouched, (rank, chunk))
        heappush(self._tasks.setdefault(chunk, []), (rank, task))

    def take(self, after: int | None) -> int:
        """Return the next task for a worker whose last one was ``after``.

        It is of the same chunk, else of one that nobody has begun, else of any; a task of no chunk comes in its turn.
        """
        chunk = self._next_chunk(None if after is None else self._chunk_of(after))
        if None in self._tasks and (chunk is None or self._tasks[None][0] < self._tasks[chunk][0]):
            chunk = None
        _, task = heappop(self._tasks[chunk])
        if chunk is not None:
            self._begun.add(chunk)
        if not self._tasks[chunk]:
            del self._tasks[chunk]
            self._begun.discard(chunk)
        return task

    def _next_chunk(self, last: int | None) -> int | None:
        if last is not None and last in self._tasks:
            return last
        while self._untouched and not self._is_untouched(self._untouched[0][1]):
            heappop(self._untouched)
        if self._untouched:
            return self._untouched[0][1]
        begun = [(tasks[0], chunk) for chunk, tasks in self._tasks.items() if chunk is not None]
        return min(begun)[1] if begun else None

    def _is_untouched(self, chunk: int) -> bool:
        return chunk in self._tasks and chunk not in self._begun
