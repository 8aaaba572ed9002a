"""A network on a grid of its own spacing: the source resampled to it, and what comes out resampled back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError
from engine.geometry.resampling import N_TAPS, ORDERS, Order, Resampling, grid_size

CUBIC = -0.75
"""The free parameter of the cubic kernel (Keys 1981), as torch's ``bicubic`` has it."""


def tap_weights(resampling: Resampling, beyond: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how much each tap counts, (n, taps); ``beyond`` as :meth:`Resampling.taps` gives it."""
    n_taps = 1 if resampling.is_identity else N_TAPS[resampling.order]
    t = beyond / (2 * resampling.n_to)
    if n_taps == 1:
        return np.ones((len(t), 1))
    if n_taps == 2:
        return np.stack([1 - t, t], axis=1)
    a = CUBIC
    near, far = [((a + 2) * s - (a + 3)) * s * s + 1 for s in (t, 1 - t)], [1 + t, 2 - t]
    outer = [((a * s - 5 * a) * s + 8 * a) * s - 4 * a for s in far]
    return np.stack([outer[0], near[0], near[1], outer[1]], axis=1)


def resample_axis(
    x: torch.Tensor, axis: int, resampling: Resampling, *, indices: NDArray[np.int64], first: int = 0
) -> torch.Tensor:
    """Return voxels of one axis on another grid; every value is the same whatever else is asked for.

    Args:
        x: Any shape; along ``axis`` it holds the grid ``from`` from its voxel ``first`` on.
        axis: The axis.
        resampling: The two grids.
        indices: Voxels of the grid ``to`` that are wanted.
        first: See ``x``.
    """
    taps, beyond = resampling.taps(indices)
    weights = tap_weights(resampling, beyond)
    shape = [1] * x.dim()
    shape[axis] = len(indices)
    found: torch.Tensor | None = None
    for tap, weight in zip((taps - first).T, weights.T, strict=True):
        is_run = bool((np.diff(tap) == 1).all())
        part = x.narrow(axis, int(tap[0]), len(tap)) if is_run else x.index_select(axis, _tensor(tap, x.device))
        if weights.shape[1] > 1:
            part = part * torch.as_tensor(weight, dtype=x.dtype, device=x.device).reshape(shape)
        found = part if found is None else found.add_(part)
    assert found is not None
    return found


def _tensor(indices: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(indices)).to(device)


def resample(x: torch.Tensor, resamplings: Sequence[Resampling]) -> torch.Tensor:
    """Return a whole volume (batch, channel, *space) on another grid, last axis first."""
    for axis in reversed(range(len(resamplings))):
        one = resamplings[axis]
        if not one.is_identity:
            x = resample_axis(x, axis + 2, one, indices=np.arange(one.n_to))
    return x


class Resampled(nn.Module):
    """What is inside sees the source at its own spacing; what it gives is brought back to the source's grid.

    The number of voxels along an axis is rounded (:func:`engine.geometry.resampling.grid_size`) and the outer
    borders of both grids coincide, so that the spacing on the network's grid is near the one that is asked for. No
    smoothing goes before a coarser grid, as in nnU-Net. By itself the module runs the whole volume at once; the
    engine runs it block by block, with the same values.

    >>> inner = Resampled(nn.Identity(), spacing=2.0)
    >>> inner.source_spacing = (1.0,)
    >>> inner(torch.arange(4.0).reshape(1, 1, 4))
    tensor([[[0.5000, 1.0000, 2.0000, 2.5000]]])
    """

    passes_voxels = True
    """What is fitted inside is fitted to the source's own voxels."""

    def __init__(
        self,
        inner: nn.Module,
        *,
        spacing: float | Sequence[float | None],
        order: Order = "linear",
        back: Order = "linear",
    ) -> None:
        """Put a grid around a module.

        Args:
            inner: The network, with what is to happen on its grid.
            spacing: Step per space axis in storage order, in the unit of the source's axes (a scan's is the
                millimetre); one serves all. None leaves an axis as it is.
            order: How the source is brought to the network's grid.
            back: How what comes out is brought back: ``nearest`` for labels, else before an argmax.

        Raises:
            ModelError: If a spacing is not positive, or an order is unknown.
        """
        super().__init__()
        steps = (spacing,) if isinstance(spacing, int | float) else tuple(spacing)
        if not steps or any(step is not None and not step > 0 for step in steps):
            raise ModelError(f"Resampled needs a positive spacing per axis, or one for all, not {spacing}. Give one.")
        if order not in ORDERS or back not in ORDERS:
            raise ModelError(f"Resampled knows {', '.join(ORDERS)}, not '{order}' and '{back}'. Name one of them.")
        self.inner = inner
        self.spacing: tuple[float | None, ...] = tuple(None if step is None else float(step) for step in steps)
        self.order: Order = order
        self.back: Order = back
        self.source_spacing: tuple[float, ...] | None = None
        """Of what comes in; the engine knows it from the volume."""

    def sizes(self, shape: Sequence[int], source_spacing: tuple[float, ...]) -> tuple[int, ...]:
        """Return the voxels of the network's grid over a source of ``shape``, per space axis.

        Raises:
            ModelError: If there are not as many spacings as axes.
        """
        wanted = self.spacing * len(shape) if len(self.spacing) == 1 else self.spacing
        source = source_spacing * len(shape) if len(source_spacing) == 1 else source_spacing
        if not len(wanted) == len(shape) == len(source):
            raise ModelError(
                f"Resampled has {len(self.spacing)} spacings {self.spacing} for {len(shape)} space axes of spacing "
                f"{tuple(source_spacing)}. Give one for each, in storage order."
            )
        steps = zip(shape, source, wanted, strict=True)
        return tuple(n if step is None else grid_size(n, spacing=own, wanted=step) for n, own, step in steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the inner module gives for all of ``x`` (batch, channel, *space), on the grid of ``x``.

        Raises:
            ModelError: If the source's spacing was not set, or the inner module gives another grid.
        """
        if self.source_spacing is None:
            raise ModelError("Resampled must know the spacing of its source. Set source_spacing, or run it by engine.")
        shape = tuple(x.shape[2:])
        sizes = self.sizes(shape, self.source_spacing)
        there = [Resampling(n, m, self.order) for n, m in zip(shape, sizes, strict=True)]
        y = self._on_grid(resample(x, there))
        return resample(y, [Resampling(m, n, self.back) for n, m in zip(shape, sizes, strict=True)])

    def _on_grid(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the inner module gives on the grid of ``x``.

        Where it gives less, as of an odd length that it pools, it is shown more, by reflection at the far edge: the
        rule of a plan.
        """
        sizes, y = tuple(x.shape[2:]), self.inner(x)
        while isinstance(y, torch.Tensor) and y.dim() == x.dim() and min(y.shape[2:]) > 0:
            lacking = [max(n - m, 0) for n, m in zip(sizes, y.shape[2:], strict=True)]
            if not any(lacking) or any(2 * m <= n for n, m in zip(sizes, y.shape[2:], strict=True)):
                break
            x = F.pad(x, [n for lack in reversed(lacking) for n in (0, lack)], mode="reflect")
            y = self.inner(x)
        got = tuple(y.shape[2:]) if isinstance(y, torch.Tensor) else ()
        if len(got) != len(sizes) or any(m < n for n, m in zip(sizes, got, strict=True)):
            raise ModelError(
                f"what is inside Resampled must give one tensor on its own grid {sizes}, not "
                f"{got or type(y).__name__}. Put what reduces classes after it."
            )
        on_grid: torch.Tensor = y[(slice(None), slice(None), *(slice(n) for n in sizes))]
        return on_grid


@contextmanager
def on_its_own_grid(module: nn.Module) -> Iterator[None]:
    """Let every :class:`Resampled` of a module take its input for one on its own grid, to meet it without a source."""
    parts = [part for part in module.modules() if isinstance(part, Resampled) and part.source_spacing is None]
    for part in parts:
        part.source_spacing = tuple(1.0 if step is None else step for step in part.spacing)
    try:
        yield
    finally:
        for part in parts:
            part.source_spacing = None
