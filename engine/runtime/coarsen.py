"""One block of a coarser level from the finer level, piece by piece: no more is held at once than of a finest block."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from engine.geometry.region import Region
from engine.plan import OutputFacts, Plan
from engine.storage.pyramid import finer_region, reduce_mean, reduce_mode
from engine.storage.volume import Volume


def coarse_block(
    plan: Plan, output: OutputFacts, volume: Volume, *, target: Region, level: int
) -> tuple[np.ndarray, int]:
    """Return the voxels of ``target``, a box of ``level``, and the bytes of the finer level that were read for it."""
    reduce = reduce_mode if output.is_label else reduce_mean
    factors = (1,) * (len(output.shape) - len(plan.tilings)) + plan.factors[level - 1]
    finer_shape = plan.level_shape(output, level - 1)
    coarse = np.empty(target.shape, output.dtype)
    n_read = 0
    for piece in coarse_pieces(target, factors=factors, chunk_shape=output.chunk_shape):
        source = finer_region(piece, factors=factors, finer_shape=finer_shape)
        fine = volume.read(source, level=level - 1)
        coarse[piece.shift([-a for a in target.start]).slices] = reduce(fine, factors)
        n_read += fine.nbytes
    return coarse, n_read


def coarse_pieces(target: Region, *, factors: tuple[int, ...], chunk_shape: tuple[int, ...]) -> Iterator[Region]:
    """Yield boxes that make up ``target``: cut in two along each halved axis, the first of them in four.

    A cut lies on half a chunk, which is a whole chunk of the finer level, so that no chunk is decoded twice.

    >>> [piece.start for piece in coarse_pieces(Region((0, 64), (64, 128)), factors=(2, 2), chunk_shape=(64, 64))]
    [(0, 64), (0, 96), (32, 64), (32, 96)]
    """
    spans = []
    n_parts = 4
    for start, stop, factor, chunk in zip(target.start, target.stop, factors, chunk_shape, strict=True):
        length = stop - start
        if factor > 1:
            unit = -(-chunk // factor)
            length = -(-length // (n_parts * unit)) * unit
            n_parts = 2
        spans.append([(a, min(a + length, stop)) for a in range(start, stop, max(length, 1))])
    for box in product(*spans):
        yield Region(tuple(a for a, _ in box), tuple(b for _, b in box))
