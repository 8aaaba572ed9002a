"""The made-up knee: its cap is as thick as it says, its files are what other tools read, and its network finds it."""

import hashlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from nibabel.affines import apply_affine
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

from engine.models.learn import learn
from engine.models.load import load_model

JOBS = Path(__file__).resolve().parents[2] / "jobs"
sys.path.insert(0, str(JOBS))

import train_knee  # noqa: E402 -- a job's folder is on the path only when it is run
from knee import BONE, CARTILAGE, Grid, Knee  # noqa: E402
from knee_scan import scanned, write_nifti, write_series  # noqa: E402
from knee_unet import WEIGHTS, UNet, knee  # noqa: E402

FINE = 0.3
"""Millimetre per voxel of the meshes that are compared with."""

SMALL = ((20, 24, 28), (0.9, 0.7, 0.6))


@pytest.fixture(scope="module", params=[1, 2])
def made(request):
    """A knee, and meshes of its bone and cap about the head: vertices (n, 3) and triangles."""
    one = Knee.of(request.param)
    side = round(2 * (one.radius + one.half_length + one.thickest + 1) / FINE)
    centre = tuple(one.reach * np.array(one.axis))
    grid = Grid((side,) * 3, (FINE,) * 3, centre)
    meshes = []
    for distances in one.distances(grid.points):
        places, triangles, _, _ = marching_cubes(distances, 0.0)
        meshes.append((apply_affine(grid.affine, places[:, ::-1]), triangles))
    return one, *meshes


def outer(one, cap):
    """Return the middles of the cap's triangles that lie on its outer face, and their areas."""
    corners = cap[0][cap[1]]
    middles = corners.mean(1)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    depth, normal = one.depth(middles.T.astype(np.float32))
    cosine = np.array(one.axis) @ normal
    on = (np.abs(depth - one.thickness(normal)) < 0.05) & (cosine > np.cos(one.extent) + 0.03)
    return middles[on], areas[on]


def weighted_median(values, weights):
    order = np.argsort(values)
    return values[order][np.searchsorted(weights[order].cumsum(), weights.sum() / 2)]


def test_the_outer_face_lies_as_far_from_the_nearest_bone_as_the_thickness_says(made):
    one, bone, cap = made
    places, _ = outer(one, cap)
    near, _ = KDTree(bone[0]).query(places)
    said = one.thickness(one.depth(places.T.astype(np.float32))[1])
    assert len(places) > 5000
    assert said.max() - said.min() > 0.8 * (one.thickest - one.thinnest)
    assert np.abs(near - said).max() < 0.06  # a vertex is up to 0.2 mm beside the nearest place


def test_the_face_has_the_area_and_the_thicknesses_of_the_mesh(made):
    one, _, cap = made
    places, areas = outer(one, cap)
    meshed = one.thickness(one.depth(places.T.astype(np.float32))[1])
    thickness, shares = one.face()
    assert thickness.min() == pytest.approx(one.thinnest, abs=0.02)
    assert thickness.max() == pytest.approx(one.thickest, abs=0.01)
    assert shares.sum() == pytest.approx(areas.sum(), rel=0.04)  # the mesh's rim is left out
    assert weighted_median(thickness, shares) == pytest.approx(weighted_median(meshed, areas), abs=0.04)


def test_labels_are_the_sides_of_the_surfaces_and_the_cap_lies_on_the_bone():
    one = Knee.of(3)
    grid = one.grid((60, 80, 80), (0.8, 0.6, 0.6), tilt=0.3)
    labels, (bone, cap) = one.labels(grid), one.distances(grid.points)
    assert np.array_equal(labels == BONE, bone <= 0)
    assert np.array_equal(labels == CARTILAGE, (cap < 0) & (bone > 0))
    assert min((labels == value).mean() for value in (0, BONE, CARTILAGE)) > 0.003
    assert bone[labels == CARTILAGE].max() < one.thickest


def test_a_grid_is_its_affine_and_a_tilt_leaves_no_axis_of_the_patient():
    shape, spacing = SMALL
    straight, tilted = (Knee.of(1).grid(shape, spacing, tilt=tilt) for tilt in (0.0, 0.3))
    for grid in (straight, tilted):
        steps = np.linalg.norm(grid.affine[:3, :3], axis=0)
        np.testing.assert_allclose(steps, spacing[::-1], rtol=1e-9)
        indices = np.argwhere(np.ones(shape))[:, ::-1]
        np.testing.assert_allclose(apply_affine(grid.affine, indices), grid.points.reshape(3, -1).T, atol=1e-4)
    assert "".join(nibabel.aff2axcodes(straight.affine)) == "PIR"
    assert np.abs(tilted.affine[:3, :3] / spacing[::-1]).max() < 0.99
    coarse = tilted.at((10, 12, 14))
    corners = [apply_affine(g.affine, [[-0.5] * 3, np.array(g.shape[::-1]) - 0.5]) for g in (tilted, coarse)]
    np.testing.assert_allclose(*corners, atol=1e-9)


