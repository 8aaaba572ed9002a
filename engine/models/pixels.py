"""Voxels in memory, and how the parts of a pipeline hand voxels on: by themselves, whatever lies beside them."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.models.fitted import looks_around
from engine.models.summarised import Summarised
from engine.models.weights import one_line

N_AT_ONCE = 1 << 15
"""Values that a part is handed in one call: as many as one thread of torch works on."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Voxels in memory, as they reach a part of a pipeline; see :class:`engine.models.fitted.Voxels`."""

    rows: torch.Tensor
    """(n, channels), in the dtype of the model's input."""
    counts: NDArray[np.int64] | None = None
    """How often each row comes; once by default."""
    n_space: int = 2
    """Space axes of what the parts take."""
    nan: str = "refuse"
    """``refuse`` or ``keep``: the voxels that are not finite, which are then left out of the statistics."""

    def fit(self, module: Any) -> None:  # noqa: ANN401 -- see Voxels
        """Fit a module to these voxels, in place.

        Raises:
            ModelError: If they are not finite and that is refused, or the module cannot be fitted to them.
        """
        if not isinstance(module, Summarised):
            module.fit(self.rows)
            return
        columns = self.rows.T
        if self.nan == "refuse":
            check_finite(columns, module)
        module.fit_to(module.summarise(columns, self.counts))

    def after(self, part: torch.nn.Module, path: str) -> Self:
        """Return what ``part`` makes of these voxels.

        Raises:
            ModelError: If it does not work voxel by voxel.
        """
        columns = handed_on(part, self.rows.T, n_space=self.n_space, path=path)
        return replace(self, rows=columns.T)


def handed_on(
    part: torch.nn.Module, columns: torch.Tensor, *, n_space: int, path: str, is_checked: bool = True
) -> torch.Tensor:
    """Return voxels (channel, n) as a part of a pipeline hands them on: the same bits whatever lies beside them.

    The part always sees as many at once, the last call filled up: at the end of an array torch computes some
    functions (a power) by other instructions, and the last bit differs.

    Args:
        part: Takes (batch, channel, *space).
        columns: At least one voxel.
        n_space: Space axes to give it.
        path: Where it is.
        is_checked: Whether it is seen, by the first voxels, that it works voxel by voxel.

    Raises:
        ModelError: If it does not.
    """
    n = max(64, N_AT_ONCE // len(columns) // 64 * 64)
    found = []
    for start in range(0, columns.shape[1], n):
        piece = columns[:, start : start + n]
        n_missing = n - piece.shape[1]
        filled = torch.cat([piece, piece[:, -1:].expand(-1, n_missing)], dim=1) if n_missing else piece
        passed = _passed(part, filled, n_space=n_space, path=path)
        if is_checked and not start:
            _check_alone(part, filled, passed, n_space=n_space, path=path)
        found.append(passed[:, : piece.shape[1]])
    return torch.cat(found, dim=1)


def check_finite(columns: torch.Tensor, module: torch.nn.Module) -> None:
    """Refuse voxels that are not finite.

    Raises:
        ModelError: If there are any.
    """
    n_bad = int((~torch.isfinite(columns)).sum())
    if n_bad:
        raise ModelError(
            f"{type(module).__name__} is fitted to finite voxels, and the parts before it make {n_bad} of "
            f"{columns.numel()} NaN or infinite. Clip what comes in, or let them through with --nan keep."
        )


def _passed(part: torch.nn.Module, columns: torch.Tensor, *, n_space: int, path: str) -> torch.Tensor:
    space = (columns.shape[1], *(1,) * (n_space - 1))
    try:
        with torch.no_grad():
            passed = part(columns.reshape(1, -1, *space).contiguous())
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"'{path}' ({type(part).__name__}) fails on voxels taken one by one, as what follows it is fitted: "
            f"{one_line(error)}. Put the part that is fitted before it."
        ) from error
    if not isinstance(passed, torch.Tensor) or passed.shape[2:] != space:
        raise looks_around(part, path)
    rows: torch.Tensor = passed[0].flatten(1)
    return rows


def _check_alone(
    part: torch.nn.Module, columns: torch.Tensor, passed: torch.Tensor, *, n_space: int, path: str
) -> None:
    """Refuse a part that gives other values for the lower half of some voxels, in another order, by themselves."""
    lower = columns[0].argsort(stable=True)[: (columns.shape[1] + 1) // 2]
    order = lower[torch.randperm(len(lower), generator=torch.Generator().manual_seed(0))]
    alone = _passed(part, columns[:, order], n_space=n_space, path=path)
    if not torch.allclose(passed[:, order], alone, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise looks_around(part, path)
