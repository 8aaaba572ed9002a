"""The montage: the right slices, the right way round, the right volumes, and contours where the labels end."""

from itertools import permutations, product

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.path import Path as Polygon

from engine.errors import UsageError, VolumeError
from engine.export.affine import GridAffine
from engine.export.montage import montage, page_of
from engine.export.page import outline
from engine.export.segments import Segment
from engine.export.view import Plane, View
from engine.storage.ngff import PALETTE
from tests.export.scans import FLIPPED, SHAPE, STRAIGHT, balls, store, turned

CHOICES = {"n": 4, "axis": "axial", "window": None, "segments": {}}
SIGNED = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def signed_affine(order, signs, degrees=(8.0, -6.0, 11.0)):
    """One of the 48 ways to store a scan: voxel axis i runs along patient axis ``order[i]``; a little oblique."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[axis, i] = sign * (0.8, 0.7, 2.5)[i]
    return turned(affine, degrees)


def image_like(labels, dtype="int16"):
    """An image that differs in every voxel."""
    return (np.arange(labels.size).reshape(labels.shape) % 30011 - 900).astype(dtype)


def pair(folder, labels, affine, image=None, **said):
    """A scan and its label map."""
    image = image_like(labels) if image is None else image
    return store(folder / "scan.zarr", image, affine, **said), store(folder / "labels.zarr", labels, affine, **said)


@pytest.mark.parametrize("plane", Plane)
def test_right_is_left_front_is_up_and_head_is_first_however_a_scan_is_stored(plane):
    """Each voxel's own place in the patient is arranged as its intensity would be."""
    signs = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    wanted = {"axial": ("S", "A", "R"), "coronal": ("A", "S", "R"), "sagittal": ("R", "S", "A")}[plane]
    shape = (5, 6, 7)
    for order, sign in SIGNED:
        affine = GridAffine(signed_affine(order, sign), is_oriented=True)
        view = View.of(affine, plane)
        voxels = np.stack(np.indices(shape)[::-1], axis=-1).reshape(-1, 3)
        for letter, axis in zip(wanted, range(3), strict=True):
            patient, towards = signs[letter]
            place = affine.points(voxels)[:, patient].reshape(shape)
            planes = [view.arranged(place.take(i, view.axes[0])) for i in range(shape[view.axes[0]])]
            ordered = np.stack(planes[::-1] if view.flips[0] else planes)
            steps = np.diff(ordered, axis=axis) * towards
            assert (steps < 0).all(), (order, sign, letter)
        assert [edge[0] for edge in view.edges] == [wanted[2], other(wanted[2]), wanted[1], other(wanted[1])]


def other(letter):
    return dict(zip("RLAPSI", "LRPAIS", strict=True))[letter]


@pytest.mark.parametrize("affine", [STRAIGHT, FLIPPED, turned()], ids=["straight", "flipped", "oblique"])
@pytest.mark.parametrize(("axis", "storage"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_slices_are_those_with_labels_evenly_spaced(axis, storage, affine, tmp_path):
    labels = balls()
    image, label_map = pair(tmp_path, labels, affine)
    page = page_of(image, label_map, **CHOICES | {"axis": axis})
    held = np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {storage})))
    shown = sorted(int(tile.place.split()[1]) for tile in page.tiles)
    assert len(shown) == min(4, len(held)) < SHAPE[storage]
    assert set(shown) <= set(held)
    ranks = np.searchsorted(held, shown)
    assert ranks[0] < len(held) / 4
    assert ranks[-1] >= len(held) * 3 / 4 - 1
    assert np.ptp(np.diff(ranks)) <= 1
    voxels = image_like(labels)
    for tile in page.tiles:
        index = int(tile.place.split()[1])
        assert sorted(tile.voxels.ravel()) == sorted(voxels.take(index, storage).ravel())
        assert np.count_nonzero(tile.labels) == np.count_nonzero(labels.take(index, storage))


def test_fewer_slices_with_labels_than_wanted_are_all_shown(tmp_path):
    labels = np.zeros(SHAPE, "uint8")
    labels[[3, 7], 5:9, 6:10] = 2
    page = page_of(*pair(tmp_path, labels, STRAIGHT), **CHOICES | {"n": 12})
    assert [tile.place for tile in page.tiles] == ["z 7   I 82.5 mm", "z 3   I 92.5 mm"]


