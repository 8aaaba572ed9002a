"""Faults by script: what goes wrong, at which task, at which attempt; and a worker that writes a diary."""

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.runtime.events import Failure, Receipt, Worker, WorkerFactory


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    task: int
    kind: Literal["raise", "kill", "sleep", "no_space", "out_of_memory"]
    attempts: tuple[int, ...] = ()
    """The attempts it strikes; all if empty."""
    seconds: float = 0.0
    """How long to sleep before it strikes, or at all."""


@dataclass(frozen=True)
class FaultyFactory:
    """Makes the inner factory's worker, wrapped in ``faults``."""

    inner: WorkerFactory
    faults: tuple[Fault, ...] = ()

    def __call__(self):
        return FaultyWorker(self.inner(), self.faults)


class FaultyWorker:
    """A worker to which ``faults`` happen before its own work."""

    def __init__(self, inner: Worker, faults: tuple[Fault, ...]) -> None:
        self._inner = inner
        self._faults = faults
        self.n_in_flight = inner.n_in_flight

    def run(self, task: int, attempt: int) -> Receipt:
        for fault in self._faults:
            if fault.task == task and (attempt in fault.attempts or not fault.attempts):
                try:
                    strike(fault)
                except (ValueError, OSError, MemoryError) as error:
                    return Receipt(task, attempt, error=Failure.of(error))
        return self._inner.run(task, attempt)


def strike(fault: Fault) -> None:
    """Do what ``fault`` says, in this process."""
    time.sleep(fault.seconds)
    match fault.kind:
        case "raise":
            raise ValueError(f"scripted fault\nin task {fault.task}")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "no_space":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "out_of_memory":
            raise MemoryError("scripted")


@dataclass(frozen=True)
class Diary:
    """A factory of workers that do nothing but write down when they start and end a task."""

    path: str
    seconds: float = 0.0

    def __call__(self):
        return self

    @property
    def n_in_flight(self):
        return 2

    def run(self, task: int, attempt: int) -> Receipt:
        self._write("start", task, attempt)
        time.sleep(self.seconds)
        self._write("end", task, attempt)
        return Receipt(task, attempt, n_voxels=10, n_bytes_read=2, n_bytes_written=3, peak_rss_bytes=7)

    def _write(self, what, task, attempt):
        with Path(self.path).open("a") as file:  # one short write in append mode is atomic
            file.write(f"{what} {task} {attempt} {os.getpid()}\n")

    def entries(self) -> list[tuple[str, int, int, int]]:
        """What was written: start or end, task, attempt, process."""
        path = Path(self.path)
        lines = path.read_text().splitlines() if path.exists() else []
        words = [line.split() for line in lines]
        return [(what, int(task), int(attempt), int(pid)) for what, task, attempt, pid in words]

    def ended(self) -> list[int]:
        """Tasks that came to their end, in that order."""
        return [task for what, task, _, _ in self.entries() if what == "end"]


@dataclass(frozen=True)
class Idle:
    """A factory of workers that do nothing at all."""

    def __call__(self):
        return self

    @property
    def n_in_flight(self):
        return 2

    def run(self, task: int, attempt: int) -> Receipt:
        return Receipt(task, attempt, n_voxels=1)


@dataclass(frozen=True)
class Stillborn:
    """A factory whose worker cannot be made."""

    message: str = "weights.safetensors: no such file"

    def __call__(self):
        raise FileNotFoundError(self.message)


@dataclass(frozen=True)
class Killer:
    """A factory that kills the process that calls it, as a library that crashes while it is loaded."""

    def __call__(self):
        os.kill(os.getpid(), signal.SIGKILL)
