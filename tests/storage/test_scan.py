"""NIfTI, MetaImage and NRRD read by region equal nibabel and SimpleITK, voxel and affine; bad ones are refused."""

import bz2
import gzip
import pickle
import resource
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- as everyone calls it

from engine.errors import IngestError, VolumeError
from engine.geometry.axes import Role
from engine.geometry.region import Region
from engine.storage.fingerprint import fingerprint
from engine.storage.ingest import ingest
from engine.storage.orientation import Orientation
from engine.storage.volume import open_volume
from tests.command import Answer

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = pytest.mark.skipif(not DATA.exists(), reason=f"the real volumes are not beside the repository, at {DATA.name}")
VOXELS = np.cumsum(np.random.default_rng(0).integers(-90, 91, (11, 14, 17)), axis=-1).astype("int16")
TURN = np.array([[0.8, -0.36, 0.48], [0.6, 0.48, -0.64], [0.0, 0.8, 0.6]])
OBLIQUE = np.eye(4)
OBLIQUE[:3] = np.c_[TURN * [-0.7, 0.8, 2.5], [-31.5, 42.25, -120.0]]


def whole(volume):
    return volume.read(Region.whole(volume.shape))


def boxes(shape, n=30):
    rng = np.random.default_rng(0)
    for _ in range(n):
        ends = [np.sort(rng.integers(0, size + 1, 2)) for size in shape]
        yield Region(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends))


def check_regions(volume, oracle):
    """Regions of the volume, and of a copy that another process would open, equal the oracle's, by four threads."""
    copy = pickle.loads(pickle.dumps(volume))
    assert oracle.std() > 0
    assert volume.shape == oracle.shape
    regions = list(boxes(volume.shape))
    with ThreadPoolExecutor(4) as pool:
        for region, ours, theirs in zip(regions, pool.map(volume.read, regions), pool.map(copy.read, regions), strict=True):
            assert np.array_equal(ours, oracle[region.slices])
            assert np.array_equal(theirs, ours)
            assert ours.flags.c_contiguous
            assert ours.dtype == volume.dtype
            assert ours.dtype.isnative


def write_nifti(path: Path, voxels=VOXELS, *, affine=OBLIQUE, kind=nibabel.Nifti1Image, change=None) -> Path:
    image = kind(voxels.T, affine)
    image.header.set_xyzt_units("mm", "sec")
    if change is not None:
        change(image)
    nibabel.save(image, path)
    return path


NIFTI = {
    "plain": ("a.nii", {}),
    "compressed": ("a.nii.gz", {}),
    "version 2": ("a.nii", {"kind": nibabel.Nifti2Image}),
    "compressed, version 2": ("a.nii.gz", {"kind": nibabel.Nifti2Image}),
    "uint8": ("a.nii.gz", {"voxels": (VOXELS % 250).astype("uint8")}),
    "float64": ("a.nii", {"voxels": VOXELS * 0.1}),
    "in time": ("a.nii.gz", {"voxels": np.stack([VOXELS, VOXELS + 1, VOXELS * 2])}),
    "scaled": ("a.nii.gz", {"change": lambda image: image.header.set_slope_inter(0.25, -3)}),
    "qform only": ("a.nii", {"change": lambda image: (image.set_qform(OBLIQUE, 1), image.set_sform(None, 0))}),
    "sform goes before qform": ("a.nii", {"change": lambda image: (image.set_qform(np.diag([1, 2, 3, 1]), 1), image.set_sform(OBLIQUE, 2))}),
    "neither": ("a.nii", {"change": lambda image: (image.set_qform(None, 0), image.set_sform(None, 0))}),
}


@pytest.mark.parametrize("case", NIFTI)
def test_a_nifti_by_region_equals_nibabel(tmp_path, case):
    name, options = NIFTI[case]
    path = write_nifti(tmp_path / name, **options)
    image, volume = nibabel.load(path), open_volume(str(path))
    oracle = np.asarray(image.dataobj).T
    check_regions(volume, oracle.astype("float32") if case == "scaled" else oracle)
    assert volume.dtype == ("float32" if case == "scaled" else oracle.dtype)
    scan = volume.attributes["scan"]
    assert np.allclose(scan["affine"], image.affine, atol=1e-6)
    assert tuple(scan["axcodes"]) == nibabel.aff2axcodes(image.affine)
    assert (scan["format"], scan["nifti"]["sform_code"]) == ("nifti", image.header["sform_code"])
    assert [axis.spacing for axis in volume.axes[-3:]] == pytest.approx(image.header.get_zooms()[2::-1], rel=1e-6) or case == "sform goes before qform"
    assert Orientation.of(volume.attributes).spacing == pytest.approx([axis.spacing for axis in volume.axes[-3:]], rel=1e-6)
    assert [axis.role for axis in volume.axes[:-3]] == [Role.BATCH] * (len(volume.shape) - 3)


