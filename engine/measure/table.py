"""Scores as people and programs read them: a table on the screen, CSV, Parquet and JSON."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.table import Table

from engine.errors import UsageError
from engine.measure.scores import MEASURES, Score, Scores
from engine.measure.sizes import SHOWN_SURFACES, SURFACES, VOLUMES, row_sizes

COUNTS = ("true_positive", "false_positive", "false_negative", "true_negative")
_KINDS = {"name": pa.string(), "label": pa.int64(), "notes": pa.string(), **dict.fromkeys(COUNTS, pa.int64())}

_HEADS = {
    "reference_ml": "reference\nml",
    "result_ml": "result\nml",
    "difference_ml": "change\nml",
    "hausdorff_mm": "HD\nmm",
    "hd95_mm": "HD95\nmm",
    "assd_mm": "ASSD\nmm",
    "surface_dice": "surface\nDice",
}
"""Of what a terminal shows beside the scores."""


def columns(scores: Scores) -> tuple[str, ...]:
    """Return the columns of CSV and Parquet: counts in voxels, scores, and where known ml and mm."""
    volumes = VOLUMES if scores.voxel_ml is not None else ()
    surfaces = SURFACES if scores.surfaces else ()
    return ("name", "label", *COUNTS, *MEASURES, *volumes, *surfaces, "notes")


def records(scores: Scores) -> list[dict[str, Any]]:
    """Return the table as plain values by column; None where one is not defined."""
    return [_record(scores, row) for row in scores.table]


def save_csv(path: Path, scores: Scores) -> None:
    """Write the table as CSV; what is not defined is empty, and its reason is in the last column.

    Raises:
        UsageError: If the file cannot be written.
    """

    def write() -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns(scores), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records(scores))

    written(path, write)


def save_parquet(path: Path, scores: Scores) -> None:
    """Write the table as Parquet; what is not defined is null.

    Raises:
        UsageError: If the file cannot be written.
    """
    schema = pa.schema([(name, _KINDS.get(name, pa.float64())) for name in columns(scores)])
    written(path, lambda: pq.write_table(pa.Table.from_pylist(records(scores), schema=schema), path))


def save_json(path: Path, scores: Scores) -> None:
    """Write :func:`scores_to_json` as a file.

    Raises:
        UsageError: If the file cannot be written.
    """
    text = json.dumps(scores_to_json(scores), indent=1)
    written(path, lambda: path.write_text(text + "\n", encoding="utf-8"))


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Return everything: where the volumes are, the table, and the confusion matrix.

    JSON knows no infinity: such a distance is null, and its note says why.
    """
    confusion = scores.confusion
    rows = [{name: None if value == inf else value for name, value in row.items()} for row in records(scores)]
    return {
        "reference": scores.reference,
        "result": scores.result,
        "n_voxels": confusion.n_voxels,
        "n_ignored": confusion.n_ignored,
        "agreement": scores.agreement,
        "voxel_ml": scores.voxel_ml,
        "scores": rows,
        "confusion": {"labels": list(confusion.labels), "counts": confusion.counts.tolist()},
    }


def score_table(scores: Scores) -> Table:
    """Return the table for a terminal of 80 columns: a dash where a score is not defined, and the reasons below."""
    voxels = scores.confusion.n_voxels
    reasons = [f"{row.name}: {note}" for row in scores.table if (note := _notes(row.notes))]
    title = f"Scores: {shown_share(scores.agreement)} of {voxels:,} voxels agree"
    rows = [(row.name, *(_shown(row.value(name)) for name in MEASURES)) for row in scores.table]
    return _drawn(title, MEASURES, rows, reasons=reasons, n_labels=len(scores.rows))


def size_table(scores: Scores) -> Table | None:
    """Return what is measured in millilitre and millimetre for a terminal of 80 columns; None where nothing is."""
    wanted = (VOLUMES if scores.voxel_ml is not None else ()) + (SHOWN_SURFACES if scores.surfaces else ())
    if not wanted:
        return None
    sizes = [(row.name, row_sizes(scores, row)) for row in scores.table]
    reasons = [f"{name}: {note}" for name, size in sizes if (note := _notes(size.notes))]
    rows = [(name, *(_rounded(size.values.get(column), column) for column in wanted)) for name, size in sizes]
    heads = [_HEADS[name] for name in wanted]
    return _drawn("Volumes and surfaces", heads, rows, reasons=reasons, n_labels=len(scores.rows))


def _drawn(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, reasons: Sequence[str], n_labels: int
) -> Table:
    table = Table(
        title=title,
        caption="\n".join(reasons) or None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("label", overflow="ellipsis", min_width=5)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True, min_width=max(map(len, head.split("\n"))))
    for number, row in enumerate(rows, start=1):
        table.add_row(*row)
        if number == n_labels:
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


def _record(scores: Scores, row: Score) -> dict[str, Any]:
    counts = asdict(row.counts) if row.counts is not None else dict.fromkeys(COUNTS)
    sizes = row_sizes(scores, row)
    values = {name: row.value(name) for name in MEASURES} | dict(sizes.values)
    return {"name": row.name, "label": row.label, **counts, **values, "notes": _notes({**row.notes, **sizes.notes})}


def _notes(reasons: Mapping[str, str]) -> str:
    """Return the reasons, each with the scores that it holds for.

    >>> _notes({"dice": "a", "jaccard": "a", "precision": "b"})
    'dice, jaccard: a; precision: b'
    """
    by_reason: dict[str, list[str]] = {}
    for measure, reason in reasons.items():
        by_reason.setdefault(reason, []).append(measure)
    return "; ".join(f"{', '.join(measures)}: {reason}" for reason, measures in by_reason.items())


def _rounded(value: float | None, name: str) -> str:
    """Return a size for people.

    >>> _rounded(12345.678, "reference_ml"), _rounded(0.0123456, "assd_mm"), _rounded(None, "hd95_mm")
    ('12345.7', '0.0123', '-')
    """
    if name == "surface_dice" or value is None:
        return _shown(value)
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) >= 1 else f"{value:.4f}"


def _shown(value: float | None) -> str:
    """Return a score with four digits; only 1 itself is shown as 1.

    >>> _shown(0.99999), _shown(1.0), _shown(None)
    ('0.9999', '1.0000', '-')
    """
    if value is None:
        return "-"
    return f"{min(value, 0.9999) if value < 1 else value:.4f}"
