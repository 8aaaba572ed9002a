"""DICOM SEG, read back by pydicom and highdicom: every frame on its own source image, at its own place."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from highdicom.seg import segread
from pydicom import dcmread

from engine.errors import UsageError, VolumeError
from engine.export.dicom_seg import export_dicom_seg
from engine.export.segments import Segment, read_segments
from engine.storage.ngff import PALETTE
from tests.export.scans import FLIPPED, SHAPE, STRAIGHT, balls, series, sheared, store, turned

AFFINES = {"straight": STRAIGHT, "flipped": FLIPPED, "oblique": turned(), "tilted gantry": sheared()}


def frames(path):
    """Every frame by pydicom alone: segment, UID of the source image, position, and its pixels, unpacked by hand."""
    one = dcmread(path)
    n_pixels = one.Rows * one.Columns
    bits = np.unpackbits(np.frombuffer(one.PixelData, np.uint8), bitorder="little")[: one.NumberOfFrames * n_pixels]
    shared = one.SharedFunctionalGroupsSequence[0]
    for groups, pixels in zip(one.PerFrameFunctionalGroupsSequence, bits.reshape(-1, one.Rows, one.Columns), strict=True):
        holder = groups if "SegmentIdentificationSequence" in groups else shared
        segment = holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        position = [float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient]
        yield segment, source.ReferencedSOPInstanceUID, position, pixels


def check(path, labels, scan, affine):
    """Compare a file with the labels that it was made of, plane by plane."""
    expected = {
        (number, scan["dicom"]["instances"][z]): labels[z] == label
        for number, label in enumerate(np.unique(labels[labels > 0]), 1)
        for z in range(len(labels))
        if (labels[z] == label).any()
    }
    assert len(expected) > 2
    found = {}
    for segment, uid, position, pixels in frames(path):
        found[segment, uid] = pixels
        z = scan["dicom"]["instances"].index(uid)
        np.testing.assert_allclose(position, (np.diag([-1, -1, 1, 1]) @ affine @ (0, 0, z, 1))[:3], atol=1e-4)
    assert found.keys() == expected.keys()
    for key, mask in expected.items():
        np.testing.assert_array_equal(found[key], mask)


@pytest.mark.parametrize("name", AFFINES)
def test_every_frame_lies_on_its_source_image(name, tmp_path):
    affine, labels = AFFINES[name], balls()
    scan = series(tmp_path / "series", affine)
    exported = export_dicom_seg(store(tmp_path / "l.zarr", labels, affine, scan=scan), tmp_path / "series", tmp_path / "seg.dcm")
    check(tmp_path / "seg.dcm", labels, scan, affine)
    n_frames = sum(len(np.unique(plane[plane > 0])) for plane in labels)
    assert exported.what == f"DICOM SEG, 3 segments in {n_frames} frames of series 4 THORAX 2.5 B30f"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.zarr", "seg.dcm", "series"]


def test_without_a_list_of_images_planes_are_found_by_position(tmp_path):
    labels = balls()
    scan = series(tmp_path / "series", turned(FLIPPED))
    bare = {"dicom": {k: v for k, v in scan["dicom"].items() if k != "instances"}}
    url = store(tmp_path / "l.zarr", labels, turned(FLIPPED), scan=bare)
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm")
    check(tmp_path / "seg.dcm", labels, scan, turned(FLIPPED))


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_a_volume_stored_the_other_way_round_is_turned_back(axes, tmp_path):
    """A NIfTI converter turns rows or planes around, and its affine with them: no label changes its side."""
    labels = balls()
    scan = series(tmp_path / "series", turned())
    turn = np.eye(4)
    for axis in axes:
        turn[2 - axis, 2 - axis], turn[2 - axis, 3] = -1, SHAPE[axis] - 1
    url = store(tmp_path / "l.zarr", np.flip(labels, axes).copy(), turned() @ turn)
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm")
    check(tmp_path / "seg.dcm", labels, scan, turned())


def test_one_label_on_images_whose_pixels_do_not_fill_whole_bytes(tmp_path):
    shape = (12, 19, 23)
    labels = balls(shape, n_labels=1)
    assert shape[1] * shape[2] % 8
    scan = series(tmp_path / "series", turned(), shape=shape)
    url = store(tmp_path / "l.zarr", labels, turned(), scan=scan)
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm")
    check(tmp_path / "seg.dcm", labels, scan, turned())


def test_highdicom_reads_the_labels_back_as_a_volume(tmp_path):
    labels = balls()
    scan = series(tmp_path / "series", turned())
    export_dicom_seg(store(tmp_path / "l.zarr", labels, turned(), scan=scan), tmp_path / "series", tmp_path / "seg.dcm")
    found = segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(scan["dicom"]["instances"], combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(found, labels)


def test_the_file_belongs_to_the_patient_the_study_and_the_series(tmp_path):
    scan = series(tmp_path / "series", STRAIGHT)
    url = store(tmp_path / "l.zarr", balls(), STRAIGHT, scan=scan)
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm")
    one, source = dcmread(tmp_path / "seg.dcm"), dcmread(next((tmp_path / "series").iterdir()))
    for name in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert one[name].value == source[name].value
    assert (one.Modality, one.SegmentationType, one.BitsAllocated) == ("SEG", "BINARY", 1)
    (referred,) = one.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID != one.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence} == set(scan["dicom"]["instances"])


def test_labels_keep_their_names_codes_and_colours_and_gaps_are_closed(tmp_path):
    labels = balls(n_labels=3, dtype="int32")
    labels[labels == 3] = 70000
    labels[labels == 2] = 9
    scan = series(tmp_path / "series", STRAIGHT)
    (tmp_path / "labels.json").write_text(
        json.dumps({"1": "spleen", "9": ["10200004", "SCT", "Liver"], "4": "not there"})
    )
    url = store(tmp_path / "l.zarr", labels, STRAIGHT, scan=scan)
    segments = read_segments(tmp_path / "labels.json")
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm", segments=segments)
    check(tmp_path / "seg.dcm", labels, scan, STRAIGHT)
    found = segread(tmp_path / "seg.dcm").SegmentSequence
    told = [
        (one.SegmentNumber, one.SegmentLabel, one.SegmentedPropertyTypeCodeSequence[0].CodeMeaning, one.SegmentDescription)
        for one in found
    ]
    assert told == [
        (1, "spleen", "Tissue", "label 1 of the label map"),
        (2, "Liver", "Liver", "label 9 of the label map"),
        (3, "label 70000", "Tissue", "label 70000 of the label map"),
    ]
    for one, label in zip(found, (1, 9, 70000), strict=True):
        lightness = one.RecommendedDisplayCIELabValue[0] / 65535 * 100
        assert lightness == pytest.approx(lightness_of(PALETTE[(label - 1) % 8]), abs=0.5)


def lightness_of(rgb):
    """L* of CIELAB, by its definition."""
    linear = [(v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4) for v in rgb]
    y = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return 116 * np.cbrt(y) - 16 if y > 0.008856 else 903.3 * y


def test_names_in_any_language_come_back(tmp_path):
    scan = series(tmp_path / "series", STRAIGHT)
    url = store(tmp_path / "l.zarr", balls(n_labels=2), STRAIGHT, scan=scan)
    segments = {1: Segment(1, "Hüftkopf 股骨頭"), 2: Segment(2, "left\\right " + 80 * "x")}
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm", segments=segments)
    found = [one.SegmentLabel for one in dcmread(tmp_path / "seg.dcm").SegmentSequence]
    assert found == ["Hüftkopf 股骨頭", "left/right " + 53 * "x"]


def test_slices_that_lie_a_little_off_their_grid_keep_their_own_positions(tmp_path):
    """Scanners round: a series is read as a grid where its slices lie off by a tenth of a voxel at most."""
    drift = np.random.default_rng(2).uniform(-0.09, 0.09, (SHAPE[0], 3)) * (0.8, 0.7, 2.5)
    scan = series(tmp_path / "series", STRAIGHT, drift=drift)
    export_dicom_seg(store(tmp_path / "l.zarr", balls(), STRAIGHT, scan=scan), tmp_path / "series", tmp_path / "seg.dcm")
    own = {one.SOPInstanceUID: one.ImagePositionPatient for one in map(dcmread, (tmp_path / "series").iterdir())}
    for _, uid, position, pixels in frames(tmp_path / "seg.dcm"):
        np.testing.assert_allclose(position, own[uid], atol=1e-6)
        assert pixels.any()


def test_a_localiser_in_the_series_is_passed_over(tmp_path):
    scan = series(tmp_path / "series", STRAIGHT)
    uid, frame = (scan["dicom"][name] for name in ("series_instance_uid", "frame_of_reference_uid"))
    series(tmp_path / "series" / "scout", turned(), shape=(1, 30, 50), uid=uid, frame=frame)
    url = store(tmp_path / "l.zarr", balls(), STRAIGHT, scan=scan)
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm")
    check(tmp_path / "seg.dcm", balls(), scan, STRAIGHT)


def test_more_than_255_segments_are_told_apart(tmp_path):
    shape = (9, 20, 24)
    labels = np.zeros(shape, "uint16")
    labels[2:8, ::2, ::4] = 5 * np.arange(1, 6 * 10 * 6 + 1).reshape(6, 10, 6)
    scan = series(tmp_path / "series", STRAIGHT, shape=shape)
    url = store(tmp_path / "l.zarr", labels, STRAIGHT, scan=scan)
    export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm")
    check(tmp_path / "seg.dcm", labels, scan, STRAIGHT)


def test_images_without_names_and_other_files_do_no_harm(tmp_path):
    """A folder as it comes: two series, notes, an older SEG; and the patient's attributes stripped altogether."""
    scan = series(tmp_path / "series", STRAIGHT)
    series(tmp_path / "series" / "other", STRAIGHT, seed=2)
    (tmp_path / "series" / "README.txt").write_text("not DICOM")
    for path in (tmp_path / "series").glob("IM*"):
        one = dcmread(path)
        for name in ("PatientID", "PatientName", "AccessionNumber", "StudyTime", "PatientSex", "SeriesNumber"):
            del one[name]
        one.save_as(path)
    url = store(tmp_path / "l.zarr", balls(), STRAIGHT, scan=scan)
    export_dicom_seg(url, tmp_path / "series", tmp_path / "series" / "seg.dcm")
    export_dicom_seg(url, tmp_path / "series", tmp_path / "again.dcm")
    check(tmp_path / "again.dcm", balls(), scan, STRAIGHT)


