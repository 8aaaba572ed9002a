"""Ray runs: a pool of actors, each holding a worker, replaced when it dies."""

import logging
import math
import os
import time
from concurrent.futures import Future
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from engine.errors import RunError
from engine.runtime.cluster import connect
from engine.runtime.events import Failure, Receipt, Runner, Worker, WorkerFactory, one_line
from engine.runtime.seats import Outcome, Patience, Seat, check_fit
from engine.runtime.serial import run_safely

logger = logging.getLogger(__name__)
N_START_ATTEMPTS = 3
SECONDS_BEFORE_WARNING = 30.0
SECONDS_BETWEEN_LOOKS = 1.0
"""At workers that may not answer, where there is a limit to patience."""
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""Of an actor's process: Ray has started its threads before the engine is imported; see ``engine/process.py``."""


class _Host:
    """What runs in an actor's process: the worker, made there."""

    def __init__(self, factory: WorkerFactory) -> None:
        self._factory = factory
        self._worker: Worker | None = None

    def start(self) -> int:
        """Make the worker, and return the process id; raises what the factory raises."""
        self._worker = self._factory()
        return os.getpid()

    def run(self, task: int, attempt: int) -> Receipt:
        """Do one task."""
        assert self._worker is not None
        return run_safely(self._worker, task, attempt)


