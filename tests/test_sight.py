"""What a run sees of its source: the resolution of a slide, how long tiles had best be, and statistics."""

import json
from math import prod
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import zarr

import engine
from engine.errors import ModelError, ResolutionError, VolumeError
from engine.models.intensity import Clip, MinMax, Window
from engine.models.load import load_model
from engine.models.stain import Macenko
from engine.models.wrappers import Compose
from engine.models.zscore import ZScore
from engine.plan_json import plan_to_json
from engine.runtime import statistics
from engine.sight import CORES, Sight, at_resolution, sight, tissue_pixels
from engine.storage.volume import Volume, open_volume
from tests.slides import picture, write_slide
from tests.stored import checksums, smooth, store, stored

CT = Path(__file__).parents[2] / "shared" / "data" / "ct" / "totalsegmentator_example_ct.nii.gz"


class Declares(torch.nn.Module):
    def __init__(self, mpp=None):
        super().__init__()
        if mpp is not None:
            self.mpp = mpp

    def forward(self, x):
        return x.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return str(write_slide(tmp_path_factory.mktemp("slides") / "slide.tiff", picture(600, 800)))


@pytest.mark.parametrize(
    ("declared", "asked", "shape"),
    [
        (None, None, (3, 600, 800)),  # nobody says: as the slide is
        (1.0, None, (3, 300, 400)),  # the model says
        (1.0, 0.5, (3, 600, 800)),  # the user's word goes first
        (0.51, None, (3, 600, 800)),  # near enough: nothing is resampled
        (None, 2.0, (3, 150, 200)),
    ],
)
def test_the_model_says_at_which_resolution_a_slide_is_read_unless_the_user_does(slide, declared, asked, shape):
    url = at_resolution(slide, load_model(Declares(declared)), mpp=asked)
    assert open_volume(url).shape == shape


def test_a_slide_that_is_too_coarse_is_refused_and_so_are_parts_that_want_different_resolutions(slide):
    with pytest.raises(ResolutionError, match="none is fine enough"):
        at_resolution(slide, load_model(Declares(0.25)), mpp=None)
    with pytest.raises(ModelError, match="made for one resolution"):
        at_resolution(slide, load_model(torch.nn.Sequential(Declares(1.0), Declares(0.5))), mpp=None)


def brute_force(cells, cell, core, lost):
    """Voxels computed per voxel of the source, counted square by square."""
    step = core // cell
    squares = [
        cells[y : y + step, x : x + step] for y in range(0, cells.shape[0], step) for x in range(0, cells.shape[1], step)
    ]
    touched = sum(square.size for square in squares if square.any())
    return touched / cells.size * prod((core + n) / core for n in lost)


@pytest.mark.parametrize("seed", range(6))
def test_tiles_are_as_long_as_background_and_halo_together_make_cheapest(seed):
    chance = np.random.default_rng(seed)
    cells = np.zeros((200, 260), bool)
    for _ in range(int(chance.integers(1, 40))):
        y, x, size = chance.integers(0, 200), chance.integers(0, 260), chance.integers(2, 60)
        cells[y : y + size, x : x + size] = True
    lost = (int(chance.integers(2, 300)),) * 2
    found = Sight("a", "auto", (32, 32), cells, {}).best_core(lost)
    costs = {core: brute_force(cells, 32, core, lost) for core in CORES}
    assert len({round(cost, 6) for cost in costs.values()}) > 1
    assert costs[found] == pytest.approx(min(costs.values()))


def test_all_of_a_slide_has_no_best_core(slide):
    assert sight(slide, load_model(Declares())).best_core((10, 10)) is None


# ---- statistics of volumes that are no slides ------------------------------------------------------------------------

OPTIONS = engine.Options(threads=2, batch=1, tile=(16, 16, 16), block=(16, 16, 16))


def network():
    """A window, a z-score that is fitted, and a small network."""
    torch.manual_seed(0)
    return Compose(Window(50, 900), ZScore(), torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.ReLU())


