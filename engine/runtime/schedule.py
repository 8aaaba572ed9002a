"""Runs a block graph: what is ready in Dask's order goes to the runner, and the ledger says what is done."""

import time

import numpy as np

from engine.geometry.block_graph import BlockGraph
from engine.runtime.events import Listener, RunFinished, Runner, RunStarted, Summary
from engine.runtime.graph import TaskPredicate, Wave, waves
from engine.runtime.loop import Loop
from engine.runtime.ready import ChunkOf, Ready
from engine.storage.ledger import Ledger, State

N_NODES_PER_WAVE = 20_000
"""A quarter of a second of Dask's planning, and more blocks than any pool works on at once."""


def drive(
    graph: BlockGraph,
    runner: Runner,
    ledger: Ledger,
    emit: Listener,
    *,
    n_attempts: int = 3,
    chosen: TaskPredicate | None = None,
    shuffle_seed: int | None = None,
    wave_limit: int = N_NODES_PER_WAVE,
    n_voxels: int = 0,
    chunk_of: ChunkOf | None = None,
) -> Summary:
    """Do every task of ``graph`` that ``ledger`` does not call done, and return the sum.

    A task starts when the tasks it depends on are done. One that fails is tried again, elsewhere if
    possible; after ``n_attempts`` it is recorded as failed, what depends on it stays pending, and
    the rest goes on. Tasks that were in flight on a worker that died are tried again alone on a worker, and
    only a death alone counts against a task: a block that kills its worker cannot fail its neighbours.
    A receipt that was taken is in the stored ledger before the loop waits again.

    Args:
        graph: The blocks of all levels.
        runner: Who does them; stays open.
        ledger: What is done; flushed, also when the run is interrupted.
        emit: Told everything, in this thread.
        n_attempts: Tries of one task that may fail.
        chosen: Which blocks of level 0 to do; all if None.
        shuffle_seed: If given, the order within a wave is drawn at random: the bits must not change.
        wave_limit: Tasks that are planned at a time.
        n_voxels: Output voxels of all tasks, for the listener; 0 where unknown.
        chunk_of: Which chunk of the source a task reads a part of, so that one worker reads all its parts.

    Raises:
        RunError: If no worker is left, or a worker found no space left to write.
        LedgerError: If the ledger cannot be stored.
    """
    began = time.monotonic()
    counts = ledger.counts()
    n_done_before = counts[State.DONE] + counts[State.SKIPPED]
    emit(RunStarted(graph.n_tasks, n_done_before, n_voxels))
    queue = BlockQueue(
        graph, ledger, chosen=chosen, shuffle_seed=shuffle_seed, wave_limit=wave_limit, chunk_of=chunk_of
    )
    loop = Loop(queue, runner, ledger, emit, n_attempts=n_attempts)
    try:
        loop.run()
    except KeyboardInterrupt:
        loop.take_what_is_there()
        raise
    finally:
        seconds = time.monotonic() - began
        summary = loop.tally.summary(n_tasks=graph.n_tasks, n_done_before=n_done_before, seconds=seconds)
        try:
            ledger.flush()
        finally:
            emit(RunFinished(summary))
    return summary


class BlockQueue:
    """Which tasks are ready, which wait for others, and which come next."""

    def __init__(
        self,
        graph: BlockGraph,
        ledger: Ledger,
        *,
        chosen: TaskPredicate | None,
        shuffle_seed: int | None,
        wave_limit: int,
        chunk_of: ChunkOf | None = None,
    ) -> None:
        self._graph = graph
        self._ledger = ledger
        self._waves = waves(graph, ledger.is_done, chosen=chosen, limit=wave_limit)
        self._random = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
        self._ready = Ready(chunk_of or (lambda _: None))
        self._rank: dict[int, int] = {}
        """Of each waiting task, its place in the order."""
        self._n_unmet: dict[int, int] = {}
        """Of each waiting task, how many dependencies are not done yet."""
        self._open: set[int] = set()
        """Tasks that are ready, waiting, or in flight."""
        self._n_planned = 0

    def has_ready(self) -> bool:
        """Say whether a task is ready, planning further waves while none is; of a chain, when all is done so far."""
        while not self._ready and not (self._graph.is_chain and self._open):
            wave = next(self._waves, None)
            if wave is None:
                return False
            self._plan(wave)
        return bool(self._ready)

    def next_task(self, after: int | None = None) -> int:
        """Return the ready task that comes first for a worker whose last one was ``after``."""
        return self._ready.take(after)

    def is_over(self) -> bool:
        """Say whether no task is ready, waiting or in flight, and none will be."""
        return not self.has_ready() and not self._open

    def done(self, task: int) -> None:
        """Make ready what waited only for ``task``."""
        self._open.discard(task)
        for coarser in self._graph.dependents(task):
            if coarser not in self._n_unmet:
                continue
            self._n_unmet[coarser] -= 1
            if self._n_unmet[coarser] == 0:
                del self._n_unmet[coarser]
                self._ready.add(self._rank.pop(coarser), coarser)

    def drop(self, task: int) -> None:
        """Forget ``task``, and what waits for it: they stay as the ledger has them."""
        self._open.discard(task)
        for coarser in self._graph.dependents(task):
            if self._n_unmet.pop(coarser, None) is not None:
                del self._rank[coarser]
                self.drop(coarser)

    def _plan(self, wave: Wave) -> None:
        tasks = wave.tasks
        if self._random is not None:
            ranks = [int(rank) for rank in self._random.permutation(len(tasks))]
        else:
            ranks = list(range(len(tasks)))
        for task, rank in sorted(zip(tasks, ranks, strict=True)):  # a finer task has a smaller number
            self._add(task, self._n_planned + rank)
        self._n_planned += len(tasks)

    def _add(self, task: int, rank: int) -> None:
        """Take in ``task``, unless it needs one that is neither done nor under way."""
        n_unmet = 0
        for finer in self._graph.dependencies(task):
            if finer in self._open:
                n_unmet += 1
            elif self._ledger.state(finer) not in (State.DONE, State.SKIPPED):
                return
        self._open.add(task)
        if n_unmet:
            self._n_unmet[task] = n_unmet
            self._rank[task] = rank
        else:
            self._ready.add(rank, task)
