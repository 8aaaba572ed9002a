"""What meets across block borders: pieces of one component, joined without looking at a voxel again.

Every block leaves the faces beyond which the volume goes on. Of two blocks that touch along an offset o, one holds the
voxel p on its face and the other p + o + s, where s runs along the axes on which o is 0:

    o = (0, 1)   |A A|B B|       o = (1, 1)   |A A|         s = (-1, 0, 1) along y, for o = (0, 1) and
                 |A p|q B|                    |A p|         neighbours across corners; s = 0 otherwise
                 |A A|B B|                        |q B|

Two voxels that differ along k axes are neighbours if k is at most the connectivity.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from engine.geometry.grid import Grid
from engine.objects.sums import CLASS, FIRST, Columns, IntArray, merge

Faces = Mapping[tuple[int, int], NDArray[np.int32]]
"""By axis and end (0 near, -1 far): at each voxel the place in the block's border rows plus 1, or 0."""

FaceReader = Callable[[int], Faces]
N_BLOCKS_KEPT = 4096
"""Blocks whose faces are held at once; a row of blocks is enough to read each once."""


def joined(grid: Grid, rows: IntArray, starts: IntArray, faces: FaceReader, *, connectivity: int) -> IntArray:
    """Return the group of each border row: rows of one group are pieces of one component.

    Args:
        grid: The blocks.
        rows: Border rows of all blocks, block after block.
        starts: The first row of each block, then their number.
        faces: Reads the faces of a block.
        connectivity: Axes along which neighbours may differ.

    Groups are numbered in the raster order of their first voxels.
    """
    kept = lru_cache(maxsize=min(N_BLOCKS_KEPT, grid.n_cells // grid.counts[0] + 2))(faces)
    ones, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for block in range(grid.n_cells):
        if starts[block] == starts[block + 1]:
            continue
        for neighbour, offset in _neighbours(grid, block, connectivity):
            pairs = _pairs(kept(block), kept(neighbour), offset, connectivity)
            one, other = pairs[0] - 1 + starts[block], pairs[1] - 1 + starts[neighbour]
            is_same = rows[one, CLASS] == rows[other, CLASS]
            ones.append(one[is_same])
            others.append(other[is_same])
    edges = np.concatenate(ones), np.concatenate(others)
    links = coo_array(  # type: ignore[no-untyped-call]
        (np.ones(len(edges[0]), np.bool_), edges), shape=(len(rows), len(rows))
    )
    n_groups: int
    group: NDArray[np.int32]
    n_groups, group = connected_components(links, directed=False)
    first = np.full(n_groups, np.iinfo(np.int64).max)
    np.minimum.at(first, group, rows[:, FIRST])
    rank = np.empty(n_groups, np.int64)
    rank[np.argsort(first)] = np.arange(n_groups)
    return np.asarray(rank[group])


def crossing_table(rows: IntArray, groups: IntArray, *, n_axes: int) -> tuple[IntArray, IntArray]:
    """Return per border row the first voxel, box and group of its component, and per group the added-up row."""
    n_groups = int(groups.max(initial=-1)) + 1
    merged = merge(rows, groups, n_groups, n_axes=n_axes)
    columns = Columns(n_axes, 0)
    whole = merged[groups]
    first = whole[:, FIRST : FIRST + 1]
    return np.hstack([first, whole[:, columns.start], whole[:, columns.stop], groups[:, np.newaxis]]), merged


def owner(grid: Grid, first: IntArray) -> IntArray:
    """Return the block that owns each object: the one that holds its first voxel.

    >>> owner(Grid((4, 6), (2, 2)), np.array([0, 5, 23]))
    array([0, 2, 5])
    """
    index = np.unravel_index(first, grid.shape)
    cells = tuple(i // c for i, c in zip(index, grid.cell, strict=True))
    return np.asarray(np.ravel_multi_index(cells, grid.counts), np.int64)


def _neighbours(grid: Grid, block: int, connectivity: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the blocks that follow ``block`` and touch it so that voxels can be neighbours, with their offsets."""
    index = grid.index(block)
    for offset in product((-1, 0, 1), repeat=len(index)):
        at = tuple(i + o for i, o in zip(index, offset, strict=True))
        is_after = next((o for o in offset if o), 0) > 0
        is_there = all(0 <= i < n for i, n in zip(at, grid.counts, strict=True))
        if is_after and is_there and np.count_nonzero(offset) <= connectivity:
            yield grid.number(at), offset


def _pairs(one: Faces, other: Faces, offset: tuple[int, ...], connectivity: int) -> tuple[IntArray, IntArray]:
    """Return the pairs of border rows, plus 1, that have neighbouring voxels; each pair once."""
    axis = next(i for i, o in enumerate(offset) if o)
    near, far = one[axis, -1], other[axis, 0]
    rest = offset[:axis] + offset[axis + 1 :]
    near = near[tuple(slice(None) if o == 0 else (-1 if o > 0 else 0) for o in rest)]
    far = far[tuple(slice(None) if o == 0 else (0 if o > 0 else -1) for o in rest)]
    n_free = connectivity - int(np.count_nonzero(offset))
    found = []
    for shift in product((-1, 0, 1), repeat=near.ndim):
        if np.count_nonzero(shift) <= n_free:
            found.append(_met(near, far, shift))
    pairs = np.unique(np.concatenate(found))
    return np.divmod(pairs, _FACTOR)


_FACTOR = np.int64(2**31)


def _met(near: NDArray[np.int32], far: NDArray[np.int32], shift: tuple[int, ...]) -> IntArray:
    """Return the pairs of equal place but for ``shift``, each as one number."""
    a = near[tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(shift, near.shape, strict=True))]
    b = far[tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(shift, far.shape, strict=True))]
    is_both = (a > 0) & (b > 0)
    return a[is_both].astype(np.int64) * _FACTOR + b[is_both]
