"""What became of each slide: one small file per slide, renamed into place, and the table of all."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.collection.manifest import Entry
from engine.errors import CollectionError

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
    def row(self) -> dict[str, Any]:
        """One row of the table."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("measures", "others")}
        return {**plain, **self.measures, **{k: v for k, v in self.others.items() if k not in plain}}


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
    """Return the records that there are, by slide; a slide without one was never tried.

    Raises:
        CollectionError: If a record is damaged.
    """
    found = {}
    for entry in entries:
        path = record_path(folder, entry.id)
        if not path.exists():
            continue
        try:
            found[entry.id] = SlideRecord(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise CollectionError(
                f"the record '{path}' must be as the engine wrote it, and is not ({error}). Remove it, and the slide "
                "is done again."
            ) from error
    return found


def write_record(folder: str, record: SlideRecord) -> None:
    """Store a slide's record, whole or not at all."""
    path = record_path(folder, record.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".writing")
    written.write_text(json.dumps(asdict(record), indent=1))
    written.replace(path)


def write_tables(folder: str, records: Sequence[SlideRecord]) -> tuple[Path, Path]:
    """Store the table of all slides as Parquet and CSV, whole or not at all, and return where."""
    rows = [record.row for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    parquet, table = Path(folder) / "collection.parquet", Path(folder) / "collection.csv"
    drafts = [path.with_suffix(path.suffix + ".writing") for path in (parquet, table)]
    pq.write_table(pa.table({name: _column([row.get(name) for row in rows]) for name in columns}), drafts[0])
    with drafts[1].open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    for draft, path in zip(drafts, (parquet, table), strict=True):
        draft.replace(path)
    return parquet, table


def _column(values: list[Any]) -> pa.Array:
    """Return values as an Arrow column; text where they are of several kinds."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
