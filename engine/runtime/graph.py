"""Dask plans: a bounded stretch of the block graph at a time, as a Dask graph, in Dask's order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from dask._task_spec import Task, TaskRef
from dask.order import order
from numpy.typing import NDArray

from engine.geometry.block_graph import BlockGraph, IntArray

TaskPredicate = Callable[[IntArray], NDArray[np.bool_]]
"""Says of each of some tasks, all at once, whether something holds."""


@dataclass(frozen=True, slots=True)
class Wave:
    """A stretch of blocks, with every coarser block that it completes."""

    tasks: tuple[int, ...]
    """Tasks to do, in Dask's order: a coarser block right after the blocks that it needs."""

    nodes: dict[int, Task]
    """The Dask graph, by key; any Dask scheduler can run it. Dependencies in earlier waves are not in it."""


def waves(
    graph: BlockGraph, is_done: TaskPredicate, *, chosen: TaskPredicate | None = None, limit: int = 100_000
) -> Iterator[Wave]:
    """Yield, lazily, all tasks that are not done, in waves of at most ``limit`` nodes.

    Each wave holds the next blocks of level 0 in order, and every coarser task whose last
    dependency lies among them; so what a wave depends on is in it or in an earlier one. In a chain
    a wave is of one link, and none comes after one that is not done when the next is asked for.

    Args:
        graph: The blocks of all levels.
        is_done: Asked once per wave, when the wave is made.
        chosen: Which blocks of level 0 to do; all if None.
        limit: Nodes in one wave; a task is never split from the block that completes it.
    """
    start = 0
    while start < graph.n_blocks:
        stop, tasks = _stretch(graph, start, limit)
        todo = ~is_done(tasks)
        if chosen is not None:
            is_block = tasks < graph.n_blocks
            todo[is_block] &= chosen(tasks[is_block])
        if todo.any():
            yield _wave(graph, tasks[todo])
        start = stop
        if graph.is_chain and start % graph.link == 0 and not is_done(np.arange(start - graph.link, start)).all():
            return


def _stretch(graph: BlockGraph, start: int, limit: int) -> tuple[int, IntArray]:
    """Return where the stretch from block ``start`` ends, and its tasks: as many as fit in ``limit``."""
    n_blocks = max(1, limit)
    while True:
        stop = min(start + n_blocks, graph.n_blocks, start - start % graph.link + graph.link)
        coarser = graph.completed_within(start, stop)
        if stop - start + len(coarser) <= limit or stop - start == 1:
            return stop, np.concatenate([np.arange(start, stop, dtype=np.int64), coarser])
        n_blocks = max(1, (stop - start) * 3 // 4)


def _wave(graph: BlockGraph, tasks: IntArray) -> Wave:
    """Return the Dask graph of ``tasks`` and Dask's order of it."""
    numbers = tasks.tolist()
    last_key = _last_key(graph)
    within = set(numbers)
    nodes = {}
    for number in numbers:
        needs = [TaskRef(last_key - finer) for finer in graph.dependencies(number) if finer in within]
        nodes[last_key - number] = Task(last_key - number, _number, number, *needs)
    priority = order(nodes)
    return Wave(tuple(last_key - key for key in sorted(nodes, key=priority.__getitem__)), nodes)


def _last_key(graph: BlockGraph) -> int:
    """Return the key of task 0; task t has this less t.

    Dask breaks ties by the key as text, the greatest first. So keys count down, all with the
    same number of digits, and blocks come in storage order.
    """
    return int(2 * 10 ** len(str(graph.n_tasks)))


def _number(task: int, *_finer: int) -> int:
    """Return ``task``: what a node gives when a Dask scheduler runs the graph by itself."""
    return task
