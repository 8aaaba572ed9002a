"""Which items there are: the rows of a CSV or Parquet table, and what their columns mean."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import CollectionError
from engine.items.outputs import ID

PATHS = ("path", "receptor", "ligand")
"""Columns that name files: a volume, or the parts of a pocket. They are taken from the manifest's own folder."""


@dataclass(frozen=True, slots=True)
class Item:
    """One small volume, or what one is made from."""

    id: str
    """Unique."""
    row: Mapping[str, str] = field(default_factory=dict)
    """The manifest's other columns, by name; paths are absolute."""


def read_manifest(path: str) -> tuple[Item, ...]:
    """Return the items of a manifest in their order; a column ``id`` is made of row numbers where there is none.

    Raises:
        CollectionError: If it cannot be read, names no file, has no row, or one id twice.
    """
    file = Path(path).absolute()
    rows = list(_parquet_rows(file) if file.suffix.lower() in (".parquet", ".pq") else _csv_rows(file))
    if not rows:
        raise CollectionError(f"a manifest needs at least one item, and '{path}' has none. Add rows.")
    if not any(column in rows[0] for column in PATHS):
        raise CollectionError(
            f"a manifest of items needs a column 'path', or 'receptor' and 'ligand', and '{path}' has "
            f"{', '.join(rows[0])}. Name the files in one."
        )
    items = tuple(_item(row, number, file.parent) for number, row in enumerate(rows))
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise CollectionError(f"each item needs an id of its own, and '{path}' has '{item.id}' twice. Rename one.")
        seen.add(item.id)
    return items


def _item(row: Mapping[str, str], number: int, folder: Path) -> Item:
    kept = {name: _absolute(text, folder) if name in PATHS else text for name, text in row.items() if name != ID}
    return Item(row.get(ID) or str(number), kept)


def _absolute(text: str, folder: Path) -> str:
    return text if "://" in text or not text else str(folder / text)


def _csv_rows(file: Path) -> Iterable[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error
    for row in csv.DictReader(StringIO(text)):
        named = {str(name).strip(): value.strip() for name, value in row.items() if isinstance(value, str)}
        if any(named.values()):
            yield named


def _parquet_rows(file: Path) -> Iterable[dict[str, str]]:
    try:
        rows = pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


def _unreadable(file: Path, error: Exception) -> CollectionError:
    why = " ".join(str(error).split())
    return CollectionError(f"a manifest in CSV or Parquet is wanted, and '{file}' cannot be read ({why}). Check it.")
