"""Which step of which slide comes next: blocks of the slides that are open, largest first, and no worker idle.

    slide 0   open | block block block block . . . . . . . . | conclude
    slide 1                 open | . . . . block block block | conclude     takes the slots that slide 0 leaves
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.collection.job import CONCLUDE, FIRST_BLOCK, OPEN, TASKS_PER_SLIDE, step_of
from engine.collection.record import MEASURES, SlideRecord, code_of
from engine.errors import EngineError
from engine.plan_json import plan_from_json
from engine.runtime.schedule import N_NODES_PER_WAVE, BlockQueue
from engine.storage.ledger import Ledger, State
from engine.storage.output import open_output

BLOCKS_AHEAD = 2
"""Blocks per slot that are kept in sight: with fewer, the next slide is opened."""


@dataclass
class OpenSlide:
    """A slide that is being worked on."""

    number: int
    record: SlideRecord
    began: float
    ledger: Ledger | None = None
    blocks: BlockQueue | None = None
    n_blocks: int = 0
    n_settled: int = 0
    """Blocks of all levels that are done, skipped or given up, those of earlier calls included."""
    is_concluding: bool = False
    failures: list[str] = field(default_factory=list)

    @property
    def n_left(self) -> int:
        """Blocks of all levels that are not settled."""
        return self.n_blocks - self.n_settled


class CollectionQueue:
    """The steps of all slides, as a queue and as a record; see ``runtime/loop.py`` for both."""

    def __init__(
        self,
        records: Sequence[tuple[int, SlideRecord]],
        *,
        output: Callable[[int], str],
        n_slots: int,
        settled: Callable[[SlideRecord], None],
    ) -> None:
        """Take the slides that are to be done.

        Args:
            records: Number and record of each, largest first.
            output: Where the result of a slide goes.
            n_slots: Tasks that may be in flight at once.
            settled: Told the record of each slide that has come to its end.
        """
        self._waiting = list(reversed(records))
        self._output = output
        self._n_slots = n_slots
        self._settled = settled
        self.open: dict[int, OpenSlide] = {}
        """By number, those in work, in the order in which they were begun."""
        self._reasons: dict[int, str] = {}
        """Why slides could not be opened or concluded, by task."""

    def has_ready(self) -> bool:
        """Say whether a step can be started now."""
        return self._next() is not None

    def next_task(self, after: int | None) -> int:  # noqa: ARG002 - a slide's chunks are smaller than its blocks
        """Return the step that comes first, and begin it."""
        found = self._next()
        assert found is not None
        number, step = found
        if step == OPEN:
            number, record = self._waiting.pop()
            self.open[number] = OpenSlide(number, record, time.monotonic())
        slide = self.open[number]
        if step == CONCLUDE:
            slide.is_concluding = True
            assert slide.ledger is not None
            slide.ledger.flush()
        elif step == FIRST_BLOCK:
            assert slide.blocks is not None
            step += slide.blocks.next_task()
        return number * TASKS_PER_SLIDE + step

    def _next(self) -> tuple[int, int] | None:
        """Return the slide and the step (a block stands for all) that come first."""
        in_work = [slide for slide in self.open.values() if slide.blocks is not None and not slide.is_concluding]
        for slide in in_work:
            if slide.blocks is not None and slide.blocks.is_over():
                return slide.number, CONCLUDE
        is_opening = any(slide.blocks is None for slide in self.open.values())
        n_ahead = sum(slide.n_left for slide in in_work)
        ready = next((s for s in in_work if s.blocks is not None and s.blocks.has_ready()), None)
        if self._waiting and (ready is None or (n_ahead < BLOCKS_AHEAD * self._n_slots and not is_opening)):
            return self._waiting[-1][0], OPEN
        return (ready.number, FIRST_BLOCK) if ready is not None else None

    def done(self, task: int) -> None:
        """Take note that a step is done: what it opens can follow."""
        number, step = step_of(task)
        slide = self.open[number]
        if step == OPEN:
            self._begin(slide)
        elif step == CONCLUDE:
            self._end(slide)
        else:
            assert slide.blocks is not None
            slide.n_settled += 1
            slide.blocks.done(step - FIRST_BLOCK)

    def drop(self, task: int) -> None:
        """Give a step up: a slide that cannot be opened or concluded has failed, a block that fails leaves the rest."""
        number, step = step_of(task)
        slide = self.open[number]
        if step in (OPEN, CONCLUDE):
            reason = self._reasons.pop(task, None)
            if reason is None:  # there was no space, which is not the slide's fault: the next call goes on with it
                del self.open[number]
                return
            slide.failures.append(reason)
            self._end(slide)
        else:
            assert slide.blocks is not None
            slide.n_settled += 1
            slide.blocks.drop(step - FIRST_BLOCK)

    def mark(self, task: int, state: State, reason: str | None = None) -> None:
        """Note what became of a step; of a block, in the slide's own ledger."""
        number, step = step_of(task)
        slide = self.open[number]
        if reason is not None:
            reason = reason.partition(": ")[2] if reason.startswith("attempt ") else reason
        if step >= FIRST_BLOCK:
            assert slide.ledger is not None
            slide.ledger.mark(step - FIRST_BLOCK, state, reason)
            if reason is not None:
                slide.failures.append(reason)
        elif reason is not None:
            self._reasons[task] = reason

    def flush(self) -> None:
        """Store the ledgers of all slides in work."""
        for slide in self.open.values():
            if slide.ledger is not None:
                slide.ledger.flush()

    def _begin(self, slide: OpenSlide) -> None:
        """Queue the blocks of a slide that a worker has opened: its output says which are missing."""
        try:
            output = open_output(self._output(slide.number))
            graph = plan_from_json(output.provenance["plan"]).graph
            counts = output.ledger.counts()
        except EngineError as error:  # a damaged ledger is this slide's own
            slide.failures.append(f"{type(error).__name__}: {error}")
            self._end(slide)
            return
        slide.ledger = output.ledger
        slide.blocks = BlockQueue(graph, output.ledger, chosen=None, shuffle_seed=None, wave_limit=N_NODES_PER_WAVE)
        slide.n_blocks = graph.n_tasks
        slide.n_settled = counts[State.DONE] + counts[State.SKIPPED]

    def _measures(self, slide: OpenSlide) -> dict[str, Any]:
        """Return what was found on a slide, also where it then failed."""
        if slide.ledger is None:
            return {}
        try:
            return dict(open_output(self._output(slide.number)).provenance.get(MEASURES, {}))
        except EngineError as error:
            slide.failures.append(f"{type(error).__name__}: {error}")
            return {}

    def _end(self, slide: OpenSlide) -> None:
        """Settle a slide, and let go of it."""
        measures = self._measures(slide)
        del self.open[slide.number]
        reason = slide.failures[0] if slide.failures else ""
        if len(slide.failures) > 1:
            reason = f"{len(slide.failures)} of {slide.n_blocks} blocks failed, the first: {reason}"
        self._settled(
            replace(
                slide.record,
                status="failed" if slide.failures else "done",
                code=code_of(slide.failures[0]) if slide.failures else "",
                reason=reason,
                seconds=round(time.monotonic() - slide.began, 3),
                output=self._output(slide.number) if slide.ledger is not None else "",
                measures=measures,
            )
        )
