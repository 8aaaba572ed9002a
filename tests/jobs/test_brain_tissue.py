"""Tissue of a head: trained weights read as published, right however the scan lies, and millilitres that are true."""

import csv
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from engine.errors import WeightsError
from engine.geometry.region import Region
from engine.models.resampled import Resampled
from engine.storage.volume import open_volume
from tests.real_models import MESHNETS, T1, real

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import brain_tissue
import phantoms
from meshnet_weights import read_meshnet
from networks import MeshNet


def publish(folder, *, width=3, dilations=(1, 2), n_classes=3, activation="elu", seed=0):
    """Write a MeshNet as brainchop does, and return its kernels and biases as Keras has them."""
    chance = np.random.default_rng(seed)
    sizes = [(3, 3, 3, a, width) for a in (1, *[width] * (len(dilations) - 1))] + [(1, 1, 1, width, n_classes)]
    weights = [(chance.normal(0, 0.5, s).astype("<f4"), chance.normal(0, 0.1, s[-1]).astype("<f4")) for s in sizes]
    layers, entries = [{"class_name": "InputLayer", "config": {}}], []
    for i, ((kernel, _), dilation) in enumerate(zip(weights, (*dilations, 1), strict=True)):
        config = {"name": f"c{i}", "filters": kernel.shape[-1], "dilation_rate": [dilation] * 3}
        layers.append({"class_name": "Conv3D", "config": config})
        if i < len(dilations):
            layers.append({"class_name": "Activation", "config": {"activation": activation}})
        entries += [{"name": f"c{i}/kernel", "shape": list(kernel.shape)}, {"name": f"c{i}/bias", "shape": [kernel.shape[-1]]}]
    folder.mkdir(parents=True, exist_ok=True)
    described = {"modelTopology": {"model_config": {"config": {"layers": layers}}}, "weightsManifest": [{"weights": entries}]}
    (folder / "model.json").write_text(json.dumps(described))
    (folder / "model.bin").write_bytes(b"".join(part.tobytes() for pair in weights for part in pair))
    return weights


def by_scipy(x, weights, dilations):
    """The scores (class, *space) of a published network, layer by layer, from the kernels as Keras has them."""
    y = x[None].astype(np.float64)
    for i, (kernel, bias) in enumerate(weights):
        step = (*dilations, 1)[i]
        length = (kernel.shape[0] - 1) * step + 1
        found = []
        for out in range(kernel.shape[-1]):
            spread = np.zeros((length,) * 3)
            total = np.full(x.shape, float(bias[out]))
            for channel in range(kernel.shape[-2]):
                spread[::step, ::step, ::step] = kernel[..., channel, out]
                total += correlate(y[channel], spread, mode="constant")
            found.append(total)
        y = np.stack(found)
        if i < len(dilations):
            y = np.where(y > 0, y, np.expm1(np.minimum(y, 0)))
    return y


def network_of(folder):
    arguments, state = read_meshnet(folder)
    network = MeshNet(**arguments)
    network.load_state_dict(state)
    return network.eval()


def test_published_weights_give_what_their_keras_layers_give(tmp_path):
    weights = publish(tmp_path)
    x = np.random.default_rng(1).normal(size=(9, 10, 11)).astype(np.float32)
    wanted = by_scipy(x, weights, (1, 2))
    with torch.inference_mode():
        found = network_of(tmp_path)(torch.from_numpy(x)[None, None])[0].numpy()
    assert wanted.std() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def resized(folder, n):
    """Leave off the last ``n`` bytes of the weights, or add as many."""
    path = folder / "model.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-n] if n > 0 else data + bytes(-n))


