"""DICOM series equal what SimpleITK reads, voxel and affine; what is no even grid of slices is refused by name."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 -- as everyone calls it
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from engine.errors import IngestError, VolumeError
from engine.geometry.region import Region
from engine.storage.dicom_codecs import SYNTAXES
from engine.storage.fingerprint import fingerprint
from engine.storage.ingest import ingest
from engine.storage.orientation import Orientation
from engine.storage.volume import open_volume
from tests.command import Answer
from tests.dicom_series import (
    AXIAL,
    GDCM_SYNTAXES,
    ORIGIN,
    SPACING,
    encapsulated,
    stored_as,
    stored_values,
    write_enhanced,
    write_series,
)
from tests.storage.slide_files import noise, write_dicom
from tests.stored import checksums

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
DIRECTIONS = {
    "axial": AXIAL,
    "axial, turned by half": (-1, 0, 0, 0, -1, 0),
    "axial, mirrored: the normal points to the feet": (1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": OBLIQUE,
}


def whole(volume):
    return volume.read(Region.whole(volume.shape))


def as_itk_reads(folder: Path):
    """Voxels (z, y, x), and the affine to RAS+."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    return sitk.GetArrayFromImage(image), affine


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_series_with_shuffled_names_equals_itk_and_what_was_written(tmp_path, directions):
    paths = write_series(tmp_path / "ct", directions=directions)
    assert paths != sorted(paths)
    volume, (oracle, affine) = open_volume(str(tmp_path / "ct")), as_itk_reads(tmp_path / "ct")
    assert oracle.std() > 100
    assert np.array_equal(whole(volume), oracle)
    assert np.array_equal(whole(volume), stored_values().astype(int) - 1024)
    assert volume.dtype == np.dtype("int16")
    scan = volume.attributes["scan"]
    assert np.allclose(scan["affine"], affine, atol=1e-6)
    assert [axis.name for axis in volume.axes] == ["z", "y", "x"]
    assert [axis.spacing for axis in volume.axes] == pytest.approx(SPACING)
    assert {axis.unit for axis in volume.axes} == {"millimeter"}
    assert Orientation.of(volume.attributes).spacing == pytest.approx(SPACING)
    assert scan["dicom"]["files"] == [path.name for path in paths]
    headers = [pydicom.dcmread(path) for path in paths]
    assert scan["dicom"]["instances"] == [header.SOPInstanceUID for header in headers]
    assert scan["dicom"]["series_instance_uid"] == headers[0].SeriesInstanceUID
    assert scan["dicom"]["frame_of_reference_uid"] == headers[0].FrameOfReferenceUID
    assert (scan["format"], scan["dicom"]["modality"]) == ("dicom", "CT")


def to_htj2k(plane):
    return imagecodecs.htj2k_encode(plane)


def to_jpeg_12(plane):
    return imagecodecs.jpeg8_encode(plane, level=98, bitspersample=12)


LOSSY = {"jpeg baseline": 1, "jpeg extended": 8}
OTHERS = {
    "jpeg extended": (to_jpeg_12, "1.2.840.10008.1.2.4.51"),
    "htj2k lossless": (to_htj2k, "1.2.840.10008.1.2.4.201"),
    "htj2k rpcl": (to_htj2k, "1.2.840.10008.1.2.4.202"),
    "htj2k": (to_htj2k, "1.2.840.10008.1.2.4.203"),
}


@pytest.mark.parametrize("syntax", [*(name for name in GDCM_SYNTAXES if name != "deflated"), *OTHERS])
def test_each_transfer_syntax_gives_back_what_was_stored(tmp_path, syntax):
    n_bits = 8 if syntax == "jpeg baseline" else 12
    values = stored_values((3, 24, 40), n_bits=n_bits)
    paths = write_series(tmp_path / "ct", values, n_bits=n_bits)
    if syntax in OTHERS:
        encapsulated(paths, *OTHERS[syntax])
    else:
        stored_as(paths, syntax)
    assert len({path.stat().st_size for path in paths}) > 1 or syntax in ("big endian", "implicit")
    volume = open_volume(str(tmp_path / "ct"))
    off = np.abs(whole(volume).astype(int) - (values.astype(int) - 1024))
    assert off.max() <= LOSSY.get(syntax, 0)
    assert off.mean() < 1
    if syntax not in OTHERS:
        assert np.array_equal(whole(volume), as_itk_reads(tmp_path / "ct")[0])


