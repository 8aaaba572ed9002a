"""Volumes are described, written, read, damaged and misnamed; what is read equals what was written."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image as Image05

from engine.errors import VolumeError
from engine.geometry.axes import Axis, Role, axes_from_names
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.storage.arrays import configure_codecs
from engine.storage.create import Coordinate, Flavour, create_volume, read_coordinates
from engine.storage.fingerprint import fingerprint
from engine.storage.volume import Volume, open_volume

MICRON_AXES = (
    Axis("c", Role.CHANNEL),
    Axis("y", Role.SPACE, spacing=0.5, unit="micrometer"),
    Axis("x", Role.SPACE, spacing=0.25, unit="micrometer"),
)


def make(path: Path, *, dtype="uint16", n_levels=1, shape=(2, 150, 210), **options) -> tuple[Volume, np.ndarray]:
    voxels = np.random.default_rng(7).integers(0, 255, shape).astype(dtype)
    volume = create_volume(
        str(path), axes=MICRON_AXES, dtype=dtype, shape=shape, chunk_shape=(2, 32, 32), shard_shape=(2, 64, 128),
        n_levels=n_levels, **options,
    )  # fmt: skip
    grid = volume.levels[0].grid
    for region in map(grid.region, range(grid.n_cells)):
        volume.write(region, np.ascontiguousarray(voxels[region.slices]))
    assert voxels.astype(float).std() > 0
    return volume, voxels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64", "int64", "bool"])
def test_what_is_written_is_read(tmp_path, dtype):
    volume, voxels = make(tmp_path / "a.zarr", dtype=dtype)
    region = Region((0, 17, 30), (2, 150, 209))
    read = open_volume(volume.url).read(region)
    assert np.array_equal(read, voxels[region.slices])
    assert read.dtype == np.dtype(dtype)
    assert read.flags.c_contiguous


def test_a_volume_travels_in_a_pickle(tmp_path):
    volume, voxels = make(tmp_path / "a.zarr")
    volume.read(Region((0, 0, 0), (1, 1, 1)))
    copy = pickle.loads(pickle.dumps(volume))
    assert copy == volume
    assert np.array_equal(copy.read(Region.whole(volume.shape)), voxels)


def test_codec_threads_can_be_bounded(tmp_path):
    volume, voxels = make(tmp_path / "a.zarr")
    try:
        configure_codecs(1)
        assert np.array_equal(volume.read(Region.whole(volume.shape)), voxels)
    finally:
        configure_codecs(None)


def test_ome_zarr_levels_have_the_scale_and_half_voxel_shift_of_the_specification(tmp_path):
    volume, _ = make(tmp_path / "a.zarr", n_levels=3)
    image = Image05.from_zarr(zarr.open_group(volume.url, mode="r"))
    datasets = image.ome_attributes.multiscales[0].datasets
    scales = [list(d.coordinateTransformations[0].scale) for d in datasets]
    assert scales == [[1, 0.5, 0.25], [1, 1, 0.5], [1, 2, 1]]
    assert list(datasets[2].coordinateTransformations[1].translation) == [0, 0.75, 0.375]
    assert [level.shape for level in volume.levels] == [(2, 150, 210), (2, 75, 105), (2, 38, 53)]
    assert volume.axes == MICRON_AXES


def test_ome_zarr_0_4_is_read(tmp_path):
    group = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    voxels = np.random.default_rng(0).integers(0, 999, (20, 30, 40)).astype(">i2")
    for path, step in (("s0", 1), ("s1", 2)):
        group.create_array(path, data=voxels[::step, ::step, ::step], chunks=(16, 16, 16))
    axes = [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"]
    datasets = [
        {
            "path": f"s{k}",
            "coordinateTransformations": [{"type": "scale", "scale": [2.0 * 2**k, 1.0 * 2**k, 1.0 * 2**k]}],
        }
        for k in (0, 1)
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    volume = open_volume(str(tmp_path / "old.zarr"))
    assert [axis.spacing for axis in volume.axes] == [2, 1, 1]
    assert [level.shape for level in volume.levels] == [(20, 30, 40), (10, 15, 20)]
    read = volume.read(Region((3, 4, 5), (20, 30, 40)))
    assert read.dtype == np.dtype("int16")
    assert read.dtype.isnative
    assert voxels.std() > 0
    assert np.array_equal(read, voxels[3:, 4:, 5:])


def test_a_bare_array_takes_its_axes_from_names_or_from_itself(tmp_path):
    zarr.create_array(tmp_path / "v2.zarr", shape=(4, 5, 6), dtype="u1", zarr_format=2)
    zarr.create_array(tmp_path / "v3.zarr", shape=(4, 6), dtype="u1", dimension_names=("lat", "lon"))
    assert [a.name for a in open_volume(str(tmp_path / "v2.zarr"), axes="zyx").axes] == ["z", "y", "x"]
    assert [a.name for a in open_volume(f"file://{tmp_path}/v3.zarr").axes] == ["lat", "lon"]


def test_edges_and_coordinates_are_restored(tmp_path):
    axes = (
        Axis("channel", Role.CHANNEL),
        Axis("lat", Role.SPACE, 2.0, "degree"),
        Axis("lon", Role.SPACE, 1.0, "degree"),
    )
    names = Coordinate(("channel",), np.array(["t", "q"], object), {})
    edges = {"lon": Edge(EdgeKind.WRAP), "lat": Edge(EdgeKind.POLE, around="lon", odd_channels=(1,))}
    made = create_volume(
        str(tmp_path / "a.zarr"), axes=axes, dtype="f4", shape=(2, 4, 8), chunk_shape=(2, 4, 8), flavour=Flavour.CF,
        edges=edges, coordinates={"channel": names},
    )  # fmt: skip
    volume = open_volume(made.url)
    assert volume.edges == edges
    assert volume.axes == axes
    found = read_coordinates(volume)
    assert list(found) == ["channel"]
    assert list(found["channel"].values) == ["t", "q"]


def test_groups_above_a_volume_are_made(tmp_path):
    url = f"{tmp_path}/out.zarr/probability"
    make(Path(url))
    assert open_volume(url).shape == (2, 150, 210)
    with pytest.raises(VolumeError, match=r"probability.*Add the inner path"):
        open_volume(f"{tmp_path}/out.zarr")
    with pytest.raises(VolumeError, match=r"Did you mean '.*out.zarr/probability'"):
        open_volume(f"{tmp_path}/out.zarr/probabilty")


def test_fingerprint_sees_a_changed_voxel_and_not_a_moved_folder(tmp_path):
    volume, voxels = make(tmp_path / "a.zarr")
    before = fingerprint(volume)
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    moved = open_volume(str(tmp_path / "b.zarr"))
    assert fingerprint(moved) == before
    region = moved.levels[0].grid.region(0)
    moved.write(region, np.ascontiguousarray(255 - voxels[region.slices]).astype(voxels.dtype))
    assert fingerprint(moved) != before


def shard_of(volume: Volume) -> Path:
    return Path(volume.url) / "0/c/0/0/0"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-40],  # index cut off
        lambda data: data[:100],  # nearly all cut off
        lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:],  # one byte of voxels turned
        lambda data: data[:-9] + bytes([data[-9] ^ 255]) + data[-8:],  # one byte of the index turned
        lambda data: b"",  # emptied
    ],
)
def test_a_damaged_shard_is_refused_by_name(tmp_path, damage):
    volume, _ = make(tmp_path / "a.zarr")
    shard_of(volume).write_bytes(damage(shard_of(volume).read_bytes()))
    with pytest.raises(VolumeError, match=r"cannot read \[c 0:2, y 0:40, x 0:100\] of '.*a.zarr/0'.*Restore it"):
        open_volume(volume.url).read(Region((0, 0, 0), (2, 40, 100)))


def test_a_write_must_be_whole_shards(tmp_path):
    volume, _ = make(tmp_path / "a.zarr")
    with pytest.raises(VolumeError, match="whole shards"):
        volume.write(Region((0, 0, 0), (2, 32, 128)), np.zeros((2, 32, 128), "uint16"))
    with pytest.raises(VolumeError, match="uint16 voxels"):
        volume.write(Region((0, 0, 0), (2, 64, 128)), np.zeros((2, 64, 128), "uint8"))
    with pytest.raises(VolumeError, match="must lie inside"):
        volume.read(Region((0, 0, 0), (2, 151, 128)))


@pytest.mark.parametrize(
    ("number", "words"), [(28, "no space left"), (30, "read-only"), (13, "read-only for this user")]
)
def test_a_store_that_refuses_is_told_from_a_wrong_write(tmp_path, monkeypatch, number, words):
    volume, voxels = make(tmp_path / "a.zarr")

    def refuse(*args, **kwargs):
        raise OSError(number, "refused")

    monkeypatch.setattr("zarr.storage._local._put", refuse)
    region = volume.levels[0].grid.region(0)
    with pytest.raises(VolumeError, match=words) as caught:
        volume.write(region, np.ascontiguousarray(voxels[region.slices]))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_volume_that_cannot_be_described_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(28, "refused")

    with monkeypatch.context() as patch:
        patch.setattr("zarr.storage._local._put", refuse)
        with pytest.raises(VolumeError, match="no space left"):
            make(tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "a.zarr")
    with pytest.raises(VolumeError, match="exists"):
        make(tmp_path / "a.zarr")


BAD = {
    "missing": (lambda p: None, None, "nothing is at"),
    "a file": (lambda p: p.write_text("hello"), None, "is none"),
    "an empty folder": (lambda p: p.mkdir(), None, "is none"),
    "metadata that is no JSON": (lambda p: (p.mkdir(), (p / "zarr.json").write_text("{")), None, "not JSON"),
    "axes that nobody names": (lambda p: zarr.create_array(p, shape=(2, 2), dtype="u1"), None, "--axes yx"),
    "a wrong number of names": (lambda p: zarr.create_array(p, shape=(2, 2), dtype="u1"), "zyx", "not 3"),
    "an unknown name": (lambda p: zarr.create_array(p, shape=(2, 2), dtype="u1"), "qx", "'q'"),
    "an empty axis": (lambda p: zarr.create_array(p, shape=(2, 0), dtype="u1"), "yx", "axis 'x'"),
    "complex numbers": (lambda p: zarr.create_array(p, shape=(2, 2), dtype="c8"), "yx", "complex64"),
    "text": (lambda p: zarr.create_array(p, shape=(2, 2), dtype="U3", zarr_format=2), "yx", "<U3"),
    "a group without a record": (zarr.create_group, None, "no multiscales"),
    "a record without axes": (lambda p: zarr.create_group(p, attributes={"multiscales": [{}]}), None, "KeyError"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_volume_is_refused_in_one_line(tmp_path, case):
    build, axes, words = BAD[case]
    build(tmp_path / "bad.zarr")
    with pytest.raises(VolumeError) as caught:
        open_volume(f"{tmp_path}/bad.zarr", axes=axes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ome_zarr_has_no_place_for_latitude(tmp_path):
    with pytest.raises(VolumeError, match="flavour 'cf'"):
        create_volume(
            f"{tmp_path}/a.zarr", axes=axes_from_names(("lat", "lon")), dtype="f4", shape=(4, 8), chunk_shape=(4, 8)
        )
    assert not (tmp_path / "a.zarr").exists()


def test_metadata_names_dimensions_and_a_checksum(tmp_path):
    volume, _ = make(tmp_path / "a.zarr")
    metadata = json.loads((Path(volume.url) / "0/zarr.json").read_text())
    assert metadata["dimension_names"] == ["c", "y", "x"]
    inner = metadata["codecs"][0]["configuration"]
    assert inner["codecs"][1]["configuration"]["checksum"] is True
    assert [codec["name"] for codec in inner["index_codecs"]] == ["bytes", "crc32c"]
    assert [codec["name"] for codec in inner["codecs"]] == ["bytes", "zstd"]
