"""Coarser levels equal a loop over groups, in exact rational arithmetic."""

from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import VolumeError
from engine.storage.pyramid import level_shape, reduce_mean, reduce_mode


def groups(voxels, factors):
    shape = level_shape(voxels.shape, factors)
    for index in product(*map(range, shape)):
        yield index, voxels[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_means_of_integers_are_exact_and_round_half_to_even(data):
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3))
    factors = data.draw(st.tuples(*[st.integers(1, 3)] * 3))
    dtype = np.dtype(data.draw(st.sampled_from(["uint8", "int8", "int16", "uint32", "int64", "uint64", "bool"])))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    top = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    wide = rng.integers(*top, shape, dtype=np.uint8 if dtype.kind == "b" else dtype, endpoint=True)
    voxels = wide.astype(dtype)
    means = reduce_mean(voxels, factors)
    assert means.dtype == dtype
    for index, group in groups(voxels, factors):
        assert int(means[index]) == round(Fraction(sum(int(v) for v in group.ravel()), group.size))


def test_means_of_floats_do_not_depend_on_where_the_block_starts():
    voxels = np.random.default_rng(1).normal(size=(3, 17, 23)).astype("float32")
    whole = reduce_mean(voxels, (1, 2, 2))
    assert whole.std() > 0
    assert np.array_equal(reduce_mean(voxels[:, 4:12, 8:], (1, 2, 2)), whole[:, 2:6, 4:])
    oracle = [group.astype("float64").mean() for _, group in groups(voxels, (1, 2, 2))]
    assert np.allclose(whole.ravel(), oracle, rtol=1e-6)


@given(
    st.integers(0, 99), st.tuples(st.integers(1, 7), st.integers(1, 7)), st.tuples(st.integers(1, 3), st.integers(1, 3))
)
@settings(max_examples=60, deadline=None)
def test_the_mode_is_the_most_frequent_value_and_a_tie_goes_to_the_smallest(seed, shape, factors):
    voxels = np.random.default_rng(seed).integers(0, 4, shape).astype("uint8")
    modes = reduce_mode(voxels, factors)
    for index, group in groups(voxels, factors):
        votes = Counter(group.ravel().tolist())
        assert modes[index] == min(v for v, n in votes.items() if n == max(votes.values()))


def test_factors_must_fit_the_axes():
    with pytest.raises(VolumeError, match="one positive factor per axis"):
        reduce_mean(np.zeros((4, 4)), (2,))
