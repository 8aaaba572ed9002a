"""Intensities brought into a range, voxel by voxel: by a window, by given ends, or by the source's own."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import nn

from engine.errors import ModelError
from engine.models.summarised import Foreground, Summarised, along_channels, per_channel
from engine.models.summary import Summary

Numbers = float | Sequence[float]
"""One for all channels, or one per channel."""


class Window(nn.Module):
    """``level - width / 2`` to ``level + width / 2`` spread over a range; what lies outside is clipped.

    It is DICOM's LINEAR_EXACT (PS3.3 C.11.2.1.3.2), with the ends that scanners' consoles show. Several levels and
    widths on one channel give as many channels. Where no window is named, it is that of soft tissue in HU.

    >>> Window(40, 400)(torch.tensor([[[-1000.0, 40.0, 140.0, 3000.0]]]))
    tensor([[[0.0000, 0.5000, 0.7500, 1.0000]]])

    Raises:
        ModelError: If a width is not positive, or the range has no length.
    """

    low: torch.Tensor
    width: torch.Tensor

    def __init__(self, level: Numbers = 40.0, width: Numbers = 400.0, *, to: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        levels, widths = _pair("Window", level, width)
        if not bool((widths > 0).all()):
            raise ModelError(f"Window needs a positive width, not {width}. Give the span of values that is shown.")
        if not to[0] < to[1]:
            raise ModelError(f"Window needs a range whose low end is below its high end, not {to}. Turn it round.")
        self.register_buffer("low", (levels - widths / 2).to(torch.float32), persistent=False)
        self.register_buffer("width", widths.to(torch.float32), persistent=False)
        self.to_low, self.to_high = float(to[0]), float(to[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space) in the range, of the same dtype; NaN stays NaN."""
        share = ((x - along_channels(self.low, x)) / along_channels(self.width, x)).clamp(0.0, 1.0)
        if (self.to_low, self.to_high) == (0.0, 1.0):
            return share
        return share * (self.to_high - self.to_low) + self.to_low


class Clip(nn.Module):
    """Values below ``low`` become ``low``, and those above ``high`` become ``high``.

    >>> Clip(-1000.0, 1000.0)(torch.tensor([[[-3024.0, 40.0, 3000.0]]]))
    tensor([[[-1000.,    40.,  1000.]]])

    Raises:
        ModelError: If ``low`` is not below ``high``.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, low: Numbers, high: Numbers) -> None:
        super().__init__()
        lows, highs = _pair("Clip", low, high)
        if not bool((lows < highs).all()):
            raise ModelError(f"Clip needs low below high, not {low} and {high}. Give the range of the values.")
        self.register_buffer("low", lows.to(torch.float32), persistent=False)
        self.register_buffer("high", highs.to(torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space), clipped, of the same dtype; NaN stays NaN."""
        return torch.clamp(x, along_channels(self.low, x), along_channels(self.high, x))


class MinMax(Summarised):
    """The source's own ends, or two of its percentiles, spread over 0 to 1 per channel; what lies outside is clipped.

    Percentiles are those of ``numpy.percentile``. Ends that are known before are given by :meth:`given`.

    >>> minmax = MinMax(1)
    >>> minmax.fit(torch.tensor([[10.0], [20.0], [30.0]]))
    >>> minmax(torch.tensor([[[15.0, 40.0]]]))
    tensor([[[0.2500, 1.0000]]])
    """

    wants = "the ends of each channel of the source"
    low: torch.Tensor
    high: torch.Tensor

    def __init__(
        self, n_channels: int = 1, *, percentiles: tuple[float, float] = (0.0, 100.0), foreground: Foreground = None
    ) -> None:
        """Take the source's channels, the percentiles that become 0 and 1, and which voxels count for them.

        Raises:
            ModelError: If there is no channel, the percentiles are not two from 0 to 100, or the foreground is unknown.
        """
        super().__init__(n_channels, foreground, low=torch.zeros(n_channels), high=torch.ones(n_channels))
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ModelError(f"MinMax needs percentiles from 0 to 100, the low one first, not {percentiles}. Give two.")
        self.percentiles = (float(percentiles[0]), float(percentiles[1]))
        self.shares = tuple(p / 100 for p in self.percentiles if 0 < p < 100)

    @classmethod
    def given(cls, low: Numbers, high: Numbers) -> Self:
        """Return one that is fitted already, to ends that are known.

        Raises:
            ModelError: If ``low`` is not below ``high``.
        """
        lows, highs = _pair("MinMax", low, high)
        if not bool((lows.to(torch.float32) < highs.to(torch.float32)).all()):
            raise ModelError(f"MinMax needs low below high, not {low} and {high}. Give the range of the values.")
        minmax = cls(len(lows))
        minmax.keep({"low": lows, "high": highs})
        return minmax

    def derive(self, channels: Sequence[Summary]) -> Mapping[str, torch.Tensor]:
        """Return ``low`` and ``high``.

        Raises:
            ModelError: If they are the same.
        """
        self.check_varies([summary.high - summary.low for summary in channels], channels)
        first, last = self.percentiles
        lows = per_channel([s.quantiles[first / 100] if first > 0 else s.low for s in channels])
        highs = per_channel([s.quantiles[last / 100] if last < 100 else s.high for s in channels])
        for number in torch.nonzero(~(lows.to(torch.float32) < highs.to(torch.float32))).flatten().tolist():
            raise ModelError(
                f"MinMax needs percentiles that differ, and those at {first:g} and {last:g} of channel {number} are "
                f"both {lows[number]:g}. Give others, or look at the foreground only."
            )
        return {"low": lows, "high": highs}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space) from 0 to 1, of the same dtype; NaN stays NaN.

        Raises:
            ModelError: If it is not fitted.
        """
        self.check_fitted()
        low, high = along_channels(self.low, x), along_channels(self.high, x)
        return ((x - low) / (high - low)).clamp(0.0, 1.0)


def _pair(name: str, first: Numbers, second: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two settings of a module, float64, one number per channel each."""
    try:
        rows = np.array(np.broadcast_arrays(np.atleast_1d(first), np.atleast_1d(second)), np.float64)
    except ValueError as error:
        raise ModelError(
            f"{name} needs numbers, one for all channels or one for each, not {first} and {second}. Give as many of "
            "both."
        ) from error
    return torch.from_numpy(rows[0].copy()), torch.from_numpy(rows[1].copy())
