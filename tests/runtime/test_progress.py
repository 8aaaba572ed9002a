"""A run is shown as a bar on a terminal, as plain lines elsewhere, and summed up in one line."""

import io

from rich.console import Console

from engine.runtime.events import (
    Failure,
    Receipt,
    RunFinished,
    RunStarted,
    Tally,
    TaskDone,
    TaskFailed,
    TaskRetried,
    TileShrunk,
    WorkerLost,
    to_all,
)
from engine.runtime.progress import progress


def _tell(listener):
    """A run of three tasks, with a loss."""
    tally = Tally(n_failed=1, n_retried=1, lost={"0.1"})
    listener(RunStarted(4, 1, 100))
    for task in (0, 1):
        receipt = Receipt(task, 1, n_voxels=1_500_000)
        tally.add(receipt)
        listener(TaskDone(receipt))
    bad = Receipt(2, 3, error=Failure("raised", "ValueError: [red]no such chunk[/red]"))
    listener(WorkerLost("0.1", "killed"))
    listener(TileShrunk("0.2", (64, 64)))
    listener(TaskRetried(bad))
    listener(TaskFailed(bad))
    listener(RunFinished(tally.summary(n_tasks=4, n_done_before=1, seconds=2.0)))


def test_without_a_terminal_lines_are_plain():
    out = io.StringIO()
    with progress(Console(file=out, width=40), seconds_between_lines=0) as listener:
        _tell(listener)
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert "2/4 blocks, " in lines[1]
    assert "voxels/s" in lines[1]
    assert "block 2 failed at attempt 3: ValueError: [red]no such chunk[/red]" in lines
    assert lines[-1] == (
        "3/4 blocks done, 1 of them before, 1 failed, 1 retried, 1 workers lost, 3 M voxels in 2.0 s, 1.5 M/s"
    )


def test_on_a_terminal_a_bar_is_drawn_and_removed_and_the_summary_stays():
    out = io.StringIO()
    seen = []
    console = Console(file=out, width=120, force_terminal=True)
    with progress(console) as listener:
        _tell(to_all(listener, seen.append))
    text = out.getvalue()
    assert "\x1b[?25h" in text  # the cursor is shown again
    assert "3/4 blocks done" in text
    assert len(seen) == 8
