import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, ResumeError, RunError, UsageError, VolumeError
from engine.objects.find import find_objects
from engine.objects.geojson import read_features
from engine.objects.recipe import Measured, ObjectClass, Recipe
from engine.objects.table import read_table
from engine.runtime.events import TaskDone
from engine.runtime.serial import SerialRunner
from tests.objects import whole

BLOCKS = ((64, 64), (96, 128), (512, 512))  # many borders; uneven last blocks; one block


def found_in(folder, classes, *, block, recipe=None, runner=SerialRunner, **measured):
    output = str(folder / f"{'x'.join(map(str, block))}.zarr")
    whole.store(f"{output}/label", classes)
    for name, voxels in measured.items():
        whole.store(f"{output}/{name}", voxels)
    report = find_objects(output, recipe or Recipe(), block=block, runner=runner)
    return report, whole.read(report.label_url), read_table(report.table_url).to_pylist()


def without(rows, *names):
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


@pytest.mark.parametrize("method", ["connected", "watershed"])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_the_table_equals_the_one_of_the_whole_slide_row_for_row_at_three_block_sizes(tmp_path, method, connectivity):
    classes = whole.blobs((250, 330))
    random = np.random.default_rng(1)
    layers = {"p": random.random(classes.shape, np.float32), "h": random.integers(0, 256, classes.shape, np.uint8)}
    recipe = Recipe(method=method, connectivity=connectivity, measured={name: Measured(name) for name in layers})
    wanted = {"connected": whole.connected, "watershed": whole.parted}[method](classes, connectivity=connectivity)
    rows = whole.table(wanted, classes, **layers)
    assert len(rows) > 50
    assert len({row["mean_p"] for row in rows}) > 50
    assert {row["class"] for row in rows} == {1, 2}
    tables, files = [], []
    for block in BLOCKS:
        assert block == (512, 512) or whole.n_crossing(wanted, block) > 20
        report, labels, table = found_in(tmp_path, classes, block=block, recipe=recipe, **layers)
        assert np.array_equal(labels, wanted)
        assert without(table, "class_name") == rows
        assert report.n_objects == len(rows)
        tables.append(Path(report.table_url).read_bytes())
        files.append(Path(report.geojson_url).read_bytes())
    assert tables[0] == tables[1] == tables[2]
    assert files[0] == files[1] == files[2]


def spiral(n):
    """A path one pixel wide that winds to the middle, with a gap of one: it crosses every border many times."""
    voxels = np.zeros((n, n), np.uint8)
    y, x, dy, dx, length = 0, 0, 0, 1, n - 1
    voxels[0, 0] = 1
    for turn in range(2 * n):
        for _ in range(length):
            y, x = y + dy, x + dx
            voxels[y, x] = 1
        dy, dx = dx, -dy
        length -= 2 if turn >= 2 and turn % 2 == 0 else 0
        if length <= 0:
            break
    return voxels


def u_shape():
    """Two arms that meet only in a lower block."""
    voxels = np.zeros((60, 60), np.uint8)
    voxels[2:50, 4], voxels[2:50, 55], voxels[50, 4:56] = 1, 1, 1
    return voxels


def corners():
    """Pixels that touch only at the corner of four blocks, and a square over all four."""
    voxels = np.zeros((64, 64), np.uint8)
    voxels[15, 15] = voxels[16, 16] = voxels[15, 48] = voxels[16, 47] = 1
    voxels[40:56, 40:56] = 1
    return voxels


SHAPES = {
    "nothing": (np.zeros((50, 70), np.uint8), 0, 0),
    "the whole volume": (np.full((50, 70), 3, np.uint8), 1, 1),
    "one pixel": (np.pad(np.ones((1, 1), np.uint8), 20), 1, 1),
    "spiral": (spiral(61), 1, 1),
    "U": (u_shape(), 1, 1),
    "corners of four blocks": (corners(), 5, 3),
    "classes side by side": (np.repeat(np.arange(3, dtype=np.uint8), 20)[None].repeat(45, 0), 2, 2),
    "salt": ((np.random.default_rng(5).random((70, 50)) < 0.5).astype(np.uint8), 171, 4),
}


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_cross_borders_in_bad_ways_are_one_object(tmp_path, name, connectivity):
    classes, *counts = SHAPES[name]
    wanted = whole.connected(classes, connectivity=connectivity)
    assert name == "salt" or wanted.max() == counts[connectivity - 1]
    for block in ((16, 16), (20, 33), (128, 128)):
        report, labels, table = found_in(tmp_path, classes, block=block, recipe=Recipe(connectivity=connectivity))
        assert np.array_equal(labels, wanted)
        assert without(table, "class_name") == whole.table(wanted, classes)
        assert len(list(read_features(report.geojson_url))) == report.n_objects == wanted.max()


