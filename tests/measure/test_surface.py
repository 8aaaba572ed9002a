"""Surface distances equal MONAI's and SciPy's of the whole arrays, whatever the blocks; and the files say them."""

import csv
import json
import math
from dataclasses import asdict

import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from engine.errors import UsageError
from engine.measure import nearest, surface
from engine.measure.measure import measure
from engine.measure.sizes import SURFACES, VOLUMES
from engine.measure.spread import Spread
from engine.measure.surface import surface_scores
from engine.measure.table import save_csv, save_json, save_parquet, score_table, size_table
from engine.measure.volumes import LabelVolume, label_volumes
from engine.storage.volume import open_volume
from tests.measure.surfaces import blobs, by_monai, by_scipy, ct_pair, edge, stored
from tests.stored import store

SPACINGS = [(3.0, 0.7, 0.7), (1.0, 1.0, 1.0), (0.742187, 0.6, 2.5)]


def scored(path, pair, *, spacing, chunk=16, **options):
    volumes = [stored(path / f"{i}-{chunk}.zarr", array, spacing=spacing, chunk=chunk) for i, array in enumerate(pair)]
    return surface_scores(*volumes, **options)


def check(found, reference, result, *, spacing, tolerance):
    for label, score in found.items():
        whole = by_scipy(reference, result, label, spacing=spacing, tolerance=tolerance)
        assert 0 < whole["assd_mm"] < whole["hd95_mm"] < whole["hausdorff_mm"]
        assert 0.1 < whole["surface_dice"] < 1
        assert asdict(score) == pytest.approx(whole, rel=1e-6)
        other = by_monai(reference, result, label, spacing=spacing, tolerance=tolerance)
        # MONAI takes quantiles at a rank rounded to float32: between two unlike neighbours it is off by a few 1e-6.
        assert score.hd95_mm == pytest.approx(other.pop("hd95_mm"), rel=2e-5)
        assert asdict(score) == pytest.approx(asdict(score) | other, rel=1e-6)


