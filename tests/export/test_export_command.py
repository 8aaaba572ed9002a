"""``engine export``: from a run's output to the files of the field, by one command."""

import json

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from pydicom import dcmread

from tests.export import segmenter
from tests.export.scans import SHAPE, balls, series, store, turned
from tests.export.test_dicom_seg import check
from tests.stored import stored

OPTIONS = ("--runner", "serial", "--memory", "2G", "--threads", 2, "--verify", 1, "--no-pyramid", "--device", "cpu")


@pytest.fixture
def scan(tmp_path):
    """A scan that was read from DICOM, and what it knows."""
    voxels = (balls(dtype="int32") * 400 + np.random.default_rng(1).normal(0, 20, SHAPE)).astype("int16")
    said = series(tmp_path / "series", turned())
    return store(tmp_path / "scan.zarr", voxels, turned(), scan=said), voxels, said


def expected_labels(voxels):
    with torch.no_grad():
        found = segmenter.labels()(torch.from_numpy(voxels.astype("float32"))[None, None])["label"][0].numpy()
    assert len(np.unique(found)) == 3
    return found


def test_a_run_is_exported_as_nifti_dicom_seg_and_a_picture(scan, tmp_path, engine):
    source, voxels, said = scan
    out, names = tmp_path / "out.zarr", tmp_path / "labels.json"
    names.write_text(json.dumps({"1": "rim", "2": "core"}))
    engine.well("run", source, f"{segmenter.__file__}:labels", out, *OPTIONS)
    files = [tmp_path / name for name in ("seg.nii.gz", "seg.dcm", "seg.png")]
    text = engine.well(
        "export", out, "--nifti", files[0], "--dicom-seg", files[1], "--series", tmp_path / "series", "--montage",
        files[2], "--labels", names, "--axis", "coronal", "--slices", 3, "--window", "500,1000",
    )  # fmt: skip
    labels = expected_labels(voxels)
    np.testing.assert_array_equal(stored(out, "label").squeeze(), labels)
    image = nibabel.load(files[0])
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels.T)
    np.testing.assert_allclose(image.affine, turned(), rtol=1e-6, atol=1e-6)
    check(files[1], labels, said, turned())
    one = dcmread(files[1])
    assert [segment.SegmentLabel for segment in one.SegmentSequence] == ["rim", "core"]
    algorithm = one.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    plan = json.loads((out / "zarr.json").read_text())["attributes"]["haloengine"]
    assert algorithm.AlgorithmVersion == plan["engine"]
    assert plan["plan"]["model"]["fingerprint"] in algorithm.AlgorithmParameters
    assert plan["plan"]["model"]["fingerprint"][:12] in bytes(image.header["descrip"]).decode()
    assert imread(files[2]).std() > 0.05
    table = " ".join(text.split())
    assert "out.zarr/labels/label" in table.replace(" ", "")
    assert "2 segments" in table
    assert "3 coronal slices, 2 labels" in table


def test_another_volume_is_exported_by_its_name(scan, tmp_path, engine):
    out = tmp_path / "out.zarr"
    engine.well("run", scan[0], f"{segmenter.__file__}:labels", out, *OPTIONS)
    engine.well("export", f"{out}/mean", "--nifti", tmp_path / "mean.nii")
    found = np.asarray(nibabel.load(tmp_path / "mean.nii").dataobj)
    np.testing.assert_array_equal(found, stored(out, "mean").squeeze().T)
    assert found.std() > 0


def test_an_output_without_a_label_map_names_its_volumes(scan, tmp_path, engine):
    out = tmp_path / "out.zarr"
    engine.well("run", scan[0], f"{segmenter.__file__}:mean", out, *OPTIONS)
    line = engine("export", out, "--nifti", tmp_path / "mean.nii").line
    assert "has none. Name one of its volumes" in line
    assert f"{out}/output" in line


REFUSED = {
    "nothing to write": ((), "none is named. Give --nifti"),
    "a SEG without its series": (("--dicom-seg", "{}/seg.dcm"), "go together"),
    "a series without a SEG": (("--nifti", "{}/seg.nii", "--series", "{}/series"), "go together"),
    "a picture of labels that know no scan": (("--montage", "{}/seg.png"), "Give --image"),
    "an unknown ending": (("--nifti", "{}/seg.nii", "--montage", "{}/seg.jpg"), "must be named *.png"),
    "a file that exists": (("--nifti", "{}/seg.nii", "--dicom-seg", "{}/there.dcm", "--series", "{}/series"), "exists"),
    "one number for a window": (("--nifti", "{}/seg.nii", "--window", "40"), "a level and a width"),
    "names that are not there": (("--nifti", "{}/seg.nii", "--labels", "{}/names.json"), "must name labels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_command_that_cannot_be_done_writes_nothing(name, tmp_path, engine):
    words, message = REFUSED[name]
    url = store(tmp_path / "l.zarr", balls(), turned())
    (tmp_path / "there.dcm").write_bytes(b"mine")
    answer = engine("export", url, *(word.format(tmp_path) for word in words))
    assert answer.code == 2
    assert message in answer.line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.zarr", "there.dcm"]


@pytest.mark.parametrize(("output", "message"), [("nowhere.zarr", "nothing is at"), ("empty", "is wanted")])
def test_an_output_that_is_none_is_refused(output, message, tmp_path, engine):
    (tmp_path / "empty").mkdir()
    assert message in engine("export", tmp_path / output, "--nifti", tmp_path / "seg.nii").line
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
