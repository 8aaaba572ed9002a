"""Modules that are fitted to a summary of each channel: of the whole of a volume, or of its foreground."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.models.fitted import Statistics
from engine.models.summary import Histogram, Summary

Foreground = float | Literal["nonzero"] | None
"""Which voxels count: all; in each channel those above a number; or those where any channel is not 0."""


class Summarised(Statistics):
    """A :class:`Statistics` that needs no more than a :class:`Summary` of each channel, so any volume can fit it.

    A new one says what it derives in :meth:`derive`, and which quantiles that takes in ``shares``.
    """

    shares: tuple[float, ...] = ()
    """Quantiles that must be in each summary, as shares between 0 and 1."""

    def __init__(self, n_channels: int, foreground: Foreground, **stand_ins: torch.Tensor) -> None:
        """Take the source's channels and which voxels count, and ``stand_ins`` as :class:`Statistics` does.

        Raises:
            ModelError: If there is no channel, or the foreground is unknown.
        """
        name = type(self).__name__
        if n_channels < 1:
            raise ModelError(f"{name} needs at least 1 channel, not {n_channels}. Give the source's channels.")
        if isinstance(foreground, str) and foreground != "nonzero":
            raise ModelError(f"the foreground of {name} is a number, 'nonzero' or None, not '{foreground}'. Give one.")
        super().__init__(**stand_ins)
        self.n_channels = n_channels
        self.foreground: Foreground = foreground

    @abstractmethod
    def derive(self, channels: Sequence[Summary]) -> Mapping[str, torch.Tensor]:
        """Return the value of each buffer, float64, from a summary per channel, each of one voxel or more.

        Raises:
            ModelError: If they hold no such statistics.
        """

    def fit_to(self, channels: Sequence[Summary]) -> None:
        """Set the statistics from a summary of each channel.

        Raises:
            ModelError: If they are not as many as the module's, one is of no voxel, or they hold no such statistics.
        """
        self.keep(self._checked(channels))

    def measure(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return the value of each buffer from pixels (n, channels) in memory; raises as :meth:`fit_to`."""
        return self._checked(self.summarise(pixels.T))

    def summarise(self, columns: torch.Tensor, counts: NDArray[np.int64] | None = None) -> list[Summary]:
        """Return the summary of each channel of voxels in memory (channel, n); each comes so often as its count."""
        found = []
        for values, is_counted in zip(columns.to(torch.float64).numpy(), self.counted(columns).numpy(), strict=True):
            weights = np.ones(len(values), np.int64) if counts is None else counts
            found.append(Summary.of(Histogram.weighted(values[is_counted], weights[is_counted]), self.shares))
        return found

    def counted(self, columns: torch.Tensor) -> torch.Tensor:
        """Say which of voxels (channel, n) count: those of the foreground that are finite."""
        return self.is_foreground(columns[None])[0].expand_as(columns) & torch.isfinite(columns)

    def is_foreground(self, x: torch.Tensor) -> torch.Tensor:
        """Say which voxels of (batch, channel, *space) belong to the foreground; its channels are 1, or all."""
        if self.foreground is None:
            return torch.ones_like(x, dtype=torch.bool)
        if isinstance(self.foreground, str):
            return (x != 0).any(dim=1, keepdim=True)
        return x > self.foreground

    def check_varies(self, spreads: Sequence[float], channels: Sequence[Summary]) -> None:
        """Refuse channels whose spread is nothing, as float32.

        Raises:
            ModelError: If there is one.
        """
        for number, (spread, summary) in enumerate(zip(spreads, channels, strict=True)):
            if not np.float32(spread) > 0:
                raise ModelError(
                    f"{type(self).__name__} needs channels that vary, and over {summary.n} voxels{self._among} channel "
                    f"{number} is always {summary.low:g}. Leave it out, or fit to more of the source."
                )

    def _checked(self, channels: Sequence[Summary]) -> Mapping[str, torch.Tensor]:
        name = type(self).__name__
        if len(channels) != self.n_channels:
            raise ModelError(f"{name} was made for {self.n_channels} channels, not {len(channels)}. Make it for those.")
        if empty := [number for number, summary in enumerate(channels) if not summary.n]:
            raise ModelError(
                f"{name} needs finite voxels{self._among}, and channel {empty[0]} of the source has none. "
                f"{'Look at the source' if self.foreground is None else 'Give another foreground'}, or leave it out."
            )
        return self.derive(channels)

    @property
    def _among(self) -> str:
        if self.foreground is None:
            return ""
        return " that are not 0" if self.foreground == "nonzero" else f" above {self.foreground:g}"


def per_channel(values: Sequence[float]) -> torch.Tensor:
    """Return one float64 number per channel, as a buffer takes it."""
    return torch.tensor(values, dtype=torch.float64)


def along_channels(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return one number per channel in the shape and dtype in which it meets ``x`` (batch, channel, *space)."""
    return values.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 2))