def test_a_big_endian_nifti_is_read_in_native_order(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(VOXELS.T, OBLIQUE, header), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\1\\"
    check_regions(open_volume(str(tmp_path / "a.nii")), VOXELS)


def test_gzip_in_several_members_is_one_scan_and_what_follows_it_none_of_it(tmp_path):
    data = write_nifti(tmp_path / "a.nii").read_bytes()
    parts = b"".join(gzip.compress(data[i : i + 1000]) for i in range(0, len(data), 1000))
    (tmp_path / "b.nii.gz").write_bytes(parts + b"\0" * 512)
    check_regions(open_volume(str(tmp_path / "b.nii.gz")), VOXELS)


@pytest.mark.parametrize(("unit", "millimetres"), [("meter", 1000), ("micron", 0.001), ("unknown", 1)])
def test_other_units_become_millimetre(tmp_path, unit, millimetres):
    path = write_nifti(tmp_path / "a.nii", change=lambda image: image.header.set_xyzt_units(unit, "sec"))
    volume, scale = open_volume(str(path)), np.diag([millimetres] * 3 + [1.0])
    assert np.allclose(volume.attributes["scan"]["affine"], scale @ OBLIQUE, rtol=1e-6, atol=1e-6 * millimetres)
    assert [axis.spacing for axis in volume.axes] == pytest.approx([s * millimetres for s in (2.5, 0.8, 0.7)])
    assert {axis.unit for axis in volume.axes} == {"millimeter"}


def unspaced(path: Path, *, steps=(0.0, 0.0, 0.0)) -> Path:
    data = bytearray(path.read_bytes())
    data[80:92] = np.array(steps, "<f4").tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("which", ["sform", "qform"])
def test_a_spacing_by_hand_keeps_directions_and_origin(tmp_path, which):
    def change(image):
        image.set_qform(OBLIQUE, 1)
        image.set_sform(OBLIQUE if which == "sform" else None, int(which == "sform"))

    path = unspaced(write_nifti(tmp_path / "a.nii", change=change))
    with pytest.raises(IngestError, match=r"a\.nii#spacing=Z,Y,X"):
        open_volume(str(path))
    volume = open_volume(f"{path}#spacing=5,1.5,0.5")
    wanted = OBLIQUE.copy()
    wanted[:3, :3] = TURN * [-0.5, 1.5, 5]
    assert np.allclose(volume.attributes["scan"]["affine"], wanted, atol=1e-6)
    assert [axis.spacing for axis in volume.axes] == [5, 1.5, 0.5]
    assert volume.notes == ("spacing was given by hand",)
    assert [axis.spacing for axis in open_volume(f"{path}#spacing=2").axes] == [2, 2, 2]
    assert pickle.loads(pickle.dumps(volume)).axes == volume.axes
    assert fingerprint(volume) != fingerprint(open_volume(f"{path}#spacing=2"))
    made = ingest(path, str(tmp_path / "out.zarr"), spacing=(5, 1.5, 0.5))
    assert made.attributes["scan"] == volume.attributes["scan"]
    with pytest.raises(IngestError, match=r"\[1\.0, 2\.0\]"):
        open_volume(f"{path}#spacing=1,2")


def test_steps_of_the_affine_go_before_those_of_pixdim(tmp_path):
    volume = open_volume(str(unspaced(write_nifti(tmp_path / "a.nii"), steps=(1, 1, 4))))
    assert [axis.spacing for axis in volume.axes] == pytest.approx([2.5, 0.8, 0.7])
    assert "pixdim says [4.0, 1.0, 1.0]" in volume.notes[0]


def test_what_is_compressed_is_unpacked_in_bounded_memory_and_read_again_from_the_unpacked(tmp_path):
    header = write_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), "int16")).read_bytes()[:352]
    header = header[:40] + np.array([3, 512, 512, 64, 1, 1, 1, 1], "<i2").tobytes() + header[56:]
    packer = zlib.compressobj(0, wbits=31)  # as large as what is in it
    with (tmp_path / "b.nii.gz").open("wb") as file:
        file.write(packer.compress(header))
        for z in range(64):
            file.write(packer.compress(np.full((512, 512), z, "int16").tobytes()))
        file.write(packer.flush())
    volume = open_volume(str(tmp_path / "b.nii.gz"))
    tracemalloc.start()
    voxels = volume.read(Region((62, 100, 0), (64, 110, 9)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.unique(voxels).tolist() == [62, 63]
    assert peak < 16e6  # of 34 MB
    (tmp_path / "b.nii.gz").unlink()
    assert volume.read(Region((3, 0, 0), (4, 1, 1))).item() == 3


def test_no_room_to_unpack_is_said(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz")
    volume = open_volume(str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(IngestError, match=r"a\.nii\.gz' must be unpacked .* TMPDIR"):
            whole(volume)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.array_equal(whole(volume), VOXELS)


@pytest.mark.real
@REAL
@pytest.mark.parametrize("name", ["totalsegmentator_example_ct.nii.gz", "t1_brain.nii.gz"])
def test_a_real_scan_by_region_equals_nibabel(name):
    path = DATA / "ct" / name
    image, volume = nibabel.load(path), open_volume(str(path))
    check_regions(volume, np.asarray(image.dataobj).T)
    assert np.allclose(volume.attributes["scan"]["affine"], image.affine, atol=1e-6)


def itk_image(voxels=VOXELS) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels, isVector=False)
    more = [1.0] * (voxels.ndim - 3)
    image.SetSpacing((0.7, 0.8, 2.5, *more))
    image.SetOrigin((31.5, -42.25, -120.0, *more))
    turn = np.eye(voxels.ndim)
    turn[:3, :3] = TURN
    image.SetDirection(turn.ravel())
    return image


ITK = {
    "metaimage": ("a.mha", False, VOXELS),
    "metaimage, compressed": ("a.mha", True, VOXELS),
    "metaimage, two files": ("a.mhd", False, VOXELS),
    "metaimage, two files, compressed": ("a.mhd", True, VOXELS),
    "metaimage of real numbers": ("a.mha", True, VOXELS * 0.1),
    "metaimage in time": ("a.mha", True, np.stack([VOXELS, VOXELS + 1])),
    "nrrd": ("a.nrrd", False, VOXELS),
    "nrrd, compressed": ("a.nrrd", True, VOXELS),
    "nrrd, two files": ("a.nhdr", False, VOXELS),
    "nrrd, two files, compressed": ("a.nhdr", True, VOXELS),
    "nrrd of uint32": ("a.nrrd", True, VOXELS.astype("uint32")),
    "nrrd in time": ("a.nrrd", False, np.stack([VOXELS, VOXELS + 1])),
}


@pytest.mark.parametrize("case", ITK)
def test_a_metaimage_or_nrrd_by_region_equals_itk(tmp_path, case):
    name, is_compressed, voxels = ITK[case]
    image = itk_image(voxels)
    sitk.WriteImage(image, str(tmp_path / name), is_compressed)
    volume = open_volume(str(tmp_path / name))
    check_regions(volume, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))))
    affine = np.eye(4)
    affine[:3] = np.c_[TURN * [0.7, 0.8, 2.5], [31.5, -42.25, -120.0]]
    affine[:2] *= -1
    assert np.allclose(volume.attributes["scan"]["affine"], affine, atol=1e-9)
    assert volume.attributes["scan"]["format"] == case.split()[0].strip(",")
    assert [axis.spacing for axis in volume.axes[-3:]] == [2.5, 0.8, 0.7]
    assert len({*volume.file.files}) == 1 + ("two files" in case)
    made = ingest(tmp_path / name, str(tmp_path / "out.zarr"))
    assert np.array_equal(whole(made), voxels)
    assert made.attributes["scan"] == volume.attributes["scan"]