@pytest.mark.real
def test_distances_on_a_real_ct_are_those_of_monai_and_scipy(tmp_path):
    spacing, pair = (3.0, 2.9, 3.1), ct_pair()
    found = scored(tmp_path, pair, spacing=spacing, chunk=64, labels=[1, 2], tolerance_mm=2.9)
    check(found, *pair, spacing=spacing, tolerance=2.9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_on_blobs_are_those_of_monai_and_scipy(tmp_path, spacing):
    pair = blobs()
    found = scored(tmp_path, pair, spacing=spacing, tolerance_mm=spacing[1])
    assert sorted(found) == [0, 1, 2]
    check(found, *pair, spacing=spacing, tolerance=spacing[1])


def test_distances_in_a_plane_are_those_of_scipy(tmp_path):
    pair = blobs((90, 70))
    volumes = [stored(tmp_path / f"{i}.zarr", a, spacing=(500.0, 750.0), unit="micrometer", names="yx") for i, a in enumerate(pair)]
    found = surface_scores(*volumes, tolerance_mm=0.75)
    check(found, *pair, spacing=(0.5, 0.75), tolerance=0.75)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_no_bit_depends_on_blocks_threads_or_trees(tmp_path, monkeypatch, spacing):
    pair, answers = blobs((28, 30, 26)), []
    for block, chunk, n_threads, points in ((2**24, 64, 1, 2**21), (16**3, 16, 2, 1), (600, 7, 1, 300), (5000, 11, 2, 2**21)):
        monkeypatch.setattr(surface, "BLOCK", block)
        monkeypatch.setattr(nearest, "POINTS", points)
        answers.append(scored(tmp_path, pair, spacing=spacing, chunk=chunk, n_threads=n_threads))
    assert answers[1:] == answers[:1] * 3
    assert len({score.hausdorff_mm for score in answers[0].values()}) > 1


def test_surfaces_far_apart_are_found_across_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(surface, "BLOCK", 8**3)
    reference, result = np.zeros((2, 60, 50, 40), "uint8")
    reference[:3, :4, :5] = reference[30, 20, 10] = 1
    result[-2:, -3:, -4:] = 1
    found = scored(tmp_path, (reference, result), spacing=(2.0, 1.0, 0.5), chunk=8, labels=[1])[1]
    whole = by_scipy(reference, result, 1, spacing=(2.0, 1.0, 0.5), tolerance=1.0)
    assert asdict(found) == pytest.approx(whole, rel=1e-6)
    assert found.hausdorff_mm > 100


def test_memory_holds_a_block_of_voxels_and_a_few_trees(tmp_path, monkeypatch):
    monkeypatch.setattr(surface, "BLOCK", 16**3)
    monkeypatch.setattr(nearest, "POINTS", 1000)
    reads, trees, seen = [], [], []
    read, of = surface.Space.read, nearest._Trees.of
    monkeypatch.setattr(surface.Space, "read", lambda self, region: reads.append(region.n_voxels) or read(self, region))
    monkeypatch.setattr(nearest._Trees, "of", lambda self, bucket: (of(self, bucket), trees.append(sum(b.n for b in self._kept)))[0])
    pair = blobs((48, 48, 48))
    scored(tmp_path, pair, spacing=(1.0, 1.0, 1.0), progress=lambda *n: seen.append(n))
    assert seen == [(i + 1, 27) for i in range(27)]
    assert max(reads) == 18**3  # a halo of one voxel
    assert len(reads) == 2 * 3**3  # each block once
    assert len(trees) > 27
    assert max(trees) < 3000
    assert sum(edge(pair[0] == label).sum() for label in range(3)) > 10_000


def test_a_label_that_one_side_lacks_is_infinitely_far_as_monai_has_it(tmp_path):
    reference, result = blobs((20, 20, 20))
    reference[reference == 1] = 0
    result[result == 2] = 0
    found = scored(tmp_path, (reference, result), spacing=(1.0, 2.0, 1.0), labels=[1, 2, 7])
    for label in (1, 2):
        other = by_monai(reference, result, label, spacing=(1.0, 2.0, 1.0), tolerance=1.0)
        for name in ("hausdorff_mm", "assd_mm", "mean_to_reference_mm", "mean_to_result_mm"):
            assert getattr(found[label], name) == other[name] == math.inf
        assert found[label].hd95_mm == math.inf  # MONAI interpolates between infinities: NaN
        assert found[label].surface_dice == other["surface_dice"] == 0
    assert (found[1].n_reference, found[2].n_result) == (0, 0)
    assert min(found[1].n_result, found[2].n_reference) > 0
    assert set(asdict(found[7]).values()) == {0, None, 1.0}
    assert math.isnan(by_monai(reference, result, 7, spacing=(1.0,) * 3, tolerance=1.0)["surface_dice"])


def test_a_label_that_fills_the_volume_has_the_volumes_border_for_a_surface(tmp_path):
    full = np.full((9, 8, 7), 3, "uint8")
    less = full.copy()
    less[0] = 0
    found = scored(tmp_path, (full, less), spacing=(2.0, 1.0, 1.0), labels=[3], chunk=4)[3]
    assert found.n_reference == 9 * 8 * 7 - 7 * 6 * 5
    assert asdict(found) == pytest.approx(by_scipy(full, less, 3, spacing=(2.0, 1.0, 1.0), tolerance=1.0), rel=1e-6)
    assert found.hausdorff_mm == 2.0


def test_what_does_not_count_is_no_surface_in_either_volume(tmp_path):
    reference, result = blobs()
    reference[:, :9] = np.where(np.arange(9)[:, None] % 2, 255, reference[:, :9])
    cells = np.random.default_rng(0).random((10, 11, 9)) < 0.6
    mask = stored(tmp_path / "m.zarr", cells.astype("uint8"), spacing=(4.0,) * 3, chunk=4)
    found = scored(tmp_path, (reference, result), spacing=(1.0,) * 3, mask=mask, ignore=[255], labels=[1, 2])
    counts = np.kron(cells, np.ones((4, 4, 4), bool)) & (reference != 255)
    for label in (1, 2):
        whole = by_scipy(reference, result, label, spacing=(1.0,) * 3, tolerance=1.0, counts=counts)
        assert asdict(found[label]) == pytest.approx(whole, rel=1e-6)
        assert whole["n_reference"] < edge(reference == label).sum()


def test_a_distance_that_is_the_tolerance_passes_though_it_is_rounded(tmp_path):
    reference, result = np.zeros((2, 12, 12, 12), "uint8")
    reference[5, 5, 5] = result[5, 5, 8] = 1
    spacing = (1.0, 1.0, 0.1)
    assert 3 * 0.1 > 0.3
    found = scored(tmp_path, (reference, result), spacing=spacing, labels=[1], tolerance_mm=0.3)[1]
    assert found.surface_dice == by_monai(reference, result, 1, spacing=spacing, tolerance=0.3)["surface_dice"] == 1


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (stored, {"tolerance_mm": -1.0}, "tolerance must be a distance in millimetre, 0 or more, not -1.0"),
        (lambda p, a: open_volume(store(p, a, "zyx")), {}, "step along 'z' of .* is 1 without a unit. Give the spacing"),
        (lambda p, a: open_volume(store(p, a, "zyx")), {"spacing": (1.0, 2.0)}, r"one positive millimetre per space axis \('z', 'y', 'x'\)"),
        (lambda p, a: open_volume(store(p, a, "zyx")), {"spacing": (1.0, 0.0, 1.0)}, "one positive millimetre per space axis"),
        (lambda p, a: open_volume(store(p, a, "cyx")), {"spacing": (1.0, 1.0)}, "has 12 along 'c'. Store one of them"),
    ],
)  # fmt: skip
def test_what_has_no_distance_in_millimetre_is_refused_by_name(tmp_path, make, options, said):
    volume = make(tmp_path / "v.zarr", np.zeros((12, 12, 12), "uint8"))
    with pytest.raises(UsageError, match=said):
        surface_scores(volume, volume, **options)


