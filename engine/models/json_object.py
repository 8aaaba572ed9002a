"""What a model's configuration file says: JSON objects, and their entries, each of the kind that is wanted."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ModelError

Kind = TypeVar("Kind")

NUMBER: tuple[type[Any], ...] = (int, float)
"""What :func:`entry` takes for a number."""


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        ModelError: If it does not read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"'{path}' must be a JSON object, and does not read: {error}. Fetch it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"'{path}' must be a JSON object, not a {type(found).__name__}. Fetch it again.")
    return found


def entry(found: Mapping[str, Any], key: str, kind: type[Kind], *, where: str) -> Kind:
    """Return one entry of an object, of the kind that is wanted; a whole number serves as a number.

    >>> entry({"spacing": [1, 1, 3]}, "spacing", list, where="'plans.json'")
    [1, 1, 3]

    Args:
        found: The object.
        key: Its entry.
        kind: What the entry must be.
        where: What holds the object, for messages.

    Raises:
        ModelError: If it is not there, or of another kind.
    """
    value = found.get(key)
    kinds = NUMBER if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        came = f"{value!r}"[:120] if key in found else "nothing"
        raise ModelError(
            f"{where} must give {key} as {NAMES.get(kind, kind.__name__)}, and holds {came} for it. Correct it, or "
            "fetch it again."
        )
    return value


def numbers(found: Mapping[str, Any], key: str, *, where: str, n: int | None = None) -> tuple[float, ...]:
    """Return an entry that is a list of numbers, of length ``n`` where that is given.

    Raises:
        ModelError: If it is something else.
    """
    value = entry(found, key, list, where=where)
    is_right = all(isinstance(item, NUMBER) and not isinstance(item, bool) and isfinite(item) for item in value)
    if not is_right or not value or (n is not None and len(value) != n):
        how_many = "" if n is None else f"{n} "
        raise ModelError(f"{where} must give {key} as {how_many}numbers, not {value!r}. Correct it, or fetch it again.")
    return tuple(value)


def integers(found: Mapping[str, Any], key: str, *, where: str, n: int | None = None) -> tuple[int, ...]:
    """Return an entry that is a list of whole numbers, as :func:`numbers`.

    Raises:
        ModelError: If it is something else.
    """
    value = numbers(found, key, where=where, n=n)
    if any(item != int(item) for item in value):
        raise ModelError(f"{where} must give {key} as whole numbers, not {list(value)}. Correct it, or fetch it again.")
    return tuple(int(item) for item in value)


NAMES: Mapping[type[Any], str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
