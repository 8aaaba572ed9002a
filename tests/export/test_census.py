"""The census of a label map, slab by slab, equals counting the whole at once."""

import numpy as np
import pytest

from engine.export import planes
from engine.export.census import take_census
from engine.export.planes import label_planes
from engine.storage.volume import open_volume
from tests.export.scans import STRAIGHT, balls, store


@pytest.mark.parametrize("limit", [1, 3 * 480, 10**9])
@pytest.mark.parametrize(("dtype", "names"), [("uint8", (1, 2, 3)), ("int32", (5, 70_000, 300_000)), ("bool", (1, 1, 1))])
def test_slabs_count_what_the_whole_holds(dtype, names, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "SLAB_BYTES", limit)
    labels = np.array([0, *names])[balls((23, 20, 24))].astype(dtype)
    census = take_census(label_planes(open_volume(store(tmp_path / "l.zarr", labels, STRAIGHT))))
    found, counts = np.unique(labels[labels != 0], return_counts=True)
    assert len(found) == len(set(names))
    assert list(census.voxels.items()) == list(zip(found.astype(int), counts, strict=True))
    assert census.n_planes == {int(label): int((labels == label).any(axis=(1, 2)).sum()) for label in found}
    for axis, occupied in enumerate(census.occupied):
        expected = (labels != 0).any(axis=tuple({0, 1, 2} - {axis}))
        assert 0 < expected.sum() < len(expected)
        np.testing.assert_array_equal(occupied, expected)