def test_axes_of_length_one_do_not_matter(tmp_path):
    pair, spacing = blobs(), (3.0, 1.0, 1.0)
    bare = [open_volume(store(tmp_path / f"bare-{i}.zarr", array[None], "czyx")) for i, array in enumerate(pair)]
    assert surface_scores(*bare, spacing=spacing) == scored(tmp_path, pair, spacing=spacing)


def test_volumes_and_surfaces_stand_in_the_table_and_its_files(tmp_path):
    reference, result = blobs()
    result[result == 2] = 0
    urls = [stored(tmp_path / f"{i}.zarr", array, spacing=(3.0, 0.5, 0.5)).url for i, array in enumerate((reference, result))]
    found = measure(*urls, labels=[1, 2, 9], tolerance_mm=1.5)
    for name, save in (("s.csv", save_csv), ("s.parquet", save_parquet), ("s.json", save_json)):
        save(tmp_path / name, found)
    rows = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert list(rows[0])[-11:] == [*VOLUMES, *SURFACES, "notes"]
    one, two, nine, macro, micro = rows
    assert one["reference_ml"] == pytest.approx((reference == 1).sum() * 0.75 / 1000)
    assert one["difference_ml"] == pytest.approx((float((result == 1).sum()) - (reference == 1).sum()) * 0.75 / 1000)
    assert micro["result_ml"] == pytest.approx((result > 0).sum() * 0.75 / 1000)
    whole = by_scipy(reference, result, 1, spacing=(3.0, 0.5, 0.5), tolerance=1.5)
    assert one["assd_mm"] == pytest.approx(whole["assd_mm"], rel=1e-6)
    assert (two["hausdorff_mm"], two["surface_dice"], macro["hausdorff_mm"]) == (math.inf, 0.0, math.inf)
    assert (nine["hausdorff_mm"], micro["hausdorff_mm"], macro["tolerance_mm"]) == (None, None, 1.5)
    assert "hausdorff_mm, hd95_mm, assd_mm, mean_to_reference_mm, mean_to_result_mm: infinite, nowhere in the result" in two["notes"]
    assert "hausdorff_mm, hd95_mm, assd_mm, mean_to_reference_mm, mean_to_result_mm: infinite for 2" in macro["notes"]
    assert macro["surface_dice"] == pytest.approx(one["surface_dice"] / 2)
    assert "surface_dice: without 9" in macro["notes"]
    whole = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    assert whole["voxel_ml"] == 0.00075
    assert whole["scores"][1]["hausdorff_mm"] is None
    assert whole["scores"][0] == one
    with (tmp_path / "s.csv").open(newline="") as file:
        text = list(csv.DictReader(file))
    assert (text[1]["hausdorff_mm"], float(text[0]["hausdorff_mm"])) == ("inf", one["hausdorff_mm"])
    assert label_volumes(urls[1])[1] == LabelVolume(1, int((result == 1).sum()), pytest.approx(one["result_ml"]))


