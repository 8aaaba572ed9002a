"""What the user sees of a run: a bar on a terminal, a plain line now and then elsewhere."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engine.runtime.events import (
    Event,
    Listener,
    RunFinished,
    RunStarted,
    Summary,
    TaskDone,
    TaskFailed,
    TaskRetried,
    TileShrunk,
    WorkerLost,
)

SECONDS_OF_WINDOW = 30
"""Rates are means over this."""


@contextmanager
def progress(console: Console | None = None, *, seconds_between_lines: float = 5.0) -> Iterator[Listener]:
    """Give a listener that shows a run on ``console``, and leave the terminal as it was.

    Args:
        console: Where to show it; standard error if None.
        seconds_between_lines: How often a line is printed where there is no terminal.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, seconds_between_lines)
        return
    bar = _Bar(console)
    with bar.display:
        yield bar


class Counts:
    """How far a run is, and how fast it goes."""

    def __init__(self) -> None:
        self.n_tasks = 0
        self.n_done = 0
        self.n_failed = 0
        self.n_retried = 0
        self._seconds: deque[tuple[int, int, int]] = deque()
        """Per recent second of the clock: the second, tasks, voxels."""
        self._began = time.monotonic()

    def take(self, event: Event) -> None:
        """Count ``event``."""
        match event:
            case RunStarted():
                self.n_tasks, self.n_done = event.n_tasks, event.n_done_before
                self._began = time.monotonic()
            case TaskDone():
                self.n_done += 1
                self._tick(event.receipt.n_voxels)
            case TaskRetried():
                self.n_retried += 1
            case TaskFailed():
                self.n_failed += 1

    @property
    def rates(self) -> tuple[float, float]:
        """Tasks and voxels per second, of late."""
        now = time.monotonic()
        self._forget(int(now))
        if not self._seconds:
            return 0.0, 0.0
        span = max(now - max(self._began, float(self._seconds[0][0])), 0.1)
        return sum(s[1] for s in self._seconds) / span, sum(s[2] for s in self._seconds) / span

    @property
    def line(self) -> str:
        """Speed, time left, and what went wrong."""
        tasks_per_second, voxels_per_second = self.rates
        left = (self.n_tasks - self.n_done - self.n_failed) / tasks_per_second if tasks_per_second else None
        parts = [f"{_short(voxels_per_second)} voxels/s", f"{_clock(left)} left"]
        if self.n_failed:
            parts.append(f"{self.n_failed} failed")
        if self.n_retried:
            parts.append(f"{self.n_retried} retried")
        return ", ".join(parts)

    def _tick(self, n_voxels: int) -> None:
        second = int(time.monotonic())
        n_tasks = 0
        if self._seconds and self._seconds[-1][0] == second:
            _, n_tasks, before = self._seconds.pop()
            n_voxels += before
        self._seconds.append((second, n_tasks + 1, n_voxels))
        self._forget(second)

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] < second - SECONDS_OF_WINDOW:
            self._seconds.popleft()


class _Lines:
    """A plain line every few seconds: for log files and pipes."""

    def __init__(self, console: Console, seconds_between: float) -> None:
        self._console = console
        self._seconds_between = seconds_between
        self._counts = Counts()
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        self._counts.take(event)
        news = event_news(event)
        if news is not None:
            self._print(news)
        elif time.monotonic() - self._last >= self._seconds_between:
            self._last = time.monotonic()
            counts = self._counts
            self._print(f"{counts.n_done}/{counts.n_tasks} blocks, {counts.line}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Bar:
    """A live bar; what must stay readable is printed above it."""

    def __init__(self, console: Console) -> None:
        self._counts = Counts()
        columns = (BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TextColumn("blocks  {task.fields[line]}"))
        self.display = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, refresh_per_second=4)
        self._bar = self.display.add_task("blocks", total=None, line="")
        self._next_update = 0.0

    def __call__(self, event: Event) -> None:
        self._counts.take(event)
        news = event_news(event)
        if news is not None:
            self.display.console.print(news, markup=False, highlight=False)
        now = time.monotonic()
        if now >= self._next_update or isinstance(event, RunFinished):
            self._next_update = now + 0.1
            counts = self._counts
            self.display.update(self._bar, total=counts.n_tasks, completed=counts.n_done, line=counts.line)


def event_news(event: Event) -> str | None:
    """Return the line that ``event`` is worth in a log, if any."""
    match event:
        case TaskFailed() if event.receipt.error is not None:
            receipt = event.receipt
            return f"block {receipt.task} failed at attempt {receipt.attempt}: {event.receipt.error.message}"
        case WorkerLost():
            return f"worker {event.worker} died and is replaced; its blocks are tried again: {event.message}"
        case TileShrunk():
            return f"worker {event.worker} ran out of memory, goes on with tiles of {event.shape}"
        case RunFinished():
            return summary_line(event.summary)
    return None


def summary_line(summary: Summary) -> str:
    """Return a finished run on one line."""
    n_new = summary.n_done + summary.n_skipped
    speed = summary.n_voxels / summary.seconds if summary.seconds else 0.0
    parts = [f"{n_new + summary.n_done_before}/{summary.n_tasks} blocks done"]
    if summary.n_done_before:
        parts.append(f"{summary.n_done_before} of them before")
    numbers = {"skipped": summary.n_skipped, "failed": summary.n_failed, "pending": summary.n_pending}
    numbers |= {"retried": summary.n_retried, "workers lost": summary.n_workers_lost}
    parts += [f"{n} {name}" for name, n in numbers.items() if n]
    parts.append(f"{_short(summary.n_voxels)} voxels in {_clock(summary.seconds)}, {_short(speed)}/s")
    return ", ".join(parts)


def _short(number: float) -> str:
    """Return ``number`` with three digits and a metric prefix.

    >>> _short(1_234_567), _short(12)
    ('1.23 M', '12')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.3g}"


def _clock(seconds: float | None) -> str:
    """Return a duration as people say it.

    >>> _clock(3_725), _clock(59.6), _clock(3.21), _clock(None)
    ('1:02:05', '1:00', '3.2 s', '?')
    """
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