def test_the_affine_of_a_file_is_the_same_in_every_format(tmp_path):
    for name in ("a.mha", "a.nrrd", "a.nii", "a.nii.gz"):
        sitk.WriteImage(itk_image(), str(tmp_path / name))
    affines = [open_volume(str(tmp_path / name)).attributes["scan"]["affine"] for name in ("a.mha", "a.nrrd", "a.nii", "a.nii.gz")]
    assert np.allclose(affines, affines[0], atol=1e-5)
    assert np.std(affines[0]) > 1


NRRD = """NRRD0004
type: short
dimension: 3
space: {space}
sizes: 17 14 11
space directions: (0.7,0,0) (0,0.8,0.2) (0,0,2.5)
space origin: (10,20,30)
kinds: domain domain domain
endian: {endian}
encoding: {encoding}
{more}
"""


def write_nrrd(path: Path, data: bytes, *, space="right-anterior-superior", endian="little", encoding="raw", more="", lost="") -> Path:
    text = NRRD.format(space=space, endian=endian, encoding=encoding, more=f"{more}\n" if more else "")
    lines = [line for line in text.splitlines(keepends=True) if not lost or not line.startswith(lost)]
    path.write_bytes("".join(lines).encode() + data)
    return path


AS_TEXT = " ".join(map(str, VOXELS.ravel())).encode()
NRRDS = {
    "raw": (VOXELS.tobytes(), {}),
    "big endian": (VOXELS.astype(">i2").tobytes(), {"endian": "big"}),
    "bytes skipped": (b"12345" + VOXELS.tobytes(), {"more": "byte skip: 5"}),
    "bytes skipped up to the voxels": (b"1234567" + VOXELS.tobytes(), {"more": "byte skip: -1"}),
    "gzip": (gzip.compress(VOXELS.tobytes()), {"encoding": "gzip"}),
    "text": (AS_TEXT, {"encoding": "ascii"}),
    "a key of one's own": (VOXELS.tobytes(), {"more": "endian:=odd\n# encoding: hex"}),
}


