"""Grids against an array in which every voxel carries its cell's number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RegionError
from engine.geometry.grid import Grid
from engine.geometry.region import Region

axis = st.tuples(st.integers(0, 9), st.integers(1, 5))
grids = st.lists(axis, min_size=1, max_size=3).map(lambda a: Grid(tuple(n for n, _ in a), tuple(c for _, c in a)))


def painted(grid):
    """Return the array whose voxels hold their cell's number, by enumeration of voxels."""
    positions = {
        voxel: tuple(i // c for i, c in zip(voxel, grid.cell, strict=True)) for voxel in np.ndindex(*grid.shape)
    }
    order = {position: n for n, position in enumerate(sorted(set(positions.values())))}
    array = np.full(grid.shape, -1)
    for voxel, position in positions.items():
        array[voxel] = order[position]
    return array


@given(grids)
def test_cells_cover_an_array_exactly_once_in_row_major_order(grid):
    oracle = painted(grid)
    assert grid.n_cells == (oracle.max() + 1 if oracle.size else 0)
    found = np.full(grid.shape, -1)
    for n in range(grid.n_cells):
        part = found[grid.region(n).slices]
        assert part.size == grid.region(n).n_voxels > 0
        assert (part == -1).all()
        part[...] = n
        assert grid.number(grid.index(n)) == n
    np.testing.assert_array_equal(found, oracle)


@given(grids, st.data())
def test_cells_that_meet_a_region_are_those_whose_voxels_it_holds(grid, data):
    start = tuple(data.draw(st.integers(-3, n + 2)) for n in grid.shape)
    stop = tuple(a + data.draw(st.integers(0, 7)) for a in start)
    inside = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(start, stop, strict=True))
    assert list(grid.meeting(Region(start, stop))) == np.unique(painted(grid)[inside]).tolist()


@given(grids, st.data())
def test_a_region_is_whole_when_it_cuts_no_cell(grid, data):
    start = tuple(data.draw(st.integers(0, max(n - 1, 0))) for n in grid.shape)
    stop = tuple(data.draw(st.integers(min(a + 1, n), n)) for a, n in zip(start, grid.shape, strict=True))
    region = Region(start, stop)
    if not region.n_voxels:
        return
    oracle = painted(grid)
    inside = np.unique(oracle[region.slices])
    assert grid.is_whole(region) == (np.isin(oracle, inside).sum() == region.n_voxels)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Grid((4,), (0,)), "positive cell size"),  # no voxels in a cell
        (lambda: Grid((4, 4), (2,)), "one positive cell size per axis"),  # axes differ
        (lambda: Grid((-1,), (2,)), "positive cell size"),  # negative array
        (lambda: Grid((4,), (2,)).region(2), r"in \[0, 2\), not 2"),  # past the last
        (lambda: Grid((4,), (2,)).index(-1), r"in \[0, 2\), not -1"),  # before the first
        (lambda: Grid((0,), (2,)).region(0), r"in \[0, 0\)"),  # an empty array has no cell
    ],
)
def test_a_grid_or_cell_that_cannot_be_is_refused(make, text):
    with pytest.raises(RegionError, match=text):
        make()


def test_the_last_of_a_billion_cells_is_found_without_the_others():
    grid = Grid((2_000_000, 1_000, 1_000), (2, 10, 100))
    assert grid.n_cells == 10**9
    assert grid.region(10**9 - 1) == Region((1_999_998, 990, 900), (2_000_000, 1_000, 1_000))