def test_all_known_syntaxes_were_tried():
    tried = {uid for _, uid in OTHERS.values()}
    tried |= {f"1.2.840.10008.1.2.{n}" for n in ("5", "4.50", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91")}
    assert tried == SYNTAXES


@pytest.mark.parametrize("syntax", ["plain", "jpeg lossless", "jpeg-ls", "jpeg 2000 lossless", "rle"])
def test_signed_values_keep_their_sign(tmp_path, syntax):
    values = (stored_values((3, 24, 40)).astype(int) - 2048).astype("int16")
    paths = write_series(tmp_path / "mr", values, rescale=(1, 0), Modality="MR")
    if syntax != "plain":
        stored_as(paths, syntax)
    assert values.min() < 0
    assert np.array_equal(whole(open_volume(str(tmp_path / "mr"))), values)


def test_bits_beyond_those_that_are_stored_do_not_count(tmp_path):
    values = stored_values()
    write_series(tmp_path / "ct", values | np.uint16(0xA000))
    assert np.array_equal(whole(open_volume(str(tmp_path / "ct"))), values.astype(int) - 1024)


def test_each_slice_of_a_pet_has_a_slope_of_its_own(tmp_path):
    values = stored_values(n_bits=15)
    slopes = np.linspace(0.05, 3.7, len(values))
    write_series(tmp_path / "pt", values, n_bits=15, rescale=[(round(s, 6), 0) for s in slopes], Modality="PT", Units="BQML")
    volume = open_volume(str(tmp_path / "pt"))
    oracle = np.stack([plane * round(slope, 6) for plane, slope in zip(values.astype(float), slopes, strict=True)])
    assert volume.dtype == np.dtype("float32")
    assert np.array_equal(whole(volume), oracle.astype("float32"))
    assert volume.attributes["scan"]["dicom"]["units"] == "BQML"


@pytest.mark.parametrize(
    ("n_bits", "rescale", "dtype"),
    [
        (12, (1, -1024), "int16"),
        (12, (2, -2048), "int16"),  # whole, and fits
        (12, (16, 0), "float32"),  # whole, and does not fit
        (16, (1, -1024), "float32"),  # could hold 64,511
        (12, (0.5, 0), "float32"),
        (12, (1, -1024.5), "float32"),
    ],
)
def test_values_are_int16_only_where_all_that_could_be_stored_fits(tmp_path, n_bits, rescale, dtype):
    values = stored_values(n_bits=n_bits)
    write_series(tmp_path / "ct", values, n_bits=n_bits, rescale=rescale)
    volume = open_volume(str(tmp_path / "ct"))
    assert volume.dtype == np.dtype(dtype)
    assert np.array_equal(whole(volume), (values * float(rescale[0]) + rescale[1]).astype(dtype))


@pytest.mark.parametrize("syntax", ["plain", "jpeg-ls", "big endian"])
def test_regions_by_many_threads_and_a_pickled_copy_equal_the_whole(tmp_path, syntax):
    paths = write_series(tmp_path / "ct")
    if syntax != "plain":
        stored_as(paths, syntax)
    volume = open_volume(str(tmp_path / "ct"))
    oracle, copy = whole(volume), pickle.loads(pickle.dumps(volume))
    rng = np.random.default_rng(0)
    regions = []
    for _ in range(40):
        ends = [np.sort(rng.integers(0, n + 1, 2)) for n in volume.shape]
        regions.append(Region(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends)))
    with ThreadPoolExecutor(4) as pool:
        for region, ours, theirs in zip(regions, pool.map(volume.read, regions), pool.map(copy.read, regions), strict=True):
            assert np.array_equal(ours, oracle[region.slices])
            assert np.array_equal(theirs, ours)
            assert ours.flags.c_contiguous
    with pytest.raises(IngestError, match="inside"):
        volume.read(Region((0, 0, 0), (99, 1, 1)))


JPEG_LS = (imagecodecs.jpegls_encode, "1.2.840.10008.1.2.4.80")


@pytest.mark.parametrize(
    "options",
    [
        None,  # plain
        {},
        {"has_table": False},  # one piece a frame
        {"n_pieces": 3},
    ],
)
def test_an_enhanced_file_of_many_frames_equals_its_slices(tmp_path, options):
    values = stored_values()
    order = np.random.default_rng(1).permutation(len(values)).tolist()
    path = write_enhanced(tmp_path / "ct", values, order=order)
    if options is not None:
        encapsulated([path], *JPEG_LS, **options)
    volume = open_volume(str(path))
    assert np.array_equal(whole(volume), values.astype(int) - 1024)
    affine = np.array(volume.attributes["scan"]["affine"])
    assert affine[:3, 3].tolist() == [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]]
    assert np.diag(affine).tolist() == [-SPACING[2], -SPACING[1], SPACING[0], 1]
    assert volume.attributes["scan"]["dicom"]["frames"] == [order.index(z) + 1 for z in range(len(values))]


