"""The command line as tests call it: in this process, or in one of its own."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine import cli

KIND = re.compile(r"[A-Z]\w+Error: ")
CURES = """Add Ask Build Call Change Check Choose Convert Copy Correct Crop Decompress Did Draw Export Fetch Fill Find
Free Give Go Ingest Install Keep Leave Make Mend Move Name Open Please Point Put Raise Register Regrid Remove Rename
Replace Resample Rescale Restore Resume Return Run Save See Set Split Start Take Use Wrap Write""".split()
CURE = re.compile(rf"[.,;?] (?:or )?(?:{'|'.join(CURES)})\b", re.IGNORECASE)
"""What to do, at the beginning of a sentence or a clause."""


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refusal: its kind, what was wrong, and what to do."""
        assert "Traceback" not in self.out + self.err
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        line = self.err.rstrip("\n")
        assert KIND.match(line), line
        assert "  " not in line
        assert line[-1] in ".?", line
        assert ".." not in line.replace("/..", "").replace("...", ""), line
        assert CURE.search(line), f"says not what to do: {line}"
        return line


class Commands:
    """Calls ``engine.cli.main`` here; see the fixture ``engine``."""

    def __init__(self, capsys, monkeypatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def set(self, name: str, value: object) -> None:
        """Put ``value`` in the place of what the command line calls ``name``, for one test."""
        self._monkeypatch.setattr(cli, name, value)

    def __call__(self, *arguments: object) -> Answer:
        self._monkeypatch.setattr(sys, "argv", ["engine", *map(str, arguments)])
        self._capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return Answer(code, *self._capsys.readouterr())

    def well(self, *arguments: object) -> str:
        """Call what must succeed, and return what it printed."""
        answer = self(*arguments)
        assert answer.code == 0, answer.err
        assert answer.err == ""
        return answer.out


def apart(*arguments: object, environment: dict[str, str] | None = None, cwd: Path | None = None) -> Answer:
    """Call ``engine`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)
