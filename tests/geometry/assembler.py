"""Reads put together from pieces in plain numpy: the reference for every reader of the engine."""

import numpy as np

from engine.geometry.edges import pieces


def assemble(source, edges, *, names, read, odd=()):
    """Return ``read`` of ``source`` (channel, *space), extended by ``edges``.

    Each piece is read, flipped, its odd channels negated, and put where it lands; no voxel twice.
    """
    constant = next((edge.value for edge in edges if edge.kind in ("constant", "fold")), 0.0)
    found = np.full((len(source), *read.shape), constant, dtype=source.dtype)
    n_filled = np.zeros(read.shape, dtype=int)
    for piece in pieces(edges, names=names, shape=source.shape[1:], read=read):
        assert piece.target.n_voxels > 0
        n_filled[piece.target.slices] += 1
        if piece.source is None:
            continue
        assert min(piece.source.start) >= 0
        part = source[(slice(None), *piece.source.slices)]
        part = np.flip(part, axis=[1 + axis for axis, is_flipped in enumerate(piece.flips) if is_flipped]).copy()
        if piece.is_odd:
            part[list(odd)] *= -1
        found[(slice(None), *piece.target.slices)] = part
    assert (n_filled == 1).all()
    return found
