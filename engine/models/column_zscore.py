"""The z-score per variable: one mean and one spread for all levels of it, found in the pass over the source."""

from collections.abc import Mapping, Sequence
from math import fsum, sqrt

import torch

from engine.errors import ModelError
from engine.models.summarised import per_channel
from engine.models.summary import Summary
from engine.models.zscore import ZScore


class VariableZScore(ZScore):
    """``(x - mean) / std`` of each variable over all its levels together, so that their profile is kept.

    :class:`ZScore` takes each level of each variable by itself; constants that are known before are given to
    :class:`engine.models.wrappers.Normalise`.

    >>> zscore = VariableZScore(variables=1, levels=2)
    >>> zscore.fit(torch.tensor([[1.0, 3.0]]))
    >>> zscore(torch.tensor([[[5.0], [2.0]]])).flatten().tolist()
    [3.0, 0.0]
    """

    wants = "the mean and spread of each variable of the source, over all its levels"

    def __init__(self, *, variables: int, levels: int, scalars: int = 0) -> None:
        """Take how the channels lie: variable by variable, each at all levels, then scalars, each for itself.

        Raises:
            ModelError: If there is no variable or no level.
        """
        if min(variables, levels) < 1 or scalars < 0:
            raise ModelError(
                f"VariableZScore needs variables and levels from 1 on, not {variables} and {levels}, and scalars from "
                f"0 on, not {scalars}. Say how the source's channels lie."
            )
        super().__init__(variables * levels + scalars)
        self.groups = [levels] * variables + [1] * scalars

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"groups={self.groups}"

    def derive(self, channels: Sequence[Summary]) -> Mapping[str, torch.Tensor]:
        """Return ``mean`` and ``std`` of each channel: those of its variable.

        Raises:
            ModelError: If a variable is constant.
        """
        means, stds, start = list[float](), list[float](), 0
        for n_levels in self.groups:
            mean, std = _pooled(channels[start : start + n_levels])
            means += [mean] * n_levels
            stds += [std] * n_levels
            start += n_levels
        self.check_varies(stds, channels)
        return {"mean": per_channel(means), "std": per_channel(stds)}


def _pooled(levels: Sequence[Summary]) -> tuple[float, float]:
    """Return mean and standard deviation (divided by n) over the voxels of several channels."""
    n = sum(one.n for one in levels)
    mean = fsum(one.n * one.mean for one in levels) / n
    return mean, sqrt(fsum(one.n * (one.std**2 + (one.mean - mean) ** 2) for one in levels) / n)