def test_frames_whose_pieces_cannot_be_told_apart_are_refused(tmp_path):
    path = write_enhanced(tmp_path / "ct", stored_values(), order=range(12))
    encapsulated([path], *JPEG_LS, n_pieces=3, has_table=False)
    with pytest.raises(IngestError, match="which of its 36 pieces are its 12 frames"):
        open_volume(str(path))


def test_of_several_series_one_is_picked_by_uid_or_by_a_file_of_it(tmp_path):
    one = write_series(tmp_path / "s", stored_values(seed=1), series="1.2.3", prefix="A")
    two = write_series(tmp_path / "s", stored_values((5, 16, 20), seed=2), series="1.2.4", prefix="B", SeriesDescription="late")
    with pytest.raises(IngestError, match=r"holds 2: 1\.2\.3 \(CT 'made up', 12 files\); 1\.2\.4 \(CT 'late', 5 files\)") as told:
        open_volume(str(tmp_path / "s"))
    assert f"{tmp_path}/s#series=1.2.3" in str(told.value)
    assert np.array_equal(whole(open_volume(f"{tmp_path}/s#series=1.2.4")), stored_values((5, 16, 20), seed=2).astype(int) - 1024)
    assert open_volume(str(two[3])).shape == (5, 16, 20)
    picked = open_volume(f"{tmp_path}/s#series=1.2.3")
    assert pickle.loads(pickle.dumps(picked)).shape == (12, 16, 20)
    assert np.array_equal(whole(open_volume(str(one[0]))), whole(picked))
    with pytest.raises(IngestError, match=r"series 1\.9 is wanted"):
        open_volume(f"{tmp_path}/s#series=1.9")
    with pytest.raises(VolumeError, match="SeriesInstanceUID"):
        open_volume(f"{tmp_path}/s#series=abc")


def test_files_that_are_no_pictures_do_not_make_a_second_series(tmp_path):
    write_series(tmp_path / "ct")
    (tmp_path / "ct/notes.txt").write_text("about the scan")
    (tmp_path / "ct/._IM0001.dcm").write_bytes(b"what a Mac leaves")

    def report(_, data):
        for name in ("PixelData", "Rows", "Columns", "ImagePositionPatient"):
            del data[name]

    write_series(tmp_path / "ct", stored_values((1, 4, 4)), prefix="SR", Modality="SR", alter=report)
    volume = open_volume(str(tmp_path / "ct"))
    assert volume.shape == (12, 16, 20)
    assert volume.notes == ("left out, as no DICOM: notes.txt", "left out, as without pictures: SR0000")


def test_a_slice_alone_has_its_thickness_as_step(tmp_path):
    write_series(tmp_path / "one", stored_values((1, 16, 20)))
    volume = open_volume(str(tmp_path / "one"))
    assert [axis.spacing for axis in volume.axes] == pytest.approx(SPACING)
    assert volume.attributes["scan"]["affine"][2][2] == SPACING[0]
    write_series(tmp_path / "thin", stored_values((1, 16, 20)), alter=lambda z, data: data.__delattr__("SliceThickness"))
    with pytest.raises(IngestError, match="says no thickness"):
        open_volume(str(tmp_path / "thin"))
    given = open_volume(f"{tmp_path}/thin#spacing=3,0.5,0.25")
    assert [axis.spacing for axis in given.axes] == [3, 0.5, 0.25]
    assert given.notes == ("spacing was given by hand",)


def place(data: Dataset, x=None, y=None, z=None) -> None:
    old = list(data.ImagePositionPatient)
    data.ImagePositionPatient = [float(a if b is None else b) for a, b in zip(old, (x, y, z), strict=True)]


def put(**said):
    return lambda z, data: data.update(said)


