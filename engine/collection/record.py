"""What became of each slide: one small file per slide, renamed into place, and the table of all."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.collection.manifest import Entry
from engine.errors import CollectionError
from engine.storage import arrays

MEASURES = "measures"
"""Where an output's provenance keeps what was found on its slide."""

STATES = ("pending", "done", "failed")

CODES = {
    "ResolutionError": "no_mpp",
    "MissingError": "missing",
    "EmptyError": "empty",
    "IngestError": "unreadable",
    "SourceError": "unreadable",
    "VolumeError": "unreadable",
    "TissueError": "no_tissue",
    "PlanError": "does_not_fit",
    "ModelError": "model_failed",
    "VerifyError": "seams",
    "ResumeError": "changed",
}
"""Of a failure, by the error that it was."""


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """How a slide stands."""

    id: str
    path: str
    status: str = "pending"
    """One of :data:`STATES`."""
    code: str = ""
    """Why it failed, in a word; empty where it did not."""
    reason: str = ""
    """Why it failed, in a line."""
    seconds: float = 0.0
    """From the opening of the slide to its end, on the wall clock."""
    output: str = ""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """What was found: tissue, objects, scores, seams."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the manifest."""

    @property
    def found(self) -> dict[str, Any]:
        """What the engine says of the slide: its part of a row of the table."""
        return {k: v for k, v in asdict(self).items() if k not in ("measures", "others")} | dict(self.measures)


def code_of(reason: str) -> str:
    """Return the code of a failure, from the line that tells it.

    >>> code_of("IngestError: no such file"), code_of("ActorDiedError: killed")
    ('unreadable', 'crashed')
    """
    if "no answer after" in reason:
        return "no_answer"
    words = reason.split(": ")[:2]
    if any(word.startswith("Actor") for word in words):
        return "crashed"
    return next((CODES[word] for word in words if word in CODES), "failed")


def record_path(folder: str, slide_id: str) -> Path:
    """Return where a slide's record lies."""
    return Path(folder) / "records" / f"{slide_id}.json"


def read_records(folder: str, entries: Sequence[Entry]) -> dict[str, SlideRecord]:
    """Return the records of all slides, by name; one that was never tried is pending.

    A slide that is done and now lies elsewhere is pending too: its output will say whether it is the same one.

    Raises:
        CollectionError: If a record is damaged.
    """
    found = {}
    for entry in entries:
        path = record_path(folder, entry.id)
        record = _read(path) if path.exists() else SlideRecord(entry.id, entry.path)
        status = "pending" if record.status == "done" and record.path != entry.path else record.status
        found[entry.id] = replace(record, path=entry.path, status=status, others=entry.others)
    return found


def _read(path: Path) -> SlideRecord:
    try:
        return SlideRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CollectionError(
            f"the record '{path}' must be as the engine wrote it, and is not ({error}). Remove it, and the slide "
            "is done again."
        ) from error


def write_record(folder: str, record: SlideRecord) -> None:
    """Store a slide's record, whole or not at all.

    Raises:
        VolumeError: If it cannot be written.
    """
    path = record_path(folder, record.id)
    draft = path.with_suffix(".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise arrays.write_error(error, where=f"the record '{path}'") from error


def write_tables(folder: str, records: Sequence[SlideRecord]) -> tuple[Path, Path]:
    """Store the table of all slides as Parquet and CSV, whole or not at all, and return where.

    A column of the manifest that is called as one of ours goes in as ``manifest_`` and its name.

    Raises:
        VolumeError: If it cannot be written.
    """
    rows = table_rows(records)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    parquet, table = Path(folder) / "collection.parquet", Path(folder) / "collection.csv"
    drafts = [path.with_suffix(path.suffix + ".writing") for path in (parquet, table)]
    try:
        parquet.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: _column([row.get(name) for row in rows]) for name in columns}), drafts[0])
        with drafts[1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        for draft, path in zip(drafts, (parquet, table), strict=True):
            draft.replace(path)
    except OSError as error:
        raise arrays.write_error(error, where=f"the table '{table}'") from error
    return parquet, table


def table_rows(records: Sequence[SlideRecord]) -> list[dict[str, Any]]:
    """Return the rows of the table.

    >>> table_rows([SlideRecord("a", "a.svs", measures={"score": 0.5}, others={"score": "high"})])[0]["manifest_score"]
    'high'
    """
    rows = [record.found for record in records]
    ours = {name for row in rows for name in row}
    for row, record in zip(rows, records, strict=True):
        row.update({f"manifest_{name}" if name in ours else name: text for name, text in record.others.items()})
    return rows


def _column(values: list[Any]) -> pa.Array:
    """Return values as an Arrow column; text where they are of several kinds."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
