"""What a run did to the globe, for its report: means by area of what went in and what came out, and whether they close.

    engine report forecast.zarr --budget --term heating=1 --term rain=-2.5e6

Both sides are read once, object by object, as they are stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import AxisError, UsageError, VolumeError
from engine.geometry.axes import Role, positions
from engine.measure.area import area_weights
from engine.measure.budget import ChannelBudget, Closure, Known, channel_budgets, closure
from engine.models.wrappers import Normalise
from engine.models.zscore import ZScore
from engine.reopen import reopen
from engine.storage.climate_coordinates import CHANNEL_NAMES
from engine.storage.create import Coordinate, read_coordinates
from engine.storage.output import open_output
from engine.storage.readable import Readable

INPUT = "input"
"""What the source is called beside the outputs, which have names."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """The channels of the source and of every output, and the terms that were asked for."""

    volumes: Mapping[str, tuple[ChannelBudget, ...]]
    """By volume: ``input``, then the outputs."""
    closure: Closure | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON."""
        found: dict[str, Any] = {name: [asdict(one) for one in rows] for name, rows in self.volumes.items()}
        if self.closure is not None:
            terms, left = dict(self.closure.terms), self.closure
            found["closure"] = {"terms": terms, "residual": left.residual, "share": left.share}
        return found


def budgets(
    output: str,
    *,
    source: str | None = None,
    model: str | torch.nn.Module | None = None,
    terms: Mapping[str, float] | None = None,
) -> Budgets:
    """Return the budgets of an output of the engine over a latitude-longitude grid, and of the source it was made of.

    Inputs beyond 3 sigma are counted where the model scales its input by constants (:class:`Normalise`) or by what it
    found in the source (:class:`ZScore`).

    Args:
        output: URL of the output.
        source: Where the source lies now, if it was moved.
        model: The model, where it was given as a module or was moved.
        terms: Of a budget that should close, by channel (``heating``, ``input.rain``): what its mean is multiplied by.

    Raises:
        VolumeError: If the output is not on a grid of latitudes and longitudes.
        UsageError: If a term is no channel, or more than one.
    """
    prepared, _, _ = reopen(output, source=source, model=model)
    volumes = {INPUT: prepared.source, **open_output(output).volumes}
    known = _known(prepared.model.module, _n_channels(prepared.source))
    found = {}
    for name, volume in volumes.items():
        beside = read_coordinates(volume)
        if [axis.name for axis in volume.axes][-2:] == ["lat", "lon"] and "lat" in beside:
            weights, names = _weights(volume, beside), _names(name, volume, beside)
            learnt = known if name == INPUT else None
            found[name] = channel_budgets(volume, weights, names=names, known=learnt)
    if not found:
        raise VolumeError(
            f"a budget is of grids whose last axes are lat and lon, and nothing in '{output}' is. Ingest the source "
            "with its latitudes and longitudes, and run again."
        )
    return Budgets(found, closure(**_terms(found, terms)) if terms else None)


def _weights(volume: Readable, beside: Mapping[str, Coordinate]) -> NDArray[np.float64]:
    try:
        return area_weights(beside["lat"].values)
    except AxisError as error:
        raise VolumeError(f"'{volume.url}': {error}") from error


def _names(name: str, volume: Readable, beside: Mapping[str, Coordinate]) -> list[str]:
    """Return the names of a volume's channels; one channel without a name is called as its volume is."""
    n_channels = _n_channels(volume)
    coordinate = beside.get(CHANNEL_NAMES)
    if coordinate is not None and coordinate.values.shape == (n_channels,):
        return [str(value) for value in coordinate.values]
    return [name] if n_channels == 1 else [str(i) for i in range(n_channels)]


def _n_channels(volume: Readable) -> int:
    return prod(volume.shape[axis] for axis in positions(volume.axes, Role.CHANNEL))


def _known(module: torch.nn.Module, n_channels: int) -> Known | None:
    """Return what the first scaling of the model's input takes for mean and spread, if it is of this input."""
    for part in module.modules():
        if isinstance(part, Normalise | ZScore):
            mean, std = (value.double().reshape(-1).tolist() for value in (part.mean, part.std))
            if len(mean) in (1, n_channels) and len(std) in (1, n_channels):
                return Known(_per_channel(mean, n_channels), _per_channel(std, n_channels))
            return None
    return None


def _per_channel(values: Sequence[float], n_channels: int) -> list[float]:
    return list(values) * n_channels if len(values) == 1 else list(values)


def _terms(found: Mapping[str, Sequence[ChannelBudget]], terms: Mapping[str, float]) -> dict[str, float]:
    """Return each term of the budget: a channel's mean times its factor."""
    means: dict[str, list[float]] = {}
    for name, rows in found.items():
        for one in rows:
            for called in {one.name, f"{name}.{one.name}"}:
                means.setdefault(called, []).append(one.mean)
    for name in terms:
        if len(means.get(name, ())) != 1:
            there = ", ".join(f"{volume}.{one.name}" for volume, rows in found.items() for one in rows)
            how = "none" if name not in means else "several"
            raise UsageError(f"--term '{name}' must name one channel, and {how} is called so. Name one of {there}.")
    return {name: factor * means[name][0] for name, factor in terms.items()}