def only(number, change):
    return lambda z, data: change(z, data) if z == number else None


def drop(name):
    return lambda z, data: data.__delattr__(name)


def tilted(z, data):
    place(data, y=ORIGIN[1] + z * SPACING[0] * np.tan(np.radians(12)))


def uneven(z, data):
    place(data, z=ORIGIN[2] + z * SPACING[0] + (0.9 if z > 7 else 0))


def echoes(z, data):
    place(data, z=ORIGIN[2] + (z // 2) * SPACING[0])
    data.EchoTime = 4.6 if z % 2 else 9.2


def colours(z, data):
    data.update({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0})
    data.PixelData = np.zeros((16, 20, 3), "u2").tobytes()


def real_numbers(z, data):
    del data.PixelData
    data.FloatPixelData = np.zeros((16, 20), "f4").tobytes()


SERIES = {  # what is done to each slice; words of the message
    "gantry tilt": (tilted, ("gantry tilt of 12.0 degrees", "0.531391 mm per 2.5 mm", "dcm2niix")),
    "uneven spacing": (uneven, ("evenly spaced to 1%", "every 2.5 mm", "2.5 to 3.4 mm", "-102.5 mm) and")),
    "two echoes": (echoes, ("at one place", "6 such pairs", "EchoTime", "9.2", "4.6", "four axes")),
    "all at one place": (lambda z, data: place(data, z=5), ("at one place", "11 such pairs", "InstanceNumber")),
    "a slice shifted sideways": (only(4, lambda z, data: place(data, x=ORIGIN[0] + 0.3)), ("one grid", "0.3 mm sideways")),
    "a slice of another shape": (
        only(4, put(Rows=8, Columns=40)),
        ("same rows and columns", "16 x 20", "8 x 40", "out of the folder"),
    ),
    "a slice of another direction": (only(4, put(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])), ("same directions", "localizers")),
    "a slice of another spacing": (only(4, put(PixelSpacing=[0.9, 0.7])), ("same spacing", "(0.8, 0.7)", "(0.9, 0.7)")),
    "a slice of another frame of reference": (only(4, put(FrameOfReferenceUID="1.2.9")), ("same frame of reference", "1.2.9")),
    "no position": (drop("ImagePositionPatient"), ("where it lies", "no ImagePositionPatient")),
    "no orientation": (drop("ImageOrientationPatient"), ("where it lies", "no ImageOrientationPatient")),
    "a position of two numbers": (put(ImagePositionPatient=[1, 2]), ("ImagePositionPatient in 3 numbers", "[1.0, 2.0]")),
    "directions that are not at right angles": (put(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0]), ("right angles", "0.5")),
    "no pixel spacing": (drop("PixelSpacing"), ("PixelSpacing", "none", "--spacing Z,Y,X")),
    "no pixels": (drop("PixelData"), ("hold pixel data", "modality CT")),
    "colours": (colours, ("one value per voxel", "colours (RGB)")),
    "a palette": (put(PhotometricInterpretation="PALETTE COLOR"), ("colours (PALETTE COLOR)",)),
    "floating-point pixels": (real_numbers, ("whole numbers", "floating-point")),
    "a localizer": (only(0, put(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])), ("is a localizer", "Move it out")),
    "a lookup table": (put(ModalityLUTSequence=Items([Dataset()])), ("slope and intercept", "lookup table")),
    "frames without places": (put(NumberOfFrames=2), ("each of its 2 frames lies", "0 functional groups")),
    "high bits": (put(HighBit=15), ("lowest bits", "12 bits up to bit 15 of 16")),
    "a slope of two numbers": (put(RescaleSlope=[1, 2]), ("RescaleSlope in 1 number", "[1.0, 2.0]")),
    "fewer pixels than rows": (put(Rows=64), ("hold 2560 bytes of pixels", "holds 640")),
}


@pytest.mark.parametrize("case", SERIES)
def test_what_is_no_even_grid_of_slices_is_refused_by_name(tmp_path, case):
    alter, words = SERIES[case]
    write_series(tmp_path / "ct", alter=alter)
    check_refused(tmp_path / "ct", words)