class RayRunner(Runner):
    """Runs tasks on a pool of Ray actors, up to ``n_in_flight`` at once on each.

    An actor that dies hands its tasks back as receipts of the kind ``worker_died``, and is replaced by a new one
    (not restarted by Ray: a worker that cannot start is seen, and given up after three times).
    """

    def __init__(
        self,
        factory: WorkerFactory,
        *,
        n_workers: int,
        n_cpus_per_worker: float = 1,
        n_gpus_per_worker: float = 0,
        n_in_flight: int = 2,
        address: str | None = None,
        n_cpus: int | None = None,
        patience: Patience | None = None,
        is_debug: bool = False,
    ) -> None:
        """Start the actors, and wait until the first is up.

        Args:
            factory: Makes the worker, in the actor's process.
            n_workers: Actors.
            n_cpus_per_worker: CPUs that each reserves.
            n_gpus_per_worker: GPUs that each reserves.
            n_in_flight: Tasks at once on one actor; 2 let its stages overlap.
            address: The cluster to join; None for this process's Ray, or else a local one that ends with this runner.
            n_cpus: CPUs of a local Ray; what the workers need if None.
            patience: By task, seconds after which no answer takes its worker with it; no limit if None.
            is_debug: Whether Ray and the workers may write to the terminal.

        Raises:
            RunError: If there is no Ray, the workers do not fit in it, or none can start.
        """
        needed_cpus = max(1, math.ceil(n_workers * n_cpus_per_worker))
        self._owns_ray = connect(address, n_cpus=n_cpus or needed_cpus, is_debug=is_debug)
        self._n_in_flight = n_in_flight
        self._patience = patience
        self._ended: dict[str, str] = {}
        """By worker that was stopped for want of an answer: what to say of it."""
        self._finished: SimpleQueue[Outcome] = SimpleQueue()
        self._failed_on: dict[int, int] = {}
        """By task: the seat of its last failure."""
        self._seats = [Seat(number) for number in range(n_workers)]
        self._options = {
            "num_cpus": n_cpus_per_worker,
            "num_gpus": n_gpus_per_worker,
            "max_concurrency": n_in_flight,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": ENVIRONMENT},
        }
        try:
            if address is None:
                there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
                check_fit(n_workers, there, cpus=n_cpus_per_worker, gpus=n_gpus_per_worker)
            self._factory_ref = ray.put(factory)
            for seat in self._seats:
                self._fill(seat)
            self._wait_for_first()
        except BaseException:
            self.close()
            raise

    @property
    def n_slots(self) -> int:
        """Tasks that may be in flight in all when every worker is up."""
        return len(self._seats) * self._n_in_flight

    @property
    def n_free(self) -> int:
        """Tasks that can be submitted now."""
        return sum(seat.n_free(self._n_in_flight) for seat in self._seats)

    @property
    def last_task(self) -> int | None:
        """The task that was submitted last to the worker that the next one goes to."""
        return self._next_seat(None).last

    def submit(self, task: int, attempt: int, *, is_alone: bool = False) -> None:
        """Start ``task``; one that failed rather waits in line on another worker than go where it failed."""
        seat = self._next_seat(self._failed_on.get(task))
        if is_alone:
            seat.is_reserved = True
        if is_alone and seat.calls:
            seat.alone = (task, attempt)
        else:
            self._call(seat, task, attempt)

    def next_receipt(self, timeout: float | None) -> Receipt | None:
        """Return the next receipt, or None if the time is up or ``n_free`` has changed; see ``Runner``.

        Raises:
            RunError: If no worker is left and none can be started.
        """
        if self._patience is not None:
            self._end_overdue(self._patience)
            timeout = SECONDS_BETWEEN_LOOKS if timeout is None else min(timeout, SECONDS_BETWEEN_LOOKS)
        try:
            outcome = self._finished.get_nowait() if timeout == 0 else self._finished.get(timeout=timeout)
        except Empty:
            return None
        if outcome.task is not None:
            return self._settle_call(outcome, outcome.task)
        self._settle_start(outcome)
        return None

    def close(self) -> None:
        """Kill the actors, and the local Ray if this runner started it; idempotent."""
        if not ray.is_initialized():
            return
        for seat in self._seats:
            if seat.actor is not None:
                ray.kill(seat.actor, no_restart=True)
                seat.actor, seat.is_up = None, False
        if self._owns_ray:
            self._owns_ray = False
            ray.shutdown()

    def _next_seat(self, avoid: int | None) -> Seat:
        open_seats = (seat for seat in self._seats if seat.is_up and not seat.is_reserved)
        return min(open_seats, key=lambda s: (s.number == avoid, len(s.calls), s.number))

    def _end_overdue(self, patience: Patience) -> None:
        """Kill the workers whose oldest task has had no answer for too long: their calls then come back as deaths."""
        for seat in self._seats:
            limit = seat.overdue(patience) if seat.is_up and seat.name not in self._ended else None
            if limit is not None:
                self._ended[seat.name] = f"a task had no answer after {limit:g} s, and its worker was stopped"
                ray.kill(seat.actor, no_restart=True)

    def _fill(self, seat: Seat) -> None:
        """Put a new actor in ``seat``, the old one surely dead; its start ends up among the outcomes."""
        if seat.actor is not None:
            ray.kill(seat.actor, no_restart=True)
        seat.actor = ray.remote(_Host).options(**self._options).remote(self._factory_ref)
        seat.life += 1
        seat.is_up = False
        seat.calls, seat.last = {}, None
        self._await(seat, None, 0, seat.actor.start.remote())

    def _call(self, seat: Seat, task: int, attempt: int) -> None:
        seat.calls[task], seat.last = time.monotonic(), task
        self._await(seat, task, attempt, seat.actor.run.remote(task, attempt))

    def _await(self, seat: Seat, task: int | None, attempt: int, call: Any) -> None:  # noqa: ANN401 - an ObjectRef
        """Queue the outcome of ``call`` when it comes."""
        life = seat.life
        future = call.future()
        future.add_done_callback(lambda done: self._finished.put(Outcome(seat, life, task, attempt, done)))

    def _settle_call(self, outcome: Outcome, task: int) -> Receipt:
        """Turn a finished call into a receipt; replace its actor if that is dead."""
        seat, error = outcome.seat, outcome.future.exception()
        why = self._ended.get(f"{seat.number}.{outcome.life}") if error is not None else None
        is_dead = isinstance(error, RayError) and not isinstance(error, RayTaskError)
        if seat.life == outcome.life:
            seat.settle(task, self._patience)
            if is_dead:
                self._fill(seat)
            self._release(seat)
        name = f"{seat.number}.{outcome.life}"
        if error is None:
            self._failed_on.pop(task, None)
            done: Receipt = outcome.future.result()
            receipt = replace(done, worker=name)
        else:
            failure = Failure("worker_died", why or _why_dead(error)) if is_dead else Failure.of(_cause(error))
            receipt = Receipt(task, outcome.attempt, name, error=failure)
        if receipt.error is not None:
            self._failed_on[task] = seat.number
        return receipt

    def _release(self, seat: Seat) -> None:
        """Start the task that waits to be alone, or end the reservation, once no call is left."""
        if seat.calls or not seat.is_reserved:
            return
        if seat.alone is None:
            seat.is_reserved = False
        elif seat.is_up:
            (task, attempt), seat.alone = seat.alone, None
            self._call(seat, task, attempt)

    def _settle_start(self, outcome: Outcome) -> None:
        """Open the seat whose worker is up, or try again, or give the seat up."""
        seat, error = outcome.seat, outcome.future.exception()
        if error is None:
            seat.is_up = True
            seat.n_failed_starts = 0
            self._release(seat)
            return
        seat.n_failed_starts += 1
        is_hopeless = isinstance(error, RayTaskError) and not any(s.is_up or s.life > 1 for s in self._seats)
        if is_hopeless or seat.n_failed_starts >= N_START_ATTEMPTS:
            self._give_up(seat, error)
        else:
            logger.warning("worker %s could not start, and is replaced: %s", seat.name, _why(error))
            self._fill(seat)

    def _give_up(self, seat: Seat, error: BaseException) -> None:
        """Go on without ``seat``, or end the run if it was the last."""
        self._seats.remove(seat)
        ray.kill(seat.actor, no_restart=True)
        if not self._seats:
            message = (
                f"no worker could be started: {_why(error)}. The model must load, and fit, where the workers run. "
                "Try it here with the serial runner."
            )
            raise RunError(message) from error
        logger.warning("worker %s is given up, %d remain: %s", seat.name, len(self._seats), _why(error))
        if seat.alone is not None:
            lost: Future[Any] = Future()
            lost.set_exception(error)
            self._finished.put(Outcome(seat, 0, *seat.alone, lost))

    def _wait_for_first(self) -> None:
        """Wait until a worker is up; say so while a cluster has no room."""
        while not any(seat.is_up for seat in self._seats):
            try:
                self._settle_start(self._finished.get(timeout=SECONDS_BEFORE_WARNING))
            except Empty:
                logger.warning("no worker is up yet: the cluster may be short of %s", self._options)


def _cause(error: BaseException) -> BaseException:
    """Return what was raised in the actor."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _why(error: BaseException) -> str:
    """Return one line on why an actor did not start."""
    return Failure.of(_cause(error)).message if isinstance(error, RayTaskError) else _why_dead(error)


def _why_dead(error: BaseException) -> str:
    """Return one line on a dead actor: what Ray says after its table of ids."""
    _, mark, detail = str(error).partition("The actor is dead because")
    return one_line(f"{type(error).__name__}: {mark}{detail or error}", n_characters=300)