@pytest.mark.parametrize("affine", [STRAIGHT, turned()], ids=["straight", "oblique"])
def test_volumes_are_those_of_the_whole_labels(affine, tmp_path):
    labels = balls(n_labels=4, dtype="int32")
    labels[labels == 2] = 100_000
    page = page_of(*pair(tmp_path, labels, affine), **CHOICES | {"n": 1, "segments": {1: Segment(1, "cap")}})
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert [(one.label, one.name) for one in page.legend] == [
        (1, "cap"), (3, "label 3"), (4, "label 4"), (100_000, "label 100000"),
    ]  # fmt: skip
    found = [one.ml for one in page.legend]
    assert np.std(found) > 0
    np.testing.assert_allclose(found, [ml * np.count_nonzero(labels == one.label) for one in page.legend], rtol=1e-9)


def test_the_window_is_given_or_of_the_modality_or_of_the_slices(tmp_path):
    labels = balls()
    image, label_map = pair(tmp_path, labels, STRAIGHT)
    given = page_of(image, label_map, **CHOICES | {"window": (-600, 1500)})
    assert (given.low, given.high) == (-1350, 150)
    own = page_of(image, label_map, **CHOICES)
    shown = np.concatenate([image_like(labels)[int(tile.place.split()[1])].ravel() for tile in own.tiles])
    assert (own.low, own.high) == pytest.approx(np.percentile(shown, (1, 99.9)))
    ct = store(tmp_path / "ct.zarr", image_like(labels), STRAIGHT, scan={"dicom": {"modality": "CT"}})
    soft = page_of(ct, label_map, **CHOICES)
    assert (soft.low, soft.high) == (-160, 240)


def test_an_image_that_is_constant_or_nowhere_finite_is_still_drawn(tmp_path):
    labels = balls()
    for name, value in (("flat", 7.0), ("nan", np.nan)):
        image = store(tmp_path / f"{name}.zarr", np.full(SHAPE, value, "float32"), STRAIGHT)
        montage(image, store(tmp_path / f"{name}_labels.zarr", labels, STRAIGHT), tmp_path / f"{name}.png", n=2)
        assert imread(tmp_path / f"{name}.png").std() > 0


def test_of_an_image_of_two_channels_the_first_is_shown(tmp_path):
    labels = balls()
    both = np.stack([image_like(labels), np.zeros(SHAPE, "int16")])
    image = store(tmp_path / "both.zarr", both, STRAIGHT, names="czyx")
    label_map = store(tmp_path / "labels.zarr", labels[None], STRAIGHT, names="czyx")
    page = page_of(image, label_map, **CHOICES)
    alone = page_of(store(tmp_path / "one.zarr", both[0], STRAIGHT), label_map, **CHOICES)
    for a, b in zip(page.tiles, alone.tiles, strict=True):
        assert a.voxels.std() > 0
        np.testing.assert_array_equal(a.voxels, b.voxels)


def test_a_contour_parts_the_voxels_of_a_label_from_the_others():
    """Even-odd over all rings: a hole, an island, a label that touches the border, single voxels."""
    mask = np.zeros((12, 15), bool)
    mask[0:6, 0:7] = True
    mask[2:4, 2:5] = False
    mask[9, 9] = mask[10, 10] = mask[11, 14] = mask[0, 13] = True
    spacing = (2.5, 0.5)
    rings = [Polygon(line) for line in outline(mask, spacing)]
    rows, columns = np.indices(mask.shape)
    centres = np.stack([(columns.ravel() + 0.5) * spacing[1], (rows.ravel() + 0.5) * spacing[0]], axis=1)
    inside = sum(ring.contains_points(centres).astype(int) for ring in rings) % 2 == 1
    np.testing.assert_array_equal(inside.reshape(mask.shape), mask)


def coloured(path, label):
    """Where a PNG has the colour of a label: rows and columns."""
    pixels = imread(path)[..., :3]
    return np.nonzero(np.abs(pixels - np.array(PALETTE[label - 1]) / 255).max(axis=2) < 0.06)