def test_a_knee_is_the_same_again_and_another_seed_is_another():
    grid = Knee.of(1).grid(*SMALL)
    first, again, other = (scanned(Knee.of(seed), grid) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.9
    assert first.std() > 10


def test_the_series_is_what_simpleitk_reads_voxel_for_voxel_where_the_affine_says(tmp_path):
    one = Knee.of(1)
    grid = one.grid(*SMALL, tilt=0.3)
    voxels = scanned(one, grid)
    write_series(tmp_path / "series", voxels, grid)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series"))
    assert list(names) != sorted(names)  # they do not lie in the order of their names
    read = SimpleITK.ReadImage(names)
    assert voxels.std() > 0
    assert np.array_equal(SimpleITK.GetArrayFromImage(read), voxels)
    for index in ((0, 0, 0), (27, 0, 19), (5, 23, 7)):
        place = np.array(read.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)  # LPS+
        np.testing.assert_allclose(place, apply_affine(grid.affine, index), atol=1e-4)


def test_the_nifti_file_has_the_voxels_and_the_affine(tmp_path):
    grid = Knee.of(1).grid(*SMALL, tilt=0.3)
    labels = Knee.of(1).labels(grid)
    write_nifti(tmp_path / "truth.nii.gz", labels, grid)
    read = nibabel.load(tmp_path / "truth.nii.gz")
    assert np.array_equal(np.asarray(read.dataobj).T, labels)
    assert labels.max() > 0
    np.testing.assert_allclose(read.affine, grid.affine, atol=1e-5)


# ---- the network --------------------------------------------------------------------------------------------------


def test_the_card_names_the_weights_by_size_and_hash():
    size, sha256 = re.search(
        r"safetensors, ([\d,]+) bytes, sha256 ([0-9a-f]{64})", (JOBS / "knee_unet.md").read_text()
    ).groups()
    data = WEIGHTS.read_bytes()
    assert int(size.replace(",", "")) == len(data) < 2**20
    assert sha256 == hashlib.sha256(data).hexdigest()


def test_the_halo_of_the_network_is_proved_from_its_graph():
    _, resampled, _ = knee().children()
    geometry = learn(load_model(resampled.inner), n_channels=1, n_space=3)
    assert geometry.evidence == "proved"
    assert all(program.halo("output") == (23, 23) and program.step == 4 for program in geometry.programs)


def test_the_trained_network_finds_the_cap_of_a_knee_that_it_never_saw_and_an_untrained_one_does_not():
    one = replace(Knee.of(7), thinnest=1.5, thickest=4.0)
    grid = one.grid((60, 80, 80), (0.8, 0.6, 0.6), tilt=0.2)
    voxels, truth = scanned(one, grid), one.labels(grid)
    torch.manual_seed(0)
    _, resampled, _ = knee().children()
    trained, untrained = (train_knee.predict(network, voxels, grid) for network in (resampled.inner, UNet()))
    (bone, cap), (_, guess) = train_knee.scores(trained, truth), train_knee.scores(untrained, truth)
    assert guess.dice < 0.3
    assert bone.dice > 0.95
    assert cap.dice > 0.85


def test_the_recipe_learns(monkeypatch):
    monkeypatch.setattr(train_knee, "STEPS", 8)
    monkeypatch.setattr(train_knee, "CROP", (16, 16, 16))
    chance = np.random.default_rng(0)
    examples = [train_knee.example(100, chance)]
    assert examples[0].x.shape == examples[0].y.shape
    assert abs(float(examples[0].x[tuple(examples[0].cap.T)].mean())) > 1  # bright, in spreads
    torch.manual_seed(0)
    first = train_knee.train(examples, np.random.default_rng(0))
    torch.manual_seed(0)
    again = train_knee.train(examples, np.random.default_rng(0))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    x, y = train_knee.crops(examples, np.random.default_rng(5))
    torch.manual_seed(0)
    with torch.inference_mode():
        scored = [torch.softmax(network(x), 1) for network in (UNet(), first.train())]
    assert float(train_knee.soft_dice(scored[1], y)) > float(train_knee.soft_dice(scored[0], y)) + 0.02
