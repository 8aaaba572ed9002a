"""Scans of one patient as channels: the others equal SimpleITK's resampling to the first's grid, the same bits for any region."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- as everyone calls it
from nibabel.processing import resample_from_to

from engine.errors import IngestError
from engine.geometry.region import Region
from engine.storage.ingest import ingest
from engine.storage.joined import Joined
from engine.storage.scan import open_scan
from engine.storage.source_url import SourceUrl
from engine.storage.volume import open_volume
from tests.command import Answer
from tests.dicom_series import stored_as, stored_values, write_series
from tests.storage.test_scan import TURN
from tests.stored import checksums, smooth

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = pytest.mark.skipif(not DATA.exists(), reason=f"the real volumes are not beside the repository, at {DATA.name}")


def affine_of(directions, spacing, origin) -> np.ndarray:
    affine = np.eye(4)
    affine[:3] = np.c_[np.asarray(directions) * spacing, origin]
    return affine


FIRST = affine_of(np.eye(3), (1.0, 1.2, 2.0), (-20, -15, -10))
OTHERS = {  # each meets the grid of 30 x 34 x 40 at FIRST in part
    "coarser": affine_of(np.eye(3), (3.1, 2.9, 2.3), (-17, -14, -3)),
    "finer": affine_of(np.eye(3), (0.6, 0.5, 0.9), (-5, -3, 2)),
    "flipped": affine_of(np.diag([-1, -1, 1]), (1.1, 1.3, 1.9), (12, 16, -13)),
    "axes in another order": affine_of(np.eye(3)[:, [2, 0, 1]], (1.7, 1.4, 1.1), (-14, -9, -8)),
    "oblique": affine_of(TURN, (1.3, 1.1, 1.7), (-9, -12, 3)),
    "oblique and mirrored": affine_of(TURN * [-1, 1, 1], (1.3, 1.1, 1.7), (19, -12, 3)),
    "shifted by half a voxel": affine_of(np.eye(3), (1.0, 1.2, 2.0), (-19.5, -15, -10)),
}


def write(path: Path, affine=FIRST, *, shape=(30, 34, 40), seed=0, dtype="float32") -> Path:
    voxels = smooth(shape, seed=seed) * 100
    image = nibabel.Nifti1Image(voxels.astype(dtype).T, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def joined(*paths) -> Joined:
    return Joined([open_scan(SourceUrl(str(path))) for path in paths])


def whole(volume):
    return volume.read(Region.whole(volume.shape))


def as_itk_resamples(first, other):
    grid, image = sitk.ReadImage(str(first)), sitk.ReadImage(str(other), sitk.sitkFloat64)
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0))


@pytest.mark.parametrize("case", OTHERS)
def test_a_scan_on_the_grid_of_another_equals_itk(tmp_path, case):
    first, other = write(tmp_path / "a.nii"), write(tmp_path / "b.nii.gz", OTHERS[case], shape=(21, 25, 23), seed=1)
    volume, oracle = joined(first, other), as_itk_resamples(first, other)
    assert volume.shape == (2, 30, 34, 40)
    assert [axis.name for axis in volume.axes] == ["c", "z", "y", "x"]
    assert volume.dtype == np.dtype("float32")
    found = whole(volume)
    assert np.array_equal(found[0], np.asarray(nibabel.load(first).dataobj).T)
    assert 0.02 < (oracle != 0).mean() < 0.999
    assert oracle[oracle != 0].std() > 30
    assert np.abs(found[1] - oracle).max() < 1e-4 * np.ptp(oracle)


@pytest.mark.parametrize("case", ["oblique", "coarser"])
def test_between_centres_it_equals_nibabel_too(tmp_path, case):
    first, other = write(tmp_path / "a.nii"), write(tmp_path / "b.nii", OTHERS[case], shape=(21, 25, 23), seed=1)
    images = nibabel.load(other), nibabel.load(first)
    oracle = resample_from_to(*images, order=1).get_fdata().T
    inside = resample_from_to(nibabel.Nifti1Image(np.ones(images[0].shape), images[0].affine), images[1], order=1).get_fdata().T > 0
    assert 0.02 < inside.mean() < 0.9
    assert np.abs((whole(joined(first, other))[1] - oracle)[inside]).max() < 1e-4 * np.ptp(oracle)


@pytest.mark.parametrize("case", OTHERS)
def test_any_region_has_the_bits_of_the_whole(tmp_path, case, monkeypatch):
    first, other = write(tmp_path / "a.nii"), write(tmp_path / "b.nii", OTHERS[case], shape=(21, 25, 23), seed=1)
    volume = joined(first, other)
    oracle, rng = whole(volume), np.random.default_rng(0)
    monkeypatch.setattr("engine.storage.joined._MOST_VOXELS", 500)  # so that each is read in many parts
    regions = [Region.whole(volume.shape)]
    for _ in range(15):
        ends = [np.sort(rng.integers(0, n + 1, 2)) for n in volume.shape]
        regions.append(Region(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends)))
    with ThreadPoolExecutor(4) as pool:
        for region, found in zip(regions, pool.map(volume.read, regions), strict=True):
            assert np.array_equal(found, oracle[region.slices])


def test_scans_on_one_grid_keep_their_voxels_and_their_dtype(tmp_path):
    paths = [write(tmp_path / f"{name}.nii", seed=i, dtype="int16") for i, name in enumerate(("t1", "t2"))]
    volume = joined(*paths)
    assert volume.dtype == np.dtype("int16")
    assert np.array_equal(whole(volume), [np.asarray(nibabel.load(path).dataobj).T for path in paths])
    assert volume.notes == ()
    mixed = joined(paths[0], write(tmp_path / "pet.nii", seed=5))
    assert mixed.dtype == np.dtype("float32")
    assert np.array_equal(whole(mixed)[0], whole(volume)[0])
    moved = joined(paths[0], write(tmp_path / "t3.nii", OTHERS["shifted by half a voxel"], dtype="int16"))
    assert moved.dtype == np.dtype("float32")


def test_ct_and_pet_as_dicom_are_ingested_as_channels(tmp_path):
    frame = {"FrameOfReferenceUID": "1.2.7"}
    write_series(tmp_path / "ct", stored_values((12, 40, 50)), **frame)
    paths = write_series(
        tmp_path / "pt", stored_values((9, 12, 14), seed=3), spacing=(3.3, 2.6, 2.6), rescale=(0.5, 0), Modality="PT", **frame
    )
    stored_as(paths, "rle")
    sources = [tmp_path / "ct", tmp_path / "pt"]
    volume = ingest(sources, str(tmp_path / "out.zarr"), chunk_shape=(1, 8, 16, 16), shard_shape=(2, 8, 32, 32), n_levels=1)
    images = []
    for source in sources:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source)))
        images.append(sitk.Cast(reader.Execute(), sitk.sitkFloat64))
    oracle = sitk.GetArrayFromImage(sitk.Resample(images[1], images[0], sitk.Transform(), sitk.sitkLinear, 0.0))
    found = whole(volume)
    assert np.array_equal(found[0], sitk.GetArrayFromImage(images[0]))
    assert oracle.std() > 100
    assert np.abs(found[1] - oracle).max() < 1e-4 * np.ptp(oracle)
    scan = volume.attributes["scan"]
    assert scan["channels"] == ["ct", "pt"]
    assert scan["affine"] == open_volume(str(tmp_path / "ct")).attributes["scan"]["affine"]
    assert scan["dicom"]["modality"] == "CT"
    assert volume.attributes["haloengine"]["source"]["notes"] == ["pt was resampled to the grid of ct, linearly"]
    before = checksums(tmp_path / "out.zarr")
    ingest(sources, str(tmp_path / "out.zarr"), chunk_shape=(1, 8, 16, 16), shard_shape=(2, 8, 32, 32), n_levels=1)
    assert checksums(tmp_path / "out.zarr") == before
    with pytest.raises(IngestError, match="another source"):
        ingest([sources[1], sources[0]], str(tmp_path / "out.zarr"))


BAD = {
    "other frames of reference": (
        lambda p: (write_series(p / "a") and p / "a", write_series(p / "b") and p / "b"),
        "in one frame of reference",
    ),
    "no place in common": (
        lambda p: (write(p / "a.nii"), write(p / "b.nii", affine_of(np.eye(3), (1, 1, 1), (500, 0, 0)))),
        "no place in common",
    ),
    "one in time": (lambda p: (write(p / "a.nii"), write(p / "b.nii", shape=(3, 30, 34, 40))), "3 and 4 axes"),
    "one damaged": (lambda p: (write(p / "a.nii"), cut(write(p / "b.nii"))), "b.nii', and it is truncated"),
}


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-5])
    return path


@pytest.mark.parametrize("case", BAD)
def test_scans_that_do_not_belong_together_are_refused(tmp_path, case):
    build, words = BAD[case]
    with pytest.raises(IngestError) as caught:
        ingest(build(tmp_path), str(tmp_path / "out.zarr"))
    assert words in Answer(2, "", f"IngestError: {caught.value}\n").line
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.real
@REAL
def test_the_real_mr_on_an_oblique_grid_equals_itk(tmp_path):
    other = DATA / "ct/t1_brain.nii.gz"
    middle = nibabel.load(other).affine @ [128, 128, 128, 1]
    first = write(tmp_path / "a.nii", affine_of(TURN, (3, 3, 4), middle[:3] - TURN @ [60, 50, 60]))
    volume, oracle = joined(first, other), as_itk_resamples(first, other)
    assert oracle.std() > 10
    assert np.abs(whole(volume)[1] - oracle).max() < 1e-4 * np.ptp(oracle)