@pytest.mark.parametrize(("order", "signs"), SIGNED[::7])
def test_a_label_at_the_patients_right_front_is_drawn_at_the_upper_left(order, signs, tmp_path):
    affine = signed_affine(order, signs)
    shape = (40, 36, 38)
    voxels = np.stack(np.indices(shape)[::-1], axis=-1).reshape(-1, 3)
    place = GridAffine(affine, is_oriented=True).points(voxels).reshape(*shape, 3)
    middle = place.mean(axis=(0, 1, 2))
    reach = np.abs(place - middle).max(axis=(0, 1, 2))
    away = ((place - middle - reach * (0.3, 0.3, 0)) / reach) ** 2
    labels = (away.sum(axis=-1) < 0.04).astype("uint8") * 5
    montage(*pair(tmp_path, labels, affine, image=labels * 10.0), tmp_path / "seg.png", n=1)
    (top, bottom), (left, right) = tile_spans(tmp_path / "seg.png")
    rows, columns = coloured(tmp_path / "seg.png", 5)
    drawn = columns <= right  # the legend's line is further right
    assert np.count_nonzero(drawn) > 40
    assert columns[drawn].mean() < left + 0.42 * (right - left)
    assert rows[drawn].mean() < top + 0.42 * (bottom - top)
    white = np.nonzero((imread(tmp_path / "seg.png")[..., :3] == 1).all(axis=2))
    assert len(white[0]) > 40
    contour = rows[drawn], columns[drawn]
    for inner, outer, side in zip(white, contour, (bottom - top, right - left), strict=True):
        assert np.ptp(inner) > 0.1 * side
        assert (inner.min() + inner.max()) / 2 == pytest.approx((outer.min() + outer.max()) / 2, abs=0.02 * side)


@pytest.mark.parametrize(("axis", "down", "across"), [("axial", 14.0, 19.2), ("coronal", 25.0, 19.2), ("sagittal", 25.0, 14.0)])
def test_a_slice_has_the_proportions_of_the_patient(axis, down, across, tmp_path):
    labels = np.zeros(SHAPE, "uint8")
    labels[5, 10, 12] = 1
    image = np.zeros(SHAPE, "int16")
    montage(*pair(tmp_path, labels, STRAIGHT, image=image), tmp_path / "seg.png", n=1, axis=axis)
    (top, bottom), (left, right) = tile_spans(tmp_path / "seg.png")
    assert (bottom - top) / (right - left) == pytest.approx(down / across, rel=0.02)


def tile_spans(path):
    """The rows and the columns of a tile that is black, on a page that is not quite."""
    black = imread(path)[..., :3].max(axis=2) == 0
    for axis in (1, 0):
        found = np.flatnonzero(black.sum(axis=axis) > 20)
        yield found[0], found[-1]


def test_a_page_of_many_labels_and_slices_is_drawn(tmp_path):
    shape = (6, 40, 44)
    labels = np.zeros(shape, "uint8")
    for i, (y, x) in enumerate(product(range(6), range(8)), 1):
        labels[:, 6 * y : 6 * y + 5, 5 * x : 5 * x + 4] = i
    exported = montage(*pair(tmp_path, labels, STRAIGHT), tmp_path / "seg.png")
    assert exported.what == "PNG, 6 axial slices, 48 labels"
    for label in range(1, 9):
        rows, _ = coloured(tmp_path / "seg.png", label)
        assert len(rows) > 100


# Refused, by name.


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"n": 0}, "1 slice or more, .* not 0 axial"),
        ({"axis": "z"}, "axial, coronal, sagittal, not 12 z"),
        ({"window": (40, 0)}, "width above 0, not 40 and 0"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choices, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        montage(*pair(tmp_path, balls(), STRAIGHT), tmp_path / "seg.png", **choices)
    assert not (tmp_path / "seg.png").exists()


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((9, 20, 24), STRAIGHT, r"image and labels must lie on one grid, and .* is \(9, 20, 24\) voxels"),
        (SHAPE, FLIPPED, "corners of .* are .* mm apart"),
    ],
)
def test_an_image_on_another_grid_is_refused(shape, affine, message, tmp_path):
    image = store(tmp_path / "other.zarr", image_like(np.zeros(shape)), affine)
    with pytest.raises(VolumeError, match=message):
        montage(image, store(tmp_path / "labels.zarr", balls(), STRAIGHT), tmp_path / "seg.png")


def test_a_map_without_labels_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="holds only background"):
        montage(*pair(tmp_path, np.zeros(SHAPE, "uint8"), STRAIGHT), tmp_path / "seg.png")
    assert not list(tmp_path.glob("*.png"))