# Refused, by name.


@pytest.fixture
def place(tmp_path):
    """A series, and how to store labels of it that differ in something."""
    scan = series(tmp_path / "series", STRAIGHT)

    def stored(labels=None, affine=STRAIGHT, **changed):
        said = {"dicom": {**scan["dicom"], **changed}}
        return store(tmp_path / "l.zarr", balls() if labels is None else labels, affine, scan=said)

    return stored


def shifted(affine, along_x):
    found = affine.copy()
    found[0, 3] += along_x
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"series_instance_uid": "1.2.3"}, r"is of series 1\.2\.3, and '.*series' holds .*\(CT, 10 images\)\. Name the folder"),
        ({"frame_of_reference_uid": "1.2.3"}, r"has frame of reference 1\.2\.3, and the series has"),
        ({"labels": balls((9, 20, 24)), "affine": shifted(STRAIGHT, 400)}, "plane z 0 .* must lie on an image"),
        ({"labels": balls((11, 20, 24))}, "is 11 x 20 x 24 .* the series has 10 images of 20 x 24"),
        ({"labels": balls((10, 20, 23))}, "is 10 x 20 x 23"),
        ({"labels": balls((10, 24, 20))}, "is 10 x 24 x 20"),
        ({"affine": shifted(STRAIGHT, 0.3)}, r"lies 0\.3 mm away"),
        ({"affine": turned()}, "must lie on an image"),
        ({"labels": np.zeros(SHAPE, "uint8")}, "holds only background"),
        ({"labels": -balls().astype("int16")}, "must not be negative"),
        ({"labels": balls().astype("float32")}, "label map of whole numbers .* is float32"),
        ({"affine": None}, "no attribute 'scan' with an affine"),
    ],
)
def test_labels_that_do_not_lie_on_the_series_are_refused(changes, message, place, tmp_path):
    with pytest.raises((UsageError, VolumeError), match=message):
        export_dicom_seg(place(**changes), tmp_path / "series", tmp_path / "seg.dcm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.zarr", "series"]


