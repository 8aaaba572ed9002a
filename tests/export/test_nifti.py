"""NIfTI, read back by nibabel and by ITK: voxel for voxel, on the original grid."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from engine.errors import UsageError, VolumeError
from engine.export import planes
from engine.export.nifti import export_nifti
from engine.storage.volume import open_volume
from tests.export.scans import FLIPPED, SHAPE, STRAIGHT, balls, sheared, store, turned

REAL = Path(__file__).parents[3] / "shared" / "data" / "ct"
AFFINES = {"straight": STRAIGHT, "flipped": FLIPPED, "oblique": turned(), "oblique and flipped": turned(FLIPPED)}


def loaded(path):
    image = nibabel.load(path)
    return image, np.asarray(image.dataobj)


def noise(shape, dtype="int16", seed=0):
    found = np.random.default_rng(seed).normal(0, 300, shape).astype(dtype)
    assert found.std() > 0
    return found


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", AFFINES)
def test_a_label_map_comes_back_on_the_original_grid(name, ending, tmp_path):
    affine, labels = AFFINES[name], balls()
    path = tmp_path / f"seg{ending}"
    exported = export_nifti(store(tmp_path / "l.zarr", labels, affine), path)
    image, voxels = loaded(path)
    assert labels.std() > 0
    assert voxels.dtype == labels.dtype
    np.testing.assert_array_equal(voxels, labels.T)
    for found in (image.affine, image.get_qform(), image.get_sform()):
        np.testing.assert_allclose(found, affine, rtol=1e-6, atol=1e-6)
    assert exported.notes == ()
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".zarr")] == [path.name]


@pytest.mark.parametrize("name", AFFINES)
def test_itk_places_every_corner_where_the_affine_does(name, tmp_path):
    affine, labels = AFFINES[name], balls()
    export_nifti(store(tmp_path / "l.zarr", labels, affine), tmp_path / "seg.nii.gz")
    image = SimpleITK.ReadImage(tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), labels)
    for corner in np.ndindex(2, 2, 2):
        voxel = [int(c * (n - 1)) for c, n in zip(corner, SHAPE[::-1], strict=True)]
        x, y, z = image.TransformIndexToPhysicalPoint(voxel)
        np.testing.assert_allclose((-x, -y, z), (affine @ (*voxel, 1))[:3], atol=1e-3)


def test_a_shear_is_kept_by_the_sform_and_no_qform_pretends_to_hold_it(tmp_path):
    affine = sheared()
    export_nifti(store(tmp_path / "l.zarr", balls(), affine), tmp_path / "seg.nii")
    image, _ = loaded(tmp_path / "seg.nii")
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 1)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (None, (1, 1)),  # from DICOM: the scanner's own space
        ({"sform_code": 4, "qform_code": 1}, (4, 4)),  # one matrix, the sform's: its code on both
        ({"sform_code": 0, "qform_code": 1}, (1, 1)),
        ({"sform_code": 2, "qform_code": 0}, (2, 0)),
        ({"sform_code": 0, "qform_code": 0}, (0, 0)),  # a source that does not say is answered in kind
    ],
)
def test_the_codes_are_the_sources(codes, expected, tmp_path):
    url = store(tmp_path / "l.zarr", balls(), STRAIGHT, scan={"nifti": codes} if codes else None)
    export_nifti(url, tmp_path / "seg.nii")
    header = loaded(tmp_path / "seg.nii")[0].header
    assert (int(header["sform_code"]), int(header["qform_code"])) == expected


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("names", "leading"),
    [
        ("czyx", (3,)),  # channels: x, y, z, c
        ("czyx", (1,)),  # one channel is none
        ("tzyx", (2,)),
        ("tczyx", (2, 3)),  # x, y, z, t, c
    ],
)
def test_channels_and_times_are_the_last_axes(names, leading, ending, tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "SLAB_BYTES", 3000)  # several slabs
    order = {4: (3, 2, 1, 0), 5: (4, 3, 2, 0, 1)}[len(names)]
    voxels = noise((*leading, *SHAPE), "float32")
    path = tmp_path / f"p{ending}"
    export_nifti(store(tmp_path / "p.zarr", voxels, turned(), names=names), path)
    image, found = loaded(path)
    expected = voxels.transpose(order)
    np.testing.assert_array_equal(found, expected[..., 0] if leading == (1,) else expected)
    np.testing.assert_allclose(image.affine, turned(), rtol=1e-6, atol=1e-6)
    if names[0] == "t":
        assert image.header.get_zooms()[3] == 2.0
        assert image.header.get_xyzt_units() == ("mm", "sec")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"])
def test_the_dtype_is_kept(dtype, tmp_path):
    voxels = abs(noise(SHAPE, "float64")).astype(dtype)
    exported = export_nifti(store(tmp_path / "v.zarr", voxels, STRAIGHT), tmp_path / "v.nii.gz")
    _, found = loaded(tmp_path / "v.nii.gz")
    assert found.dtype == voxels.dtype
    np.testing.assert_array_equal(found, voxels.T)
    assert exported.notes == ()


@pytest.mark.parametrize(("dtype", "stored"), [("bool", "uint8"), ("float16", "float32")])
def test_a_dtype_that_nifti_has_not_is_stored_as_another_and_said(dtype, stored, tmp_path):
    voxels = (noise(SHAPE, "float64") > 0).astype(dtype)
    exported = export_nifti(store(tmp_path / "v.zarr", voxels, STRAIGHT), tmp_path / "v.nii")
    _, found = loaded(tmp_path / "v.nii")
    assert found.dtype == stored
    np.testing.assert_array_equal(found, voxels.T.astype(stored))
    assert dtype in exported.notes[0]


def test_any_slab_depth_leaves_the_same_bytes(tmp_path, monkeypatch):
    url = store(tmp_path / "v.zarr", noise((23, 20, 24)), turned())
    export_nifti(url, tmp_path / "whole.nii.gz")
    seen = []
    for n_bytes in (1, 3000, 5000):  # a plane, several planes, a chunk of planes
        monkeypatch.setattr(planes, "SLAB_BYTES", n_bytes)
        export_nifti(url, tmp_path / f"{n_bytes}.nii.gz")
        seen.append(gzip.decompress((tmp_path / f"{n_bytes}.nii.gz").read_bytes()))
    assert set(seen) == {gzip.decompress((tmp_path / "whole.nii.gz").read_bytes())}


@pytest.mark.parametrize(("limit", "depth"), [(1, 1), (3 * 960, 3), (5 * 960, 4), (9 * 960, 8), (10**9, 23)])
def test_a_slab_is_whole_chunks_of_planes_within_the_limit(limit, depth, tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "SLAB_BYTES", limit)
    volume = open_volume(store(tmp_path / "v.zarr", noise((23, 20, 24)), STRAIGHT))
    spans = list(planes.slab_spans(volume))
    assert spans == [(z, min(z + depth, 23)) for z in range(0, 23, depth)]


def test_a_grid_of_another_spacing_has_an_affine_of_its_own(tmp_path):
    """An output at half the resolution: its voxel (i, j, k) lies in the middle of the source's 2 i, 2 i + 1, ..."""
    affine = turned()
    fine = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[::-1]
    url = store(tmp_path / "v.zarr", noise((5, 10, 12)), affine, spacing=2 * fine, origin=fine / 2)
    exported = export_nifti(url, tmp_path / "v.nii")
    image, _ = loaded(tmp_path / "v.nii")
    for voxel in ((0, 0, 0), (3, 7, 2)):
        expected = affine @ (*(2 * np.array(voxel) + 0.5), 1)
        np.testing.assert_allclose(image.affine @ (*voxel, 1), expected, atol=1e-4)
    assert "not the source's" in exported.notes[0]