@pytest.mark.parametrize("case", NRRDS)
def test_an_nrrd_is_read_however_its_voxels_are_stored(tmp_path, case):
    data, options = NRRDS[case]
    volume = open_volume(str(write_nrrd(tmp_path / "a.nrrd", data, **options)))
    check_regions(volume, VOXELS)
    affine = [[0.7, 0, 0, 10], [0, 0.8, 0, 20], [0, 0.2, 2.5, 30], [0, 0, 0, 1]]
    assert np.allclose(volume.attributes["scan"]["affine"], affine)


@pytest.mark.parametrize(
    ("space", "signs", "is_known"),
    [
        ("left-posterior-superior", (-1, -1), True),
        ("LAS", (-1, 1), True),
        ("RAS", (1, 1), True),
        ("scanner-xyz", (-1, -1), False),  # as ITK takes it
    ],
)
def test_the_space_of_an_nrrd_is_turned_to_ras(tmp_path, space, signs, is_known):
    volume = open_volume(str(write_nrrd(tmp_path / "a.nrrd", VOXELS.tobytes(), space=space)))
    assert np.array(volume.attributes["scan"]["affine"])[[0, 1], 3].tolist() == [10 * signs[0], 20 * signs[1]]
    assert bool(volume.notes) != is_known


def metaimage(change) -> bytes:
    text = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 0.7 0.8 2.5\nDimSize = 17 14 11\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return change(text).encode() + VOXELS.tobytes()


