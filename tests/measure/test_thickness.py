"""Thickness of known forms, equal to plain loops over whole arrays, whatever the blocks; its map, files and picture."""

import csv
import json
from dataclasses import asdict, replace

import nibabel
import numpy as np
import pytest
import zarr
from PIL import Image
from scipy.ndimage import distance_transform_edt

from engine.errors import UsageError, VolumeError
from engine.geometry.region import Region
from engine.measure import local
from engine.measure import thickness as module
from engine.measure.edt import squared_distance
from engine.measure.space import Space
from engine.measure.thickness import save_thickness, thickness
from engine.measure.thickness_picture import draw
from engine.storage.create import create_volume
from engine.storage.volume import open_volume
from tests.measure.layers import cap, local_by_loops, places
from tests.measure.surfaces import blobs, stored
from tests.real_models import CT, real
from tests.stored import store

ISOTROPIC, SLICES = (0.5, 0.5, 0.5), (2.0, 0.8, 0.8)


def measured(path, labels, *, spacing, name="map", **options):
    if not (path / "labels.zarr").exists():
        stored(path / "labels.zarr", labels, spacing=spacing, chunk=32, names="zyx"[-labels.ndim :])
    return thickness(str(path / "labels.zarr"), str(path / f"{name}.zarr"), **{"layer": 2, **options})


def read(found):
    return zarr.open_array(f"{found.map_url}/0", mode="r")[...]


@pytest.mark.parametrize("beneath", [None, 1])
@pytest.mark.parametrize("spacing", [ISOTROPIC, SLICES])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_a_slab_of_k_voxels_is_k_steps_thick(tmp_path, beneath, spacing, axis, k):
    labels = np.zeros((24, 20, 22), "uint8")
    np.moveaxis(labels, axis, 0)[:7] = 1
    np.moveaxis(labels, axis, 0)[7 : 7 + k] = 2
    found = measured(tmp_path, labels, spacing=spacing, beneath=beneath)
    wanted = pytest.approx(k * spacing[axis], rel=1e-6)
    assert (found.percentile_5_mm, found.median_mm, found.maximum_mm) == (wanted,) * 3
    # No ball reaches into the corners of the volume; where it is one voxel thick, they are the middle of it.
    assert found.minimum_mm == (pytest.approx(1.6) if (beneath, spacing, axis, k) == (None, SLICES, 0, 1) else wanted)
    assert found.n_voxels == (labels == 2).sum()
    inside = read(found)[labels == 2]
    assert (inside.max(), read(found)[labels != 2].max()) == (wanted, 0)
    if beneath is None:
        assert inside.min() > 0
    else:
        assert (inside > 0).sum() == found.n_measured == labels.size // labels.shape[axis]


@pytest.mark.parametrize("seed", range(6))
def test_an_oblique_slab_is_as_thick_as_it_is_to_half_a_voxel(tmp_path, seed):
    rng = np.random.default_rng(seed)
    normal, true = rng.normal(size=3), rng.uniform(1.6, 3.2)
    normal /= np.linalg.norm(normal)
    height = np.tensordot(normal, places((40, 40, 40), ISOTROPIC), 1) - rng.uniform(-0.25, 0.25)
    labels = np.where(np.abs(height) < true / 2, 2, np.where(height < 0, 1, 0)).astype("uint8")
    inner, high = (measured(tmp_path, labels, spacing=ISOTROPIC, beneath=b, name=f"map-{b}") for b in (None, 1))
    assert inner.median_mm == pytest.approx(true, abs=0.25)
    assert high.median_mm == pytest.approx(true, abs=0.25)
    assert inner.minimum_mm > true - 0.5
    assert inner.maximum_mm < true + 0.5


@pytest.mark.parametrize("spacing", [ISOTROPIC, (0.8, 0.5, 0.5)])
@pytest.mark.parametrize(("true", "towards"), [(2.0, (1, 0, 0)), (1.7, (0.3, -0.8, 0.5)), (2.4, (-1, 1, 1))])
def test_a_cap_is_as_thick_as_it_is(tmp_path, spacing, true, towards):
    labels = cap([int(22 / step) for step in spacing], spacing, radius=9.0, thickness=true, towards=towards)
    inner, high = (measured(tmp_path, labels, spacing=spacing, beneath=b, name=f"map-{b}") for b in (None, 1))
    half = max(spacing) / 2
    for found in (inner, high):
        assert found.median_mm == pytest.approx(true, abs=half)
        assert found.mean_mm == pytest.approx(true, abs=half)
        assert found.maximum_mm == pytest.approx(true, abs=2 * half)
        assert found.n_measured > 140
    assert inner.minimum_mm == pytest.approx(true, abs=2 * half)  # though the rim is there
    assert high.percentile_5_mm == pytest.approx(true, abs=2 * half)


