"""What happened, as small frozen facts: a receipt per try, an event per change, a summary per run."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

FailureKind = Literal["raised", "worker_died", "out_of_memory", "no_space"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a try of a task did not succeed."""

    kind: FailureKind
    """``worker_died`` casts suspicion on the tasks that shared the worker; ``no_space`` stops the run."""

    message: str
    """One line."""

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Return what ``error``, or the first cause of it that we know, means for the run."""
        kinds = [_kind_of(link) for link in _chain(error)]
        kind: FailureKind = next((k for k in kinds if k != "raised"), "raised")
        return cls(kind, one_line(f"{type(error).__name__}: {error}"))


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker hands back for one try of one task: facts, never voxels."""

    task: int
    attempt: int
    """1 for the first try."""
    worker: str = ""
    """Who ran it; the runner fills it in. A replaced worker has another name."""
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0
    n_voxels: int = 0
    """Output voxels stored."""
    n_tiles: int = 0
    """Tiles computed: fewer than a block has where some of it is not wanted."""
    n_bytes_read: int = 0
    n_bytes_written: int = 0
    peak_rss_bytes: int = 0
    error: Failure | None = None
    is_skipped: bool = False
    """The block holds only background: nothing was computed, and the ledger says so."""
    tile_shrunk_to: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


class Worker(Protocol):
    """Whoever does one task at a time, or a few at once.

    ``run`` never raises: an error is part of its receipt. It is called from up to
    ``n_in_flight`` threads at once, and overlaps reading, computing and writing between them.
    """

    @property
    def n_in_flight(self) -> int:
        """Calls that make sense at once."""

    def run(self, task: int, attempt: int) -> Receipt:
        """Do ``task``; idempotent, so that a repeated try writes the same bits."""


WorkerFactory = Callable[[], Worker]
"""Picklable, without arguments; called once in each worker's own process."""


class Runner(Protocol):
    """Takes task numbers, hands back receipts, in any order."""

    @property
    def n_slots(self) -> int:
        """Tasks that may be in flight in all when every worker is up."""

    @property
    def n_free(self) -> int:
        """Tasks that can be submitted now."""

    @property
    def last_task(self) -> int | None:
        """The task that was submitted last to the worker that the next one goes to, where that matters."""
        return None

    def submit(self, task: int, attempt: int, *, is_alone: bool = False) -> None:
        """Start ``task``, with nothing beside it on its worker if ``is_alone``.

        Only call while ``n_free`` is positive. A task that failed goes to another worker if one is free.
        """

    def next_receipt(self, timeout: float | None) -> Receipt | None:
        """Return the next receipt, waiting up to ``timeout`` seconds, or for ever if None.

        None means that the time is up or that ``n_free`` has changed. With 0, it only takes what is there.

        Raises:
            RunError: If no worker is left and none can be started.
        """

    def close(self) -> None:
        """Stop the workers, whatever they do; idempotent."""

    def __enter__(self) -> Self:
        """Return the runner itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first event of a run."""

    n_tasks: int
    n_done_before: int
    """Tasks done or skipped by earlier runs."""
    n_voxels: int
    """Output voxels of all tasks, 0 where unknown."""


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task is stored (or skipped); its receipt has no error."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class TaskRetried:
    """A try failed, and another follows."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The last try failed: the ledger holds the reason, and what depends on the task stays pending."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died, and is being replaced."""

    worker: str
    message: str


@dataclass(frozen=True, slots=True)
class TileShrunk:
    """A worker ran out of memory, and goes on with smaller tiles."""

    worker: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers."""

    n_tasks: int
    n_done_before: int
    n_done: int
    """Tasks that this run stored."""
    n_skipped: int
    n_failed: int
    n_retried: int
    n_workers_lost: int
    n_voxels: int
    n_tiles: int
    """Tiles that this run computed."""
    n_bytes_read: int
    n_bytes_written: int
    read_seconds: float
    compute_seconds: float
    write_seconds: float
    """Stage seconds are summed over workers: with overlap they exceed ``seconds``."""
    peak_rss_bytes: int
    """Of the largest worker."""
    seconds: float
    """Wall time."""

    @property
    def n_pending(self) -> int:
        """Tasks that are neither done, skipped nor failed: not chosen, or waiting for a failed one."""
        return self.n_tasks - self.n_done_before - self.n_done - self.n_skipped - self.n_failed

    @property
    def is_complete(self) -> bool:
        """Say whether every task is done or skipped."""
        return self.n_pending == 0 and self.n_failed == 0


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last event of a run, also of one that was stopped."""

    summary: Summary


Event = RunStarted | TaskDone | TaskRetried | TaskFailed | WorkerLost | TileShrunk | RunFinished
Listener = Callable[[Event], None]


def to_all(*listeners: Listener) -> Listener:
    """Return a listener that hands each event to all of ``listeners``, in order."""

    def emit(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return emit


@dataclass
class Tally:
    """The running sum of a run's receipts."""

    n_done: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    n_retried: int = 0
    lost: set[str] = field(default_factory=set)
    n_voxels: int = 0
    n_tiles: int = 0
    n_bytes_read: int = 0
    n_bytes_written: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0
    peak_rss_bytes: int = 0

    def add(self, receipt: Receipt) -> None:
        """Count a task that is done or skipped."""
        self.n_skipped += receipt.is_skipped
        self.n_done += not receipt.is_skipped
        self.n_voxels += receipt.n_voxels
        self.n_tiles += receipt.n_tiles
        self.n_bytes_read += receipt.n_bytes_read
        self.n_bytes_written += receipt.n_bytes_written
        self.read_seconds += receipt.read_seconds
        self.compute_seconds += receipt.compute_seconds
        self.write_seconds += receipt.write_seconds
        self.peak_rss_bytes = max(self.peak_rss_bytes, receipt.peak_rss_bytes)

    def summary(self, *, n_tasks: int, n_done_before: int, seconds: float) -> Summary:
        """Return the sum so far, as a fact."""
        sums = {name: value for name, value in vars(self).items() if name != "lost"}
        return Summary(
            n_tasks=n_tasks, n_done_before=n_done_before, n_workers_lost=len(self.lost), seconds=seconds, **sums
        )


def one_line(text: str, *, n_characters: int = 400) -> str:
    r"""Return ``text`` on one line, cut at ``n_characters``.

    >>> one_line(" no such chunk:\n  c/0/1 ")
    'no such chunk: c/0/1'
    """
    line = " ".join(text.split())
    return line if len(line) <= n_characters else line[: n_characters - 1] + "…"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _kind_of(error: BaseException) -> FailureKind:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no_space"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without torch
        return "out_of_memory"
    return "raised"
