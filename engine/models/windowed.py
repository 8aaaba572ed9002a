"""The windowed contract as a module: the fixed sliding window that MONAI and nnU-Net define, and mirroring."""

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError
from engine.geometry.windows import Rule, Weights, Windows

SMALLEST_WEIGHT = 1e-3
"""Of MONAI's Gaussian: a smaller one is raised to it, or to the smallest of a window where that is more."""

LARGEST_NNUNET_WEIGHT = 10.0
"""nnU-Net scales its Gaussian to this at the centre."""


def window_weights(windows: Windows) -> torch.Tensor:
    """Return what each voxel of a window counts, float32 of the window's shape.

    MONAI's Gaussian is a product of one along each axis (``monai.data.utils.compute_importance_map``); nnU-Net's is
    a filtered point, cut off at four deviations (``nnunetv2.inference.sliding_window_prediction.compute_gaussian``,
    which keeps it in float16; here it is float32).
    """
    if windows.weights == "constant":
        return torch.ones(windows.shape)
    sigmas = [n * windows.sigma_scale for n in windows.shape]
    if windows.rule == "nnunet":
        point = np.zeros(windows.shape)
        point[tuple(n // 2 for n in windows.shape)] = 1
        found = torch.from_numpy(gaussian_filter(point, sigmas, 0, mode="constant", cval=0))
        found = (found / (found.max() / LARGEST_NNUNET_WEIGHT)).to(torch.float32)
        found[found == 0] = found[found != 0].min()
        return found
    weights = torch.ones(())
    for n, sigma in zip(windows.shape, sigmas, strict=True):
        x = torch.arange(-(n - 1) / 2.0, (n - 1) / 2.0 + 1, dtype=torch.float32)
        weights = weights[..., None] * torch.exp(x**2 / (-2 * sigma**2))
    return weights.clamp(min=max(float(weights.min()), SMALLEST_WEIGHT))


class Windowed(nn.Module):
    """A network that is only ever shown windows of one size: overlapping ones, blended by weights.

    For networks that were trained on patches and look at all of what they are shown (instance norm, attention):
    the window *is* the model. By itself the module runs over the whole volume; the engine runs it block by block,
    each block pulling the windows that meet it, in the same order, with the same values.

    >>> blur = Windowed(nn.AvgPool1d(3, 1, 1), window=4, overlap=0.5)
    >>> blur(torch.arange(6.0).reshape(1, 1, 6))
    tensor([[[0.3333, 1.0000, 1.8333, 2.3333, 4.0000, 3.0000]]])
    """

    passes_voxels = True

    def __init__(
        self,
        network: nn.Module,
        *,
        window: int | Sequence[int],
        overlap: float | Sequence[float] = 0.25,
        weights: Weights = "constant",
        sigma_scale: float = 0.125,
        rule: Rule = "monai",
    ) -> None:
        """Put a window around a network; the defaults are MONAI's.

        Args:
            network: Takes (batch, channel, *window) and gives one tensor (batch, channel, *window).
            window: Voxels per space axis; one serves all.
            overlap: Part of a window that the next covers too; nnU-Net's step size is 1 less this.
            weights: ``constant`` or ``gaussian``.
            sigma_scale: Of the Gaussian.
            rule: Whose steps and Gaussian: ``monai`` or ``nnunet``.
        """
        super().__init__()
        self.network = network
        self.window = (window,) if isinstance(window, int) else tuple(window)
        self.overlap = (float(overlap),) if isinstance(overlap, int | float) else tuple(overlap)
        self.weights: Weights = weights
        self.sigma_scale = float(sigma_scale)
        self.rule: Rule = rule

    def windows(self, n_space: int) -> Windows:
        """Return the sliding window over so many space axes.

        Raises:
            ModelError: If it was given for another number of axes.
            PlanError: If a length, an overlap or a rule is none.
        """
        shape = self.window * n_space if len(self.window) == 1 else self.window
        overlap = self.overlap * n_space if len(self.overlap) == 1 else self.overlap
        if len(shape) != n_space or len(overlap) != n_space:
            raise ModelError(
                f"Windowed needs a length and an overlap per space axis, or one for all, not {self.window} and "
                f"{self.overlap} for {n_space} axes. Give as many."
            )
        return Windows(shape, overlap, self.weights, self.sigma_scale, self.rule)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the blended output for all of ``x`` (batch, channel, *space), on its grid."""
        size = tuple(x.shape[2:])
        windows = self.windows(len(size))
        pads = [windows.padded(axis, n) for axis, n in enumerate(size)]
        x = F.pad(x, [n for pad in reversed(pads) for n in pad])
        weights = window_weights(windows).to(x)
        total: torch.Tensor | None = None
        count = torch.zeros((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        for start in product(*(windows.starts(axis, n) for axis, n in enumerate(size))):
            at = _box(start, windows.shape)
            y = self.network(x[at])
            if total is None:
                total = torch.zeros((*y.shape[:2], *x.shape[2:]), dtype=y.dtype, device=y.device)
            total[at] += y * weights
            count[at] += weights
        assert total is not None
        return (total / count)[_box([before for before, _ in pads], size)]


def _box(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of a box in (batch, channel, *space)."""
    return (slice(None), slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))


class Mirrored(nn.Module):
    """Test-time augmentation by mirroring: the mean over all flips along some axes, each flipped back.

    As nnU-Net does it: as it stands first, then every combination of axes, summed and divided by their number.

    >>> Mirrored(nn.Conv1d(1, 1, 3, padding=1, bias=False), axes=(0,))(torch.zeros(1, 1, 4)).shape
    torch.Size([1, 1, 4])
    """

    def __init__(self, network: nn.Module, *, axes: Sequence[int]) -> None:
        """Mirror a network.

        Args:
            network: Takes and gives (batch, channel, *space) on one grid.
            axes: Space axes, 0 being the first.

        Raises:
            ModelError: If an axis is named twice or is negative.
        """
        super().__init__()
        if len(set(axes)) != len(axes) or min(axes, default=0) < 0:
            raise ModelError(f"Mirrored needs space axes from 0, each once, not {tuple(axes)}. Give as (0, 1, 2).")
        self.network = network
        self.axes = tuple(axes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of the network's outputs over all flips."""
        y: torch.Tensor = self.network(x)
        space = [axis + 2 for axis in self.axes]
        flips = [flip for n in range(1, len(space) + 1) for flip in combinations(space, n)]
        for flip in flips:
            y = y + torch.flip(self.network(torch.flip(x, flip)), flip)
        return y / (len(flips) + 1)
