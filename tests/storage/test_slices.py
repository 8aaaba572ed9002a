"""Scans slice by slice: each item is put together by hand, and a run equals a loop of the network over slices."""

import pickle
from pathlib import Path

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import pytest
import torch
import zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel
from torch import nn

import engine
from engine.errors import ResumeError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.prepare import Options
from engine.storage.create import create_volume
from engine.storage.fingerprint import fingerprint
from engine.storage.output import open_output
from engine.storage.pyramid import reduce_mean
from engine.storage.source_url import parse_source
from engine.storage.volume import open_volume
from tests.pipelines import seeded
from tests.real_models import CT, real
from tests.storage.test_slide_levels import read, some_regions
from tests.stored import smooth, store, stored

ROLES = {"t": Role.BATCH, "c": Role.CHANNEL}
STEPS = {"t": 2.0, "c": 1.0, "z": 5.0, "y": 0.7, "x": 0.8}
UNITS = {"t": "second", "c": None}
ORIGIN = {"t": 0.0, "c": 0.0, "z": -120.0, "y": 3.0, "x": 4.0}
AFFINE = {"affine": [[-0.8, 0, 0, 9], [0, 0.7, 0, 0], [0, 0, 5.0, -120], [0, 0, 0, 1]]}


def scan(array, path: Path, names="zyx", *, n_levels=1, edges=None) -> str:
    axes = [Axis(n, ROLES.get(n, Role.SPACE), STEPS[n], UNITS.get(n, "millimeter")) for n in names]
    made = create_volume(
        str(path), axes=axes, dtype=array.dtype, shape=array.shape, chunk_shape=[min(8, n) for n in array.shape],
        n_levels=n_levels, origin=[ORIGIN[n] for n in names], edges=edges, attributes={"scan": AFFINE},
    )  # fmt: skip
    for level in range(n_levels):
        made.write(Region.whole(array.shape), array, level=level)
        array = reduce_mean(array, [2 if n in "zyx" else 1 for n in names])
    return str(path)


