"""How far surface voxels lie from another surface, whatever its size and distance: blocks are looked at nearest first.

    other surface, by blocks        |  b  |  b  |  b  |     |     |
                                       ^     ^ its box is nearer than the best so far: looked at
    these voxels                             |q|

A block whose box lies farther than the worst best distance cannot improve any: there the search ends. So every
distance is exact, no halo has to be guessed, and memory holds one block of these and a few trees of the others.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from engine.measure.spool import Bucket, IntArray, Spool
from engine.measure.spread import Spread

POINTS = 2**21
"""Surface voxels whose trees are kept: about 80 bytes each."""

SLACK = 1 + 1e-9
"""What a distance in floating point may be off by, as a factor: more is looked at, never less."""

FloatArray = NDArray[np.float64]


class _Trees:
    """Trees of a few buckets, the last used ones."""

    def __init__(self, spool: Spool, spacing: FloatArray) -> None:
        self._spool, self._spacing, self._n_points = spool, spacing, 0
        self._kept: OrderedDict[Bucket, tuple[KDTree, IntArray]] = OrderedDict()

    def of(self, bucket: Bucket) -> tuple[KDTree, IntArray]:
        """Return the tree of a bucket, in millimetre from its first voxel, and the bucket's voxels."""
        if bucket not in self._kept:
            voxels = self._spool.read(bucket)
            tree = KDTree((voxels - bucket.low) * self._spacing, leafsize=32)  # type: ignore[no-untyped-call]
            self._kept[bucket] = tree, voxels
            self._n_points += bucket.n
        self._kept.move_to_end(bucket)
        while self._n_points > POINTS and len(self._kept) > 1:
            gone, _ = self._kept.popitem(last=False)
            self._n_points -= gone.n
        return self._kept[bucket]


def distances(these: Spool, other: Spool, label: int, *, spacing: Sequence[float], n_threads: int = 1) -> Spread:
    """Return how far each surface voxel of a label lies from the label's surface in the other volume.

    Args:
        these: From where.
        other: To where; of the same blocks. Every distance is infinite where the label has no surface there.
        label: Which.
        spacing: Step per axis; distances are in its unit.
        n_threads: Threads that look.
    """
    steps, found = np.array(spacing), Spread.one(0.0, 0)
    targets, trees = other.buckets.get(label, ()), _Trees(other, np.array(spacing))
    if not targets:
        return Spread.one(float("inf"), sum(bucket.n for bucket in these.buckets.get(label, ())))
    lows, highs = (np.array([getattr(target, side) for target in targets]) for side in ("low", "high"))
    numbers = np.array([target.number for target in targets])
    for bucket in these.buckets.get(label, ()):
        voxels = these.read(bucket, only_own=True)
        parts = [Spread.one(0.0, bucket.n_shared)]
        if len(voxels):
            bounds = _squared(_gap(np.array(bucket.low), np.array(bucket.high), lows, highs), steps)
            order = np.lexsort((numbers != bucket.number, bounds))
            near = ((targets[i], float(bounds[i])) for i in order)
            squared = _nearest(voxels, near, trees, steps, n_threads=n_threads)
            parts.append(Spread.of(np.sqrt(squared)))
        found = found.plus(*parts)
    return found


def _nearest(
    voxels: IntArray, near: Iterable[tuple[Bucket, float]], trees: _Trees, steps: FloatArray, *, n_threads: int
) -> FloatArray:
    """Return the squared distance of each voxel to the nearest of any bucket; ``near`` has the nearest boxes first."""
    best = np.full(len(voxels), np.inf)
    for bucket, bound in near:
        if bound > best.max() * SLACK:
            break
        low, high = np.array(bucket.low), np.array(bucket.high)
        chosen = np.flatnonzero(_squared(_gap(voxels, voxels, low, high), steps) <= best * SLACK)
        if not len(chosen):
            continue
        tree, others = trees.of(bucket)
        limit = np.sqrt(best[chosen].max()) * SLACK
        points = (voxels[chosen] - low) * steps
        _, place = tree.query(points, distance_upper_bound=limit, workers=n_threads)  # type: ignore[no-untyped-call]
        hit = place < len(others)
        chosen, place = chosen[hit], place[hit]
        # From whole offsets, not from the tree's own sums: the same offset gives the same bits in any block.
        best[chosen] = np.minimum(best[chosen], _squared(voxels[chosen] - others[place], steps))
    return best


def _gap(low: IntArray, high: IntArray, lows: IntArray, highs: IntArray) -> IntArray:
    """Return the voxels between boxes, per axis."""
    found: IntArray = np.maximum(np.maximum(lows - high, low - highs), 0)
    return found


def _squared(offsets: IntArray, steps: FloatArray) -> FloatArray:
    found: FloatArray = ((offsets * steps) ** 2).sum(-1)
    return found
