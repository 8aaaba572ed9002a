"""How a MONAI bundle shows its network a volume: through a sliding window, or whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ModelError
from engine.geometry.windows import WEIGHTS, Weights
from engine.models.bundle_values import Values

WINDOWED = ("SlidingWindowInferer", "SlidingWindowInfererAdapt")
WHOLE = "SimpleInferer"

NO_MATTER = """roi_size overlap mode sigma_scale sw_batch_size sw_device device progress cache_roi_weight_map cpu_thresh
buffer_steps buffer_dim padding_mode cval""".split()
"""Arguments that are read here, or decide only where and how fast a window is run."""

FACTORY = "Write a factory with Windowed(network, window=...)"


@dataclass(frozen=True, slots=True)
class Inferer:
    """A sliding window, per axis as MONAI has them, x first; one number serves all."""

    window: tuple[int, ...]
    overlap: tuple[float, ...]
    weights: Weights
    sigma_scale: float
    notes: tuple[str, ...]


def read_inferer(values: Values) -> Inferer | None:
    """Return the window of a bundle, or None where the network sees the whole.

    Raises:
        ModelError: If the inferer is not known, or asks for what has no counterpart here.
    """
    found = values.node(values.config.get("inferer"))
    target = str(found.get("_target_", "")) if isinstance(found, Mapping) else repr(found)
    name = target.rpartition(".")[2]
    if name == WHOLE:
        return None
    if name not in WINDOWED or not isinstance(found, Mapping):
        raise ModelError(
            f"the inferer of {values.where} is {target}, and known are {', '.join((*WINDOWED, WHOLE))}. {FACTORY}."
        )
    given = {key: value for key, value in found.items() if not key.startswith("_")}
    for key in given:
        if key not in NO_MATTER:
            raise ModelError(f"the inferer of {values.where} has {key}, which has no counterpart here. {FACTORY}.")
    mode = values.plain(given.get("mode", "constant"))
    if mode not in WEIGHTS:
        raise ModelError(f"the inferer of {values.where} has mode={mode!r}, and known are {WEIGHTS}. {FACTORY}.")
    sigmas = set(_numbers(values, given, "sigma_scale", 0.125))
    if len(sigmas) > 1:
        raise ModelError(f"the inferer of {values.where} has several sigma_scale, {sorted(sigmas)}. {FACTORY}.")
    return Inferer(
        window=_window(values, given),
        overlap=_numbers(values, given, "overlap", 0.25),
        weights=mode,
        sigma_scale=sigmas.pop(),
        notes=_notes(values, given),
    )


def _window(values: Values, given: Mapping[str, Any]) -> tuple[int, ...]:
    window = _numbers(values, given, "roi_size", None)
    if any(n != int(n) or n < 1 for n in window):
        raise ModelError(
            f"the inferer of {values.where} has roi_size={list(window)}, which means the whole of an axis where it is "
            f"not positive. {FACTORY} of a length for each axis."
        )
    return tuple(int(n) for n in window)


def _numbers(values: Values, given: Mapping[str, Any], key: str, default: float | None) -> tuple[float, ...]:
    value = values.plain(given.get(key, default))
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ModelError(f"the inferer of {values.where} must give {key} as numbers, not {value!r}. Correct it.")
    return tuple(numbers)


def _notes(values: Values, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what differs beyond the border of an axis that is shorter than the window."""
    mode, value = values.plain(given.get("padding_mode", "constant")), values.plain(given.get("cval", 0))
    if mode == "constant" and value == 0:
        return ()
    how = f"by {value}" if mode == "constant" else f"by '{mode}'"
    return (f"an axis that is shorter than the window is filled up with 0, not {how}",)
