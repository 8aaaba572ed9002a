"""The z-score: what comes in, less its mean over the source, by its spread there."""

from collections.abc import Mapping

import torch

from engine.errors import ModelError
from engine.models import moments
from engine.models.fitted import Statistics


class ZScore(Statistics):
    """``(x - mean) / std`` per channel, by the mean and the standard deviation (divided by n) of the source.

    >>> zscore = ZScore(1)
    >>> zscore.fit(torch.tensor([[1.0], [3.0]]))
    >>> zscore(torch.tensor([[[5.0]]]))
    tensor([[[3.]]])
    """

    wants = "the mean and spread of each channel of the source"
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, n_channels: int) -> None:
        if n_channels < 1:
            raise ModelError(f"ZScore needs at least 1 channel, not {n_channels}. Give the source's channels.")
        super().__init__(mean=torch.zeros(n_channels), std=torch.ones(n_channels))

    def measure(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return ``mean`` and ``std``, float64.

        Raises:
            ModelError: If the channels are not as many, or one of them is constant.
        """
        n_channels = len(self.mean)
        if pixels.shape[1] != n_channels:
            raise ModelError(f"ZScore was made for {n_channels} channels, not {pixels.shape[1]}. Make it for those.")
        found = {"mean": moments.mean(pixels), "std": moments.std(pixels)}
        flat = [channel for channel, std in enumerate(found["std"].to(torch.float32).tolist()) if not std > 0]
        if flat:
            raise ModelError(
                f"ZScore needs channels that vary, and over {len(pixels)} pixels channel {flat[0]} is always "
                f"{pixels[0, flat[0]]:g}. Leave it out, or fit to more of the source."
            )
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space), normalised, of the same dtype.

        Raises:
            ModelError: If it is not fitted.
        """
        self.check_fitted()
        shape = (-1, *(1,) * (x.dim() - 2))
        return (x - self.mean.to(x.dtype).reshape(shape)) / self.std.to(x.dtype).reshape(shape)
