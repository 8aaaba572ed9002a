"""Intensities made to be distributed as a reference's: by its whole histogram, or by landmarks of it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from math import cos, pi
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from engine.errors import ModelError
from engine.models.summarised import Foreground, Summarised
from engine.models.summary import Histogram, Summary

Floats = NDArray[np.float64]

MOST_POINTS = 1 << 16
"""Points of a reference's cumulative histogram that are kept: all of 16 bits, else evenly spaced ones."""

N_QUANTILES = 15
"""Quantiles between the ends that stand for a source that has no whole histogram, closer together near the ends."""

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
"""The landmarks of Nyul & Udupa 1999, but for the modes."""


class Curve(Summarised):
    """A map of values, per channel: linear between knots, and on beyond the first and the last.

           y2 -        ___        knots       x0 x1 x2, ascending
           y1 -    ,-'            values      y0 y1 y2
           y0 ___/                slopes      before x0, behind each knot
               x0 x1   x2
    """

    is_open: ClassVar[bool]
    """Whether the map goes on beyond its ends with the slopes beside them; else it is level there."""
    knots: torch.Tensor
    values: torch.Tensor
    slopes: torch.Tensor

    def __init__(self, n_channels: int, n_knots: int, foreground: Foreground) -> None:
        """Take the channels, the knots of each, and which voxels count for them.

        Raises:
            ModelError: If there is no channel, there are too few knots, or the foreground is unknown.
        """
        if n_knots < 2:
            raise ModelError(f"{type(self).__name__} needs at least 2 knots, not {n_knots}. Give more.")
        identity = torch.arange(n_knots, dtype=torch.float32)[:, None].repeat(1, n_channels)
        slopes = torch.ones(n_knots + 1, n_channels)
        super().__init__(n_channels, foreground, knots=identity, values=identity.clone(), slopes=slopes)

    @abstractmethod
    def points(self, channel: int, summary: Summary) -> tuple[Floats, Floats]:
        """Return the knots of a channel and their values, both ascending; at most as many as there are buffers for."""

    def derive(self, channels: Sequence[Summary]) -> Mapping[str, torch.Tensor]:
        """Return ``knots``, ``values`` and ``slopes``; the last knot is repeated where there are fewer.

        Raises:
            ModelError: If a channel is constant.
        """
        self.check_varies([summary.high - summary.low for summary in channels], channels)
        n_knots = len(self.knots)
        found: dict[str, list[Floats]] = {"knots": [], "values": [], "slopes": []}
        for channel, summary in enumerate(channels):
            x, y = self.points(channel, summary)
            between = np.diff(y) / np.diff(x)
            before, after = (between[0], between[-1]) if self.is_open else (0.0, 0.0)
            n_missing = n_knots - len(x)
            found["knots"].append(np.pad(x, (0, n_missing), mode="edge"))
            found["values"].append(np.pad(y, (0, n_missing), mode="edge"))
            found["slopes"].append(np.array([before, *between, *[after] * (n_missing + 1)]))
        return {name: torch.from_numpy(np.stack(columns, axis=1)) for name, columns in found.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space), mapped, of the same dtype; NaN stays NaN.

        Raises:
            ModelError: If it is not fitted.
        """
        self.check_fitted()
        y = torch.cat([self._mapped(x[:, c : c + 1], c) for c in range(self.knots.shape[1])], dim=1)
        return y.masked_fill(~self.is_foreground(x), 0.0) if self.foreground == "nonzero" else y

    def _mapped(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """Return one channel (batch, 1, *space), mapped."""
        knots = self.knots[:, channel].to(x.dtype).contiguous()
        piece = torch.bucketize(x.contiguous(), knots, right=True)  # knots at or before it
        start, value = (torch.cat([table[:1], table]) for table in (knots, self.values[:, channel].to(x.dtype)))
        slope = self.slopes[:, channel].to(x.dtype)
        return torch.take(value, piece) + torch.take(slope, piece) * (x - torch.take(start, piece))


class HistogramMatch(Curve):
    """The cumulative histogram of each channel becomes the reference's, as ``skimage.exposure.match_histograms``.

    A source of no more different values than ``n_knots`` (any body CT, by default) is mapped as there, value for value.
    Of more values, those are made knots without which the map would miss most voxels by most, and it is linear between
    them; of a source that has no whole histogram (over a million values, or several channels), 15 quantiles and the
    ends are the knots. What lies beyond the source's ends gets the value of the end.

    >>> match = HistogramMatch(np.array([10, 20, 20, 30]))
    >>> match.fit(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    >>> match(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    tensor([[[10., 15., 20., 30.]]])
    """

    wants = "the histogram of each channel of the source"
    is_open = False

    def __init__(self, *references: Histogram | ArrayLike, n_knots: int = 4096, foreground: Foreground = None) -> None:
        """Take a reference per channel of the source.

        Args:
            references: Voxels of any shape, or their :class:`Histogram`, which
                :func:`engine.runtime.statistics.histogram` gives of a volume of any size.
            n_knots: What the map may be made of; a plan keeps three numbers for each.
            foreground: Which voxels of the source count; see :class:`engine.models.zscore.ZScore`. Of the reference
                all that is given counts.

        Raises:
            ModelError: If there is no reference, one is constant or not finite, or the foreground is unknown.
        """
        super().__init__(len(references), n_knots, foreground)
        curves = [_curve(reference) for reference in references]
        channels = [np.full(len(shares), i) for i, (shares, _) in enumerate(curves)]
        rows = [np.concatenate(parts) for parts in (channels, *zip(*curves, strict=True))]
        self.reference = torch.from_numpy(np.stack(rows).astype(np.float64))
        """Channel, share of its voxels that are not above a value, and value: (3, point); in the fingerprint."""
        n_shares = min(N_QUANTILES, n_knots - 2)
        self.shares = tuple((1 - cos(pi * i / (n_shares + 1))) / 2 for i in range(1, n_shares + 1))

    def points(self, channel: int, summary: Summary) -> tuple[Floats, Floats]:
        """Return values of the source and the reference's values at the same share of voxels."""
        reference = self.reference[1:, self.reference[0] == channel].numpy()
        if summary.histogram is not None:
            x = summary.histogram.values.astype(np.float64)
            y = np.interp(summary.histogram.shares, *reference)
            kept = chosen(x, y, summary.histogram.counts, len(self.knots))
            return x[kept], y[kept]
        x = np.array([summary.low, *(summary.quantiles[share] for share in self.shares), summary.high])
        y = np.interp([0.0, *self.shares, 1.0], *reference)
        is_last = np.append(np.diff(x) > 0, True)
        return x[is_last], y[is_last]


class LandmarkMatch(Curve):
    """The source's percentiles become given values, linear between and on beyond (Nyul & Udupa 1999, MRM 42:1072).

    As in TorchIO's ``HistogramStandardization``, but that the values are kept as they are given.

    >>> match = LandmarkMatch([(0.0, 0.0), (50.0, 10.0), (100.0, 40.0)])
    >>> match.fit(torch.tensor([[1.0], [2.0], [3.0]]))
    >>> match(torch.tensor([[[1.0, 2.5, 4.0]]]))
    tensor([[[ 0., 25., 70.]]])
    """

    wants = "the percentiles of each channel of the source"
    is_open = True

    def __init__(self, *landmarks: Sequence[tuple[float, float]], foreground: Foreground = None) -> None:
        """Take (percentile, value) pairs, ascending, for each channel of the source, and which of its voxels count.

        Raises:
            ModelError: If there are none, they do not ascend, or the foreground is unknown.
        """
        for pairs in landmarks:
            percentiles, values = np.array(pairs, np.float64).reshape(-1, 2).T
            is_within = percentiles.min() >= 0 and percentiles.max() <= 100
            if len(pairs) < 2 or not is_within or (np.diff(percentiles) <= 0).any() or (np.diff(values) <= 0).any():
                raise ModelError(
                    "LandmarkMatch needs two or more pairs of a percentile (0 to 100) and a value, both ascending, not "
                    f"{list(pairs)}. Take them from LandmarkMatch.landmarks_of."
                )
        super().__init__(len(landmarks), max(map(len, landmarks), default=2), foreground)
        self.landmarks = tuple(tuple((float(p), float(value)) for p, value in pairs) for pairs in landmarks)
        self.shares = tuple(sorted({p / 100 for pairs in self.landmarks for p, _ in pairs}))

    @staticmethod
    def landmarks_of(
        voxels: ArrayLike, percentiles: Sequence[float] = PERCENTILES
    ) -> tuple[tuple[float, float], ...]:
        """Return the landmarks that make other volumes look like the one of ``voxels``, an array of any shape."""
        values = np.percentile(np.asarray(voxels, np.float64), percentiles)
        return tuple((float(p), float(value)) for p, value in zip(percentiles, values, strict=True))

    def points(self, channel: int, summary: Summary) -> tuple[Floats, Floats]:
        """Return the source's percentiles and the values that they become; of equal percentiles the last counts."""
        pairs = self.landmarks[channel]
        x, y = np.array([summary.quantiles[p / 100] for p, _ in pairs]), np.array([value for _, value in pairs])
        is_last = np.append(np.diff(x) > 0, True)
        if is_last.sum() < 2:
            raise ModelError(
                f"LandmarkMatch needs percentiles that differ, and all of channel {channel} are {x[0]:g}. Give others, "
                "or look at the foreground only."
            )
        return x[is_last], y[is_last]


def chosen(x: Floats, y: Floats, counts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return at most ``n`` of some points, so that lines between them miss the voxels of the others by little in all.

    The stretch that misses its voxels most is cut where it misses a point most, and so on.

    >>> chosen(np.arange(5.0), np.array([0.0, 0.0, 0.0, 9.0, 9.0]), np.ones(5, np.int64), 3).tolist()
    [0, 2, 4]
    """
    if len(x) <= n:
        return np.arange(len(x))
    points = np.stack([x, y, counts])
    kept, worst = [0, len(x) - 1], [_worst(points, 0, len(x) - 1)]
    while len(kept) < n and worst and worst[0][0] < 0:
        _, first, place, last = heappop(worst)
        kept.append(place)
        for a, b in ((first, place), (place, last)):
            if b - a > 1:
                heappush(worst, _worst(points, a, b))
    return np.sort(np.array(kept))


def _worst(points: Floats, first: int, last: int) -> tuple[float, int, int, int]:
    """Return by how much, negative, a line between two points misses the voxels there, and which point by most."""
    x, y, counts = points[:, first : last + 1]
    misses = np.abs(y - (y[0] + (x - x[0]) * ((y[-1] - y[0]) / (x[-1] - x[0]))))[1:-1]
    return -float(misses @ counts[1:-1]), first, first + 1 + int(misses.argmax()), last


def _curve(reference: Histogram | ArrayLike) -> tuple[Floats, Floats]:
    """Return the cumulative histogram of a reference: share of voxels not above a value, and the value."""
    found = reference if isinstance(reference, Histogram) else Histogram.of(np.asarray(reference))
    if len(found.values) < 2 or not np.isfinite(found.values.astype(np.float64)).all():
        raise ModelError(
            f"HistogramMatch needs a reference of finite values that vary, not one with {len(found.values)} different "
            "values, some perhaps NaN. Give another."
        )
    shares, values = found.shares, found.values.astype(np.float64)
    if len(values) > MOST_POINTS:
        wanted = np.searchsorted(shares, np.linspace(shares[0], 1.0, MOST_POINTS))
        kept = np.unique(np.minimum(wanted, len(values) - 1))
        shares, values = shares[kept], values[kept]
    return shares, values