DAMAGE = {
    "no weights": (lambda folder: (folder / "model.bin").unlink(), "cannot be read"),
    "weights cut off": (lambda folder: resized(folder, 8), "reshape"),
    "weights too many": (lambda folder: resized(folder, -4), "weights are described"),
    "another network": (lambda folder: (folder / "model.json").write_text("{}"), "KeyError"),
    "an activation that is unknown": (lambda folder: publish(folder, activation="selu"), "selu"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_folder_that_holds_no_meshnet_is_refused(tmp_path, name):
    damage, told = DAMAGE[name]
    publish(tmp_path)
    damage(tmp_path)
    with pytest.raises(WeightsError, match=told):
        read_meshnet(tmp_path)


def lying(codes):
    """A scan's voxels and affine where x, y and z run to ``codes``, of one head that never changes."""
    own = nibabel.Nifti1Image(OWN, np.array([[-1.0, 0, 0, 9], [0, 0, 1, -4], [0, -1, 0, 2], [0, 0, 0, 1]]))
    assert nibabel.aff2axcodes(own.affine) == tuple("LIA")
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    return own.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(own.affine), wanted))


OWN = np.random.default_rng(3).integers(0, 255, (14, 12, 13)).astype(np.uint8)


@pytest.mark.parametrize("codes", ["LIA", "RAS", "LPS", "AIL", "PSR"])
def test_labels_are_the_same_however_the_scan_lies_in_its_file(tmp_path, codes):
    publish(tmp_path / "net")
    image = lying(codes)
    assert nibabel.aff2axcodes(image.affine) == tuple(codes)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    scan = open_volume(str(tmp_path / "scan.nii.gz"))
    pipeline = brain_tissue.pipeline_for(scan, brain_tissue.Trained(tmp_path / "net", (0.0, 100.0)))
    voxels = torch.from_numpy(scan.read(Region.whole(scan.shape)).astype(np.float32))[None, None]
    pipeline.get_submodule("0").fit(voxels.reshape(-1, 1))
    with torch.inference_mode():
        found = pipeline(voxels)["tissues"][0].numpy()
        x = (OWN.astype(np.float32) - OWN.min()) / (OWN.max() - OWN.min())
        wanted = network_of(tmp_path / "net")(torch.from_numpy(x)[None, None])[0].argmax(0).numpy()
    back = nibabel.Nifti1Image(found.T, image.affine).as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple("LIA")))
    )
    assert min(np.bincount(wanted.ravel(), minlength=3)) > 20
    assert np.count_nonzero(np.asarray(back.dataobj) != wanted) == 0


def test_quantiles_are_those_of_numpy_and_what_lies_outside_goes_on():
    x = np.random.default_rng(4).gamma(2.0, 40.0, 1001).astype(np.float32)
    quantiles = brain_tissue.Quantiles(percentiles=(5.0, 95.0))
    quantiles.fit(torch.from_numpy(x)[:, None])
    found = quantiles(torch.from_numpy(x)[None, None])[0, 0].numpy()
    low, high = np.percentile(x, (5, 95))
    np.testing.assert_allclose(found, (x - low) / (high - low), atol=1e-5)
    assert found.min() < -0.01
    assert found.max() > 1.5


def run(monkeypatch, capsys, *arguments):
    """The job in this process: its exit code, and what it said, without the breaks that rich puts in."""
    monkeypatch.setattr(sys.modules["engine.learnt"], "SECONDS_PER_TIMING", 0.0)  # only how fast it is hangs on it
    monkeypatch.setattr(sys, "argv", ["brain_tissue.py", *map(str, arguments)])
    code = brain_tissue.main()
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split())


def test_a_made_up_head_is_measured_and_written_and_no_label_differs_from_one_pass(tmp_path, capsys, monkeypatch):
    size = 64
    code, said = run(monkeypatch, capsys, "--output", tmp_path, "--size", size, "--prove")
    assert code == 0
    assert "made up" in said
    assert f"0 of {size**3:,} labels changed" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        "head-64.nii.gz", "tissues.zarr", "tissues.csv", "tissues.nii.gz", "tissues.png",
    }  # fmt: skip
    spacing = (256 / size,) * 3
    _, truth = phantoms.head((size,) * 3, spacing)
    written = nibabel.load(tmp_path / "tissues.nii.gz")
    found = np.asarray(written.dataobj).T
    np.testing.assert_allclose(written.affine, nibabel.load(tmp_path / "head-64.nii.gz").affine, atol=1e-4)
    table = {int(row["label"]): row for row in csv.DictReader((tmp_path / "tissues.csv").read_text().splitlines())}
    for label, name in ((1, "white matter"), (2, "grey matter")):
        n, wanted = int((found == label).sum()), int((truth == label).sum())
        assert table[label]["name"] == name
        assert int(table[label]["voxels"]) == n
        assert float(table[label]["ml"]) == pytest.approx(n * spacing[0] ** 3 / 1000)
        assert 2 * ((found == label) & (truth == label)).sum() / (n + wanted) > 0.85
        assert f"{float(table[label]['ml']):,.1f} ml" in said


