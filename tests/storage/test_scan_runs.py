"""Runs straight on a scan, without ingest: the bits of a run on what was ingested, through the command line and by actors."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests import bad_models
from tests.dicom_series import stored_as, write_series
from tests.storage.test_scan import itk_image, sitk, write_nifti
from tests.stored import checksums, smooth, stored, whole

MODEL = f"{bad_models.__file__}:solid"
OPTIONS = ("--tile", 16, "--block", 16, "--batch", 1, "--memory", "2G", "--threads", 2, "--no-pyramid")
VOXELS = (smooth((20, 30, 34)) * 300).astype("int16")


def nifti(folder: Path) -> Path:
    return write_nifti(folder / "a.nii.gz", VOXELS)


def nrrd(folder: Path) -> Path:
    sitk.WriteImage(itk_image(VOXELS), str(folder / "a.nrrd"), True)
    return folder / "a.nrrd"


def dicom(folder: Path) -> Path:
    stored_as(write_series(folder / "mr", VOXELS, n_bits=16, rescale=(1, 0), Modality="MR"), "jpeg 2000 lossless")
    return folder / "mr"


@pytest.mark.parametrize("make", [nifti, nrrd, dicom])
def test_a_run_on_a_scan_has_the_bits_of_one_on_what_was_ingested(tmp_path, make, engine):
    source = make(tmp_path)
    engine.well("ingest", source, tmp_path / "scan.zarr")
    for given, out in ((source, "a.zarr"), (tmp_path / "scan.zarr", "b.zarr")):
        engine.well("run", given, MODEL, tmp_path / out, *OPTIONS, "--runner", "serial")
    expected = whole(bad_models.solid(), VOXELS[None])[0]
    assert expected.std() > 10
    np.testing.assert_allclose(stored(tmp_path / "a.zarr").squeeze(), expected, atol=1e-3)
    assert checksums(tmp_path / "a.zarr") == checksums(tmp_path / "b.zarr")
    text = engine.well("resume", tmp_path / "a.zarr", "--runner", "serial")
    assert "0 stored" in text


def test_an_actor_opens_the_scan_for_itself(tmp_path, engine, local_ray):
    source = nifti(tmp_path)
    engine.well("run", source, MODEL, tmp_path / "a.zarr", *OPTIONS, "--workers", 1)
    engine.well("run", source, MODEL, tmp_path / "b.zarr", *OPTIONS, "--runner", "serial")
    assert len(set(checksums(tmp_path / "a.zarr").values())) > 4
    assert checksums(tmp_path / "a.zarr") == checksums(tmp_path / "b.zarr")


def test_a_scan_that_was_replaced_is_not_resumed(tmp_path, engine):
    source = dicom(tmp_path)
    engine.well("run", source, MODEL, tmp_path / "a.zarr", *OPTIONS, "--runner", "serial")
    for path in source.iterdir():
        path.unlink()
    write_series(source, VOXELS + np.int16(1), n_bits=16, rescale=(1, 0), Modality="MR")
    answer = engine("resume", tmp_path / "a.zarr", "--runner", "serial")
    assert answer.code == 2
    assert "fingerprint" in answer.line


def test_several_scans_are_joined_by_the_command_line(tmp_path, engine):
    paths = [write_nifti(tmp_path / f"t{i}.nii.gz", VOXELS + np.int16(i)) for i in (1, 2)]
    text = engine.well("ingest", *paths, tmp_path / "out.zarr")
    assert "c (channel" in text
    assert np.array_equal(stored(tmp_path, "out.zarr"), [np.asarray(nibabel.load(path).dataobj).T for path in paths])
