"""Levels by micrometre per pixel: which is read, how it shrinks, and that no block border shows."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from torch import nn

import engine
from engine.errors import EngineError, ResumeError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.prepare import Options
from engine.storage import scaled
from engine.storage.create import create_volume
from engine.storage.fingerprint import fingerprint
from engine.storage.pyramid import reduce_mean
from engine.storage.resample import Shrink, area_mean
from engine.storage.source_url import moved, parse_source
from engine.storage.view import at_mpp, without_mpp
from engine.storage.volume import open_volume
from tests.storage.slide_files import halved, noise, write_aperio, write_pyramid
from tests.storage.test_slide_levels import DATA, REAL, read, some_regions
from tests.stored import stored, whole


def dense(n: int, ratio: float) -> np.ndarray:
    """The share of each fine voxel in each coarse one, written out: an oracle that knows no blocks."""
    coarse, fine = np.arange(np.ceil(n / ratio - 1e-6))[:, None], np.arange(n)
    matrix = np.clip(np.minimum((coarse + 1) * ratio, fine + 1) - np.maximum(coarse * ratio, fine), 0, None)
    return matrix / matrix.sum(axis=1, keepdims=True)


def shrunk(pixels: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    y, x = dense(pixels.shape[1], ratio[0]), dense(pixels.shape[2], ratio[1])
    return y @ pixels.astype(np.float64) @ x.T


def volume_of(array: np.ndarray, path: Path, *, step=(0.5, 0.5), unit="micrometer", names="cyx", n_levels=1) -> str:
    steps = dict(zip("yx", step, strict=True))
    roles = {"c": Role.CHANNEL, "t": Role.BATCH}
    axes = [Axis(n, roles.get(n, Role.SPACE), steps.get(n, 1.0), unit if n in "yx" else None) for n in names]
    made = create_volume(
        str(path), axes=axes, dtype=array.dtype, shape=array.shape, chunk_shape=array.shape, n_levels=n_levels
    )
    for level in range(n_levels):
        made.write(Region.whole(array.shape), array, level=level)
        array = reduce_mean(array, [2 if n in "zyx" else 1 for n in names])
    return str(path)


RATIOS = {  # wanted micrometre per pixel of a slide of 0.499, along y and x
    "whole": (0.998, 0.998),
    "barely more than two": (1.0, 1.0),
    "between": (0.7, 0.7),
    "unequal": (0.7, 1.3),
    "large": (9.3, 9.3),
    "one axis as it is": (0.499, 1.1),
    "larger than the slide": (500, 500),
}


@pytest.mark.parametrize("case", RATIOS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_any_region_has_the_bits_of_the_whole_and_equals_weights_written_out(tmp_path, case, dtype):
    pixels = noise(3, 203, 301, dtype=dtype)
    url = at_mpp(volume_of(pixels, tmp_path / "a.zarr", step=(0.499, 0.499)), RATIOS[case])
    volume = open_volume(url)
    found, oracle = read(volume), shrunk(pixels, tuple(step / 0.499 for step in RATIOS[case]))
    assert pixels.std() > 0
    assert found.dtype == dtype
    assert found.shape == oracle.shape
    close = {"uint8": 0.501, "uint16": 0.5 + 1e-6, "float32": 1e-4}[dtype]
    assert np.abs(found - oracle).max() <= close
    for region in some_regions(found.shape, n=20):
        assert np.array_equal(volume.read(region), found[region.slices])
    for i in range(min(found.shape[1:])):  # one voxel at a time, as numpy sums them otherwise
        assert np.array_equal(volume.read(Region((0, i, i), (3, i + 1, i + 1)))[:, 0, 0], found[:, i, i])
    assert [axis.spacing for axis in volume.axes[1:]] == pytest.approx(RATIOS[case], rel=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "bool"])
def test_whole_ratios_are_the_means_of_the_pyramid(tmp_path, dtype):
    voxels = noise(1, 201, 303, dtype="uint8" if dtype == "bool" else dtype)
    voxels = voxels > 100 if dtype == "bool" else voxels
    for factor in (2, 3, 16):
        shrinks = (None, Shrink(float(factor), 201), Shrink(float(factor), 303))
        oracle = reduce_mean(voxels, (1, factor, factor))
        found = area_mean(voxels, shrinks, starts=(0, 0, 0), stops=oracle.shape)
        assert oracle.std() > 0
        assert np.array_equal(found, oracle)


def test_a_border_voxel_is_the_mean_of_what_is_there(tmp_path):
    pixels = np.zeros((1, 5, 5), np.float32)
    pixels[..., 4:] = 8
    url = volume_of(pixels, tmp_path / "a.zarr", step=(1.0, 1.0))
    assert read(open_volume(at_mpp(url, 2.0)))[0, 0].tolist() == [0, 0, 8]
    assert read(open_volume(at_mpp(url, 1.5)))[0, 0].tolist() == pytest.approx([0, 0, 8 * 0.5 / 1.5, 8])
    assert read(open_volume(at_mpp(url, 2.5)))[0, 0].tolist() == pytest.approx([0, 8 / 2.5])


def test_infinity_and_nan_stay_where_they_are(tmp_path):
    pixels = noise(1, 20, 30, dtype="float32")
    pixels[0, 4, 8], pixels[0, 9, 9] = np.inf, np.nan
    found = read(open_volume(at_mpp(volume_of(pixels, tmp_path / "a.zarr", step=(1.0, 1.0)), 2.5)))
    touched = shrunk(~np.isfinite(pixels), (2.5, 2.5)) > 0
    assert np.array_equal(~np.isfinite(found), touched)
    assert np.isinf(found[0, 1, 3])


LEVELS = [0.25, 1.0, 4.0]
PICKS = [  # wanted, tolerance, which level, by how much it shrinks
    (0.25, 0.05, 0, 1),
    (0.26, 0.05, 0, 1),  # near enough: as it is
    (0.26, 0.01, 0, 1.04),
    (0.5, 0.05, 0, 2),
    (0.99, 0.05, 1, 1),
    (0.9, 0.05, 0, 3.6),  # level 1 is coarser than wanted
    (2.0, 0.05, 1, 2),
    (8.0, 0.05, 2, 2),
    (0.24, 0.05, 0, 1),
]


@pytest.mark.parametrize(("mpp", "tolerance", "level", "ratio"), PICKS)
def test_the_level_is_chosen_by_its_resolution(tmp_path, mpp, tolerance, level, ratio):
    levels = halved(noise(640, 832, 3), 3)
    said = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
    path = str(write_pyramid(tmp_path / "a.tif", levels, **said))
    volume = open_volume(at_mpp(path, mpp, tolerance))
    assert volume.attributes["view"]["level"] == level
    assert volume.attributes["view"]["ratio"] == pytest.approx([ratio, ratio])
    oracle = shrunk(levels[level].transpose(2, 0, 1), (ratio, ratio))
    assert oracle.std() > 0
    assert np.abs(read(volume) - oracle).max() <= 0.501
    step = LEVELS[level] if ratio == 1 else mpp
    assert [axis.spacing for axis in volume.axes[1:]] == [step, step]
    assert volume.levels[0].translation[1] == pytest.approx((step - 0.25) / 2)


def test_a_view_has_a_url_that_says_all_and_pickles(tmp_path):
    path = str(write_aperio(tmp_path / "a.svs", halved(noise(640, 832, 3), 2)))
    url = at_mpp(path, 1.0, 0.1)
    assert url == f"{path}#mpp=1.0&tolerance=0.1"
    assert at_mpp(url, 2.0) == f"{path}#mpp=2.0"
    assert without_mpp(url) == path
    volume = open_volume(url)
    assert volume.url == url
    assert np.array_equal(read(pickle.loads(pickle.dumps(volume))), read(volume))
    prints = {fingerprint(open_volume(one)) for one in (path, url, at_mpp(path, 1.0), at_mpp(path, 2.0))}
    assert len(prints) == 4
    assert moved(url, place="b.svs") == "b.svs#mpp=1.0&tolerance=0.1"


def test_a_read_in_slabs_has_the_same_bits(tmp_path, monkeypatch):
    url = at_mpp(str(write_aperio(tmp_path / "a.svs", [noise(640, 832, 3)])), 1.1)
    before = read(open_volume(url))
    monkeypatch.setattr(scaled, "_SLAB_VOXELS", 30_000)
    asked = []
    volume = open_volume(url)
    original = type(volume.base).read
    monkeypatch.setattr(type(volume.base), "read", lambda self, region, **k: (asked.append(region), original(self, region, **k))[1])
    assert np.array_equal(read(volume), before)
    assert before.std() > 0
    assert len(asked) > 40
    assert max(region.n_voxels for region in asked) < 40_000


@pytest.mark.parametrize(("unit", "step"), [("nanometer", 500.0), ("millimeter", 0.0005), ("micrometer", 0.5)])
def test_units_of_ome_zarr_are_converted(tmp_path, unit, step):
    url = volume_of(noise(3, 100, 120), tmp_path / "a.zarr", step=(step, step), unit=unit, n_levels=3)
    volume = open_volume(at_mpp(url, 2.0))
    assert volume.attributes["view"]["level"] == 2
    assert [axis.spacing for axis in volume.axes[1:]] == pytest.approx([2.0, 2.0])
    assert volume.axes[1].unit == "micrometer"
    assert volume.levels[0].translation == pytest.approx((0, 0.75, 0.75))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_either_version_is_read_at_a_resolution(tmp_path, version):
    levels = [one.transpose(2, 0, 1) for one in halved(noise(200, 300, 3), 2, factor=2)]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    axes = [{"name": "c", "type": "channel"}] + [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    datasets = []
    for i, level in enumerate(levels):
        group.create_array(str(i), data=level, chunks=(3, 64, 64))
        scale = [{"type": "scale", "scale": [1.0, 0.5 * 2**i, 0.5 * 2**i]}]
        datasets.append({"path": str(i), "coordinateTransformations": scale})
    record = {"multiscales": [{"version": version, "axes": axes, "datasets": datasets}]}
    group.attrs.update(record if version == "0.4" else {"ome": {"version": version, **record}})
    volume = open_volume(at_mpp(str(tmp_path / "a.zarr"), 1.0))
    assert np.array_equal(read(volume), levels[1])
    assert levels[1].std() > 0
    assert np.abs(read(open_volume(at_mpp(str(tmp_path / "a.zarr"), 1.7))) - shrunk(levels[1], (1.7, 1.7))).max() <= 0.501


def test_a_plane_of_a_stack_shrinks_and_its_depth_does_not(tmp_path):
    stack = noise(2, 5, 60, 80)
    volume = open_volume(at_mpp(volume_of(stack, tmp_path / "a.zarr", names="czyx"), 1.2))
    oracle = np.stack([shrunk(stack[:, z], (2.4, 2.4)) for z in range(5)], axis=1)
    assert volume.shape == oracle.shape == (2, 5, 25, 34)
    assert np.abs(read(volume) - oracle).max() <= 0.501


def bare(path: Path) -> str:
    zarr.create_array(str(path), data=noise(40, 50), dimension_names=["y", "x"])
    return str(path)


def unspaced(path: Path) -> str:
    tifffile.imwrite(path, noise(200, 300, 3), tile=(128, 128), photometric="rgb")
    return str(path)


REFUSED = {
    "finer than the slide": (lambda p: f"{volume_of(noise(3, 20, 30), p / 'a.zarr')}#mpp=0.25", "have 0.5 x 0.5: none is fine enough"),
    "one axis finer than the slide": (lambda p: f"{volume_of(noise(3, 20, 30), p / 'a.zarr')}#mpp=1,0.25", "1 x 0.25 micrometre"),
    "a volume without a unit": (lambda p: f"{bare(p / 'a.zarr')}#mpp=1", "#spacing=0.5"),
    "a slide without a resolution": (lambda p: f"{unspaced(p / 'a.tif')}#mpp=1", "#spacing=0.5"),
    "a slide without a resolution, as it is": (lambda p: unspaced(p / "a.tif"), "#spacing=0.5"),
    "an option that nobody knows": (lambda p: f"{p}/a.svs#page=2", "not 'page'"),
    "an option twice": (lambda p: f"{p}/a.svs#mpp=2&mpp=3", "each once"),
    "an mpp of nothing": (lambda p: f"{p}/a.svs#mpp=", "'mpp' must be a positive number"),
    "an mpp of zero": (lambda p: f"{p}/a.svs#mpp=0", "not '0'"),
    "an mpp of NaN": (lambda p: f"{p}/a.svs#mpp=nan", "not 'nan'"),
    "three of it": (lambda p: f"{p}/a.svs#mpp=1,2,3", "two as y,x"),
    "a negative tolerance": (lambda p: f"{p}/a.svs#mpp=1&tolerance=-1", "0 or more"),
    "a slide that is missing": (lambda p: f"{p}/a.svs#mpp=1", "nothing is at"),
    "axes without y and x": (lambda p: f"{volume_of_climate(p / 'a.zarr')}#mpp=1", "lat, lon"),
}


def volume_of_climate(path: Path) -> str:
    zarr.create_array(str(path), data=noise(40, 50), dimension_names=["lat", "lon"])
    return str(path)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_as_wanted_is_refused_in_one_line(tmp_path, case):
    build, words = REFUSED[case]
    with pytest.raises(VolumeError) as caught:
        open_volume(build(tmp_path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_resolution_that_is_given_counts(tmp_path):
    path = unspaced(tmp_path / "a.tif")
    volume = open_volume(f"{path}#spacing=0.5,0.25")
    assert [axis.spacing for axis in volume.axes] == [1, 0.5, 0.25]
    shrunken = open_volume(at_mpp(f"{path}#spacing=0.5,0.25", 1.0))
    assert shrunken.url == f"{path}#mpp=1.0&spacing=0.5,0.25"
    assert shrunken.attributes["view"]["ratio"] == [2, 4]
    plain = open_volume(f"{bare(tmp_path / 'b.zarr')}#spacing=0.5&mpp=1")
    assert plain.shape == (20, 25)
    assert parse_source(plain.url).spacing == (0.5, 0.5)


class Blur(nn.Module):
    """Two convolutions over colours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x / 255)


