"""The run's loop: submit what is ready in Dask's order, take receipts, retry, record."""

import time
from collections import deque
from dataclasses import dataclass, replace
from heapq import heappop, heappush

import numpy as np

from engine.errors import RunError
from engine.geometry.block_graph import BlockGraph
from engine.runtime.events import (
    Failure,
    Listener,
    Receipt,
    RunFinished,
    Runner,
    RunStarted,
    Summary,
    Tally,
    TaskDone,
    TaskFailed,
    TaskRetried,
    TileShrunk,
    WorkerLost,
)
from engine.runtime.graph import TaskPredicate, Wave, waves
from engine.storage.ledger import Ledger, State

N_NODES_PER_WAVE = 20_000
"""A quarter of a second of Dask's planning, and more blocks than any pool works on at once."""

SECONDS_BETWEEN_FLUSHES = 1.0
"""At most, however fast receipts come."""


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

    Raises:
        RunError: If no worker is left, or a worker found no space left to write.
        LedgerError: If the ledger cannot be stored.
    """
    began = time.monotonic()
    counts = ledger.counts()
    n_done_before = counts[State.DONE] + counts[State.SKIPPED]
    emit(RunStarted(graph.n_tasks, n_done_before, n_voxels))
    queue = _Queue(graph, ledger, chosen=chosen, shuffle_seed=shuffle_seed, wave_limit=wave_limit)
    loop = _Loop(queue, runner, ledger, emit, n_attempts=n_attempts)
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


class _Queue:
    """Which tasks are ready, which wait for others, and which come next."""

    def __init__(
        self,
        graph: BlockGraph,
        ledger: Ledger,
        *,
        chosen: TaskPredicate | None,
        shuffle_seed: int | None,
        wave_limit: int,
    ) -> None:
        self._graph = graph
        self._ledger = ledger
        self._waves = waves(graph, ledger.is_done, chosen=chosen, limit=wave_limit)
        self._random = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
        self._ready: list[tuple[int, int]] = []
        self._rank: dict[int, int] = {}
        """Of each waiting task, its place in the order."""
        self._n_unmet: dict[int, int] = {}
        """Of each waiting task, how many dependencies are not done yet."""
        self._open: set[int] = set()
        """Tasks that are ready, waiting, or in flight."""
        self._n_planned = 0

    def has_ready(self) -> bool:
        """Say whether a task is ready, planning further waves while none is."""
        while not self._ready:
            wave = next(self._waves, None)
            if wave is None:
                return False
            self._plan(wave)
        return True

    def next_task(self) -> int:
        """Return the ready task that comes first."""
        return heappop(self._ready)[1]

    def done(self, task: int) -> None:
        """Make ready what waited only for ``task``."""
        self._open.discard(task)
        for coarser in self._graph.dependents(task):
            if coarser not in self._n_unmet:
                continue
            self._n_unmet[coarser] -= 1
            if self._n_unmet[coarser] == 0:
                del self._n_unmet[coarser]
                heappush(self._ready, (self._rank.pop(coarser), coarser))

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
            heappush(self._ready, (rank, task))


@dataclass(frozen=True, slots=True)
class _Try:
    """One try of one task."""

    task: int
    attempt: int = 1
    n_charged: int = 0
    """Earlier tries that failed by the task's own doing."""
    is_alone: bool = False

    def after(self, failure: Failure) -> "_Try":
        """Return the try that follows this one's ``failure``."""
        is_death = failure.kind == "worker_died"
        n_charged = self.n_charged + (self.is_alone or not is_death)
        return replace(self, attempt=self.attempt + 1, n_charged=n_charged, is_alone=self.is_alone or is_death)


class _Loop:
    """What is in flight, and what each receipt leads to."""

    def __init__(self, queue: _Queue, runner: Runner, ledger: Ledger, emit: Listener, *, n_attempts: int) -> None:
        self.tally = Tally()
        self._queue = queue
        self._runner = runner
        self._ledger = ledger
        self._emit = emit
        self._n_attempts = n_attempts
        self._in_flight: dict[int, _Try] = {}
        self._again: deque[_Try] = deque()
        self._shrunk: dict[str, tuple[int, ...]] = {}
        """By worker: the smaller tile that it told of."""
        self._full: Receipt | None = None
        """The first receipt that found no space left: nothing is submitted after it."""

    def run(self) -> None:
        """Go on until nothing is in flight and nothing is ready."""
        flushed = time.monotonic()
        while not self._is_over():
            self._submit()
            is_idle = not self.take_what_is_there()
            if is_idle or time.monotonic() - flushed > SECONDS_BETWEEN_FLUSHES:
                self._ledger.flush()
                flushed = time.monotonic()
            if is_idle:
                receipt = self._runner.next_receipt(None)
                if receipt is not None:
                    self._settle(receipt)
        if self._full is not None and self._full.error is not None:
            raise RunError(
                f"no space left where task {self._full.task} was to be written: {self._full.error.message}. "
                "All that was done before is kept. Free some space, then resume."
            )

    def take_what_is_there(self) -> bool:
        """Settle the receipts that have come; True if there were any. Never waits."""
        n_taken = 0
        while (receipt := self._runner.next_receipt(0)) is not None:
            self._settle(receipt)
            n_taken += 1
        return n_taken > 0

    def _is_over(self) -> bool:
        """Say whether nothing is in flight and nothing can follow."""
        if self._in_flight:
            return False
        return self._full is not None or not (self._again or self._queue.has_ready())

    def _submit(self) -> None:
        """Fill the free slots; none once the disk is full."""
        if self._full is not None:
            return
        while self._runner.n_free > 0:
            if self._again:
                trial = self._again.popleft()
            elif self._queue.has_ready():
                trial = _Try(self._queue.next_task())
            else:
                return
            self._in_flight[trial.task] = trial
            self._runner.submit(trial.task, trial.attempt, is_alone=trial.is_alone)

    def _settle(self, receipt: Receipt) -> None:
        """Record what ``receipt`` says."""
        trial = self._in_flight.pop(receipt.task)
        shape = receipt.tile_shrunk_to
        if shape is not None and self._shrunk.get(receipt.worker) != shape:
            self._shrunk[receipt.worker] = shape
            self._emit(TileShrunk(receipt.worker, shape))
        if receipt.error is None:
            self._ledger.mark(receipt.task, State.SKIPPED if receipt.is_skipped else State.DONE)
            self.tally.add(receipt)
            self._queue.done(receipt.task)
            self._emit(TaskDone(receipt))
        elif receipt.error.kind == "no_space":
            self._full = self._full or receipt
            self._queue.drop(receipt.task)
        else:
            self._settle_failure(receipt, receipt.error, trial)

    def _settle_failure(self, receipt: Receipt, failure: Failure, trial: _Try) -> None:
        """Try again, or record the reason."""
        if failure.kind == "worker_died" and receipt.worker not in self.tally.lost:
            self.tally.lost.add(receipt.worker)
            self._emit(WorkerLost(receipt.worker, failure.message))
        following = trial.after(failure)
        if following.n_charged < self._n_attempts:
            self._again.append(following)
            self.tally.n_retried += 1
            self._emit(TaskRetried(receipt))
            return
        self._ledger.mark(receipt.task, State.FAILED, f"attempt {trial.attempt}: {failure.message}")
        self.tally.n_failed += 1
        self._queue.drop(receipt.task)
        self._emit(TaskFailed(receipt))
