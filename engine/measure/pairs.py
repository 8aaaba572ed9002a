"""How often each pair of labels, one of the reference and one of the result, stands at one voxel."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

Pairs = Counter[tuple[int, int]]
"""Voxels per (reference, result), as Python's whole numbers: they never overflow."""

RUN = 2**20
"""Voxels that are counted at once: some arrays of 8 bytes a voxel are made meanwhile."""

DENSE = 2**16
"""Pairs of labels up to which a table of all is counted; beyond it voxels are sorted."""


def count_pairs(reference: NDArray[np.generic], result: NDArray[np.generic]) -> Pairs:
    """Return the pairs of two arrays of whole numbers of one shape.

    >>> count_pairs(np.array([0, 0, 7]), np.array([0, 0, -1]))
    Counter({(0, 0): 2, (7, -1): 1})
    """
    found: Pairs = Counter()
    first, second = reference.reshape(-1), result.reshape(-1)
    for start in range(0, first.size, RUN):
        a, b = (part[start : start + RUN].astype(np.int64) for part in (first, second))
        found.update(_few(a, b) if _width(a) * _width(b) <= DENSE else _many(a, b))
    return found


def count_labels(labels: NDArray[np.generic]) -> Counter[int]:
    """Return how often each label of an array of whole numbers is there.

    >>> count_labels(np.array([7, 0, 7]))
    Counter({7: 2, 0: 1})
    """
    found, flat = Counter[int](), labels.reshape(-1)
    for start in range(0, flat.size, RUN):
        values, counts = np.unique(flat[start : start + RUN].astype(np.int64), return_counts=True)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return found


def _width(labels: NDArray[np.int64]) -> int:
    return int(labels.max()) - int(labels.min()) + 1


def _few(a: NDArray[np.int64], b: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Count by a table of all pairs between the smallest and the largest labels."""
    low_a, low_b, width = int(a.min()), int(b.min()), _width(b)
    table = np.bincount((a - low_a) * width + (b - low_b))
    codes = np.flatnonzero(table)
    return {(code // width + low_a, code % width + low_b): int(table[code]) for code in codes.tolist()}


def _many(a: NDArray[np.int64], b: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Count by sorting: labels may lie anywhere."""
    labels_a, place_a = np.unique(a, return_inverse=True)
    labels_b, place_b = np.unique(b, return_inverse=True)
    codes, counts = np.unique(place_a * len(labels_b) + place_b, return_counts=True)
    rows, columns = labels_a[codes // len(labels_b)].tolist(), labels_b[codes % len(labels_b)].tolist()
    return dict(zip(zip(rows, columns, strict=True), counts.tolist(), strict=True))
