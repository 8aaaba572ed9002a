"""Bone and gas in CT: the card tells the truth, and labels come back on the scan's grid, whatever it came as."""

import csv
import hashlib
import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from safetensors.torch import load_file

from engine.geometry.region import Region
from engine.storage.volume import open_volume
from tests.real_models import CT, real

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import organ_ct
import organ_unet
import phantoms
import train_organs
from organ_unet import BONE, GAS

CARD = organ_unet.WEIGHTS.with_suffix(".md")
SHAPE, SPACING = (26, 60, 76), (6.0, 4.5, 4.5)
FINE = (60, 90, 114), (3.0, 3.0, 3.0)
STONE = (-10, -25, -55)


def whole(voxels, spacing):
    """The labels of a scan (z, y, x) by one pass of the trained network over all of it."""
    unet = organ_unet.network()
    unet.load_state_dict(load_file(organ_unet.WEIGHTS))
    pipeline = organ_unet.scores(train_organs.Extended(unet)).eval()
    *_, resampled = pipeline.children()
    resampled.source_spacing = spacing
    with torch.inference_mode():
        return pipeline(torch.from_numpy(np.array(voxels, np.float32))[None, None])[0].argmax(0).numpy()


def dice(found, truth, label):
    hit = ((found == label) & (truth == label)).sum()
    return 2 * hit / ((found == label).sum() + (truth == label).sum())


def run(monkeypatch, capsys, *arguments):
    """The job in this process: its exit code, and what it said, without the breaks that rich puts in."""
    monkeypatch.setattr(sys.modules["engine.learnt"], "SECONDS_PER_TIMING", 0.0)  # only how fast it is hangs on it
    monkeypatch.setattr(sys, "argv", ["organ_ct.py", *map(str, arguments)])
    code = organ_ct.main()
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split())


def test_the_card_names_the_weights_by_size_and_hash():
    size, sha256 = re.search(r"safetensors, ([\d,]+) bytes, sha256 ([0-9a-f]{64})", CARD.read_text()).groups()
    data = organ_unet.WEIGHTS.read_bytes()
    assert int(size.replace(",", "")) == len(data) < 2_000_000
    assert sha256 == hashlib.sha256(data).hexdigest()


def test_the_rule_of_the_labels_tells_gas_from_the_room_and_bone_from_a_stone():
    hu, truth = phantoms.trunk(*FINE)
    hu = hu.astype(np.float32)
    found, bare = train_organs.labels(hu, spacing=3.0), train_organs.threshold(hu)
    stone = tuple(round(mm / step + (n - 1) / 2) for mm, step, n in zip(STONE, FINE[1], FINE[0], strict=True))
    marrow = (truth == BONE) & (hu < train_organs.DIM)
    assert dice(found, truth, GAS) > 0.99
    assert dice(bare, truth, GAS) < 0.5
    assert dice(found, truth, BONE) > 0.75  # what is enclosed is more than the marrow
    assert (found[marrow] == BONE).mean() > 0.99
    assert not (bare[marrow] == BONE).any()
    assert (found[0, -1, 0], bare[0, -1, 0]) == (0, GAS)
    assert (found[stone], bare[stone]) == (0, BONE)


def test_training_repeats_its_weights_to_the_bit_and_learns(monkeypatch):
    monkeypatch.setattr(train_organs, "CROP", (8, 24, 24))
    hu, truth = phantoms.trunk((12, 36, 48), (8.0, 8.0, 8.0))
    parts = [(hu.astype(np.float32), truth)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, again = (train_organs.train(parts, spacing=8.0, n_steps=3).state_dict() for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    torch.manual_seed(train_organs.SEED)
    untrained = organ_unet.network().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], untrained[name]) for name in first if name.endswith("weight"))


def test_crops_are_of_one_size_hold_what_is_looked_for_and_turn_with_their_labels():
    _, truth = phantoms.trunk(*FINE)
    told = truth * 1000.0  # a scan that says its own labels
    chance = np.random.default_rng(0)
    parts = [(told[:24].astype(np.float32), truth[:24]), (told[30:].astype(np.float32), truth[30:])]
    seen, there = np.zeros(3), sum(np.bincount(labels.ravel(), minlength=3) for _, labels in parts)
    for _ in range(12):
        x, y = train_organs.crops(parts, chance)
        assert x.shape == (train_organs.BATCH, 1, *train_organs.CROP)
        assert y.shape == (train_organs.BATCH, *train_organs.CROP)
        assert np.corrcoef(x.numpy().ravel(), y.numpy().ravel())[0, 1] > 0.98
        seen += np.bincount(y.numpy().ravel(), minlength=3)
    assert (seen[1:] / seen.sum() > 1.2 * there[1:] / there.sum()).all()


