"""Boxes against sets of voxels."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RegionError
from engine.geometry.region import Region


def voxels(region):
    return set(product(*(range(a, b) for a, b in zip(region.start, region.stop, strict=True))))


def regions(n_axes):
    intervals = st.tuples(*[st.tuples(st.integers(-4, 6), st.integers(0, 5))] * n_axes)
    return intervals.map(lambda pairs: Region(tuple(a for a, _ in pairs), tuple(a + n for a, n in pairs)))


pairs = st.integers(0, 3).flatmap(lambda n: st.tuples(regions(n), regions(n)))


@given(pairs)
def test_a_region_counts_the_voxels_it_holds(pair):
    region, _ = pair
    assert region.n_voxels == len(voxels(region))
    assert region.slices == tuple(slice(a, b) for a, b in zip(region.start, region.stop, strict=True))


@given(pairs)
def test_what_two_regions_share_is_their_common_voxels(pair):
    one, other = pair
    shared = one.meet(other)
    assert (voxels(shared) if shared else set()) == voxels(one) & voxels(other)
    assert shared is None or shared.n_voxels > 0
    assert shared == other.meet(one)


@given(pairs)
def test_a_region_holds_another_when_it_has_all_its_voxels(pair):
    one, other = pair
    if other.n_voxels:
        assert one.holds(other) == (voxels(other) <= voxels(one))
    elif one.holds(other):
        assert voxels(other) <= voxels(one)


@given(pairs, st.integers(0, 3), st.integers(0, 3))
def test_a_grown_region_has_all_voxels_within_the_halo(pair, before, after):
    region, _ = pair
    n = len(region.start)
    grown = region.grow(before=(before,) * n, after=(after,) * n)
    steps = list(product(range(-before, after + 1), repeat=n))
    near = {tuple(i + d for i, d in zip(voxel, step, strict=True)) for voxel in voxels(region) for step in steps}
    if region.n_voxels:
        assert voxels(grown) == near
    assert grown.holds(region)


@given(pairs, st.integers(-5, 5))
def test_a_shifted_region_has_every_voxel_shifted(pair, offset):
    region, _ = pair
    moved = region.shift((offset,) * len(region.start))
    assert voxels(moved) == {tuple(i + offset for i in voxel) for voxel in voxels(region)}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Region((0,), (1, 2)), "one start and one stop"),  # axes differ
        (lambda: Region((0, 3), (1, 2)), "end before it starts"),  # inside out
        (lambda: Region((0,), (4,)).grow(before=(-1,), after=(0,)), "must not be negative"),  # a halo that cuts
    ],
)
def test_a_malformed_region_is_refused(make, text):
    with pytest.raises(RegionError, match=text):
        make()


def test_a_whole_region_starts_at_the_origin():
    assert Region.whole((3, 0, 2)) == Region((0, 0, 0), (3, 0, 2))