@pytest.mark.parametrize("name", set(SHAPES) - {"salt"})
def test_the_watershed_takes_the_same_shapes(tmp_path, name):
    classes = SHAPES[name][0]
    tables = [
        found_in(tmp_path, classes, block=block, recipe=Recipe(method="watershed"))[2]
        for block in ((16, 16), (20, 33), (128, 128))
    ]
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) >= SHAPES[name][1]
    assert name != "the whole volume" or len(tables[0]) == 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_any_blobs_in_any_blocks_are_as_in_the_whole(tmp_path_factory, data, seed):
    shape = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    block = data.draw(st.tuples(st.integers(5, 40), st.integers(5, 40)))
    connectivity = data.draw(st.sampled_from([1, 2]))
    classes = whole.blobs(shape, seed=seed, sigma=1.5) if min(shape) > 1 else np.ones(shape, np.uint8)
    method = data.draw(st.sampled_from(["connected", "watershed"]))
    recipe = Recipe(method=method, connectivity=connectivity, min_distance=data.draw(st.integers(2, 6)))
    if method == "connected":
        wanted = whole.connected(classes, connectivity=connectivity)
    elif (classes == classes.flat[0]).all():
        wanted = (classes > 0).astype(np.uint32)
    else:
        wanted = whole.parted(classes, connectivity=connectivity, min_distance=recipe.min_distance)
    _, labels, table = found_in(tmp_path_factory.mktemp("any"), classes, block=block, recipe=recipe)
    assert np.array_equal(labels, wanted)
    assert without(table, "class_name") == whole.table(wanted, classes)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_scans_are_connected_in_three_dimensions(tmp_path, connectivity):
    classes = whole.blobs((30, 40, 50), sigma=1.2)
    wanted = whole.connected(classes, connectivity=connectivity)
    assert wanted.max() > 50
    for block in ((16, 16, 16), (11, 40, 23), (64, 64, 64)):
        recipe = Recipe(connectivity=connectivity)
        report, labels, table = found_in(tmp_path, classes, block=block, recipe=recipe)
        assert np.array_equal(labels, wanted)
        assert without(table, "class_name") == whole.table(wanted, classes)
        assert report.geojson_url is None


def test_the_usual_calls_on_the_whole_image_find_as_many_nuclei_and_the_same_pixels_but_for_ties(tmp_path):
    classes = whole.blobs((250, 330), n_classes=1)
    plain = whole.plainly_parted(classes)
    _, labels, _ = found_in(tmp_path, classes, block=(64, 64), recipe=Recipe(method="watershed"))
    assert labels.max() == plain.max() > 100
    assert np.array_equal(labels > 0, plain > 0)
    assert np.mean(labels[labels > 0] != plain[labels > 0]) < 0.01


def test_a_probability_is_cut_at_its_threshold_and_its_channel_is_named(tmp_path):
    random = np.random.default_rng(2)
    probability = random.random((2, 90, 70), np.float32)
    output = str(tmp_path / "o.zarr")
    whole.store(f"{output}/p", probability, names="cyx")
    recipe = Recipe(volume="p", channel=1, threshold=0.6, measured={"other": Measured("p", channel=0)})
    report = find_objects(output, recipe, block=(32, 32))
    classes = (probability[1] >= np.float32(0.6)).astype(np.uint8)
    wanted = whole.connected(classes)
    assert wanted.max() > 50
    assert np.array_equal(whole.read(report.label_url), wanted)
    table = read_table(report.table_url).to_pylist()
    assert without(table, "class_name") == whole.table(wanted, classes, other=probability[0])
    with pytest.raises(UsageError, match="has 2 along 'c'. Name its channel"):
        find_objects(output, Recipe(name="b", volume="p", threshold=0.6))
    with pytest.raises(UsageError, match="channel of 0 to 1 is wanted, not 2"):
        find_objects(output, Recipe(name="b", volume="p", threshold=0.6, channel=2))


def test_small_and_large_objects_are_dropped_before_ids_are_given(tmp_path):
    classes = whole.blobs((150, 200))
    every = whole.connected(classes)
    area = np.bincount(every.ravel()) * whole.SPACING**2
    kept = (area >= 2) & (area <= 40)
    kept[0] = False
    assert 10 < kept.sum() < every.max() - 10
    wanted = whole.in_order(np.where(kept[every], every, 0))
    recipe = Recipe(min_area_um2=2, max_area_um2=40)
    _, labels, table = found_in(tmp_path, classes, block=(64, 64), recipe=recipe)
    assert np.array_equal(labels, wanted)
    assert without(table, "class_name") == whole.table(wanted, classes)