def test_a_spacing_that_the_header_rounded_is_still_the_sources_grid(tmp_path):
    affine = turned()
    rounded = np.round(np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[::-1] * 1.0004, 4)
    exported = export_nifti(store(tmp_path / "v.zarr", balls(), affine, spacing=rounded), tmp_path / "v.nii")
    np.testing.assert_allclose(loaded(tmp_path / "v.nii")[0].affine, affine, rtol=1e-6, atol=1e-6)
    assert exported.notes == ()


def test_a_volume_without_orientation_has_its_spacing_and_says_so(tmp_path):
    url = store(tmp_path / "v.zarr", balls(), spacing=(3.0, 500.0, 500.0), units="micrometer", origin=(3.0, 0, 0))
    exported = export_nifti(url, tmp_path / "v.nii")
    expected = np.diag([0.5, 0.5, 0.003, 1])
    expected[2, 3] = 0.003
    np.testing.assert_allclose(loaded(tmp_path / "v.nii")[0].affine, expected, rtol=1e-6)
    assert "no orientation" in exported.notes[0]


def test_a_long_axis_is_nifti_2(tmp_path):
    voxels = noise((40000, 1, 2), "int8")
    exported = export_nifti(store(tmp_path / "v.zarr", voxels, STRAIGHT, chunk=(40000, 1, 2)), tmp_path / "v.nii.gz")
    image, found = loaded(tmp_path / "v.nii.gz")
    assert isinstance(image, nibabel.Nifti2Image)
    np.testing.assert_array_equal(found, voxels.T)
    assert "NIfTI-2" in exported.notes[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seg.mha", r"must be named \*\.nii or \*\.nii\.gz, not .*seg\.mha"),
        ("there.nii.gz", r"exists\. Name another"),
        ("nowhere/seg.nii", r"needs a folder that is there"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused(name, message, tmp_path):
    (tmp_path / "there.nii.gz").write_bytes(b"mine")
    with pytest.raises(UsageError, match=message):
        export_nifti(store(tmp_path / "l.zarr", balls(), STRAIGHT), tmp_path / name)
    assert (tmp_path / "there.nii.gz").read_bytes() == b"mine"


def test_what_is_no_scan_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="axes that end in z, y, x, and .* has c, y, x"):
        export_nifti(store(tmp_path / "s.zarr", noise((3, 20, 24)), names="cyx", chunk=(3, 16, 16)), tmp_path / "s.nii")
    assert not list(tmp_path.glob("*.nii"))


def test_an_affine_without_an_inverse_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="must have an inverse"):
        export_nifti(store(tmp_path / "l.zarr", balls(), STRAIGHT * [[1], [1], [0], [1]], spacing=(1, 1, 1)), tmp_path / "l.nii")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("names", ["zyx", "czyx"])
