"""Feature files of the field: h5py alone, as CLAM's own code uses it, is the oracle."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from engine.errors import VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage.create import create_volume
from engine.storage.features import FeatureBag, bag_of, cells_of, on_cells, read_features, write_features

ATTRIBUTES = {"patch_size": 256, "patch_level": 1, "patch_size_level0": 512, "name": "slide 7"}


def bag(n: int = 40, width: int = 9, **attributes: object) -> FeatureBag:
    chance = np.random.default_rng(4)
    cells = chance.permutation(200)[:n]
    coords = np.stack([1000 + 512 * (cells % 20), 300 + 512 * (cells // 20)], axis=1)
    return FeatureBag(chance.standard_normal((n, width)).astype(np.float32), coords, {**ATTRIBUTES, **attributes})


def grid(path: Path, values: np.ndarray, names: str = "cyx") -> object:
    axes = tuple(Axis(n, Role.CHANNEL if n == "c" else Role.SPACE, 1.0 if n == "c" else 112.0) for n in names)
    volume = create_volume(str(path), axes=axes, dtype=values.dtype, shape=values.shape, chunk_shape=values.shape)
    volume.write(Region.whole(values.shape), values)
    return volume


def test_h5py_reads_what_is_written(tmp_path):
    ours = bag()
    write_features(tmp_path / "deep" / "slide.h5", ours)
    with h5py.File(tmp_path / "deep" / "slide.h5") as file:
        assert (file["features"].dtype, file["features"].shape) == (np.float32, (40, 9))
        np.testing.assert_array_equal(file["features"][:], ours.features)
        np.testing.assert_array_equal(file["coords"][:], ours.coords)
        assert file["coords"].attrs["patch_size_level0"] == 512
        assert file["features"].chunks
        assert file["features"].compression
    assert ours.features.std() > 0.5
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["slide.h5"]  # no draft is left


@pytest.mark.parametrize("lead", [(), (1,)])  # CLAM writes (n, f); some encoders (1, n, f)
def test_what_h5py_writes_is_read(tmp_path, lead):
    theirs = bag()
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file["features"] = theirs.features.reshape(*lead, 40, 9).astype(np.float64)
        file["coords"] = theirs.coords.astype(np.int32)
        file["coords"].attrs["patch_size"] = np.int64(256)
        file["coords"].attrs["downsample"] = np.array([2.0, 2.0])
        file["coords"].attrs["name"] = np.bytes_("slide 7")
    found = read_features(tmp_path / "slide.h5")
    np.testing.assert_array_equal(found.features, theirs.features)
    np.testing.assert_array_equal(found.coords, theirs.coords)
    assert (found.features.dtype, found.coords.dtype) == (np.float32, np.int64)
    assert found.attributes == {"patch_size": 256, "downsample": [2.0, 2.0], "name": "slide 7"}


def test_an_older_file_is_replaced_whole(tmp_path):
    write_features(tmp_path / "slide.h5", bag(10))
    write_features(tmp_path / "slide.h5", bag(40))
    assert len(read_features(tmp_path / "slide.h5")) == 40


def test_an_empty_bag_goes_there_and_back(tmp_path):
    write_features(tmp_path / "none.h5", FeatureBag(np.zeros((0, 9), np.float32), np.zeros((0, 2), np.int64)))
    assert read_features(tmp_path / "none.h5").features.shape == (0, 9)


def spoiled(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "there is none"),
        (lambda p: [p.write_bytes(b"not HDF5"), p][1], "is damaged or no HDF5 file"),
        (lambda p: spoiled(p, coords=np.zeros((3, 2), int)), "lacks .'features'.; it holds .'coords'."),
        (lambda p: spoiled(p, features=np.zeros((3, 4)), coords=np.zeros((2, 2), int)), r"not \(3, 4\) and \(2, 2\)"),
        (lambda p: spoiled(p, features=np.zeros((2, 3, 4)), coords=np.zeros((3, 2), int)), r"not \(2, 3, 4\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, make, message):
    path = make(tmp_path / "slide.h5")
    with pytest.raises(VolumeError, match=message) as caught:
        read_features(path)
    assert "\n" not in str(caught.value)


def test_a_grid_becomes_a_bag_and_a_grid_again(tmp_path):
    values = np.random.default_rng(1).standard_normal((5, 6, 8)).astype(np.float32)
    values[:, 2, 3] = 0  # a true vector of zeros
    mask = np.random.default_rng(2).random((6, 8)) < 0.4
    mask[2, 3] = True
    volume = grid(tmp_path / "grid.zarr", values)
    found = bag_of(volume, mask=mask, stride=224, attributes={"patch_size_level0": 224})
    wanted = [(y, x) for y in range(6) for x in range(8) if mask[y, x]]
    np.testing.assert_array_equal(found.features, [values[:, y, x] for y, x in wanted])
    np.testing.assert_array_equal(found.coords, [(224 * x, 224 * y) for y, x in wanted])
    assert (found.features == 0).all(axis=1).sum() == 1  # chosen by the mask, whatever its values are
    cells = cells_of(found)
    again, is_covered = on_cells(cells, found.features[:, 0])
    top, left = (int(n) // 224 for n in cells.origin)
    part = np.s_[top : top + cells.shape[0], left : left + cells.shape[1]]
    np.testing.assert_array_equal(is_covered, mask[part])
    np.testing.assert_array_equal(again[is_covered], values[0][part][is_covered])
    assert mask.sum() < mask.size


def test_without_a_mask_every_cell_is_an_instance(tmp_path):
    volume = grid(tmp_path / "grid.zarr", np.zeros((5, 6, 8), np.float32))
    assert len(bag_of(volume)) == 48


@pytest.mark.parametrize(
    ("attributes", "step"),
    [
        ({"patch_size_level0": 512, "patch_size": 256, "overlap": 0}, 512),  # TRIDENT
        ({"patch_size_level0": 1024, "patch_size": 256, "overlap": 128}, 512),  # TRIDENT with half an overlap
        ({"patch_size": 256, "downsample": [2.0, 2.0]}, 512),  # CLAM
        ({}, 512),  # nothing told: the least distance
    ],
)
def test_coordinates_tell_their_cells(attributes, step):
    given = FeatureBag(bag().features, bag().coords, attributes)
    cells = cells_of(given)
    assert cells.step == (step, step)
    assert cells.is_exact
    back = cells.positions[:, ::-1] * step + np.array(cells.origin)[::-1]
    np.testing.assert_array_equal(back, given.coords)
    assert tuple(cells.positions.max(axis=0) + 1) == cells.shape


def test_pieces_of_tissue_off_each_others_grid_go_to_the_nearest_cell():
    given = FeatureBag(np.zeros((3, 1), np.float32), np.array([[0, 0], [512, 0], [1500, 700]]), ATTRIBUTES)
    cells = cells_of(given)
    assert not cells.is_exact
    assert cells.positions.tolist() == [[0, 0], [0, 1], [1, 3]]


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (
            lambda v: bag_of(v, mask=np.ones((2, 2), bool)),
            r"mask must have the feature grid's \(6, 8\) cells, not \(2, 2\)",
        ),
        (lambda v: bag_of(v, mask=np.zeros((6, 8), bool)), "the mask leaves none"),
        (lambda v: cells_of(FeatureBag(np.zeros((0, 1), np.float32), np.zeros((0, 2), int))), "the bag is empty"),
        (
            lambda v: cells_of(FeatureBag(np.zeros((3, 1), np.float32), np.array([[0, 0], [1, 1], [90000, 90000]]))),
            "must lie on a grid of at most",
        ),
        (lambda v: FeatureBag(np.zeros((3, 1), np.float32), np.zeros((3, 3), int)), "Give x and y"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, deed, message):
    volume = grid(tmp_path / "grid.zarr", np.zeros((5, 6, 8), np.float32))
    with pytest.raises(VolumeError, match=message):
        deed(volume)


def test_a_volume_without_channels_is_no_feature_grid(tmp_path):
    volume = grid(tmp_path / "plain.zarr", np.zeros((6, 8), np.float32), "yx")
    with pytest.raises(VolumeError, match="a feature grid has axes .c, y, x., not .'y', 'x'."):
        bag_of(volume)
