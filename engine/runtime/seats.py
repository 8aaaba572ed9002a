"""Places in the pool: which actor sits where, what it is doing, and who has to wait."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from engine.errors import RunError

Patience = Callable[[int], float]
"""Seconds after which a task, by its number, is given up for want of an answer."""


@dataclass(eq=False)
class Seat:
    """A place for one actor; when the actor dies another takes the place."""

    number: int
    actor: Any = None
    life: int = 0
    """Actors that have sat here, the present one included."""
    is_up: bool = False
    n_failed_starts: int = 0
    calls: dict[int, float] = field(default_factory=dict)
    """Tasks in flight on the present actor, and when each was handed over."""
    last: int | None = None
    """The task that was handed last to the present actor."""
    alone: tuple[int, int] | None = None
    """Task and attempt that wait for the calls to end, to be run with nothing beside them."""
    is_reserved: bool = False
    """A task that must be alone waits here, or runs."""

    @property
    def name(self) -> str:
        """Name of the present actor."""
        return f"{self.number}.{self.life}"

    def overdue(self, patience: Patience) -> float | None:
        """Return the longest patience with a task in flight, in seconds, if the oldest has had no answer for longer.

        The longest, for what waits behind a slow task is no slower itself.
        """
        if not self.calls:
            return None
        limit = max(map(patience, self.calls))
        return limit if time.monotonic() - min(self.calls.values()) > limit else None

    def settle(self, task: int, patience: Patience | None) -> None:
        """Take a task off; those of less patience, which may have waited for it, begin anew."""
        if self.calls.pop(task, None) is None or patience is None:
            return
        limit, now = patience(task), time.monotonic()
        self.calls = {other: now if patience(other) < limit else began for other, began in self.calls.items()}

    def n_free(self, n_in_flight: int) -> int:
        """Return how many calls, of ``n_in_flight`` at once, can be made now."""
        return max(0, n_in_flight - len(self.calls)) if self.is_up and not self.is_reserved else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished call of an actor."""

    seat: Seat
    life: int
    task: int | None
    """None for the call that starts the worker."""
    attempt: int
    future: "Future[Any]"


def check_fit(n_workers: int, there: dict[str, float], *, cpus: float, gpus: float) -> None:
    """Refuse workers that a Ray with the resources ``there`` could never start.

    Raises:
        RunError: If they need more than there is.
    """
    for name, needed in (("CPU", n_workers * cpus), ("GPU", n_workers * gpus)):
        if needed > there.get(name, 0.0):
            raise RunError(
                f"{n_workers} workers need {needed:g} {name}s, and Ray has {there.get(name, 0.0):g}. "
                f"Ask for fewer workers, or for fewer {name}s per worker."
            )
