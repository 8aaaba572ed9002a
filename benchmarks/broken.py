"""Runs by the command line, and one that is killed in its middle with all its processes."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.slides import ROOT
from engine.storage.ledger import State
from engine.storage.output import open_output


def called(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, whatever it is, with the models of these benchmarks at hand."""
    return subprocess.run(**_call(words), capture_output=True, text=True, check=False)


def started(*words: str) -> subprocess.Popen[bytes]:
    """Start the command line, and hear nothing from it."""
    return subprocess.Popen(**_call(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _call(words: Sequence[str]) -> dict[str, Any]:
    command = str(Path(sys.executable).with_name("engine"))
    return {"args": [command, *words], "cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}


def engine(*words: str) -> str:
    """Run the command line, and return what it prints."""
    done = called(*words)
    if done.returncode:
        raise RuntimeError(f"engine {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def killed(words: Sequence[str], output: Path) -> int:
    """Run until half is done, kill all of it at once, and return the blocks that were stored."""
    process = started(*words)
    while (done_share(output) or 0.0) < 0.5:
        time.sleep(0.05)
        if process.poll() is not None:
            raise RuntimeError("the run ended before it could be killed")
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        os.kill(one.pid, signal.SIGKILL)
    process.wait()
    return open_output(str(output)).ledger.counts()[State.DONE]


def done_share(output: Path) -> float | None:
    """Return the share of tasks that the ledger calls done or skipped; None before there is one."""
    try:
        counts = open_output(str(output)).ledger.counts()
    except Exception:  # noqa: BLE001 -- it is being made
        return None
    return (counts[State.DONE] + counts[State.SKIPPED]) / sum(counts.values())


def digest(output: Path) -> str:
    """Return a hash of every stored object of the volumes."""
    total = hashlib.sha256()
    for path in sorted(output.rglob("c/**/*")):
        if path.is_file() and "ledger" not in path.parts:
            total.update(str(path.relative_to(output)).encode() + path.read_bytes())
    return total.hexdigest()
