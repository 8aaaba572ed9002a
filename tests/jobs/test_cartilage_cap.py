"""The cap's job: thickness on true labels is within half a voxel, and what it writes is what it says."""

import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
import skimage.measure
from PIL import Image
from scipy.spatial import KDTree

from engine.export.provenance import label_map_of
from engine.measure.thickness import thickness
from engine.storage.output import open_output

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import cap_picture
import cartilage_cap
from knee import BONE, CARTILAGE, Knee
from knee_scan import write_nifti

KNEES = {  # thin and thick caps, three tilts
    "the job's": (cartilage_cap.KNEE, cartilage_cap.TILT),
    "thick": (replace(Knee.of(2), thinnest=2.5, thickest=6.0), 0.0),
    "thin": (replace(Knee.of(3), thinnest=1.5, thickest=3.0), -0.2),
}


@pytest.fixture(scope="module", params=KNEES)
def measured(request, tmp_path_factory):
    """A knee, its grid, its true labels, and its cap as the job measures it on them."""
    (knee, tilt), folder = KNEES[request.param], tmp_path_factory.mktemp("cap")
    grid = knee.grid(cartilage_cap.SHAPE, cartilage_cap.SPACING, tilt=tilt)
    labels = knee.labels(grid)
    write_nifti(folder / "labels.nii", labels, grid)
    urls = str(folder / "labels.nii"), str(folder / "thickness.zarr")
    thickness(*urls, layer=CARTILAGE, beneath=BONE)
    return knee, grid, labels, cartilage_cap.without_rim(*urls)


def test_minimum_median_and_maximum_of_true_labels_are_within_half_a_voxel(measured):
    knee, _, _, cap = measured
    values, weights = knee.face(rim=cartilage_cap.RIM)
    assert values.max() - values.min() > 1
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        found, true = cartilage_cap.quantile(cap.thickness, share), cartilage_cap.quantile(values, share, weights)
        side = max if share in (0.0, 1.0) else min  # the extremes are one voxel each, and may lie along its long side
        assert abs(found - true) <= side(cartilage_cap.SPACING) / 2, share


def test_every_thickness_is_the_distance_to_the_nearest_voxel_of_bone(measured):
    _, _, labels, cap = measured
    steps = np.array(cartilage_cap.SPACING)
    far, _ = KDTree(np.argwhere(labels == BONE) * steps).query(cap.voxels[:, ::-1] * steps)
    assert len(far) > 1000
    assert far.std() > 0.2
    np.testing.assert_allclose(cap.thickness, far, atol=1e-5)
    assert (labels[tuple(cap.voxels[:, ::-1].T)] == CARTILAGE).all()


def test_a_page_of_the_map_shows_the_truth_where_it_lies(measured):
    knee, grid, _, cap = measured
    places = cap_picture.raster(knee)
    truth = cap_picture.true_page(knee, places, rim=cartilage_cap.RIM)
    page = cap_picture.measured_page(knee, grid, cap, places, truth)
    known = np.isfinite(truth) & np.isfinite(page)
    assert known.sum() > 0.97 * np.isfinite(truth).sum()
    assert np.corrcoef(page[known], truth[known])[0, 1] > 0.9
    assert abs(np.median((page - truth)[known])) < 0.15


def test_quantiles_are_those_of_numpy_and_a_weight_counts_as_so_many_values():
    chance = np.random.default_rng(0)
    values, weights = chance.normal(size=101), chance.integers(1, 5, 101)
    repeated = np.repeat(values, weights)
    assert repeated.std() > 0
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        found = cartilage_cap.quantile(values, share, weights.astype(float))
        assert found == np.quantile(repeated, share, method="inverted_cdf")


def test_the_job_writes_what_it_says_and_replaces_it_the_second_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["engine.prepare"], "SECONDS_PER_TIMING", 0.0, raising=False)
    monkeypatch.setattr(cartilage_cap, "SHAPE", (60, 72, 72))
    monkeypatch.setattr(cartilage_cap, "SPACING", (0.8, 0.65, 0.65))
    monkeypatch.setattr(sys, "argv", ["cartilage_cap.py", "--output", str(tmp_path)])
    (tmp_path / "labels.nii.gz").write_text("from a former run")
    assert cartilage_cap.main() == 0
    said = capsys.readouterr().out
    assert said.index("minimum") < said.index("median") < said.index("maximum")
    assert "0 of" in said

    grid = cartilage_cap.KNEE.grid((60, 72, 72), (0.8, 0.65, 0.65), tilt=cartilage_cap.TILT)
    truth = cartilage_cap.KNEE.labels(grid)
    output = open_output(str(tmp_path / "found.zarr"))
    assert output.provenance["certificate"]["holds"] is True
    raw = cartilage_cap.whole(label_map_of(str(tmp_path / "found.zarr")))
    found = cartilage_cap.whole(str(tmp_path / "bone-and-cap.zarr"))
    for label in (BONE, CARTILAGE):
        islands = skimage.measure.label(raw == label, connectivity=1)
        largest = max(skimage.measure.regionprops(islands), key=lambda one: one.area)
        assert np.array_equal(found == label, islands == largest.label)
    cap, true_cap = found == CARTILAGE, truth == CARTILAGE
    assert 2 * (cap & true_cap).sum() / (cap.sum() + true_cap.sum()) > 0.85

    nifti = nibabel.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asarray(nifti.dataobj).T, found)
    np.testing.assert_allclose(nifti.affine, grid.affine, atol=1e-4)
    segmentation = highdicom.seg.segread(tmp_path / "labels.dcm")
    assert [segmentation.get_segment_description(n).segment_label for n in (1, 2)] == ["bone", "cartilage cap"]
    for name in ("montage.png", "thickness.png", "true-thickness.png", "found-thickness.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, name