BAD = {
    "text called .mha": (lambda p: put(p / "a.mha", b"hello"), "no such header"),
    "text called .nrrd": (lambda p: put(p / "a.nrrd", b"hello"), "no such header"),
    "metaimage without spacing": (lambda p: put(p / "a.mha", metaimage(lambda t: t.replace("ElementSpacing = 0.7 0.8 2.5\n", ""))), "#spacing=Z,Y,X"),
    "metaimage cut short": (lambda p: put(p / "a.mha", metaimage(str)[:-9]), "truncated or damaged (5227 of 5236 bytes"),
    "metaimage of slices": (lambda p: put(p / "a.mhd", metaimage(lambda t: t.replace("LOCAL", "s%03d.raw 1 11 1"))), "in one file, not in several"),
    "metaimage without its voxels": (lambda p: put(p / "a.mhd", metaimage(lambda t: t.replace("LOCAL", "gone.raw"))), "gone.raw"),
    "nrrd without spacing": (lambda p: write_nrrd(p / "a.nrrd", VOXELS.tobytes(), lost="space"), "#spacing=Z,Y,X"),
    "nrrd of another unit": (lambda p: write_nrrd(p / "a.nrrd", VOXELS.tobytes(), more='space units: "um" "um" "um"'), "'um'"),
    "nrrd cut short": (lambda p: write_nrrd(p / "a.nrrd", VOXELS.tobytes()[:-9]), "truncated or damaged"),
    "compressed nrrd cut short": (lambda p: write_nrrd(p / "a.nrrd", gzip.compress(VOXELS.tobytes())[:-90], encoding="gzip"), "truncated or damaged"),
    "compressed nrrd with a turned bit": (lambda p: write_nrrd(p / "a.nrrd", turned(gzip.compress(VOXELS.tobytes(), 0)), encoding="gzip"), "truncated or damaged (Error"),
    "nrrd of listed files": (lambda p: listed(p / "a.nhdr"), "in one file, not in several, 'LIST'"),
    "nrrd of numbered files": (lambda p: write_nrrd(p / "a.nhdr", b"", more="data file: s%03d.raw 0 10 1"), "not in several, 's%03d"),
    "nrrd in bzip2 cut short": (lambda p: write_nrrd(p / "a.nrrd", bz2.compress(VOXELS.tobytes())[:-90], encoding="bzip2"), "a.nrrd"),
    "nrrd of vectors": (lambda p: vectors(p / "a.nrrd"), "one whole or real number per voxel, not 3"),
    "nifti with a flat affine": (lambda p: flat(p / "a.nii"), "three axes that span the patient"),
    "nifti cut short": (lambda p: put(p / "a.nii", write_nifti(p / "a.nii").read_bytes()[:-9]), "5227 of 5236 bytes of voxels are there"),
    "compressed nifti with a turned bit": (lambda p: put(p / "b.nii.gz", turned(gzip.compress(write_nifti(p / "a.nii").read_bytes(), 0))), "damaged (Error"),
}


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def listed(path: Path) -> Path:
    names = "".join(f"\n{z}.raw" for z in range(11))
    return put(path, write_nrrd(path, b"", more=f"data file: LIST{names}").read_bytes().rstrip() + b"\n")


def turned(data: bytes) -> bytes:
    return data[:-60] + bytes([data[-60] ^ 4]) + data[-59:]


def vectors(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), "int16"), isVector=True), str(path))
    return path


def flat(path: Path) -> Path:
    data = bytearray(write_nifti(path).read_bytes())
    data[280:328] = np.diag([1.0, 1, 0, 0])[:3].astype("<f4").tobytes()
    return put(path, bytes(data))


@pytest.mark.parametrize("case", BAD)
def test_a_bad_scan_is_refused_in_one_line_and_leaves_nothing(tmp_path, case):
    build, words = BAD[case]
    path = build(tmp_path)
    for read in (lambda url: whole(open_volume(url)), lambda url: ingest(url, str(tmp_path / "out.zarr"))):
        with pytest.raises(IngestError) as caught:
            read(str(path))
        assert words in Answer(2, "", f"IngestError: {caught.value}\n").line
    assert not (tmp_path / "out.zarr").exists()


def test_a_fingerprint_sees_both_files_of_a_metaimage(tmp_path):
    sitk.WriteImage(itk_image(), str(tmp_path / "a.mhd"))
    before = fingerprint(open_volume(str(tmp_path / "a.mhd")))
    data = bytearray((tmp_path / "a.raw").read_bytes())
    data[5] ^= 1
    (tmp_path / "a.raw").write_bytes(data)
    assert fingerprint(open_volume(str(tmp_path / "a.mhd"))) != before


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{scan}#mpp=1", "'mpp' is the resolution of a slide"),
        ("{scan}#series=1..2", "SeriesInstanceUID"),
        ("{scan}#spacing=1,2,3,4", "three as z,y,x of a scan"),
        ("{folder}/v.zarr#spacing=1,2,3", "none, or is not there"),
        ("{folder}/v.zarr#series=1.2", "none, or is not there"),
    ],
)
def test_options_that_are_not_a_scans_are_refused(tmp_path, url, words):
    scan = write_nifti(tmp_path / "a.nii")
    ingest(scan, str(tmp_path / "v.zarr"))
    with pytest.raises(VolumeError, match=words):
        open_volume(url.format(scan=scan, folder=tmp_path))
