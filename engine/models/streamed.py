"""Voxels that are too many for memory: modules are fitted to them in passes over the blocks of their volume."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.models.pixels import check_finite, handed_on
from engine.models.summarised import Summarised
from engine.models.tally import Tally, lower_halves

T = TypeVar("T")

N_VOXELS_AT_ONCE = 1 << 18
"""Voxels of a block that are looked at together: what is made of them stays in the processor's cache."""


class Pass(Protocol):
    """One pass over the blocks of a volume, each read once."""

    def __call__(self, do: Callable[[NDArray[Any]], T], merge: Callable[[T, T], T]) -> T:
        """Return what ``do`` makes of each block's voxels (channel, n), merged in any order."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """A volume's voxels, as they reach a part of a pipeline; see :class:`engine.models.fitted.Voxels`.

    Each module takes a pass of its own, for what comes before it must be fitted first, and one pass more where it
    wants quantiles, for which a task then holds up to a MiB per quantile and channel.
    """

    over_blocks: Pass
    dtype: torch.dtype
    """Of the model's input."""
    n_space: int
    nan: str
    """``refuse`` or ``keep``: the voxels that are not finite, which are then left out of the statistics."""
    parts: tuple[tuple[str, torch.nn.Module], ...] = ()
    """What the voxels pass, each with its path; fitted already."""

    def fit(self, module: Any) -> None:  # noqa: ANN401 -- see Voxels
        """Fit a module to all voxels, in place.

        Raises:
            ModelError: If it is fitted to nothing but pixels, a part before it does not work voxel by voxel, or the
                voxels hold no such statistics.
        """
        if not isinstance(module, Summarised):
            raise ModelError(
                f"{type(module).__name__} is fitted to the pixels of a slide, all in memory, and a volume is read "
                "block by block. Make it a Summarised, which is fitted to a summary of each channel."
            )
        tallies = self.over_blocks(partial(self._tallied, module), _merged)
        if not module.shares:
            module.fit_to([tally.summary() for tally in tallies])
            return
        buckets = [tally.buckets(module.shares) for tally in tallies]
        lower = self.over_blocks(partial(self._lower_halves, module, buckets), _added)
        summaries = [tally.summary(module.shares, halves) for tally, halves in zip(tallies, lower, strict=True)]
        module.fit_to(summaries)

    def after(self, part: torch.nn.Module, path: str) -> Self:
        """Return them as ``part`` hands them on; whether it works voxel by voxel is seen in each block."""
        return replace(self, parts=(*self.parts, (path, part)))

    def _tallied(self, module: Summarised, block: NDArray[Any]) -> list[Tally]:
        has_ranks = bool(module.shares)

        def tallies(channels: Iterable[NDArray[np.float64]]) -> list[Tally]:
            return [Tally.of(values, has_ranks=has_ranks) for values in channels]

        return reduce(_merged, map(tallies, self._pieces(module, block)))

    def _lower_halves(
        self, module: Summarised, buckets: Sequence[tuple[int, ...]], block: NDArray[Any]
    ) -> list[NDArray[np.int64]]:
        def halves(channels: Iterable[NDArray[np.float64]]) -> list[NDArray[np.int64]]:
            return [lower_halves(values, own) for values, own in zip(channels, buckets, strict=True)]

        return reduce(_added, map(halves, self._pieces(module, block)))

    def _pieces(self, module: Summarised, block: NDArray[Any]) -> Iterator[list[NDArray[np.float64]]]:
        """Yield the values of each channel that count for ``module``, piece by piece of a block."""
        for start in range(0, block.shape[1], N_VOXELS_AT_ONCE):
            columns = torch.from_numpy(block[:, start : start + N_VOXELS_AT_ONCE]).to(self.dtype)
            for path, part in self.parts:
                columns = handed_on(part, columns, n_space=self.n_space, path=path, is_checked=not start)
            if self.nan == "refuse":
                check_finite(columns, module)
            values, is_counted = columns.to(torch.float64).numpy(), module.counted(columns).numpy()
            yield [row[there] for row, there in zip(values, is_counted, strict=True)]


def _merged(ours: list[Tally], theirs: list[Tally]) -> list[Tally]:
    return [a.merge(b) for a, b in zip(ours, theirs, strict=True)]


def _added(ours: list[NDArray[np.int64]], theirs: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    return [a + b for a, b in zip(ours, theirs, strict=True)]
