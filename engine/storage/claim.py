"""Whose results a folder holds, in a file beside them: what a later call must agree with."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import CollectionError


def keep_claim(path: Path, claim: Mapping[str, Any]) -> None:
    """Write what a folder's results are of, whole or not at all.

    Raises:
        CollectionError: If it cannot be written.
    """
    draft = path.with_suffix(".writing")
    with writing_results(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(claim, indent=1), encoding="utf-8")
        draft.replace(path)


def held_claim(path: Path, identity: Mapping[str, Any], *, same: str) -> dict[str, Any]:
    """Return the claim that a folder holds.

    Args:
        path: Of the claim.
        identity: What decides the results of this call.
        same: What of two calls must be the same, for messages.

    Raises:
        CollectionError: If it is damaged, or of another call.
    """
    with as_written(path):
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        differ = [key for key in identity if identity[key] != held.get(key)]
    if differ:
        raise CollectionError(
            f"the folder '{path.parent}' holds the results of another call: {', '.join(differ)} differ. Name another "
            f"folder, or give the same {same}."
        )
    return held


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file of the engine's own into one line.

    Raises:
        CollectionError: If it is not as the engine wrote it.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CollectionError(
            f"'{path}' must be as the engine wrote it, and is not ({type(error).__name__}: {error}). Restore it, or "
            "name another folder."
        ) from error


@contextmanager
def writing_results(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in writing to a folder of results into one line.

    Raises:
        CollectionError: If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise CollectionError(
            f"the results need a folder that can be written, and '{folder}' cannot ({error}). Name another."
        ) from error