def test_a_mirrored_list_of_images_is_refused(place, tmp_path):
    """The list and the affine must agree: one of them is wrong, and nobody knows which."""
    scan = series(tmp_path / "series", STRAIGHT, seed=3, uid="1.2.3", frame="1.2.4")
    backwards = dict(scan["dicom"], instances=scan["dicom"]["instances"][::-1])
    with pytest.raises(VolumeError, match="plane z 0 of the label map .* must lie on an image"):
        export_dicom_seg(place(**backwards), tmp_path / "series", tmp_path / "seg.dcm")


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def multi_frame(folder):
    path = next(folder.iterdir())
    one = dcmread(path)
    one.NumberOfFrames = 2
    one.save_as(path)


def without_position(folder):
    path = next(folder.iterdir())
    one = dcmread(path)
    del one.ImagePositionPatient
    one.save_as(path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "the folder of the source's DICOM files is wanted, and '.*' is none"),
        (emptied, "DICOM images are wanted, and '.*' holds none"),
        (without_position, "lacks ImagePositionPatient"),
        (multi_frame, r"images of one frame each .* holds 2 frames\. Export NIfTI instead"),
        (lambda folder: next(folder.iterdir()).unlink(), "is 10 x 20 x 24 .* the series has 9 images"),
    ],
)
def test_a_wrong_folder_is_refused(harm, message, place, tmp_path):
    url = place()
    harm(tmp_path / "series")
    with pytest.raises((UsageError, VolumeError), match=message):
        export_dicom_seg(url, tmp_path / "series", tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_two_series_and_labels_that_do_not_know_theirs_are_refused(tmp_path):
    for seed in (1, 2):
        series(tmp_path / "series" / str(seed), STRAIGHT, seed=seed)
    with pytest.raises(UsageError, match="one series is wanted, and '.*' holds 2: .*which is its own"):
        export_dicom_seg(store(tmp_path / "l.zarr", balls(), STRAIGHT), tmp_path / "series", tmp_path / "seg.dcm")


def test_a_full_disk_leaves_nothing(place, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(UsageError, match=r"cannot write '.*seg\.dcm': no space is left on the device\. Free some"):
            export_dicom_seg(place(), tmp_path / "series", disk / "seg.dcm")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "must name labels"),
        ("a.json", '{"one": "liver"}', "must name labels"),
        ("a.json", '{"1": ["10200004", "SCT"]}', r"a code is \[value, scheme, meaning\]"),
        ("a.json", '{"1": ""}', "must name labels"),
        ("a.json", "[1]", "must name labels"),
        ("a.csv", "number,name\n1,liver\n", "must name labels"),
        ("b.json", None, "No such file"),
    ],
)
def test_names_that_cannot_be_read_are_refused(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_segments(tmp_path / name)


def test_names_are_read_from_csv_and_from_objects(tmp_path):
    liver = Segment(1, "liver", ("10200004", "SCT", "Liver"))
    (tmp_path / "a.csv").write_text("label,name,code,scheme,meaning\n1,liver,10200004,SCT,Liver\n2,tumour,,,\n")
    assert read_segments(tmp_path / "a.csv") == {1: liver, 2: Segment(2, "tumour")}
    organ = ["91772007", "SCT", "Organ"]
    value = {"1": {"name": "liver", "code": list(liver.code), "category": organ}, "2": {"name": "tumour"}}
    (tmp_path / "a.json").write_text(json.dumps(value))
    found = read_segments(tmp_path / "a.json")
    assert found == {1: Segment(1, "liver", liver.code, tuple(organ)), 2: Segment(2, "tumour")}
