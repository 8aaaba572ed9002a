"""How sets of labels that were found overlap with the true ones, always beside what a constant answer would get."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from interactions import LABELS
from numpy.typing import NDArray
from pocket_examples import Contacts

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers, the first column a name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def jaccard(found: Bools, truth: Bools, axis: int | None = None) -> NDArray[np.float64]:
    """Return |both| / |either| along an axis; 1 where there is neither (Jaccard 1912).

    >>> jaccard(np.array([[1, 0], [0, 0]], bool), np.array([[1, 1], [0, 0]], bool), axis=1)
    array([0.5, 1. ])
    """
    both, either = (found & truth).sum(axis), (found | truth).sum(axis)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def majority(known: Sequence[Contacts]) -> Bools:
    """Return which labels most pockets have: the best constant answer for each label alone."""
    return np.mean([one.has for one in known], axis=0) > 0.5


def pocket_table(found: Bools, truth: Bools, always: Bools) -> Table:
    """Return the overlap per label and over samples, of ``found`` (pocket, label) and of the constant answer."""
    constant = np.broadcast_to(always, truth.shape)
    rows = [
        (
            label,
            f"{truth[:, i].mean():.0%}",
            f"{jaccard(found[:, i], truth[:, i]):.3f}",
            f"{jaccard(constant[:, i], truth[:, i]):.3f}",
            f"{(found[:, i] == truth[:, i]).mean():.3f}",
            f"{(constant[:, i] == truth[:, i]).mean():.3f}",
        )
        for i, label in enumerate(LABELS)
    ]
    over = (f"{jaccard(one, truth, axis=1).mean():.3f}" for one in (found, constant))
    right = (f"{(one == truth).mean():.3f}" for one in (found, constant))
    rows.append(("**over samples**", "", *over, *right))
    columns = ("interaction", "pockets with it", "network", "constant majority", "network right", "constant right")
    return Table(columns, tuple(rows))


def voxel_table(found: Bools, truth: Bools) -> Table:
    """Return the overlap per label of voxels (pocket, label, z, y, x)."""
    rows = []
    for i, label in enumerate(LABELS):
        share = truth[:, i].mean()
        rows.append((label, f"{share:.2%}", f"{jaccard(found[:, i], truth[:, i]):.3f}", "0.000", f"{share:.4f}"))
    return Table(("interaction", "voxels with it", "network", "constant majority", "yes everywhere"), tuple(rows))