def hounsfield(shape=(30, 32, 34), *, seed=0):
    field = smooth(shape, seed=seed)
    return np.where(field < -0.5, -1024, field * 300 + 100).astype(np.int16)


def by_hand(array, module=None):
    """The network over the whole array, with the statistics of the whole array."""
    window, _, *rest = (module or network()).children()
    x = window(torch.from_numpy(array.astype(np.float32))[None, None])
    values = x.double()
    x = (x - values.mean().float()) / values.std(correction=0).float()
    with torch.inference_mode():
        for part in rest:
            x = part(x)
    return x[0].numpy()


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return store(tmp_path_factory.mktemp("scans") / "scan.zarr", hounsfield(), "zyx", chunk=10)


@pytest.fixture(scope="module")
def fitted(scan, tmp_path_factory):
    """A run of a pipeline that is fitted to its scan."""
    url = str(tmp_path_factory.mktemp("runs") / "out.zarr")
    report = engine.run(scan, network(), url, options=OPTIONS, n_certified=2)
    assert report.is_complete
    return report


def test_a_scan_is_run_with_the_statistics_of_all_its_voxels(fitted):
    wanted = by_hand(hounsfield())
    assert fitted.plan.graph.n_blocks > 4
    assert fitted.plan.geometry.evidence == "proved"
    assert wanted.std() > 0.1
    assert np.abs(stored(fitted.url) - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_the_constants_are_in_the_plan_and_a_worker_gets_their_bits(scan, fitted, tmp_path):
    values = fitted.plan.model.constants
    window = Window(50, 900)(torch.from_numpy(hounsfield().astype(np.float32))[None]).double()
    assert values == {
        "model.1.mean": [float(window.mean().float())],
        "model.1.std": [float(window.std(correction=0).float())],
    }
    plan = json.loads(json.dumps(plan_to_json(fitted.plan)))
    other = engine.run(scan, network(), str(tmp_path / "out.zarr"), plan=plan, n_certified=0)
    assert checksums(other.url) == checksums(fitted.url)


def test_real_hounsfield_units_are_normalised_by_all_of_them(tmp_path):
    if not CT.exists():
        pytest.skip("the real CT is not beside the repository")
    array = np.asarray(nibabel.load(CT).dataobj).astype(np.int16)[:60, :60, :60]
    url = store(tmp_path / "ct.zarr", np.ascontiguousarray(array), "zyx", chunk=32)
    report = engine.run(url, network(), str(tmp_path / "out.zarr"), options=OPTIONS, n_certified=0)
    wanted = by_hand(array)
    assert wanted.std() > 0.1
    assert np.abs(stored(report.url) - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("dtype", "axes", "n_passes"),
    [
        ("int16", {"z": 20, "y": 21, "x": 22}, 1),  # whole numbers: the histogram says all
        ("float32", {"z": 20, "y": 21, "x": 22}, 1),  # few values, for it is small
        ("int16", {"t": 2, "z": 20, "y": 21, "x": 22}, 1),
        ("int16", {"c": 2, "z": 20, "y": 21, "x": 22}, 3),  # channels: two for the percentiles, one for the z-score
        ("uint8", {"c": 3, "y": 40, "x": 50}, 3),  # RGB of no known unit: no slide
        ("int16", {"y": 40, "x": 50}, 1),
    ],
)
def test_a_volume_is_read_as_often_as_it_must_be(tmp_path, monkeypatch, dtype, axes, n_passes):
    array = (smooth(tuple(axes.values())) * 40 + 120).astype(dtype)
    names, n_channels = tuple(axes), axes.get("c", 1)
    n_read, read = [0], Volume.read

    def counted(volume, region, *, level=0):
        n_read[0] += region.n_voxels
        return read(volume, region, level=level)

    monkeypatch.setattr(Volume, "read", counted)
    model = load_model(Compose(MinMax(n_channels, percentiles=(1, 99)), ZScore(n_channels)))
    told = []
    found = sight(store(tmp_path / "a.zarr", array, names, chunk=8), model, tell=told.append)
    assert n_read[0] == n_passes * array.size
    assert told[0] == "fitting the model's statistics in a pass over the volume"
    own = np.moveaxis(array, names.index("c"), 0).reshape(n_channels, -1) if n_channels > 1 else array.reshape(1, -1)
    assert np.allclose(found.constants["model.0.high"], np.percentile(own.astype(float), 99, axis=1), rtol=1e-6)


def test_a_float_volume_of_many_values_is_fitted_in_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "MOST_VALUES", 1000)
    array, told = smooth((20, 21, 22)) * 40 + 120, []
    model = load_model(Compose(MinMax(), ZScore()))
    found = sight(store(tmp_path / "a.zarr", array, "zyx"), model, tell=told.append)
    assert len(told) == 2
    assert "too many different values" in told[1]
    assert found.constants["model.0.low"] == [float(array.min())]
    assert found.constants["model.1.std"] == pytest.approx([(array.astype(float) / np.ptp(array)).std()], rel=1e-5)


