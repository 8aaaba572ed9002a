"""Processes that each do one thing when told to, so that what is compared takes turns."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Took:
    """One turn."""

    seconds: float
    peak: int
    """Bytes of RSS that the process has held at most."""


class Child:
    """One contender, waiting for its turn in a process of its own."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.turns: list[Took] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", json.dumps(wanted)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip

    def turn(self) -> Took:
        """Let it do its thing once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender ended with {self._process.wait()}; what it said is above")
        self.turns.append(Took(**json.loads(line)))
        return self.turns[-1]

    @property
    def best(self) -> float:
        """Seconds of the fastest turn."""
        return min(turn.seconds for turn in self.turns)

    @property
    def peak(self) -> int:
        """Bytes at the most."""
        return self.turns[-1].peak

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Wait until it has saved what it found."""
        if error is not None:
            self._process.kill()
        self._process.communicate()