def by_hand(array: np.ndarray, names: str, n: int) -> np.ndarray:
    """Items of (t,) z, c, y, x, one slice and one neighbour at a time."""
    axes = [a for a in "tczyx" if a in names]
    array = array.transpose([names.index(a) for a in axes])
    array = array if "c" in names else np.expand_dims(array, axes.index("z"))
    series = array if "t" in names else array[None]
    last = series.shape[2] - 1
    items = [
        [
            np.stack([one[c, min(max(z + k, 0), last)] for c in range(len(one)) for k in range(-(n // 2), n // 2 + 1)])
            for z in range(last + 1)
        ]
        for one in series
    ]
    found = np.array(items if "t" in names else items[0])
    return found[..., 0, :, :] if n == 1 and "c" not in names else found


LAYOUTS = {  # axes and shape of a scan, and of the scan slice by slice with three slices an item
    "a scan": ("zyx", (9, 12, 10), (9, 3, 12, 10)),
    "two modalities": ("czyx", (2, 9, 12, 10), (9, 6, 12, 10)),
    "a film": ("tzyx", (2, 7, 12, 10), (2, 7, 3, 12, 10)),
    "a film of two": ("tczyx", (2, 2, 7, 12, 10), (2, 7, 6, 12, 10)),
    "channels last": ("zyxc", (9, 12, 10, 2), (9, 6, 12, 10)),
    "fewer slices than neighbours": ("zyx", (2, 12, 10), (2, 3, 12, 10)),
}


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_item_holds_its_slice_and_its_neighbours(tmp_path, layout, n):
    names, shape, seen = LAYOUTS[layout]
    array = smooth(shape, seed=1)
    volume = open_volume(f"{store(tmp_path / 'a.zarr', array, names, chunk=4)}#slices={n}")
    oracle = by_hand(array, names, n)
    assert oracle.std() > 0
    assert volume.shape == oracle.shape
    assert n != 3 or volume.shape == seen
    assert np.array_equal(read(volume), oracle)
    for region in some_regions(oracle.shape, n=20):
        assert np.array_equal(volume.read(region), oracle[region.slices])
    roles = {axis.name: axis.role.value for axis in volume.axes}
    assert roles["z"] == "batch"
    assert [name for name, role in roles.items() if role == "space"] == ["y", "x"]
    assert list(roles)[-len(roles) :] == [a for a in ("tzcyx" if n > 1 or "c" in names else "tzyx") if a in {*names, *"c"}]


def test_every_level_is_seen_slice_by_slice_with_its_own_steps_and_place(tmp_path):
    array = smooth((2, 20, 24, 16), seed=2)
    url = scan(array, tmp_path / "a.zarr", "czyx", n_levels=2, edges={"x": Edge(EdgeKind.WRAP), "z": Edge(EdgeKind.REFLECT)})
    base, volume = open_volume(url), open_volume(f"{url}#slices=3")
    for level in (0, 1):
        assert np.array_equal(read(volume, level), by_hand(read(base, level), "czyx", 3))
    assert volume.levels[0].spacing == (5.0, 1.0, 0.7, 0.8)
    assert volume.levels[1].spacing == (10.0, 1.0, 1.4, 1.6)
    assert volume.levels[0].translation == (-120.0, 0.0, 3.0, 4.0)
    assert volume.levels[1].shape == (10, 6, 12, 8)
    assert volume.levels[0].chunk_shape == (8, 6, 8, 8)
    assert volume.attributes["scan"] == AFFINE
    assert {name: edge.kind for name, edge in volume.edges.items()} == {"x": "wrap"}
    with pytest.raises(VolumeError, match="of level 2"):
        volume.read(Region((0, 0, 0, 0), (1, 1, 1, 1)), level=2)
    with pytest.raises(VolumeError, match=r"inside a level of .* not \(0, 0, 0, 0\) to \(21, 6, 24, 16\)"):
        volume.read(Region((0, 0, 0, 0), (21, 6, 24, 16)))


def test_a_region_asks_the_base_for_its_slices_once_and_for_no_more(tmp_path, monkeypatch):
    url = scan(smooth((2, 20, 24, 16)), tmp_path / "a.zarr", "czyx")
    volume = open_volume(f"{url}#slices=5")
    asked = []
    original = type(volume.base).read
    monkeypatch.setattr(type(volume.base), "read", lambda self, region, **k: (asked.append(region), original(self, region, **k))[1])
    volume.read(Region((4, 6, 1, 2), (9, 9, 20, 11)))  # channels 6 to 8 are of the second modality
    assert asked == [Region((1, 2, 1, 2), (2, 11, 20, 11))]


def test_the_url_says_all_and_a_view_pickles(tmp_path):
    array = smooth((9, 12, 10))
    url = scan(array, tmp_path / "a.zarr")
    assert str(parse_source(f"{url}#slices=3&spacing=0.5")) == f"{url}#spacing=0.5&slices=3"
    volume = open_volume(f"{url}#slices=3")
    assert volume.url == f"{url}#slices=3"
    assert np.array_equal(read(pickle.loads(pickle.dumps(volume))), by_hand(array, "zyx", 3))
    prints = {fingerprint(open_volume(one)) for one in (url, f"{url}#slices=1", volume.url, f"{url}#spacing=0.5&slices=3")}
    assert len(prints) == 4


def test_slices_of_a_stack_at_a_resolution_are_the_slices_of_the_shrunken_stack(tmp_path):
    axes = [Axis(n, Role.SPACE, 0.5, "micrometer") for n in "zyx"]
    url, array = str(tmp_path / "a.zarr"), smooth((6, 40, 50))
    create_volume(url, axes=axes, dtype="float32", shape=array.shape, chunk_shape=array.shape).write(Region.whole(array.shape), array)
    plain, volume = open_volume(f"{url}#mpp=1.1"), open_volume(f"{url}#mpp=1.1&slices=3")
    assert plain.shape == (6, 19, 23)
    assert volume.url == f"{url}#mpp=1.1&slices=3"
    assert np.array_equal(read(volume), by_hand(read(plain), "zyx", 3))


REFUSED = {
    "an even number": ("zyx", "slices=4", "'slices' must be an odd number.*not '4'.*#slices=1 for each slice alone"),
    "none": ("zyx", "slices=0", "not '0'"),
    "less than none": ("zyx", "slices=-3", "not '-3'"),
    "no number": ("zyx", "slices=three", "not 'three'"),
    "a share": ("zyx", "slices=1.0", "not '1.0'"),
    "nothing": ("zyx", "slices=", "not ''"),
    "twice": ("zyx", "slices=3&slices=5", "each once, not 'slices'"),
    "a plane": ("cyx", "slices=3", "axes z, y and x of space, and .* has y, x. Leave it out"),
    "a grid of the earth": (("lat", "lon"), "slices=3", "has lat, lon"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_slices_is_refused_in_one_line(tmp_path, case):
    names, options, words = REFUSED[case]
    url = store(tmp_path / "a.zarr", smooth((4, 6, 8)[-len(names) :]), names)
    with pytest.raises(VolumeError, match=words) as caught:
        open_volume(f"{url}#{options}")
    assert "\n" not in str(caught.value)


class Organ(nn.Module):
    """Slices to two probabilities, a label and a map at half the resolution."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(n_in, 6, 3, padding=1), nn.Conv2d(6, 2, 5, padding=2)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.last(torch.relu(self.first(x)))
        label = (scores[:, 0] > scores[:, 1]).to(torch.uint8)
        return {"probability": scores.softmax(1), "label": label, "half": self.pool(scores)}


def organ(n_in: int) -> nn.Module:
    return seeded(Organ(n_in), seed=5)


def looped(module: nn.Module, items: np.ndarray) -> dict[str, np.ndarray]:
    """The network on one slice after the other, stacked."""
    with torch.inference_mode():
        found = [module(torch.from_numpy(item[None]).float()) for item in items]
    return {name: torch.cat([one[name] for one in found]).numpy() for name in found[0]}


RUNS = {"a scan, slice by slice": ("zyx", 1), "a scan in 2.5-d": ("zyx", 3), "two modalities in 2.5-d": ("czyx", 5), "two, each slice alone": ("czyx", 1)}
OPTIONS = Options(tile=(32, 32), block=(32, 64), threads=2, memory=10**9)


@pytest.mark.parametrize("case", RUNS)
def test_a_run_equals_a_loop_over_slices_and_lies_on_the_grid_of_the_scan(tmp_path, case):
    names, n = RUNS[case]
    array = smooth((2, 11, 60, 68)[-len(names) :], seed=4)
    url, out = f"{scan(array, tmp_path / 'a.zarr', names)}#slices={n}", tmp_path / "out.zarr"
    items = by_hand(array, names, n)
    items = items if items.ndim == 4 else items[:, None]
    model = organ(items.shape[1])
    report = engine.run(url, model, str(out), options=OPTIONS)
    assert report.is_complete
    assert report.plan.source.url == url
    assert report.plan.batches[0].n_blocks > 1
    for name, oracle in looped(model, items).items():
        assert oracle.std() > 0
        found = stored(out, name)  # in the order of OME-Zarr: c, z, y, x
        np.testing.assert_allclose(np.moveaxis(found, 0, 1) if found.ndim == 4 else found, oracle, atol=1e-6)
    label = open_volume(f"{out}/labels/label")
    assert label.shape == array.shape[-3:]
    base = open_volume(url.partition("#")[0])
    assert label.axes == base.axes[-3:]
    assert label.attributes["scan"] == AFFINE
    assert label.levels[0].translation == base.levels[0].translation[-3:]
    half = open_volume(f"{out}/half")
    assert [axis.name for axis in half.axes] == ["c", "z", "y", "x"]
    assert [axis.spacing for axis in half.axes[1:]] == [5.0, 1.4, 1.6]
    assert half.levels[0].translation == pytest.approx((0.0, -120.0, 3.35, 4.4))


def test_what_is_written_is_a_scan_in_ome_zarr(tmp_path):
    url, out = scan(smooth((11, 60, 68)), tmp_path / "a.zarr"), str(tmp_path / "out.zarr")
    assert engine.run(f"{url}#slices=3", organ(3), out, options=OPTIONS).is_complete
    for path, kind in (("probability", Image), ("labels/label", ImageLabel)):
        (multiscale,) = kind.from_zarr(zarr.open_group(f"{out}/{path}", mode="r")).ome_attributes.multiscales
        axes = [(axis.name, axis.type, axis.unit) for axis in multiscale.axes]
        assert axes == [("c", "channel", None)][: 1 if kind is Image else 0] + [(n, "space", "millimeter") for n in "zyx"]
    (node, *_) = ome_zarr.reader.Reader(ome_zarr.io.parse_url(f"{out}/probability"))()
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "z", "y", "x"]
    assert node.data[0].shape == (2, 11, 60, 68)


def test_an_output_of_slices_resumes_verifies_and_misses_what_was_lost(tmp_path):
    array = smooth((11, 60, 68))
    url, out = scan(array, tmp_path / "a.zarr"), str(tmp_path / "out.zarr")
    engine.run(f"{url}#slices=3", organ(3), out, options=OPTIONS)
    assert engine.verify(out, model=organ(3), n_tiles=3, seed=1).holds
    moved = Path(url).rename(tmp_path / "moved.zarr")  # it is still read slice by slice
    assert engine.resume(out, model=organ(3), source=str(moved)).is_complete
    with pytest.raises(ResumeError, match="is not the one"):
        engine.resume(out, model=organ(3), source=f"{moved}#slices=5")
    volume = open_output(out).volumes["probability"]
    whole = stored(out, "probability")
    assert volume.shape == (11, 2, 60, 68)
    assert np.array_equal(read(volume), np.moveaxis(whole, 0, 1))
    (tmp_path / "out.zarr/probability/0/c/0/1/1/0").unlink()
    with pytest.raises(VolumeError, match=r"probability/0/c/0/1/1/0' is missing"):
        volume.read(Region((6, 0, 32, 0), (7, 1, 33, 1)))
    held = volume.read(Region((0, 0, 0, 0), (6, 2, 60, 68)))
    assert np.array_equal(held, np.moveaxis(whole, 0, 1)[:6])


@pytest.mark.real
def test_the_real_scan_in_five_slices_equals_a_loop_over_them(tmp_path):
    engine.ingest(real(CT), str(tmp_path / "ct.zarr"))
    base, out = open_volume(str(tmp_path / "ct.zarr")), tmp_path / "out.zarr"
    model = nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.ELU(), nn.Conv2d(4, 1, 3, padding=1))
    report = engine.run(f"{base.url}#slices=5", seeded(model), str(out), options=Options(threads=2))
    assert report.is_complete
    with torch.inference_mode():
        oracle = model(torch.from_numpy(by_hand(read(base), "zyx", 5)).float())[:, 0].numpy()
    assert oracle.std() > 1
    assert np.abs(stored(out)[0] - oracle).max() <= 1e-6 * np.abs(oracle).max()
    assert open_volume(f"{out}/output").axes[1:] == base.axes