def test_voxels_that_are_not_finite_are_refused_or_left_out(tmp_path):
    array = smooth((20, 21, 22))
    array[3, 4, 5] = np.nan
    url = store(tmp_path / "a.zarr", array, "zyx")
    with pytest.raises(VolumeError, match="first at z 3, y 4, x 5"):
        sight(url, load_model(ZScore()))
    found = sight(url, load_model(ZScore()), nan="keep")
    assert found.constants["model.mean"] == [float(np.float32(np.nanmean(array.astype(float))))]


def test_a_bare_array_is_opened_by_the_axes_that_are_given(tmp_path):
    array = hounsfield((8, 9, 10))
    zarr.create_array(store=str(tmp_path / "bare.zarr"), data=array)
    found = sight(str(tmp_path / "bare.zarr"), load_model(ZScore()), axes="zyx")
    assert found.constants["model.mean"] == [float(np.float32(array.astype(float).mean()))]


@pytest.mark.parametrize(
    ("model", "array", "said"),
    [
        (lambda: Compose(Clip(-10, 10), Macenko()), hounsfield(), r"'1' \(Macenko\) is fitted to the tissue of a slide"),
        (ZScore, np.full((9, 9, 9), 7, np.int16), "over 729 voxels channel 0 is always 7"),
        (lambda: ZScore(2), hounsfield(), "made for 2 channels, not 1"),
        (lambda: ZScore(foreground=9000.0), hounsfield(), "finite voxels above 9000, and channel 0"),
        (lambda: Compose(torch.nn.AvgPool3d(3, 1, 1), ZScore()), hounsfield(), r"'0' \(AvgPool3d\) fails on voxels taken one"),
        (lambda: Compose(torch.nn.Conv3d(1, 1, 3, padding=1), ZScore()), hounsfield(), r"what follows '0' \(Conv3d\) needs"),
    ],
)
def test_what_cannot_be_fitted_is_refused(tmp_path, model, array, said):
    with pytest.raises(ModelError, match=said):
        sight(store(tmp_path / "a.zarr", array, "zyx"), load_model(model()))


def test_a_slide_is_fitted_to_its_tissue_and_not_to_its_glass(tmp_path):
    pixels = picture(1200, 1600)
    slide = str(write_slide(tmp_path / "slide.tiff", pixels))
    found = sight(slide, load_model(ZScore(3))).constants
    tissue = tissue_pixels(slide, None, cell=()).double()
    assert np.allclose(found["model.mean"], tissue.mean(0), rtol=1e-6)
    assert np.allclose(found["model.std"], tissue.std(0, correction=0), rtol=1e-6)
    assert np.abs(np.array(found["model.mean"]) - pixels.reshape(-1, 3).mean(0)).min() > 3