@pytest.mark.parametrize(
    ("radius", "shift", "short"),  # in voxels
    [
        (8.5, 0.0, 0.7),  # 17 voxels across, its centre on a voxel's
        (8.0, 0.5, 1.0),  # 16 across, its centre on a corner
        (8.2, 0.25, 1.5),  # between the half steps where balls stand
        (6.7, 0.3, 1.5),
    ],
)
def test_a_sphere_is_as_thick_as_it_is_or_a_little_less(tmp_path, radius, shift, short):
    far = np.sqrt(((places((25, 25, 25), ISOTROPIC) - 0.5 * shift) ** 2).sum(0))
    found = measured(tmp_path, np.where(far < 0.5 * radius, 2, 0).astype("uint8"), spacing=ISOTROPIC)
    assert radius - short * 0.5 < found.maximum_mm <= radius


def test_a_thick_form_is_found_whatever_halo_is_tried_first(tmp_path, monkeypatch):
    far = np.sqrt((places((21, 21, 21), (1.0, 1.0, 1.0)) ** 2).sum(0))
    labels, answers = np.where(far < 8.5, 2, 0).astype("uint8"), []
    for halo in (1, 3, 8, 40):
        monkeypatch.setattr(local, "FIRST_HALO", halo)
        found = measured(tmp_path, labels, spacing=(1.0, 1.0, 1.0), name=f"map-{halo}", max_mm=19.0)
        answers.append(read(found).tobytes())
    assert answers[1:] == answers[:1] * 3
    assert found.maximum_mm == pytest.approx(16.34, abs=0.01)
    assert measured(tmp_path, labels, spacing=(1.0, 1.0, 1.0), name="just", max_mm=16.4).maximum_mm == found.maximum_mm
    with pytest.raises(UsageError, match="is thicker near"):
        measured(tmp_path, labels, spacing=(1.0, 1.0, 1.0), name="too", max_mm=16.3)


def oracle(path, labels, *, spacing, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = measured(path, labels, spacing=spacing, name=f"map-{block}")
    whole, ridge = local_by_loops(labels == 2, np.array(spacing))
    assert len(np.unique(whole)) > 5
    assert read(found) == pytest.approx(whole, rel=1e-5)
    on_ridge = whole[ridge]
    assert found.n_measured == len(on_ridge)
    assert (found.minimum_mm, found.maximum_mm) == pytest.approx((on_ridge.min(), on_ridge.max()), rel=1e-5)
    assert (found.median_mm, found.mean_mm) == pytest.approx((np.median(on_ridge), on_ridge.mean()), rel=1e-5)
    assert found.percentile_5_mm == pytest.approx(np.percentile(on_ridge, 5), rel=1e-5)
    assert found.volume_mean_mm == pytest.approx(whole[labels == 2].mean(), rel=1e-5)
    return found


@pytest.mark.parametrize("spacing", [ISOTROPIC, SLICES])
def test_local_thickness_is_that_of_plain_loops(tmp_path, spacing):
    oracle(tmp_path, blobs((18, 20, 16))[0], spacing=spacing, block=9)


def test_local_thickness_in_a_plane_is_that_of_plain_loops(tmp_path):
    labels = blobs((60, 50))[0]
    found = oracle(tmp_path, labels, spacing=(0.7, 0.4), block=17)
    draw(tmp_path / "p.png", found)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "p.png")))) > 20


@pytest.mark.real
def test_local_thickness_of_real_bone_is_that_of_plain_loops(tmp_path):
    scan = np.asarray(nibabel.load(real(CT)).dataobj).T[:16, 30:50, 8:30]
    oracle(tmp_path, np.where(scan > 200, 2, 0).astype("uint8"), spacing=(3.0, 3.0, 3.0), block=13)


