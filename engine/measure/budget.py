"""What a run did to the globe's budget: area-weighted means of what went in and came out, and whether they close.

    volume  --block by block, float64-->  per channel: mean over the globe, least, most, negative, beyond 3 sigma
    terms of a budget (in, out)  -->  what is left over, by itself and as a share of the largest

Both sides are read as they are stored, so these are figures of the result and not of a tile.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import Role, positions
from engine.geometry.region import Region
from engine.storage.readable import Readable

SIGMA = 3.0
"""Spreads from the mean beyond which an input is outside of what a network learnt from."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a network learnt from: the mean and the standard deviation of each channel of the input."""

    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True, slots=True)
class ChannelBudget:
    """One channel of a stored grid, over all cells and steps."""

    name: str
    mean: float
    """Weighted by area, over the values that are numbers; NaN where there is none."""
    low: float
    high: float
    n: int
    """Values that are numbers."""
    n_missing: int
    """Values that are not."""
    n_negative: int
    n_beyond: int | None
    """Values further than 3 sigma from what the network learnt from; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Closure:
    """A budget: terms that should sum to nothing."""

    terms: Mapping[str, float]
    """Each with its sign, in one unit."""

    @property
    def residual(self) -> float:
        """What is left over."""
        return sum(self.terms.values())

    @property
    def share(self) -> float:
        """What is left over, of the largest term; NaN where all are 0."""
        largest = max(map(abs, self.terms.values()), default=0.0)
        return abs(self.residual) / largest if largest else float("nan")


class _Sums:
    """Running sums of the channels."""

    def __init__(self, n_channels: int) -> None:
        self.weighted, self.weight = np.zeros(n_channels), np.zeros(n_channels)
        self.low, self.high = np.full(n_channels, np.inf), np.full(n_channels, -np.inf)
        self.n, self.missing, self.negative, self.beyond = (np.zeros(n_channels, np.int64) for _ in range(4))

    def add(self, at: slice, values: NDArray[np.float64], weights: NDArray[np.float64], known: Known | None) -> None:
        """Add voxels (channel, n) with their weights (n,)."""
        is_number = np.isfinite(values)
        zeroed = np.where(is_number, values, 0.0)
        self.weighted[at] += zeroed @ weights
        self.weight[at] += is_number @ weights
        self.low[at] = np.minimum(self.low[at], np.where(is_number, values, np.inf).min(1))
        self.high[at] = np.maximum(self.high[at], np.where(is_number, values, -np.inf).max(1))
        self.n[at] += is_number.sum(1)
        self.missing[at] += (~is_number).sum(1)
        self.negative[at] += (zeroed < 0).sum(1)
        if known is not None:
            mean, std = (np.asarray(part, np.float64)[at, None] for part in (known.mean, known.std))
            self.beyond[at] += ((np.abs(values - mean) > SIGMA * std) & is_number).sum(1)


def channel_budgets(
    volume: Readable,
    weights: NDArray[np.float64],
    *,
    names: Sequence[str] | None = None,
    known: Known | None = None,
) -> tuple[ChannelBudget, ...]:
    """Return what each channel of a grid holds, read object by object in storage order.

    Args:
        volume: With the space axes lat and lon, in this order; any other axes beside.
        weights: Of each row (lat,) or cell (lat, lon); see :mod:`engine.measure.area`.
        names: Of the channels; their numbers by default.
        known: What the network learnt from, where inputs are to be counted that lie beyond.

    Raises:
        VolumeError: If the weights, names or known statistics do not fit the volume, or it cannot be read.
    """
    axis = next(iter(positions(volume.axes, Role.CHANNEL)), None)
    n_channels = 1 if axis is None else volume.shape[axis]
    area = _area(volume, weights)
    _check(volume, n_channels, names=names, known=known)
    sums = _Sums(n_channels)
    for region in _objects(volume):
        rows, columns = (slice(a, b) for a, b in zip(region.start[-2:], region.stop[-2:], strict=True))
        voxels = volume.read(region).astype(np.float64)
        at = slice(0, 1) if axis is None else slice(region.start[axis], region.stop[axis])
        voxels = voxels[None] if axis is None else np.moveaxis(voxels, axis, 0)
        cells = np.broadcast_to(area[rows, columns], voxels.shape[1:]).ravel()
        sums.add(at, voxels.reshape(len(voxels), -1), cells, known)
    labels = list(names) if names is not None else list(map(str, range(n_channels)))
    return tuple(_one(sums, i, label, is_known=known is not None) for i, label in enumerate(labels))


def closure(**terms: float) -> Closure:
    """Return the budget of terms that should sum to nothing, each with its sign.

    >>> closure(heating=99.0, rain=-100.0).residual, closure(heating=99.0, rain=-100.0).share
    (-1.0, 0.01)

    Raises:
        VolumeError: If a term is no number.
    """
    if lost := [name for name, value in terms.items() if isnan(value)]:
        raise VolumeError(f"the terms of a budget must be numbers, and {', '.join(lost)} are not. Mask missing cells.")
    return Closure(terms)


def _one(sums: _Sums, i: int, name: str, *, is_known: bool) -> ChannelBudget:
    counts = (int(count[i]) for count in (sums.n, sums.missing, sums.negative))
    n, n_missing, n_negative = counts
    return ChannelBudget(
        name=name,
        mean=float(sums.weighted[i] / sums.weight[i]) if sums.weight[i] else float("nan"),
        low=float(sums.low[i]) if n else float("nan"),
        high=float(sums.high[i]) if n else float("nan"),
        n=n,
        n_missing=n_missing,
        n_negative=n_negative,
        n_beyond=int(sums.beyond[i]) if is_known else None,
    )


def _objects(volume: Readable) -> Iterator[Region]:
    grid = volume.levels[0].grid
    return (grid.region(number) for number in range(grid.n_cells))


def _area(volume: Readable, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    names, grid = [axis.name for axis in volume.axes], volume.shape[-2:]
    area = np.asarray(weights, np.float64)
    if names[-2:] != ["lat", "lon"] or area.shape not in (grid[:1], grid):
        raise VolumeError(
            f"area weights are one per row or cell of a grid whose last axes are lat and lon, and '{volume.url}' has "
            f"axes {names} of {volume.shape}, the weights {area.shape}. Make them of its own latitudes."
        )
    return np.broadcast_to(area[:, None] if area.ndim == 1 else area, grid)


def _check(volume: Readable, n_channels: int, *, names: Sequence[str] | None, known: Known | None) -> None:
    given = {"names": names} | ({"mean": known.mean, "std": known.std} if known is not None else {})
    for what, values in given.items():
        if values is not None and len(values) != n_channels:
            raise VolumeError(
                f"there must be one of {what} for each of the {n_channels} channels of '{volume.url}', not "
                f"{len(values)}. Give those of this volume."
            )
