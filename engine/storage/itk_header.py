"""The headers of MetaImage and NRRD: where the voxels lie, how they are packed, and whether a spacing is said."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import IngestError

_MOST_BYTES = 1 << 20
_PACKED = {"raw": False, "gzip": True, "gz": True}
_KNOWN_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")


@dataclass(frozen=True, slots=True)
class Described:
    """What a header says beyond geometry."""

    format: str
    """metaimage or nrrd."""
    data_path: Path
    """The file of voxels: the header's own, or one beside it."""
    offset: int | None
    """Byte of it at which they begin; None where they are what it ends with."""
    skipped: int
    """Bytes before the first voxel once unpacked."""
    is_packed: bool | None
    """Whether they are deflated; None where they are stored in another way."""
    is_big_endian: bool
    has_spacing: bool
    notes: tuple[str, ...] = ()


def read_header(path: Path) -> Described:
    """Read what SimpleITK does not tell; whether the header is sound at all is left to ITK.

    Raises:
        IngestError: If the voxels lie in several files, lengths are in other than millimetre, or a count is none.
    """
    with path.open("rb") as file:
        head = file.read(_MOST_BYTES)
    try:
        return _nrrd(path, head) if head.startswith(b"NRRD") else _metaimage(path, head)
    except ValueError as error:
        raise IngestError(
            f"bytes and lines to be skipped must be whole numbers, not as the header of '{path}' says ({error}). "
            "Correct it."
        ) from error


def _nrrd(path: Path, head: bytes) -> Described:
    lines: list[str] = []
    offset = 0
    for line in head.splitlines(keepends=True):
        offset += len(line)
        if not line.strip():
            break
        lines.append(line.decode("latin-1"))
    said = _fields([line for line in lines if not line.startswith("#") and ":=" not in line], ":")
    name = said.get("data file", said.get("datafile"))
    if name is not None and (len(name.split()) > 1 or name.upper().startswith("LIST") or "%" in name):
        raise _in_pieces(path, name)
    units = said.get("space units", "").replace('"', " ").split()
    if foreign := [unit for unit in units if unit not in ("mm", "???", "")]:
        raise IngestError(
            f"lengths of a scan must be in millimetre, not '{foreign[0]}' as the space units of '{path}' say. Rescale "
            "its header."
        )
    space = said.get("space", "none")
    skip = int(said.get("byte skip", said.get("byteskip", 0)))
    packed = _PACKED.get(said.get("encoding", "").lower())
    has_lines = int(said.get("line skip", said.get("lineskip", 0))) != 0
    first = 0 if name is not None else offset
    return Described(
        format="nrrd",
        data_path=path if name is None else path.parent / name,
        offset=first if packed else None if skip < 0 else first + skip,
        skipped=max(0, skip) if packed else 0,
        is_packed=None if has_lines else packed,
        is_big_endian=said.get("endian", "little").lower() == "big",
        has_spacing="space directions" in said or "nan" not in said.get("spacings", "nan").lower(),
        notes=()
        if space.lower().removesuffix("-time") in _KNOWN_SPACES
        else (f"its space is '{space}', and was taken as left-posterior-superior",),
    )


def _metaimage(path: Path, head: bytes) -> Described:
    lines: list[str] = []
    offset = 0
    for line in head.splitlines(keepends=True):
        offset += len(line)
        lines.append(line.decode("latin-1"))
        if line.split(b"=")[0].strip() == b"ElementDataFile":
            break
    said = _fields(lines, "=")
    name = said.get("elementdatafile", "LOCAL")
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise _in_pieces(path, name)
    is_local = name.upper() == "LOCAL"
    skip = int(said.get("headersize", 0))
    packed = _is_true(said, "compresseddata")
    first = offset if is_local else 0
    return Described(
        format="metaimage",
        data_path=path if is_local else path.parent / name,
        offset=None if skip < 0 else first if packed or is_local else skip,
        skipped=0,
        is_packed=packed if _is_true(said, "binarydata", "true") else None,
        is_big_endian=_is_true(said, "binarydatabyteordermsb") or _is_true(said, "elementbyteordermsb"),
        has_spacing="elementspacing" in said or "elementsize" in said,
    )


def _fields(lines: list[str], mark: str) -> Mapping[str, str]:
    pairs = [line.partition(mark)[::2] for line in lines]
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _is_true(said: Mapping[str, str], name: str, default: str = "false") -> bool:
    return said.get(name, default).lower() in ("true", "1")


def _in_pieces(path: Path, name: str) -> IngestError:
    return IngestError(
        f"the voxels of a scan must lie in one file, not in several, '{name}', as '{path}' says. Write it as one file, "
        "with 3D Slicer or SimpleITK."
    )
