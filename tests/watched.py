"""A real worker that writes a diary: when it starts and ends a block, and when it is in the middle of one."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from engine.factory import BlockWorkerFactory
from engine.runtime.events import Receipt


@dataclass(frozen=True)
class Watched:
    """Makes the inner factory's worker; every block pauses in mid-computation, and says so."""

    inner: BlockWorkerFactory
    diary: str
    seconds: float

    def __call__(self):
        return WatchedWorker(self.inner(), Path(self.diary), self.seconds)


class WatchedWorker:
    def __init__(self, worker, diary: Path, seconds: float) -> None:
        self._worker, self._diary, self._seconds = worker, diary, seconds
        self.n_in_flight = worker.n_in_flight
        self._forward_run = worker.forward.run
        worker.forward.run = self._pausing

    def run(self, task: int, attempt: int) -> Receipt:
        self._note("start", task)
        receipt = self._worker.run(task, attempt)
        self._note("end" if receipt.error is None else "error", task)
        return receipt

    def _pausing(self, *arguments):
        results = self._forward_run(*arguments)
        self._note("middle", -1)
        time.sleep(self._seconds)
        return results

    def _note(self, what: str, task: int) -> None:
        with self._diary.open("a") as file:  # one short write in append mode is atomic
            file.write(f"{what} {task} {os.getpid()}\n")


def entries(diary: str | Path) -> list[tuple[str, int, int]]:
    """Return what a diary holds: start, middle or end, task, process."""
    path = Path(diary)
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(what, int(task), int(pid)) for what, task, pid in words if what and task and pid]
