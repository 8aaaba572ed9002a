"""Which slides a collection has: a table, a folder, or patterns."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from io import StringIO
from pathlib import Path

from engine.errors import CollectionError
from engine.storage.slide import SUFFIXES

TABLES = (".csv", ".tsv")
COLUMNS = ("slide", "id", "mpp", "tissue")
"""What a manifest may say of a slide: its path, and, where it wants, a name, micrometre per pixel (``0.5`` or
``y;x``) for a slide that does not know its own, and how its tissue is found. Other columns go on to the results."""

LONGEST_NAME = 200
"""Bytes of a slide's name: files are named after it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One slide of a collection."""

    id: str
    """Unique; names its result."""
    path: str
    mpp: str | None = None
    """Micrometre per pixel as it was typed, where the slide does not say: one number, or y,x."""
    tissue: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the manifest, by name."""

    @property
    def url(self) -> str:
        """What is opened: the path, with the resolution where it was given."""
        return f"{self.path}#spacing={self.mpp}" if self.mpp else self.path

    @property
    def n_bytes(self) -> int:
        """Size of the file, or of what lies in the folder; 0 where there is none, or it may not be looked at."""
        path = Path(self.path)
        try:
            if path.is_dir():
                return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            return path.stat().st_size
        except OSError:
            return 0


def entries_of(paths: Sequence[str]) -> tuple[Entry, ...]:
    """Return the slides that manifests, folders, patterns and files name, each once, in their order.

    Their paths are absolute, so that they mean the same in every process and in every later call.

    Raises:
        CollectionError: If a manifest cannot be read, two slides have one name, a name is none, or there is none.
    """
    found = [replace(entry, path=_absolute(entry.path)) for path in paths for entry in _entries(path)]
    named: dict[str, Entry] = {}
    for entry in found:
        _check_name(entry)
        other = named.setdefault(entry.id, entry)
        if other.path != entry.path and Path(other.path).resolve() != Path(entry.path).resolve():
            raise CollectionError(
                f"each slide needs a name of its own, and '{other.path}' and '{entry.path}' are both '{entry.id}'. "
                "Give them names in the column 'id' of a manifest."
            )
    if not named:
        raise CollectionError(
            f"a collection needs at least one slide, and {', '.join(map(repr, paths)) or 'nothing'} names none. Give "
            "a manifest.csv with a column 'slide', a folder, or a pattern such as 'slides/*.svs'."
        )
    return tuple(named.values())


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _check_name(entry: Entry) -> None:
    """Refuse a name that is no file's: it may not lead out of the folder of results."""
    is_plain = entry.id.isprintable() and "/" not in entry.id and "\\" not in entry.id
    if not is_plain or {"#", "="} <= set(entry.id) or len(entry.id.encode()) > LONGEST_NAME:
        raise CollectionError(
            f"a slide's name becomes a file's, so it is at most {LONGEST_NAME} printable characters without a slash, "
            f"and without a # before a =, and {entry.path!r} has {entry.id!r}. Give it another in the column 'id' of a "
            "manifest."
        )


def _entries(path: str) -> Iterable[Entry]:
    place = Path(path)
    if path.lower().endswith(TABLES):
        yield from _read(place)
    elif place.is_dir() and not any((place / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        inside = sorted(p for p in place.iterdir() if p.name.lower().endswith((*SUFFIXES, ".zarr")))
        yield from (Entry(_name(p), str(p)) for p in inside)
    elif has_magic(path) and not place.exists():
        yield from (Entry(_name(Path(p)), p) for p in sorted(glob(path)))  # noqa: PTH207 -- it may be absolute
    else:
        yield Entry(_name(place), path)


def _name(path: Path) -> str:
    """Return the file's name without its ending.

    >>> _name(Path("a/CMU-1.ome.tiff"))
    'CMU-1'
    """
    name = path.name
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def _read(path: Path) -> Iterable[Entry]:
    """Yield the rows of a manifest; paths are taken from the manifest's own folder."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CollectionError(
            f"a manifest in UTF-8 is wanted, and '{path}' cannot be read ({error}). Check the path, or save it again."
        ) from error
    rows = csv.DictReader(StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    columns = [name.strip() for name in rows.fieldnames or ()]
    if "slide" not in columns:
        raise CollectionError(
            f"a manifest needs the column 'slide', and '{path}' has {', '.join(columns) or 'none'}. "
            f"Its columns may be {', '.join(COLUMNS)}, and any others."
        )
    for raw in rows:
        row = {str(key).strip(): (value or "").strip() for key, value in raw.items() if isinstance(value, str | None)}
        if not any(row.values()):
            continue  # what spreadsheets leave below a table
        if not row.get("slide"):
            raise CollectionError(
                f"each row of a manifest names a slide, and line {rows.line_num} of '{path}' does not. Fill it in."
            )
        slide = row["slide"] if "://" in row["slide"] else str(path.parent / row["slide"])
        others = {name: row[name] for name in columns if name and name not in COLUMNS}
        mpp = row.get("mpp", "").replace(";", ",") or None
        yield Entry(row.get("id") or _name(Path(slide)), slide, mpp, _tissue(path.parent, row.get("tissue")), others)


def _tissue(folder: Path, wanted: str | None) -> str | None:
    """Return how tissue is found; a file or folder beside the manifest by its whole path."""
    beside = (folder / wanted).absolute() if wanted else folder
    return str(beside) if wanted and beside.exists() else wanted or None