@pytest.mark.parametrize("beneath", [None, 1])
@pytest.mark.parametrize("spacing", [ISOTROPIC, SLICES])
def test_no_bit_depends_on_blocks(tmp_path, monkeypatch, beneath, spacing):
    labels = blobs((26, 28, 24))[0]
    labels[:6] = np.where(labels[:6] == 2, 2, 1)  # the border is met too
    answers = []
    for block, halo in ((64, 40), (14, 10), (11, 1)):
        monkeypatch.setattr(module, "BLOCK", block)
        monkeypatch.setattr(local, "FIRST_HALO", halo)
        found = measured(tmp_path, labels, spacing=spacing, beneath=beneath, max_mm=90.0, name=f"map-{block}")
        answers.append((read(found).tobytes(), replace(found, map_url="")))
    assert answers[1:] == answers[:1] * 2
    assert len(set(answers[0][0])) > 20


def test_height_is_the_distance_to_what_lies_beneath(tmp_path):
    labels = cap((30, 34, 32), SLICES, radius=11.0, thickness=3.0, towards=(1, 0.4, -0.3), opening=0.8)
    found = measured(tmp_path, labels, spacing=SLICES, beneath=1)
    heights = read(found)
    whole = distance_transform_edt(labels != 1, sampling=SLICES)
    assert heights[heights > 0] == pytest.approx(whole[heights > 0], rel=1e-6)
    assert found.maximum_mm == heights.max()
    assert set(np.unique(labels[heights > 0])) == {2}
    assert found.n_measured == (heights > 0).sum() > 200


def test_no_more_is_read_than_a_block_and_twice_the_thickness_around_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 16)
    labels = np.zeros((64, 64, 64), "uint8")
    labels[30:34] = 2
    reads, whole = [], Space.read
    monkeypatch.setattr(Space, "read", lambda self, region: reads.append(region) or whole(self, region))
    seen = []
    found = measured(tmp_path, labels, spacing=(1.0, 1.0, 1.0), max_mm=30.0, progress=lambda *n: seen.append(n))
    assert found.maximum_mm == 4
    assert seen == [(i + 1, 64) for i in range(64)]
    assert max(region.n_voxels for region in reads) <= 40**2 * 26  # 10 voxels, a neighbour, its walls
    assert sum(region.shape == (16, 16, 16) for region in reads) == 64


def test_the_map_lies_where_the_labels_lie(tmp_path):
    labels = np.zeros((1, 12, 14, 16), "uint8")
    labels[0, 4:7] = 2
    source = stored(tmp_path / "plain.zarr", labels[0], spacing=SLICES)
    scan = {"affine": np.diag([-0.8, 0.8, 2.0, 1.0]).tolist()}
    placed = create_volume(
        str(tmp_path / "labels.zarr"), axes=source.axes, dtype="uint8", shape=source.shape, chunk_shape=source.shape, origin=(5.0, -3.0, 1.5), attributes={"scan": scan},
    )  # fmt: skip
    placed.write(Region.whole(source.shape), labels[0])
    found = thickness(placed.url, str(tmp_path / "map.zarr"), layer=2)
    target = open_volume(found.map_url)
    assert (target.axes, target.levels[0].translation, target.dtype) == (placed.axes, (5.0, -3.0, 1.5), np.float32)
    assert target.attributes["scan"] == scan
    assert target.attributes["thickness"]["unit"] == "millimeter"
    bare = thickness(store(tmp_path / "bare.zarr", labels, "czyx"), str(tmp_path / "bare-map.zarr"), layer=2, spacing=SLICES)
    assert (read(bare) == read(found)).all()
    assert open_volume(bare.map_url).axes == placed.axes


