"""What labels are called: a name for people, and codes for programs, of each number in a label map."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UsageError

Code = tuple[str, str, str]
"""Value, scheme and meaning, as DICOM has them: ("10200004", "SCT", "Liver")."""

TISSUE: Code = ("85756007", "SCT", "Tissue")
STRUCTURE: Code = ("91723000", "SCT", "Anatomical Structure")
"""Type and category of a label of which nothing more is known."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One label."""

    label: int
    """Its number in the label map."""
    name: str
    code: Code = TISSUE
    """What it is."""
    category: Code = STRUCTURE
    """What kind of thing that is."""


Segments = Mapping[int, Segment]


def segments_of(labels: Iterable[int], named: Segments) -> list[Segment]:
    """Return a segment per label, ascending; one that has no name is called by its number.

    >>> [one.name for one in segments_of([2, 1], {1: Segment(1, "liver")})]
    ['liver', 'label 2']
    """
    return [named.get(label, Segment(label, f"label {label}")) for label in sorted(labels)]


def read_segments(path: Path) -> dict[int, Segment]:
    """Return the labels that a file names.

    JSON: ``{"1": "liver", "2": ["64033007", "SCT", "Kidney"], "3": {"name": "left", "code": [...], "category":
    [...]}}``, a name, or a code, or both. CSV: columns label and name, and where there are codes, code, scheme and
    meaning.

    Raises:
        UsageError: If it does not open, or says something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
            return {one.label: one for one in map(_of_row, rows)}
        values = json.loads(text)
        return {one.label: one for one in (_of_value(int(label), value) for label, value in values.items())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UsageError(
            f"'{path}' must name labels, as JSON {{\"1\": \"liver\"}} or CSV with columns label and name, and it does "
            f"not ({reason}). Correct it."
        ) from error


def _of_row(row: Mapping[str, str]) -> Segment:
    label, name = int(row["label"]), row["name"].strip()
    if not row.get("code"):
        return Segment(label, name)
    return Segment(label, name, _code([row["code"], row["scheme"], row.get("meaning") or name]))


def _of_value(label: int, value: Any) -> Segment:  # noqa: ANN401 -- JSON
    if isinstance(value, str) and value:
        return Segment(label, value)
    if isinstance(value, list):
        return Segment(label, _code(value)[2], _code(value))
    code = _code(value["code"]) if "code" in value else TISSUE
    category = _code(value["category"]) if "category" in value else STRUCTURE
    return Segment(label, str(value.get("name", code[2])), code, category)


def _code(value: Any) -> Code:  # noqa: ANN401 -- JSON
    if not (isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) and part for part in value)):
        raise ValueError(f"a code is [value, scheme, meaning], not {value}")
    return value[0], value[1], value[2]
