"""The confusion matrix of two volumes of labels: whole numbers, summed block by block, so any order gives one sum."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.geometry.grid import Grid
from engine.geometry.region import Region
from engine.measure.alike import check_alike
from engine.measure.cover import Cover
from engine.measure.pairs import Pairs, count_pairs
from engine.storage.volume import Level, Readable

BLOCK = 2**24
"""Voxels of a block: as many whole shards, else chunks, of the result as fit."""

MOST_LABELS = 1000
"""More of them are the numbers of objects, and no classes."""

Progress = Callable[[int, int], None]
"""Told blocks done, and blocks in all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The four counts of one label against all others, in voxels."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many voxels have which label in the reference, and which in the result."""

    labels: tuple[int, ...]
    """Rising."""
    counts: NDArray[np.int64]
    """Voxels, (label of the reference, label of the result)."""
    n_ignored: int = 0
    """Voxels that did not count: outside the mask, or of an ignored label."""

    @classmethod
    def of_pairs(cls, pairs: Pairs, *, labels: Collection[int] = (), n_ignored: int = 0) -> Self:
        """Return the matrix of counted pairs; ``labels`` get a row and a column even where they are nowhere."""
        found = tuple(sorted({*labels, *(label for pair in pairs for label in pair)}))
        place = {label: i for i, label in enumerate(found)}
        counts = np.zeros((len(found), len(found)), np.int64)
        for (row, column), n in pairs.items():
            counts[place[row], place[column]] = n
        return cls(found, counts, n_ignored)

    @property
    def n_voxels(self) -> int:
        """Voxels that counted."""
        return int(self.counts.sum())

    def plus(self, other: Self) -> Self:
        """Return the matrix of both together, as for several cases of one study."""
        pairs = self._pairs()
        pairs.update(other._pairs())
        labels = {*self.labels, *other.labels}
        return self.of_pairs(pairs, labels=labels, n_ignored=self.n_ignored + other.n_ignored)

    def outcome(self, label: int) -> Outcome:
        """Return the counts of one label against all others; of one that is nowhere, all are true negatives."""
        if label not in self.labels:
            return Outcome(0, 0, 0, self.n_voxels)
        i = self.labels.index(label)
        hit, row, column = int(self.counts[i, i]), int(self.counts[i].sum()), int(self.counts[:, i].sum())
        return Outcome(hit, column - hit, row - hit, self.n_voxels - row - column + hit)

    def _pairs(self) -> Pairs:
        rows, columns = np.nonzero(self.counts)
        places = zip(rows.tolist(), columns.tolist(), strict=True)
        return Pairs({(self.labels[i], self.labels[j]): int(self.counts[i, j]) for i, j in places})


def confuse(
    reference: Readable,
    result: Readable,
    *,
    labels: Collection[int] = (),
    ignore: Collection[int] = (),
    mask: Readable | None = None,
    inside: Collection[int] | None = None,
    n_threads: int = 2,
    progress: Progress | None = None,
) -> Confusion:
    """Compare the finest levels of two volumes of labels in one pass, and return exact counts.

    Args:
        reference: What is true.
        result: What is measured; blocks are whole shards or chunks of it. The reference may be chunked otherwise.
        labels: Labels that get a row and a column even where they are nowhere.
        ignore: Labels of the reference whose voxels do not count: not annotated.
        mask: Voxels outside do not count. Its grid may be coarser by whole numbers, and lack axes.
        inside: Values of the mask that count; see :meth:`Cover.over`.
        n_threads: Blocks read and counted at once.
        progress: Called in this thread after each block.

    Raises:
        UsageError: If the volumes do not lie on one grid, hold no labels or too many, or no voxel counts.
        VolumeError: If a block cannot be read.
    """
    check_alike(reference, result)
    cover = None if mask is None else Cover.over(result, mask, inside=inside)
    grid, pairs = Grid(result.shape, block_shape(result.levels[0], n_voxels=BLOCK)), Pairs()

    def count(region: Region) -> Pairs:
        return _count_block(reference, result, region, cover=cover)

    regions = map(grid.region, range(grid.n_cells))
    for n_done, found in enumerate(_in_order(count, regions, n_threads=n_threads), start=1):
        pairs.update(found)
        _check_few(pairs, reference=reference, result=result)
        if progress is not None:
            progress(n_done, grid.n_cells)
    kept = Pairs({pair: n for pair, n in pairs.items() if pair[0] not in ignore})
    if not kept:
        where = "" if mask is None else f" inside the mask '{mask.url}'"
        raise UsageError(
            f"at least one voxel must count, and none does of '{result.url}'{where}, with labels {sorted(ignore)} "
            "ignored. Check the mask and the ignored labels."
        )
    return Confusion.of_pairs(kept, labels=labels, n_ignored=prod(result.shape) - kept.total())


def block_shape(level: Level, *, n_voxels: int) -> tuple[int, ...]:
    """Return the largest group of shards of about ``n_voxels``; of chunks of one shard, where shards are larger.

    The last axes grow first, since rows are stored together.
    """
    cell, most = level.object_shape, level.shape
    if prod(cell) > n_voxels:
        cell, most = level.chunk_shape, level.object_shape
    shape = [min(c, n) for c, n in zip(cell, level.shape, strict=True)]
    for axis in reversed(range(len(shape))):
        n_most = -(-min(most[axis], level.shape[axis]) // cell[axis])
        shape[axis] = cell[axis] * max(1, min(n_most, n_voxels // prod(shape)))
    return tuple(shape)


def _count_block(reference: Readable, result: Readable, region: Region, *, cover: Cover | None) -> Pairs:
    if cover is None:
        return count_pairs(reference.read(region), result.read(region))
    inside = cover.of(region)
    if not inside.any():
        return Pairs()
    everywhere = np.broadcast_to(inside, region.shape)
    return count_pairs(reference.read(region)[everywhere], result.read(region)[everywhere])


def _in_order(count: Callable[[Region], Pairs], regions: Iterator[Region], *, n_threads: int) -> Iterator[Pairs]:
    """Yield the counts of all regions, so many at once and no more waiting: memory is bounded."""
    waiting: deque[Future[Pairs]] = deque()
    with ThreadPoolExecutor(n_threads, "measure") as pool:
        try:
            for region in regions:
                waiting.append(pool.submit(count, region))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _check_few(pairs: Pairs, *, reference: Readable, result: Readable) -> None:
    sides: Sequence[tuple[Readable, int]] = ((reference, 0), (result, 1))
    if len(pairs) <= MOST_LABELS:
        return
    for volume, side in sides:
        n_labels = len({pair[side] for pair in pairs})
        if n_labels > MOST_LABELS:
            raise UsageError(
                f"a confusion matrix is of classes, at most {MOST_LABELS} of them, and '{volume.url}' holds more than "
                f"{n_labels - 1} labels: numbers of objects, it seems. Compare the maps of classes, or the objects."
            )