def test_steps_that_grow_by_less_than_is_seen_from_one_to_the_next_are_refused(tmp_path):
    steps = np.cumsum(SPACING[0] * np.linspace(0.991, 1.009, 70))
    write_series(tmp_path / "ct", stored_values((70, 4, 4)), alter=lambda z, data: place(data, z=steps[z]))
    check_refused(tmp_path / "ct", ("on one grid to 0.1 voxel", "along the normal"))


def check_refused(folder: Path, words) -> None:
    for read in (open_volume, lambda url: ingest(url, str(folder.parent / "out.zarr"))):
        with pytest.raises(IngestError) as caught:
            read(str(folder))
        assert Answer(2, "", f"IngestError: {caught.value}\n").line
        assert [word for word in (*words, str(folder)) if word not in str(caught.value)] == []
    assert not (folder.parent / "out.zarr").exists()


def without(*lost):
    def damage(paths):
        for z in lost:
            paths[z].unlink()

    return damage


def copied(paths):
    shutil.copy(paths[3], paths[3].with_name("ZZZ"))


def cut(share):
    return lambda paths: paths[3].write_bytes(paths[3].read_bytes()[: int(paths[3].stat().st_size * share)])


def compressed(syntax, damage):
    def both(paths):
        stored_as(paths, syntax)
        damage(paths)

    return both


def named(name, content):
    return lambda paths: paths[0].with_name(name).write_bytes(content)


def renamed_syntax(uid):
    def damage(paths):
        for path in paths:
            data = pydicom.dcmread(path)
            data.file_meta.TransferSyntaxUID = uid
            data.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
            data["PixelData"].is_undefined_length = True
            data.save_as(path, enforce_file_format=True)

    return damage


FILES = {  # what is done to the files, in the order of z; words of the message
    "a missing slice": (without(5), ("1 of 12 are missing", "-110 mm) and", "-105 mm)", "every 2.5 mm")),
    "missing slices": (without(2, 6, 7), ("3 of 12 are missing", "-117.5 mm) and", "; between")),
    "a copy": (copied, ("one image twice", "'ZZZ'", "Remove the copies")),
    "a file cut in its pixels": (cut(0.8), ("truncated", "bytes of pixels are there")),
    "a file cut in its header": (cut(0.35), ("truncated or damaged", "its header stops")),
    "a file cut behind its UIDs": (cut(0.55), ("hold pixel data, and holds none",)),
    "a compressed file cut": (compressed("jpeg-ls", cut(0.8)), ("truncated", "piece of its pixels")),
    "text called .dcm": (named("a.dcm", b"hello"), ("a.dcm' is none",)),
    "an empty .dcm": (named("a.dcm", b""), ("a.dcm' is none",)),
    "deflated": (lambda paths: stored_as(paths, "deflated"), ("plain, JPEG", "Deflated Explicit VR", "gdcmconv --raw")),
    "video": (renamed_syntax("1.2.840.10008.1.2.4.102"), ("MPEG-4", "1.2.840.10008.1.2.4.102", "gdcmconv --raw")),
}


@pytest.mark.parametrize("case", FILES)
def test_missing_repeated_and_damaged_files_are_refused_by_name(tmp_path, case):
    damage, words = FILES[case]
    damage(write_series(tmp_path / "ct"))
    check_refused(tmp_path / "ct", words)


@pytest.mark.parametrize("syntax", ["jpeg baseline", "jpeg lossless", "jpeg-ls", "jpeg 2000 lossless", "rle"])
def test_a_damaged_frame_is_refused_or_decoded_and_never_ends_the_process(tmp_path, syntax):
    n_bits = 8 if syntax == "jpeg baseline" else 12
    paths = write_series(tmp_path / "ct", stored_values((2, 24, 30), n_bits=n_bits), n_bits=n_bits)
    stored_as(paths, syntax)
    data, rng, refusals = paths[1].read_bytes(), np.random.default_rng(0), []
    first = data.rfind(b"\xe0\x7f\x10\x00") + 36
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[rng.integers(first, min(len(data), first + 300))] = rng.integers(0, 256)
        paths[1].write_bytes(damaged)
        try:
            whole(open_volume(str(tmp_path / "ct")))
        except IngestError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert all(paths[1].name in text for text in refusals)