@pytest.mark.parametrize("method", ["connected", "watershed"])
def test_a_run_that_is_broken_off_again_and_again_ends_with_the_same_bytes(tmp_path, method):
    classes, recipe = whole.blobs((120, 150)), Recipe(method=method)
    wanted, _, _ = found_in(tmp_path / "at once", classes, block=(48, 48), recipe=recipe)
    output = str(tmp_path / "broken.zarr")
    whole.store(f"{output}/label", classes)

    def breaking():
        left = [3]

        def listen(event):
            left[0] -= isinstance(event, TaskDone)
            if left[0] == 0:
                raise KeyboardInterrupt

        return listen

    n_broken = 0
    while True:
        try:
            report = find_objects(output, recipe, block=(48, 48), listener=breaking())
            break
        except KeyboardInterrupt:
            n_broken += 1
    assert n_broken > 8
    for name in ("table_url", "geojson_url"):
        assert Path(getattr(report, name)).read_bytes() == Path(getattr(wanted, name)).read_bytes()
    assert np.array_equal(whole.read(report.label_url), whole.read(wanted.label_url))
    assert not (Path(output) / "objects/instances/parts").exists()
    assert find_objects(output, recipe, listener=breaking()) == report  # it has ended: nothing is done
    with pytest.raises(ResumeError, match="begun with connectivity = 1, not 2"):
        find_objects(output, Recipe(method=method, connectivity=2))


def test_ray_actors_find_the_same_objects(tmp_path, local_ray):
    from engine.runtime.actors import RayRunner

    classes, recipe = whole.blobs((120, 150)), Recipe(method="watershed")
    wanted, _, _ = found_in(tmp_path / "serial", classes, block=(48, 48), recipe=recipe)
    report, _, table = found_in(
        tmp_path / "ray", classes, block=(48, 48), recipe=recipe, runner=lambda f: RayRunner(f, n_workers=2)
    )
    assert len(table) > 20
    assert Path(report.table_url).read_bytes() == Path(wanted.table_url).read_bytes()


def test_labels_are_an_ome_zarr_label_group_with_levels(tmp_path):
    classes = whole.blobs((600, 700), sigma=8)
    report, labels, _ = found_in(tmp_path, classes, block=(256, 256))
    group = json.loads((Path(report.label_url).parent / "zarr.json").read_text())
    assert group["attributes"]["ome"] == {"version": "0.5", "labels": ["instances"]}
    label = json.loads((Path(report.label_url) / "zarr.json").read_text())["attributes"]
    assert label["ome"]["image-label"] == {"version": "0.5", "source": {"image": "../../label"}}
    assert len(label["ome"]["multiscales"][0]["datasets"]) == 2
    from engine.geometry.region import Region
    from engine.storage.pyramid import reduce_mode
    from engine.storage.volume import open_volume

    coarse = open_volume(report.label_url).read(Region.whole((300, 350)), level=1)
    assert labels.max() > 20
    assert np.array_equal(coarse, reduce_mode(labels, (2, 2)))


def test_classes_have_names_and_colours(tmp_path):
    classes = whole.blobs((60, 60))
    recipe = Recipe(classes={1: ObjectClass("Tumour", (1, 2, 3))})
    report, _, table = found_in(tmp_path, classes, block=(32, 32), recipe=recipe)
    assert {row["class_name"] for row in table} == {"Tumour", "Class 2"}
    colours = {
        f["properties"]["classification"]["name"]: f["properties"]["classification"]["color"]
        for f in read_features(report.geojson_url)
    }
    assert colours == {"Tumour": [1, 2, 3], "Class 2": [38, 139, 210]}


REFUSED = {  # what is asked of a uint8 class map of (60, 60) and a float32 volume of (60, 60) and one of (30, 30)
    "float class map": (lambda: Recipe(volume="p"), UsageError, "class map of whole numbers .* float32"),
    "another grid": (lambda: Recipe(measured={"s": Measured("small")}), VolumeError, r"on the grid .* not \(30, 30\)"),
    "no such volume": (lambda: Recipe(volume="labels"), VolumeError, "nothing is at"),
    "watershed of a large component": (
        lambda: Recipe(method="watershed", max_object_pixels=20),
        RunError,
        "at most 20 voxels, .* max_object_pixels",
    ),
    "outline of a large component": (
        lambda: Recipe(max_object_pixels=20),
        RunError,
        "at most 20 pixels, .* is_outlined",
    ),
    "bad name": (lambda: Recipe(name="a/b"), UsageError, "'a/b'"),
    "no neighbours": (lambda: Recipe(connectivity=0), UsageError, "connectivity must be at least 1, not 0"),
    "nothing to keep": (lambda: Recipe(min_area_um2=5, max_area_um2=4), UsageError, "nothing would be kept"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_in_clear_words(tmp_path, name):
    recipe, error, text = REFUSED[name]
    output = str(tmp_path / "o.zarr")
    whole.store(f"{output}/label", whole.blobs((60, 60)))
    whole.store(f"{output}/p", np.zeros((60, 60), np.float32))
    whole.store(f"{output}/small", np.zeros((30, 30), np.float32))
    assert issubclass(error, EngineError)
    with pytest.raises(error, match=text):
        find_objects(output, recipe(), block=(32, 32))


def test_limits_of_area_need_a_unit(tmp_path):
    output = str(tmp_path / "o.zarr")
    whole.store(f"{output}/label", whole.blobs((60, 60)), unit=None)
    with pytest.raises(UsageError, match="no unit of length"):
        find_objects(output, Recipe(min_area_um2=3))
    report = find_objects(output)
    assert set(read_table(report.table_url, ["area_um2"])["area_um2"].to_pylist()) == {None}
