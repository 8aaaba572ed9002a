from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.geometry.region import Region
from engine.objects.sums import Columns, means, measure, merge


def rows_of(values, *, start=0, shape=None):
    objects = np.ones((1, len(values)), np.int32)
    region = Region((0, start), (1, start + len(values)))
    layers = {"v": np.array(values)[None]}
    return measure(objects, n=1, classes=objects, region=region, shape=shape or (1, len(values)), layers=layers)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e4])
def test_a_mean_is_the_exact_one_rounded_once_however_the_object_is_cut(scale):
    values = (np.random.default_rng(0).normal(size=3001) * scale).astype(np.float32)
    wanted = float(sum(map(Fraction, values.tolist())) / len(values))
    assert wanted != 0
    for cuts in ((), (1000,), (7, 8, 2900)):
        edges = (0, *cuts, len(values))
        pieces = [rows_of(values[a:b], start=a, shape=(1, len(values))) for a, b in pairwise(edges)]
        whole = merge(np.concatenate(pieces), np.zeros(len(pieces), np.int64), 1, n_axes=2)
        assert means(whole, Columns(2, 1), 0).tolist() == [wanted]


def test_a_voxel_that_is_not_finite_makes_the_mean_unknown():
    assert np.isnan(means(rows_of([1.0, np.nan, 2.0]), Columns(2, 1), 0)).all()


def test_values_whose_sum_would_not_be_exact_are_refused():
    with pytest.raises(VolumeError, match="values of 'v' must stay below"):
        rows_of([1e16, 1.0])
