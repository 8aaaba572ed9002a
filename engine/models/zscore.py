"""The z-score: what comes in, less its mean over the source, by its spread there."""

from collections.abc import Mapping, Sequence

import torch

from engine.models.summarised import Foreground, Summarised, along_channels, per_channel
from engine.models.summary import Summary


class ZScore(Summarised):
    """``(x - mean) / std`` per channel, by the mean and the standard deviation (divided by n) of the source.

    Constants that are known before are given by :class:`engine.models.wrappers.Normalise` instead.

    >>> zscore = ZScore(1)
    >>> zscore.fit(torch.tensor([[1.0], [3.0]]))
    >>> zscore(torch.tensor([[[5.0]]]))
    tensor([[[3.]]])
    """

    wants = "the mean and spread of each channel of the source"
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, n_channels: int = 1, *, foreground: Foreground = None) -> None:
        """Take the source's channels, and which voxels count.

        Args:
            n_channels: Of the source.
            foreground: None for all voxels. A number: the voxels of a channel above it are measured, and all are
                normalised, as TorchIO does behind a mask. ``nonzero``: the voxels where any channel is not 0 are
                measured and normalised, and the others are 0 after it, as nnU-Net's ``use_mask_for_norm`` and MONAI's
                ``nonzero=True`` leave them; nnU-Net also fills holes in that mask, which this does not.

        Raises:
            ModelError: If there is no channel, or the foreground is unknown.
        """
        super().__init__(n_channels, foreground, mean=torch.zeros(n_channels), std=torch.ones(n_channels))

    def derive(self, channels: Sequence[Summary]) -> Mapping[str, torch.Tensor]:
        """Return ``mean`` and ``std``.

        Raises:
            ModelError: If a channel is constant.
        """
        means, stds = [summary.mean for summary in channels], [summary.std for summary in channels]
        self.check_varies(stds, channels)
        return {"mean": per_channel(means), "std": per_channel(stds)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space), normalised, of the same dtype.

        Raises:
            ModelError: If it is not fitted.
        """
        self.check_fitted()
        y = (x - along_channels(self.mean, x)) / along_channels(self.std, x)
        return y.masked_fill(~self.is_foreground(x), 0.0) if self.foreground == "nonzero" else y