ENCODERS = {
    "jpeg lossless": (lambda plane: imagecodecs.jpeg8_encode(plane, lossless=True, bitspersample=12), "1.2.840.10008.1.2.4.70"),
    "jpeg-ls": JPEG_LS,
    "jpeg 2000": (lambda plane: imagecodecs.jpeg2k_encode(plane, level=0), "1.2.840.10008.1.2.4.90"),
}
FRAMES = {
    "cut": (lambda encode: lambda plane: encode(plane)[:-40], "stops before its end"),
    "of fewer rows": (lambda encode: lambda plane: encode(plane[:9]), r"its frame is \(9, 20\), and its header says \(16, 20\)"),
}


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("case", FRAMES)
def test_a_frame_that_is_not_what_its_file_says_is_refused(tmp_path, syntax, case):
    (encode, uid), (change, words) = ENCODERS[syntax], FRAMES[case]
    paths = write_series(tmp_path / "ct")
    encapsulated(paths, encode, uid)
    assert np.array_equal(whole(open_volume(str(tmp_path / "ct"))), stored_values().astype(int) - 1024)
    paths = write_series(tmp_path / "bad")
    encapsulated(paths, change(encode), uid)
    with pytest.raises(IngestError, match=words):
        whole(open_volume(str(tmp_path / "bad")))


def test_a_slice_that_is_gone_or_replaced_while_it_is_read_is_named(tmp_path):
    paths = write_series(tmp_path / "ct")
    volume = open_volume(str(tmp_path / "ct"))
    paths[4].unlink()
    with pytest.raises(IngestError, match=paths[4].name):
        whole(volume)
    paths[4].write_bytes(b"short")
    with pytest.raises(IngestError, match="truncated"):
        whole(volume)


def test_a_step_by_hand_must_be_that_of_the_positions(tmp_path):
    write_series(tmp_path / "ct", alter=drop("PixelSpacing"))
    assert [axis.spacing for axis in open_volume(f"{tmp_path}/ct#spacing=2.5,1,2").axes] == [2.5, 1, 2]
    with pytest.raises(IngestError, match=r"3 millimetre along z is not the 2\.5"):
        open_volume(f"{tmp_path}/ct#spacing=3,1,2")


def test_a_fingerprint_sees_voxels_and_places_and_not_names(tmp_path):
    write_series(tmp_path / "a")
    before = fingerprint(open_volume(str(tmp_path / "a")))
    (tmp_path / "b").mkdir()
    for number, path in enumerate(sorted((tmp_path / "a").iterdir())):
        shutil.copy(path, tmp_path / f"b/{number}.dcm")
    assert fingerprint(open_volume(str(tmp_path / "b"))) == before
    data = pydicom.dcmread(tmp_path / "b/3.dcm")
    data.PixelData = data.PixelData[:-2] + b"\1\2"
    data.save_as(tmp_path / "b/3.dcm")
    assert fingerprint(open_volume(str(tmp_path / "b"))) != before


def test_a_dicom_slide_is_a_slide_and_its_folder_no_series(tmp_path):
    (tmp_path / "s").mkdir()
    path = write_dicom(tmp_path / "s/a.dcm", noise(100, 120, 3))
    assert [axis.name for axis in open_volume(str(path)).axes] == ["c", "y", "x"]
    with pytest.raises(IngestError, match="whole-slide image"):
        open_volume(str(tmp_path / "s"))


def test_a_folder_above_series_names_one_of_them(tmp_path):
    (tmp_path / "study").mkdir()
    write_series(tmp_path / "study/S1")
    with pytest.raises(IngestError, match=r"Name one of the folders in it, as '.*study/S1'"):
        ingest(tmp_path / "study", str(tmp_path / "out.zarr"))


def test_an_ingested_series_equals_the_series_and_goes_on_after_a_break(tmp_path):
    stored_as(write_series(tmp_path / "ct", stored_values((40, 48, 50))), "jpeg-ls")
    options = {"chunk_shape": (16, 16, 16), "shard_shape": (32, 32, 32), "n_levels": 2}
    made = ingest(tmp_path / "ct", str(tmp_path / "a.zarr"), **options)
    source = open_volume(str(tmp_path / "ct"))
    assert np.array_equal(whole(made), whole(source))
    assert made.attributes["scan"] == source.attributes["scan"]
    assert made.axes == source.axes

    def stop(done, total, n_bytes):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "ct", str(tmp_path / "b.zarr"), progress=stop, **options)
    ingest(tmp_path / "ct", str(tmp_path / "b.zarr"), **options)
    assert checksums(tmp_path / "a.zarr") == checksums(tmp_path / "b.zarr")
