"""What all jobs do alike: they tell their stages and how long each took, and an error in one line.

    main: answer(show, asked) > show: Clock.stage("a slide") ... > print_rows(...)
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path

from rich.console import Console

from engine.errors import EngineError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real volumes and trained networks, where there are any: beside the repository."""

Row = tuple[str, str]
"""What, and how much."""

console = Console()


@dataclass
class Clock:
    """Seconds per stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say that a stage begins, and note how long it took."""
        console.print(f"\n[bold]{len(self.seconds) + 1}. {name}[/bold]")
        begin = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begin

    @property
    def told(self) -> str:
        """The stages and their sum, in a line."""
        parts = [f"{name.split(':')[0].split(',')[0]} {seconds:.1f}" for name, seconds in self.seconds.items()]
        return f"{', '.join(parts)}; in all {sum(self.seconds.values()):.1f}"


def answer(show: Callable[[argparse.Namespace], object], asked: argparse.Namespace) -> int:
    """Do what was asked for in the folder ``asked.output``; return the exit code, and tell an error in one line."""
    asked.output.mkdir(parents=True, exist_ok=True)
    try:
        show(asked)
    except EngineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def emptied(path: Path) -> Path:
    """Return the path, with what a former run left there removed."""
    if path.is_dir():
        console.print(f"the former {near(path)} is replaced", markup=False)
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def near(path: Path) -> str:
    """Return a path as one would type it here."""
    short = relpath(path)
    return str(path.absolute()) if short.startswith("..") else short