def test_a_dicom_series_gets_labels_on_its_own_images_and_files_that_agree(tmp_path, capsys, monkeypatch):
    hu, _ = phantoms.trunk(SHAPE, SPACING)
    phantoms.write_dicom(tmp_path / "series", hu, SPACING)
    voxels = open_volume(str(tmp_path / "series")).read(Region.whole(SHAPE))
    assert np.array_equal(voxels, hu[:, ::-1, ::-1])  # its columns and rows run to the left and to the back
    code, said = run(monkeypatch, capsys, tmp_path / "series", "--output", tmp_path / "out")
    assert code == 0, said
    assert "exact, geometry proved" in said
    assert f"jump {2 ** (len(organ_unet.WIDTHS) - 1)}" in said
    image = nibabel.load(tmp_path / "out" / "organs.nii.gz")
    found = np.asarray(image.dataobj).T
    wanted = whole(voxels, SPACING)
    assert min(np.bincount(wanted.ravel(), minlength=3)) > 100
    assert np.count_nonzero(found != wanted) == 0

    n_z, n_y, n_x = SHAPE
    here = np.array([(0, 0, 0), (3, 1, 2), (n_x - 1, n_y - 1, n_z - 1)])
    there = (n_x - 1, n_y - 1, 0) + here * (-1, -1, 1)
    places = [nibabel.affines.apply_affine(a, p) for a, p in ((image.affine, here), (phantoms.affine_of(SHAPE, SPACING), there))]
    np.testing.assert_allclose(*places, atol=1e-3)

    table = list(csv.DictReader((tmp_path / "out" / "organs.csv").read_text().splitlines()))
    counts = {int(row["label"]): int(row["voxels"]) for row in table}
    assert counts == {label: int((found == label).sum()) for label in (GAS, BONE)}
    for row in table:
        assert float(row["ml"]) == pytest.approx(int(row["voxels"]) * np.prod(SPACING) / 1000)

    seg = pydicom.dcmread(tmp_path / "out" / "organs.dcm")
    source = pydicom.dcmread(tmp_path / "series" / "0000.dcm", stop_before_pixels=True)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["gas in the body", "bone"]
    numbers = [
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in seg.PerFrameFunctionalGroupsSequence
    ]
    frames = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    frames = frames[: len(numbers) * SHAPE[1] * SHAPE[2]].reshape(len(numbers), -1).sum(1)
    for number, label in ((1, GAS), (2, BONE)):
        assert frames[np.array(numbers) == number].sum() == counts[label]
    assert (tmp_path / "out" / "organs.png").stat().st_size > 10_000


def test_without_the_real_scan_a_trunk_is_made_up_as_dicom(tmp_path, monkeypatch):
    monkeypatch.setattr(organ_ct, "CT", tmp_path / "nowhere.nii.gz")
    monkeypatch.setattr(organ_ct, "PHANTOM", ((6, 20, 24), (20.0, 14.0, 14.0)))
    for _ in range(2):  # the second takes the place of the first
        series = organ_ct.example(tmp_path)
        assert open_volume(series).shape == (6, 20, 24)
        assert len(list(Path(series).iterdir())) == 6


def test_a_scan_that_is_not_there_is_refused_in_a_line(tmp_path, capsys, monkeypatch):
    code, said = run(monkeypatch, capsys, tmp_path / "none.nii.gz", "--output", tmp_path)
    assert code != 0
    assert "none.nii.gz" in said
    assert not (tmp_path / "organs.zarr").exists()


@pytest.mark.real
def test_on_the_slab_that_was_held_out_it_is_as_good_as_its_card_says():
    hu, spacing = train_organs.read(real(CT))
    truth = train_organs.labels(hu, spacing=spacing)
    first, last = map(int, re.search(r"\| planes (\d+) to (\d+) \|", CARD.read_text()).groups())
    told = re.search(r"\| the network, shown the slab alone \| (.*) \|", CARD.read_text()).group(1).split(" | ")
    found = whole(hu[first : last + 1], (spacing,) * 3)
    values = train_organs.measures(found, truth[first : last + 1])
    assert values == pytest.approx([float(value) for value in told], abs=0.002)
    bare = train_organs.measures(train_organs.threshold(hu)[first : last + 1], truth[first : last + 1])
    assert all(values[i] > bare[i] for i in (0, 3))  # Dice of gas and of bone


@pytest.mark.slow
@pytest.mark.real
def test_the_real_scan_has_no_label_other_than_one_pass_over_all_of_it_gives(tmp_path, capsys, monkeypatch):
    code, said = run(monkeypatch, capsys, real(CT), "--output", tmp_path)
    assert code == 0, said
    image = nibabel.load(real(CT))
    wanted = whole(np.asarray(image.dataobj, np.float32).T, (3.0, 3.0, 3.0))
    found = nibabel.load(tmp_path / "organs.nii.gz")
    assert np.count_nonzero(wanted != np.asarray(found.dataobj).T) == 0
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
