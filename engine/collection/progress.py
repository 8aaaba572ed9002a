"""What the user sees of a collection: how many slides are done, how fast it goes, and the slides in work."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from engine.collection.job import FIRST_BLOCK, step_of
from engine.collection.queue import CollectionQueue, OpenSlide
from engine.collection.record import SlideRecord
from engine.runtime.events import Event, Listener, RunStarted, TaskDone, TaskFailed
from engine.runtime.progress import Counts, event_news

LONGEST_NAME = 28


class Watch:
    """Follows a collection; told of events by the loop, and of slides by the queue."""

    def __init__(self, console: Console, *, n_slides: int, seconds_between_lines: float = 5.0) -> None:
        self.console = console
        self.n_slides, self.n_done, self.n_failed = n_slides, 0, 0
        self._counts = Counts()
        self._counts.take(RunStarted(0, 0, 0))
        self._queue: CollectionQueue | None = None
        self._between = seconds_between_lines
        self._last = time.monotonic()

    def listen(self, queue: CollectionQueue) -> Listener:
        """Return the listener of a run over ``queue``."""
        self._queue = queue
        return self._take

    def settled(self, record: SlideRecord) -> None:
        """Count a slide that has come to its end, and say why if it failed."""
        self.n_done += record.status == "done"
        self.n_failed += record.status == "failed"
        if record.status == "failed":
            self.say(f"{record.id}: {record.code}: {record.reason}")

    @property
    def in_work(self) -> Sequence[OpenSlide]:
        """Slides that are open, in the order in which they were begun."""
        return tuple(self._queue.open.values()) if self._queue is not None else ()

    @property
    def line(self) -> str:
        """Speed, and what went wrong."""
        blocks, voxels = self._counts.rates
        parts = [f"{blocks:.1f} blocks/s", f"{voxels / 1e6:.2f} M voxels/s"]
        parts += [f"{self.n_failed} failed"] if self.n_failed else []
        return ", ".join(parts)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _take(self, event: Event) -> None:
        self._counts.take(event)
        if (news := self._news(event)) is not None:
            self.say(news)
        if isinstance(event, TaskDone) and not self.console.is_terminal:
            self._now_and_then()

    def _news(self, event: Event) -> str | None:
        """Return the line that an event is worth; what ends a slide is told with the slide."""
        if not isinstance(event, TaskFailed):
            return event_news(event)
        slide, step = step_of(event.receipt.task)
        if step < FIRST_BLOCK or event.receipt.error is None:
            return None
        names = [one.record.id for one in self.in_work if one.number == slide]
        return f"{names[0] if names else slide}: block {step - FIRST_BLOCK} failed: {event.receipt.error.message}"

    def _now_and_then(self) -> None:
        if time.monotonic() - self._last < self._between:
            return
        self._last = time.monotonic()
        slides = ", ".join(f"{s.record.id} {s.n_settled}/{s.n_blocks}" for s in self.in_work if s.n_blocks)
        self.say(f"{self.n_done + self.n_failed}/{self.n_slides} slides, {self.line}; in work: {slides}")


@contextmanager
def collection_progress(console: Console, *, n_slides: int) -> Iterator[Watch]:
    """Show a collection on ``console``: bars on a terminal, a plain line now and then elsewhere."""
    watch = Watch(console, n_slides=n_slides)
    if not console.is_terminal:
        yield watch
        return
    with Live(get_renderable=lambda: bars(watch), console=console, refresh_per_second=4, transient=True):
        yield watch


def bars(watch: Watch) -> Group:
    """Return a bar for all slides, and one for each in work."""
    whole = _progress("slides")
    done = watch.n_done + watch.n_failed
    whole.add_task("collection", total=watch.n_slides, completed=done, note=watch.line)
    each = _progress("blocks")
    for slide in watch.in_work:
        note = "opening" if not slide.n_blocks else "concluding" if slide.is_concluding else ""
        name = slide.record.id[:LONGEST_NAME]
        each.add_task(f"  {name}", total=slide.n_blocks or None, completed=slide.n_settled, note=note)
    return Group(whole, each)


def _progress(unit: str) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TextColumn("{task.fields[note]}"))
