"""The plain loop: one worker in this process, the reference that the actors must equal."""

from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from engine.runtime.events import Failure, Receipt, Runner, Worker, WorkerFactory


class SerialRunner(Runner):
    """Runs tasks in this process: in the calling thread, or in a few threads so that stages overlap.

    It cannot protect the run from a worker that kills its process, so ``is_alone`` changes nothing.
    """

    def __init__(self, factory: WorkerFactory, *, n_in_flight: int = 1) -> None:
        self._worker = factory()
        self._n_slots = n_in_flight
        self._n_taken = 0
        self._last: int | None = None
        self._waiting: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self._finished: SimpleQueue[Receipt] = SimpleQueue()
        self._pool = ThreadPoolExecutor(n_in_flight, "block") if n_in_flight > 1 else None

    @property
    def n_slots(self) -> int:
        """Tasks that may be in flight in all."""
        return self._n_slots

    @property
    def n_free(self) -> int:
        """Tasks that can be submitted now."""
        return self._n_slots - self._n_taken

    @property
    def last_task(self) -> int | None:
        """The task that was submitted last."""
        return self._last

    def submit(self, task: int, attempt: int, *, is_alone: bool = False) -> None:  # noqa: ARG002 - a Runner takes it
        """Start ``task``; with one slot, :meth:`next_receipt` does it."""
        self._n_taken += 1
        self._last = task
        if self._pool is None:
            self._waiting.put((task, attempt))
        else:
            self._pool.submit(lambda: self._finished.put(run_safely(self._worker, task, attempt)))

    def next_receipt(self, timeout: float | None) -> Receipt | None:
        """Return the next receipt, or None after ``timeout`` seconds; 0 never computes."""
        try:
            receipt = self._next_from_pool(timeout) if self._pool is not None else self._next_in_thread(timeout)
        except Empty:
            return None
        self._n_taken -= 1
        return receipt

    def close(self) -> None:
        """Wait for the tasks under way, and drop the others; idempotent."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _next_from_pool(self, timeout: float | None) -> Receipt:
        return self._finished.get_nowait() if timeout == 0 else self._finished.get(timeout=timeout)

    def _next_in_thread(self, timeout: float | None) -> Receipt:
        if timeout == 0:
            raise Empty
        return run_safely(self._worker, *self._waiting.get_nowait())


def run_safely(worker: Worker, task: int, attempt: int) -> Receipt:
    """Return the receipt of one try, also where ``worker`` breaks its promise not to raise."""
    try:
        return worker.run(task, attempt)
    except Exception as error:  # noqa: BLE001 - the last rim: a defect in a worker must not end the run
        return Receipt(task, attempt, error=Failure.of(error))