LABELS = np.pad(np.full((6, 10, 10), 2, "uint8"), ((3, 3), (2, 2), (2, 2)))


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (stored, {"max_mm": 5.0}, r"at most 5 mm is looked for, and label 2 of .* is thicker near voxel \(\d+, \d+, \d+\)"),
        (stored, {"max_mm": 5.9}, "at most 5.9 mm is looked for, and label 2 of .* is thicker"),
        (stored, {"beneath": 7}, r"within 20 mm of label 7 is looked for, and label 2 of .* is farther from it at voxel \(3, 2, 2\)"),
        (stored, {"layer": 5}, "a layer of label 5 is wanted in .*, and it is nowhere. Name another label"),
        (stored, {"beneath": 2}, "must lie on another label than its own, not on 2"),
        (stored, {"max_mm": 0.0}, "largest thickness must be above 0 mm, not 0.0"),
        (lambda p, a: stored(p, a.astype("float32")), {}, "labels must be whole numbers"),
        (lambda p, a: open_volume(store(p, a, "zyx")), {}, "step along 'z' of .* is 1 without a unit"),
        (lambda p, a: open_volume(store(p, a[:, 5, 5], "x")), {"spacing": [1.0]}, "thickness is of 2 or 3 space axes, not 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name_and_leaves_nothing(tmp_path, make, options, said):
    labels = make(tmp_path / "labels.zarr", LABELS)
    with pytest.raises(UsageError, match=said):
        thickness(labels.url, str(tmp_path / "map.zarr"), **{"layer": 2, **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.zarr"]


def test_a_layer_all_whose_voxels_lie_under_another_has_no_height(tmp_path):
    labels = np.where(LABELS == 2, 2, 1).astype("uint8")
    with pytest.raises(UsageError, match="none of its 600 voxels is on an outer face"):
        measured(tmp_path, labels, spacing=(1.0, 1.0, 1.0), beneath=1)


def test_a_map_is_not_written_over_another(tmp_path):
    before = measured(tmp_path, LABELS, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(VolumeError, match="exists"):
        measured(tmp_path, LABELS, spacing=(1.0, 1.0, 1.0))
    assert read(before).max() == 6


@pytest.mark.parametrize("beneath", [None, 1])
def test_the_command_saves_numbers_and_draws_the_layer(tmp_path, engine, beneath):
    labels = cap((40, 44, 36), ISOTROPIC, radius=8.0, thickness=2.0, towards=(1, 0.4, -0.3))
    url = stored(tmp_path / "labels.zarr", labels, spacing=ISOTROPIC).url
    over = [] if beneath is None else ["--beneath", beneath]
    files = ["--picture", tmp_path / "p.png", "--csv", tmp_path / "t.csv", "--json", tmp_path / "t.json"]
    answer = engine("thickness", url, tmp_path / "map.zarr", "--layer", 2, *over, *files)
    assert answer.code == 0, answer.err
    saved = json.loads((tmp_path / "t.json").read_text())
    assert f"{saved['median_mm']:.3f} mm" in answer.out
    found = thickness(url, str(tmp_path / "again.zarr"), layer=2, beneath=beneath)
    assert saved == {**asdict(found), "method": found.method, "map_url": str(tmp_path / "map.zarr")}
    with (tmp_path / "t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["maximum_mm"]), row["beneath"]) == (found.maximum_mm, "" if beneath is None else "1")
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    assert min(pixels.shape[:2]) > 400
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    assert "thicker" not in answer.out
    assert "at most 1 mm" in engine("thickness", url, tmp_path / "no.zarr", "--layer", 2, "--max-mm", 1).line
    assert "--spacing must be numbers" in engine("thickness", url, tmp_path / "no.zarr", "--layer", 2, "--spacing", "a").line


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    found = measured(tmp_path, LABELS, spacing=(1.0, 1.0, 1.0))
    for save in (save_thickness, draw):
        with pytest.raises(UsageError, match=r"cannot be written to '.*nowhere/s'"):
            save(tmp_path / "nowhere" / "s", found)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.7, 0.3)])
def test_distances_are_those_of_scipy_and_the_same_bits_in_any_cut(spacing):
    sites = np.random.default_rng(0).random((21, 18, 24)) < 0.01
    found = squared_distance(sites, spacing=spacing, reach=99.0)
    assert np.sqrt(found) == pytest.approx(distance_transform_edt(~sites, sampling=spacing), rel=1e-6)
    reach = 2.0
    cut = squared_distance(sites[:, 4:-4, 5:-6], spacing=spacing, reach=reach)
    ends = [int(reach / step) for step in spacing]
    inner = (slice(None), slice(ends[1], 10 - ends[1] or None), slice(ends[2], 13 - ends[2]))
    near = found[:, 4:-4, 5:-6][inner] <= reach**2
    assert near.sum() > 10
    assert (cut[inner][near] == found[:, 4:-4, 5:-6][inner][near]).all()
    assert np.isinf(squared_distance(np.zeros((4, 5), bool), spacing=(1.0, 1.0), reach=9.0)).all()
