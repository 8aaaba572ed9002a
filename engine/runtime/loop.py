"""What is in flight, and what each receipt leads to: taken, tried again, or recorded as failed."""

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from engine.errors import RunError
from engine.runtime.events import (
    Failure,
    Listener,
    Receipt,
    Runner,
    Tally,
    TaskDone,
    TaskFailed,
    TaskRetried,
    TileShrunk,
    WorkerLost,
)
from engine.storage.ledger import State

SECONDS_BETWEEN_FLUSHES = 1.0
"""At most, however fast receipts come."""


class TaskQueue(Protocol):
    """Says which task comes next."""

    def has_ready(self) -> bool:
        """Say whether a task can be started now."""

    def next_task(self, after: int | None) -> int:
        """Return the ready task that comes first for a worker whose last one was ``after``."""

    def done(self, task: int) -> None:
        """Make ready what waited only for ``task``."""

    def drop(self, task: int) -> None:
        """Forget ``task``, and what waits for it."""


class TaskRecord(Protocol):
    """Keeps what became of tasks."""

    def mark(self, task: int, state: State, reason: str | None = None) -> None:
        """Note what became of ``task``, and why if it failed."""

    def flush(self) -> None:
        """Store all marks."""


@dataclass(frozen=True, slots=True)
class Try:
    """One try of one task."""

    task: int
    attempt: int = 1
    n_charged: int = 0
    """Earlier tries that failed by the task's own doing."""
    is_alone: bool = False

    def after(self, failure: Failure) -> "Try":
        """Return the try that follows this one's ``failure``."""
        is_death = failure.kind == "worker_died"
        n_charged = self.n_charged + (self.is_alone or not is_death)
        return replace(self, attempt=self.attempt + 1, n_charged=n_charged, is_alone=self.is_alone or is_death)


class Loop:
    """What is in flight, and what each receipt leads to."""

    def __init__(
        self, queue: TaskQueue, runner: Runner, ledger: TaskRecord, emit: Listener, *, n_attempts: int
    ) -> None:
        self.tally = Tally()
        self._queue = queue
        self._runner = runner
        self._ledger = ledger
        self._emit = emit
        self._n_attempts = n_attempts
        self._in_flight: dict[int, Try] = {}
        self._again: deque[Try] = deque()
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
                trial = Try(self._queue.next_task(self._runner.last_task))
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

    def _settle_failure(self, receipt: Receipt, failure: Failure, trial: Try) -> None:
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