def test_a_second_run_replaces_what_the_first_wrote(tmp_path, capsys, monkeypatch):
    for size in (40, 48):
        code, _ = run(monkeypatch, capsys, "--output", tmp_path, "--size", size)
        assert code == 0
        assert nibabel.load(tmp_path / "tissues.nii.gz").shape == (size,) * 3


def test_a_coarser_scan_is_brought_to_a_millimetre_and_back(tmp_path):
    publish(tmp_path / "net")
    voxels, _ = phantoms.head((30, 40, 36), (6.0, 5.0, 5.0))
    phantoms.write_nifti(tmp_path / "scan.nii.gz", voxels.astype(np.uint8), (6.0, 5.0, 5.0))
    scan = open_volume(str(tmp_path / "scan.nii.gz"))
    trained = brain_tissue.Trained(tmp_path / "net", (5.0, 95.0))
    (grid,) = [part for part in brain_tissue.pipeline_for(scan, trained).modules() if isinstance(part, Resampled)]
    assert grid.spacing == (1.0,)
    near = phantoms.head((8, 8, 8), (1.01, 1.0, 0.99))[0].astype(np.uint8)
    phantoms.write_nifti(tmp_path / "near.nii.gz", near, (1.01, 1.0, 0.99))
    pipeline = brain_tissue.pipeline_for(open_volume(str(tmp_path / "near.nii.gz")), trained)
    assert not any(isinstance(part, Resampled) for part in pipeline.modules())


def test_a_real_scan_without_the_trained_network_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(brain_tissue.NETWORKS, 11, brain_tissue.Trained(tmp_path / "nowhere", (0.0, 100.0)))
    code, said = run(monkeypatch, capsys, "--output", tmp_path, "--scan", tmp_path / "t1.nii.gz")
    assert code != 0
    assert "nowhere" in said
    assert "model.json" in said


@pytest.mark.real
def test_the_trained_network_finds_white_matter_brighter_than_grey_in_the_real_head():
    real(f"models/{next(iter(MESHNETS))}")
    scan = open_volume(str(real(T1)))
    pipeline = brain_tissue.pipeline_for(scan, brain_tissue.NETWORKS[11])
    pipeline.get_submodule("0").fit(torch.tensor([[0.0], [255.0]]))
    voxels = scan.read(Region((100, 70, 90), (164, 134, 170)))
    with torch.inference_mode():
        found = pipeline(torch.from_numpy(voxels)[None, None].float())["tissues"][0].numpy()
    white, grey = (voxels[found == label].mean() for label in (1, 2))
    assert min(np.bincount(found.ravel(), minlength=3)) > 10_000
    assert white > grey + 15


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("network", "millilitres"), [(11, (493, 734)), (20, (596, 711))])
def test_the_whole_real_head_has_no_label_changed_and_believable_volumes(tmp_path, capsys, monkeypatch, network, millilitres):
    real(f"models/{list(MESHNETS)[0 if network == 11 else 1]}")
    code, said = run(monkeypatch, capsys, "--output", tmp_path, "--scan", real(T1), "--network", network, "--prove")
    assert code == 0
    assert f"0 of {256**3:,} labels changed" in said
    rows = list(csv.DictReader((tmp_path / "tissues.csv").read_text().splitlines()))
    assert [float(row["ml"]) for row in rows] == pytest.approx(millilitres, abs=1.0)
