"""The transforms that a MONAI bundle names before its network and after it, one by one as they are written."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ModelError
from engine.models.bundle_values import Values

FACTORY = "Write a factory that composes the pipeline"


@dataclass(frozen=True, slots=True)
class Step:
    """One transform of a dictionary, and its arguments."""

    name: str
    """Its class, ending in ``d``."""
    arguments: Mapping[str, Any]
    values: Values
    key: str
    """The entry that it works on here: the image, or the prediction."""
    n_keys: int
    index: int
    """Which of its keys that is."""

    def get(self, argument: str, default: Any = None) -> Any:  # noqa: ANN401 -- JSON
        """Return an argument's value; of a list with one for each key, the one of this key.

        Raises:
            ModelError: If finding it would take running code.
        """
        if argument not in self.arguments:
            return default
        found = self.values.plain(self.arguments[argument])
        return found[self.index] if isinstance(found, list) and self.n_keys > 1 else found

    def whole(self, argument: str, default: Any = None) -> Any:  # noqa: ANN401 -- JSON
        """Return an argument's value, which is one for all keys."""
        return self.values.plain(self.arguments[argument]) if argument in self.arguments else default

    def number(self, argument: str, default: float | None = None) -> float | None:
        """Return an argument that is a number, or None.

        Raises:
            ModelError: If it is something else.
        """
        found = self.whole(argument, default)
        if found is None or (isinstance(found, int | float) and not isinstance(found, bool)):
            return found
        raise self.refused(argument, found)

    def refused(self, argument: str, value: Any) -> ModelError:  # noqa: ANN401 -- JSON
        """Return the error of an argument that has no counterpart here."""
        return ModelError(f"{self} has {argument}={value!r}, which has no counterpart here. {FACTORY}.")

    def refuse_unless(self, expected: Mapping[str, Sequence[Any]]) -> None:
        """Refuse arguments that have other values than these.

        Raises:
            ModelError: Naming the first.
        """
        for argument, known in expected.items():
            value = self.get(argument, known[0])
            if value not in known:
                raise self.refused(argument, value)

    def __str__(self) -> str:
        return f"the transform {self.name} of {self.values.where}"


def read_steps(values: Values, *, entry: str, key: str | None = None) -> tuple[Step, ...]:
    """Return the enabled transforms of ``preprocessing`` or ``postprocessing`` that work on one key, in order.

    Args:
        values: The configuration.
        entry: Its id.
        key: The key; the first of the first transform where None.

    Raises:
        ModelError: If the entry is no list of transforms.
    """
    found: list[Step] = []
    for raw in _listed(values, entry):
        if bool(values.plain(raw.get("_disabled_", False))):
            continue
        target = str(raw.get("_target_", ""))
        keys = values.plain(raw.get("keys", key or "image"))
        keys = keys if isinstance(keys, list) else [keys]
        key = key or str(keys[0])
        if key in keys:
            name = re.sub(r"(d|D|Dict)$", "d", target.rpartition(".")[2])
            found.append(Step(name, raw, values, key, len(keys), keys.index(key)))
    return tuple(found)


def _listed(values: Values, entry: str) -> list[Mapping[str, Any]]:
    node = values.node(values.config.get(entry))
    if isinstance(node, Mapping):
        node = values.node(node.get("transforms"))
    listed = [values.node(item) for item in node or []] if isinstance(node, list | None) else None
    if listed is None or not all(isinstance(item, Mapping) and "_target_" in item for item in listed):
        raise ModelError(
            f"{entry} of {values.where} must be a list of transforms, each with _target_, not {node!r:.120}. {FACTORY}."
        )
    return listed