def run_on(url: str, out: Path) -> np.ndarray:
    report = engine.run(url, Blur().eval(), str(out), options=Options(tile=(64, 64), block=(128, 128), threads=2))
    assert report.is_complete
    return stored(out)


def test_a_slide_runs_as_it_is_and_the_output_resumes_and_verifies(tmp_path):
    pixels = noise(300, 420, 3)
    path = str(write_aperio(tmp_path / "a.svs", [pixels]))
    out = tmp_path / "out.zarr"
    oracle = whole(Blur().eval(), pixels.transpose(2, 0, 1))
    assert oracle.std() > 0
    assert np.abs(run_on(path, out) - oracle).max() < 1e-5
    assert engine.resume(str(out), model=Blur().eval()).is_complete
    assert engine.verify(str(out), model=Blur().eval(), n_tiles=3, seed=1).holds
    other = str(write_aperio(tmp_path / "b.svs", [noise(300, 420, 3, seed=9)]))
    with pytest.raises(ResumeError, match="is not the one"):
        engine.resume(str(out), model=Blur().eval(), source=other)


def test_a_slide_runs_at_a_resolution_and_the_output_says_it(tmp_path):
    path = str(write_aperio(tmp_path / "a.svs", halved(noise(640, 832, 3), 2)))
    url, out = at_mpp(path, 1.1), tmp_path / "out.zarr"
    oracle = whole(Blur().eval(), read(open_volume(url)))
    assert oracle.std() > 0
    assert np.abs(run_on(url, out) - oracle).max() < 1e-5
    assert engine.verify(str(out), model=Blur().eval(), n_tiles=3, seed=1).holds
    made = open_volume(f"{out}/output")
    assert [axis.spacing for axis in made.axes[1:]] == [1.1, 1.1]
    assert made.levels[0].translation == pytest.approx(open_volume(url).levels[0].translation)
    moved = Path(path).rename(tmp_path / "moved.svs")  # it is still read at the plan's resolution
    assert engine.resume(str(out), model=Blur().eval(), source=str(moved)).is_complete
    with pytest.raises(EngineError, match="is not the one"):
        engine.resume(str(out), model=Blur().eval(), source=f"{moved}#mpp=2.2")


@pytest.mark.real
@REAL
def test_the_real_slide_shrinks_as_weights_written_out(tmp_path):
    path = str(DATA / "slide/CMU-1-Small-Region.svs")
    volume, plain = open_volume(at_mpp(path, 1.0)), open_volume(path)
    found = read(volume)
    region = Region((0, 0, 0), (3, 401, 402))
    oracle = shrunk(plain.read(region), (1.0 / 0.499, 1.0 / 0.499))[:, :200, :200]
    assert oracle.std() > 0
    assert np.abs(found[:, :200, :200] - oracle).max() <= 0.501
    for one in some_regions(found.shape):
        assert np.array_equal(volume.read(one), found[one.slices])
    assert open_volume(at_mpp(path, 8.0)).shape == (3, 186, 139)
