"""Scores as people and programs read them: a table on the screen, CSV, Parquet and JSON."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.table import Table

from engine.errors import UsageError
from engine.measure.scores import MEASURES, Score, Scores

COUNTS = ("true_positive", "false_positive", "false_negative", "true_negative")
COLUMNS = ("name", "label", *COUNTS, *MEASURES, "notes")
"""Of CSV and Parquet; counts in voxels."""

SCHEMA = pa.schema(
    [("name", pa.string()), ("label", pa.int64())]
    + [(name, pa.int64()) for name in COUNTS]
    + [(name, pa.float64()) for name in MEASURES]
    + [("notes", pa.string())]
)


def records(scores: Scores) -> list[dict[str, Any]]:
    """Return the table as plain values by column; None where one is not defined."""
    return [_record(row) for row in scores.table]


def save_csv(path: Path, scores: Scores) -> None:
    """Write the table as CSV; what is not defined is empty, and its reason is in the last column.

    Raises:
        UsageError: If the file cannot be written.
    """

    def write() -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(records(scores))

    written(path, write)


def save_parquet(path: Path, scores: Scores) -> None:
    """Write the table as Parquet; what is not defined is null.

    Raises:
        UsageError: If the file cannot be written.
    """
    written(path, lambda: pq.write_table(pa.Table.from_pylist(records(scores), schema=SCHEMA), path))


def save_json(path: Path, scores: Scores) -> None:
    """Write :func:`scores_to_json` as a file.

    Raises:
        UsageError: If the file cannot be written.
    """
    text = json.dumps(scores_to_json(scores), indent=1)
    written(path, lambda: path.write_text(text + "\n", encoding="utf-8"))


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Return everything: where the volumes are, the table, and the confusion matrix."""
    confusion = scores.confusion
    return {
        "reference": scores.reference,
        "result": scores.result,
        "n_voxels": confusion.n_voxels,
        "n_ignored": confusion.n_ignored,
        "agreement": scores.agreement,
        "scores": records(scores),
        "confusion": {"labels": list(confusion.labels), "counts": confusion.counts.tolist()},
    }


def score_table(scores: Scores) -> Table:
    """Return the table for a terminal of 80 columns: a dash where a score is not defined, and the reasons below."""
    voxels = scores.confusion.n_voxels
    reasons = [f"{row.name}: {note}" for row in scores.table if (note := _notes(row))]
    table = Table(
        title=f"Scores: {shown_share(scores.agreement)} of {voxels:,} voxels agree",
        caption="\n".join(reasons) or None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("label", overflow="ellipsis")
    for measure in MEASURES:
        table.add_column(measure, justify="right", no_wrap=True, min_width=len(measure))
    for row in scores.table:
        table.add_row(row.name, *(_shown(row.value(name)) for name in MEASURES))
        if scores.rows and row is scores.rows[-1]:
            table.add_section()
    return table


def written(path: Path, write: Callable[[], object]) -> None:
    """Call ``write``, and tell in one line why it could not.

    Raises:
        UsageError: If it raises OSError.
    """
    try:
        write()
    except OSError as error:
        raise UsageError(
            f"the scores cannot be written to '{path}': {error.strerror or error}. Name a file in a folder that is "
            "there and may be written."
        ) from error


def shown_share(share: float) -> str:
    """Return a share as percent, rounded down: only 1 itself is shown as 100 %.

    >>> shown_share(0.9999999), shown_share(1.0)
    ('99.999 %', '100 %')
    """
    return "100 %" if share == 1 else f"{int(share * 100_000) / 1000:.3f} %"


def _record(row: Score) -> dict[str, Any]:
    counts = asdict(row.counts) if row.counts is not None else dict.fromkeys(COUNTS)
    values = {name: row.value(name) for name in MEASURES}
    return {"name": row.name, "label": row.label, **counts, **values, "notes": _notes(row)}


def _notes(row: Score) -> str:
    """Return the reasons, each with the scores that it holds for.

    >>> _notes(Score("1", 1, None, None, None, 1.0, 1.0, None, 1.0, {"dice": "a", "jaccard": "a", "precision": "b"}))
    'dice, jaccard: a; precision: b'
    """
    by_reason: dict[str, list[str]] = {}
    for measure, reason in row.notes.items():
        by_reason.setdefault(reason, []).append(measure)
    return "; ".join(f"{', '.join(measures)}: {reason}" for reason, measures in by_reason.items())


def _shown(value: float | None) -> str:
    """Return a score with four digits; only 1 itself is shown as 1.

    >>> _shown(0.99999), _shown(1.0), _shown(None)
    ('0.9999', '1.0000', '-')
    """
    if value is None:
        return "-"
    return f"{min(value, 0.9999) if value < 1 else value:.4f}"
