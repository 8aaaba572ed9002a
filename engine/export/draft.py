"""A file for other tools: it appears whole under its name, or not at all."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from engine.errors import UsageError

_CURES = {
    errno.ENOSPC: "no space is left on the device. Free some, and export again",
    errno.EDQUOT: "the disk quota is used up. Free some, and export again",
    errno.EROFS: "the file system is read-only. Choose another folder",
    errno.EACCES: "its folder may not be written. Choose another folder",
    errno.EPERM: "its folder may not be written. Choose another folder",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written."""

    path: Path
    what: str
    """Format, size and content, in a few words."""
    notes: tuple[str, ...] = ()
    """What was assumed or changed on the way."""


def check_target(path: Path, *, endings: Sequence[str], what: str) -> None:
    """Refuse a name that cannot become a new file of this kind.

    Raises:
        UsageError: If it ends otherwise, something is there, or its folder is not.
    """
    if not path.name.lower().endswith(tuple(endings)):
        raise UsageError(
            f"{what} must be named *{' or *'.join(endings)}, not '{path}'. Give the file one of these endings."
        )
    if path.exists():
        raise UsageError(f"{what} is to be a new file, and '{path}' exists. Name another, or remove it first.")
    if not path.parent.is_dir():
        raise UsageError(
            f"{what} needs a folder that is there, and '{path.parent}' is not, for '{path.name}'. Make it first."
        )


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a draft beside ``path`` to write; it takes the name when all went well, and goes otherwise.

    Raises:
        UsageError: If the place refuses (no space left, read-only).
    """
    draft = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError as error:
        cure = _CURES.get(error.errno or 0, f"{error.strerror or error}. Choose another folder")
        raise UsageError(f"cannot write '{path}': {cure}.") from error
    finally:
        draft.unlink(missing_ok=True)