def test_a_damaged_volume_leaves_nothing(names, ending, tmp_path):
    shape = SHAPE if names == "zyx" else (2, *SHAPE)
    url = store(tmp_path / "v.zarr", noise(shape), STRAIGHT, names=names)
    last = max(path for path in (tmp_path / "v.zarr/0/c").rglob("*") if path.is_file())
    last.write_bytes(last.read_bytes()[:-20])
    with pytest.raises(VolumeError, match="damaged"):
        export_nifti(url, tmp_path / f"v{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["v.zarr"]


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="the real volumes are not beside the repository")
@pytest.mark.parametrize("name", ["totalsegmentator_example_ct.nii.gz", "t1_brain.nii.gz"])
def test_a_real_scan_comes_back_as_it_was(name, tmp_path):
    """Generated twin: test_a_label_map_comes_back_on_the_original_grid."""
    image, voxels = loaded(REAL / name)
    voxels = voxels[..., 40:72]
    codes = {"nifti": {code: int(image.header[code]) for code in ("sform_code", "qform_code")}}
    url = store(tmp_path / "v.zarr", voxels.T.copy(), image.affine, scan=codes, chunk=(64, 64, 64))
    export_nifti(url, tmp_path / "v.nii.gz")
    again, found = loaded(tmp_path / "v.nii.gz")
    assert voxels.std() > 0
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_allclose(again.affine, image.affine, rtol=1e-6, atol=1e-6)
    assert again.header["sform_code"] == image.header["sform_code"]
