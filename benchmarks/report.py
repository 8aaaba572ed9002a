"""Tables of results: printed, and kept as JSON and Markdown with the machine, the versions and the commit."""

import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.memory import n_cpus

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
    """How to read it, and what was wanted."""


def show(result: Result) -> None:
    """Print a table."""
    table = Table(title=result.title, caption=result.note, title_justify="left", caption_justify="left")
    for i, column in enumerate(result.columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in result.rows:
        table.add_row(*map(escape, row))
    Console(width=160).print(table)


def keep(name: str, results: list[Result], *, seconds: float) -> None:
    """Save the tables of a part as JSON and Markdown, over the last ones."""
    facts = {**_machine(), "seconds": f"{seconds:.0f}"}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**facts, "tables": [asdict(result) for result in results]}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    lines = [f"# {name}", "", "; ".join(f"{key} {value}" for key, value in facts.items()), ""]
    for result in results:
        lines += [f"## {result.title}", "", _line(result.columns), _line(("---",) * len(result.columns))]
        lines += [_line(row) for row in result.rows]
        lines += ["", result.note, ""]
    (RESULTS / f"{name}.md").write_text("\n".join(lines))


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine() -> dict[str, str]:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    )
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": str(n_cpus()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load before": f"{psutil.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