def test_the_terminal_shows_volumes_and_surfaces(tmp_path):
    pair = [stored(tmp_path / f"{i}.zarr", array, spacing=(3.0, 0.5, 0.5)).url for i, array in enumerate(blobs())]
    console = Console(width=80)
    with console.capture() as said:
        console.print(size_table(measure(*pair, tolerance_mm=1.0)))
    lines = [line.split() for line in said.get().splitlines()]
    assert ["label", "ml", "ml", "ml", "mm", "mm", "mm", "Dice"] in lines
    assert len(next(line for line in lines if line[:1] == ["macro"])) == 8
    bare = measure(*pair)
    assert bare.voxel_ml is not None
    assert size_table(bare).columns[-1].header == "change\nml"
    plain = [store(tmp_path / f"plain-{i}.zarr", array, "zyx") for i, array in enumerate(blobs())]
    assert size_table(measure(*plain)) is None
    assert score_table(measure(*plain)).columns[-1].header == "accuracy"


def test_the_command_measures_surfaces(tmp_path, engine):
    pair = [store(tmp_path / f"{i}.zarr", array, "zyx") for i, array in enumerate(blobs())]
    answer = engine("measure", *pair, "--surface", "--spacing", "3,0.7,0.7", "--tolerance", "2.0", "--labels", "1,2", "--json", tmp_path / "s.json")
    assert answer.code == 0
    assert "Volumes and surfaces" in answer.out
    rows = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert [row["name"] for row in rows] == ["1", "2", "macro", "micro"]
    whole = by_scipy(*blobs(), 2, spacing=(3.0, 0.7, 0.7), tolerance=2.0)
    assert rows[1]["hausdorff_mm"] == pytest.approx(whole["hausdorff_mm"], rel=1e-6)
    assert rows[1]["tolerance_mm"] == 2.0
    assert "is 1 without a unit" in engine("measure", *pair, "--surface").line


@pytest.mark.parametrize("n", [1, 2, 3, 20, 21, 1000])
def test_a_spread_says_of_counts_what_numpy_says_of_values(n):
    values = (np.random.default_rng(n).integers(0, 40, n) * 0.3).astype("float32")
    parts = [Spread.of(part) for part in np.array_split(values, min(n, 4))]
    for found in (parts[0].plus(*parts[1:]), Spread.of(values), parts[-1].plus(*parts[:-1])):
        assert (found.n, found.minimum, found.maximum) == (n, values.min(), values.max())
        assert found.mean == pytest.approx(values.astype(float).mean(), rel=1e-14)
        for share in (0.0, 0.05, 0.5, 0.95, 1.0):
            assert found.quantile(share) == pytest.approx(np.quantile(values.astype(float), share), rel=1e-14)
        assert found.share_within(6.0) == (values <= np.float32(6.0)).mean()


def test_a_spread_of_nothing_says_nothing():
    none = Spread.one(3.0, 0).plus(Spread.of(np.zeros(0)))
    assert none.n == 0
    assert all(map(math.isnan, (none.minimum, none.maximum, none.mean, none.quantile(0.5), none.share_within(1.0))))
