"""Reads that leave the volume, against numpy.pad and a voxel-by-voxel walk over the poles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EdgeError
from engine.geometry.edges import Edge, EdgeKind, pieces, segments
from engine.geometry.region import Region

from .assembler import assemble

padded_kinds = st.sampled_from([EdgeKind.WRAP, EdgeKind.REFLECT, EdgeKind.CONSTANT])
axes = st.tuples(padded_kinds, st.integers(2, 6), st.integers(0, 17), st.integers(0, 17), st.data())


def volume(*shape):
    """Return an array in which no two voxels are alike."""
    return np.arange(1, 1 + np.prod(shape), dtype=float).reshape(shape)


def padded(source, edge, *, axis, before, after):
    amounts = [(0, 0)] * source.ndim
    amounts[axis] = (before, after)
    options = {"constant_values": edge.value} if edge.kind is EdgeKind.CONSTANT else {}
    return np.pad(source, amounts, mode=edge.kind.value, **options)


@given(kind=padded_kinds, size=st.integers(2, 7), before=st.integers(0, 30), after=st.integers(0, 30), data=st.data())
def test_a_read_along_one_axis_equals_the_padded_axis_however_many_times_round(kind, size, before, after, data):
    edge = Edge(kind, value=-7.0)
    source = volume(1, size)
    oracle = padded(source, edge, axis=1, before=before, after=after)
    start = data.draw(st.integers(-before, size + after - 1))
    stop = data.draw(st.integers(start + 1, size + after))
    found = assemble(source, [edge], names=["x"], read=Region((start,), (stop,)))
    np.testing.assert_array_equal(found, oracle[:, start + before : stop + before])
    assert len(np.unique(oracle)) > 1


@given(
    kinds=st.tuples(padded_kinds, padded_kinds),
    shape=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    halo=st.tuples(*[st.integers(0, 9)] * 4),
)
def test_a_read_of_two_axes_equals_the_array_padded_on_one_and_then_the_other(kinds, shape, halo):
    edges = [Edge(kind, value=-7.0) for kind in kinds]
    source = volume(2, *shape)
    oracle = padded(source, edges[0], axis=1, before=halo[0], after=halo[1])
    oracle = padded(oracle, edges[1], axis=2, before=halo[2], after=halo[3])
    read = Region((-halo[0], -halo[2]), (shape[0] + halo[1], shape[1] + halo[3]))
    found = assemble(source, edges, names=["y", "x"], read=read)
    np.testing.assert_array_equal(found, oracle)


@given(kind=padded_kinds, size=st.integers(2, 7), start=st.integers(-20, 20), length=st.integers(1, 30))
def test_segments_fill_a_read_from_left_to_right_without_a_gap(kind, size, start, length):
    position = 0
    for segment in segments(Edge(kind), size=size, start=start, stop=start + length):
        assert segment.target == position
        assert segment.length > 0
        assert segment.is_constant or 0 <= segment.source[0] < segment.source[1] <= size
        position += segment.length
    assert position == length


@given(size=st.integers(2, 7), after=st.integers(0, 20))
def test_a_model_edge_is_reflected_beyond_the_far_border(size, after):
    source = volume(1, size)
    found = assemble(source, [Edge()], names=["x"], read=Region((0,), (size + after,)))
    np.testing.assert_array_equal(found, np.pad(source, ((0, 0), (0, after)), mode="reflect"))


def walk(row, column, *, shape, has_pole_rows):
    """Return the voxel under a walker who steps over the poles row by row, and whether it looks from the other side.

    It goes one row at a time from row 0, turning back at each pole, and changing sides there. A pole row
    lies on both sides at once, so it is always taken as it is stored.
    """
    n_rows, n_columns = shape
    at, heading, n_crossed = 0, 1 if row > 0 else -1, 0
    for _ in range(abs(row)):
        ahead = at + heading
        if 0 <= ahead < n_rows:
            at = ahead
            continue
        is_far = ahead == n_rows
        heading = -heading
        n_crossed += 1
        if has_pole_rows[is_far]:
            at += heading
    is_pole = (at == 0 and has_pole_rows[0]) or (at == n_rows - 1 and has_pole_rows[1])
    is_crossed = n_crossed % 2 == 1 and not is_pole
    return at, (column + is_crossed * (n_columns // 2)) % n_columns, is_crossed


@given(
    shape=st.tuples(st.integers(3, 5), st.sampled_from([2, 4, 6])),
    has_pole_rows=st.tuples(st.booleans(), st.booleans()),
    halo=st.tuples(*[st.integers(0, 13)] * 4),
    is_latitude_first=st.booleans(),
)
def test_a_read_over_the_poles_equals_a_walk_over_them(shape, has_pole_rows, halo, is_latitude_first):
    pole = Edge(EdgeKind.POLE, around="lon", has_pole_rows=has_pole_rows, odd_channels=(1,))
    source = volume(2, *shape)
    oracle = np.empty((2, halo[0] + shape[0] + halo[1], halo[2] + shape[1] + halo[3]))
    for i, j in np.ndindex(oracle.shape[1:]):
        row, column, is_crossed = walk(i - halo[0], j - halo[2], shape=shape, has_pole_rows=has_pole_rows)
        oracle[:, i, j] = source[:, row, column] * (1, -1 if is_crossed else 1)
    start, stop = (-halo[0], -halo[2]), (shape[0] + halo[1], shape[1] + halo[3])
    edges, names = [pole, Edge(EdgeKind.WRAP)], ["lat", "lon"]
    if not is_latitude_first:
        edges, names, start, stop = edges[::-1], names[::-1], start[::-1], stop[::-1]
        source, oracle = source.swapaxes(1, 2), oracle.swapaxes(1, 2)
    found = assemble(source, edges, names=names, read=Region(start, stop), odd=pole.odd_channels)
    np.testing.assert_array_equal(found, oracle)


def lifted(points, row, column):
    """Return where a value of that row and column lies, in cells: T in the middle, U and V on the sides, F in the corner."""
    return row + (points in "VF") / 2, column + (points in "UF") / 2


@given(
    pivot=st.sampled_from("TF"),
    points=st.sampled_from("TUVF"),
    shape=st.tuples(st.integers(3, 5), st.integers(2, 7)),
    halo=st.tuples(*[st.integers(0, 9)] * 4),
)
def test_a_read_over_a_tripolar_fold_takes_the_values_that_lie_half_a_turn_about_its_pivot(pivot, points, shape, halo):
    n_rows, n_columns = shape
    fold = Edge(EdgeKind.FOLD, value=-7.0, around="x", odd_channels=(1,), fold=f"{pivot}-{points}")
    about = lifted(pivot, n_rows - 1, 0 if pivot == "T" else -1)
    source = volume(2, *shape)
    oracle = np.full((2, halo[0] + n_rows + halo[1], halo[2] + n_columns + halo[3]), -7.0)
    for i, j in np.ndindex(oracle.shape[1:]):
        row, column = i - halo[0], j - halo[2]
        if 0 <= row < n_rows:
            oracle[:, i, j] = source[:, row, column % n_columns]
        elif row >= n_rows:
            y, x = (2 * c - at for c, at in zip(about, lifted(points, row, column), strict=True))
            y0, x0 = lifted(points, 0, 0)
            if y >= y0:
                oracle[:, i, j] = source[:, int(y - y0), int(x - x0) % n_columns] * (1, -1)
    read = Region((-halo[0], -halo[2]), (n_rows + halo[1], n_columns + halo[3]))
    found = assemble(source, [fold, Edge(EdgeKind.WRAP)], names=["y", "x"], read=read, odd=fold.odd_channels)
    np.testing.assert_array_equal(found, oracle)


@given(
    kind=padded_kinds, has_pole_rows=st.tuples(st.booleans(), st.booleans()), halo=st.tuples(*[st.integers(0, 9)] * 4)
)
def test_the_other_axes_of_a_polar_read_keep_their_own_edge(kind, has_pole_rows, halo):
    """A pole rolls the axis around it, whatever that axis does at its own ends, and leaves others alone."""
    edge = Edge(kind, value=-7.0)
    pole = Edge(EdgeKind.POLE, around="lon", has_pole_rows=has_pole_rows)
    source = volume(1, 4, 6)
    whole = assemble(source, [pole, edge], names=["lat", "lon"], read=Region((-halo[0], 0), (4 + halo[1], 6)))
    oracle = padded(whole, edge, axis=2, before=halo[2], after=halo[3])
    read = Region((-halo[0], -halo[2]), (4 + halo[1], 6 + halo[3]))
    np.testing.assert_array_equal(assemble(source, [pole, edge], names=["lat", "lon"], read=read), oracle)


def test_a_vector_turns_its_sign_at_one_pole_and_back_at_the_other():
    pole = Edge(EdgeKind.POLE, around="lon", odd_channels=(0,))
    source = np.ones((1, 3, 4))
    read = Region((-9, 0), (3, 4))
    found = assemble(source, [pole, Edge(EdgeKind.WRAP)], names=["lat", "lon"], read=read, odd=(0,))
    assert found[0, :, 0].tolist() == [-1] * 3 + [1] * 3 + [-1] * 3 + [1] * 3


@pytest.mark.parametrize(
    ("edges", "shape", "text"),
    [
        # half way round five columns lies between two of them
        ([Edge(EdgeKind.POLE, around="lon"), Edge(EdgeKind.WRAP)], (4, 5), "even number of columns"),
        ([Edge(EdgeKind.POLE), Edge(EdgeKind.WRAP)], (4, 6), "must name the axis it goes round, not None"),
        ([Edge(EdgeKind.POLE, around="x"), Edge(EdgeKind.WRAP)], (4, 6), "must name the axis it goes round, not x"),
        ([Edge(EdgeKind.REFLECT), Edge()], (1, 6), "too short to be mirrored"),  # nothing beside the border voxel
        ([Edge(), Edge()], (1, 6), "too short to be mirrored"),  # the far extension of a model edge
        # two pole rows and nothing between them
        ([Edge(EdgeKind.POLE, around="lon", has_pole_rows=(True, True)), Edge()], (2, 6), "too short to be mirrored"),
    ],
)
def test_an_edge_that_cannot_be_kept_is_refused(edges, shape, text):
    with pytest.raises(EdgeError, match=text):
        list(pieces(edges, names=["lat", "lon"], shape=shape, read=Region((0, 0), (shape[0] + 5, shape[1]))))
