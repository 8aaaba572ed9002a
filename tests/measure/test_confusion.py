"""Counts of two volumes of labels equal those of the whole arrays, whatever the chunks, blocks, masks and dtypes."""

from collections import Counter

import numpy as np
import pytest
import zarr

from engine.errors import UsageError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.measure import confusion as module
from engine.measure.confusion import Confusion, Outcome, block_shape, confuse
from engine.measure.cover import Cover
from engine.measure.measure import measure
from engine.measure.pairs import RUN, Pairs, count_pairs
from engine.storage.cells import CellGrid, store_cells
from engine.storage.create import create_volume
from engine.storage.volume import Level, open_volume
from tests.stored import store


def pair_of(shape, *, labels=(0, 1, 2), dtype="uint8", seed=3):
    """A reference, and a result that has some of its voxels wrong."""
    rng = np.random.default_rng(seed)
    reference = rng.choice(labels, shape).astype(dtype)
    result = np.where(rng.random(shape) < 0.3, rng.choice(labels, shape), reference).astype(dtype)
    assert 0 < (reference != result).mean() < 0.5
    return reference, result


def whole(reference, result):
    """The oracle: every pair of labels, looked for in whole arrays."""
    labels = sorted(set(reference.ravel().tolist()) | set(result.ravel().tolist()))
    return labels, [[int(((reference == a) & (result == b)).sum()) for b in labels] for a in labels]


def opened(path, array, axes, *, chunk=32):
    return open_volume(store(path, array, axes, chunk=chunk))


def placed(path, array, *, spacing=0.5, unit="micrometer", origin=(0.0, 0.0), shard=64):
    axes = [Axis(name, Role.SPACE, spacing=spacing, unit=unit) for name in "yx"]
    volume = create_volume(
        str(path), axes=axes, dtype=array.dtype, shape=array.shape, chunk_shape=(32, 32), shard_shape=(shard, shard), origin=origin,
    )  # fmt: skip
    for number in range(volume.levels[0].grid.n_cells):
        region = volume.levels[0].grid.region(number)
        volume.write(region, np.ascontiguousarray(array[region.slices]))
    return volume


def cells_over(path, volume, cell, cells, *, meanings=()):
    """A mask as the engine stores its own: the spacing says how large a cell is."""
    store_cells(str(path), CellGrid(volume.axes, (cell, cell), (0.0, 0.0), cells.astype("uint8")), meanings=meanings)
    return open_volume(str(path))


@pytest.mark.parametrize("block", [1, 500, 4000, 2**24])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(
    "volume",  # axes, shape, chunks
    [
        ("yx", (130, 75), (32, 17)),  # neither divides the other
        ("zyx", (20, 41, 33), (16, 7)),
        ("tcyx", (3, 2, 40, 30), (40, 16)),  # items and channels too
        ("x", (1000,), (1000, 64)),
    ],
)
def test_the_counts_are_those_of_the_whole_arrays(tmp_path, monkeypatch, volume, block, n_threads):
    axes, shape, chunks = volume
    monkeypatch.setattr(module, "BLOCK", block)
    reference, result = pair_of(shape)
    volumes = [
        opened(tmp_path / f"{i}.zarr", array, axes, chunk=chunk)
        for i, (array, chunk) in enumerate(zip((reference, result), chunks, strict=True))
    ]
    seen = []
    found = confuse(*volumes, n_threads=n_threads, progress=lambda *both: seen.append(both))
    labels, counts = whole(reference, result)
    assert (list(found.labels), found.counts.tolist()) == (labels, counts)
    assert found.counts.dtype == np.int64
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    assert len(seen) > 1 or block > 500


def test_shards_and_levels_do_not_change_the_counts(tmp_path):
    reference, result = pair_of((200, 150))
    found = confuse(placed(tmp_path / "a.zarr", reference, shard=32), placed(tmp_path / "b.zarr", result, shard=128))
    assert found.counts.tolist() == whole(reference, result)[1]


@pytest.mark.parametrize(
    ("dtype", "labels"),
    [
        ("bool", (0, 1)),
        ("uint8", (0, 255)),
        ("int8", (-128, 0, 127)),  # signed: differences do not fit the dtype
        ("int16", (-32768, 32767)),
        ("int32", (-(2**31), -1, 2**31 - 1)),  # sorted, not in a table
        ("uint32", (0, 2**32 - 1)),
    ],
)
def test_labels_of_any_width_are_told_apart(tmp_path, dtype, labels):
    reference, result = pair_of((60, 50), labels=labels, dtype=dtype)
    found = confuse(opened(tmp_path / "a.zarr", reference, "yx"), opened(tmp_path / "b.zarr", result, "yx"))
    assert (list(found.labels), found.counts.tolist()) == whole(reference, result)


def test_two_dtypes_may_meet(tmp_path):
    reference, result = pair_of((60, 50))
    found = confuse(
        opened(tmp_path / "a.zarr", reference.astype("int32"), "yx"), opened(tmp_path / "b.zarr", result, "yx")
    )
    assert found.counts.tolist() == whole(reference, result)[1]


def test_the_table_and_the_sorting_count_alike(monkeypatch):
    reference, result = pair_of((RUN + 100,), labels=(3, 9, 40))
    table = count_pairs(reference, result)
    monkeypatch.setattr("engine.measure.pairs.DENSE", 0)
    assert count_pairs(reference, result) == table
    assert table == Counter(zip(reference.tolist(), result.tolist(), strict=True))


def test_sums_go_beyond_32_bits():
    n = 2**31 + 5
    found = Confusion.of_pairs(Pairs({(0, 0): 2**40 + 1, (0, 1): n, (1, 0): 3, (1, 1): n}))
    for _ in range(3):
        found = found.plus(found)
    assert found.counts.tolist() == [[2**43 + 8, 8 * n], [24, 8 * n]]
    assert found.n_voxels == 2**43 + 8 + 16 * n + 24
    assert found.outcome(1) == Outcome(8 * n, 8 * n, 24, 2**43 + 8)


def test_blocks_add_up_beyond_32_bits(tmp_path, monkeypatch):
    """Each block tells of 2^31 voxels more than it has."""
    monkeypatch.setattr(module, "count_pairs", lambda a, b: Pairs({(0, 0): 2**31, (0, 1): a.size}))
    monkeypatch.setattr(module, "BLOCK", 32 * 32)
    zeros = np.zeros((100, 100), "uint8")
    found = confuse(opened(tmp_path / "a.zarr", zeros, "yx"), opened(tmp_path / "b.zarr", zeros, "yx"))
    assert found.counts.tolist() == [[16 * 2**31, 10_000], [0, 0]]


def test_cases_add_up_though_their_labels_differ():
    one, two = (
        Confusion.of_pairs(Pairs({(0, 5): 2}), n_ignored=1),
        Confusion.of_pairs(Pairs({(0, 5): 1, (7, 7): 4}), n_ignored=2),
    )
    both = one.plus(two)
    assert (both.labels, both.counts.tolist(), both.n_ignored) == ((0, 5, 7), [[0, 3, 0], [0, 0, 0], [0, 0, 4]], 3)
    assert one.counts.sum() == 2  # as it was


@pytest.mark.parametrize(
    ("shape", "chunk", "shard", "most", "wanted"),
    [
        ((1000, 1000), (10, 10), None, 2000, (10, 200)),  # chunks along a row first
        ((1000, 50), (10, 10), None, 2000, (40, 50)),  # then rows
        ((1000, 1000), (10, 10), (100, 100), 10_000, (100, 100)),  # whole shards
        ((1000, 1000), (10, 10), (100, 100), 25_000, (100, 200)),
        ((1000, 1000), (10, 10), (500, 500), 20_000, (40, 500)),  # chunks of one shard
        ((1000, 1000), (500, 500), None, 100, (500, 500)),  # a chunk is the least
        ((7, 5), (64, 64), None, 2**24, (64, 64)),  # chunks beyond the end
    ],
)
def test_a_block_is_whole_shards_or_chunks(shape, chunk, shard, most, wanted):
    level = Level("", shape, chunk, shard, (1.0,) * 2, (0.0,) * 2)
    assert block_shape(level, n_voxels=most) == wanted


def test_ignored_labels_of_the_reference_do_not_count(tmp_path):
    reference, result = pair_of((60, 50), labels=(0, 1, 255))
    found = confuse(
        opened(tmp_path / "a.zarr", reference, "yx"),
        opened(tmp_path / "b.zarr", result, "yx"),
        ignore=[255],
        labels=[4],
    )
    kept = reference != 255
    assert found.labels == (0, 1, 4, 255)  # the result says 255 where it should not
    assert found.counts[:2][:, [0, 1, 3]].tolist() == whole(reference[kept], result[kept])[1][:2]
    assert found.n_ignored == int((~kept).sum())
    assert found.outcome(4) == found.outcome(99) == Outcome(0, 0, 0, int(kept.sum()))


@pytest.mark.parametrize("cell", [1, 3, 16])
def test_only_voxels_inside_the_mask_count(tmp_path, cell):
    reference, result = pair_of((130, 75))
    cells = np.random.default_rng(0).random((-(-130 // cell), -(-75 // cell))) < 0.5
    inside = np.kron(cells, np.ones((cell, cell), bool))[:130, :75]
    volumes = opened(tmp_path / "a.zarr", reference, "yx"), opened(tmp_path / "b.zarr", result, "yx", chunk=20)
    found = confuse(*volumes, mask=cells_over(tmp_path / "m.zarr", volumes[1], cell, cells))
    assert found.counts.tolist() == whole(reference[inside], result[inside])[1]
    assert found.n_voxels + found.n_ignored == reference.size
    assert found.n_ignored == int((~inside).sum())


def test_a_mask_over_space_holds_for_all_times(tmp_path):
    reference, result = pair_of((3, 40, 30))
    cells = np.zeros((20, 15), "uint8")
    cells[4:9, 2:11] = 2
    found = confuse(
        opened(tmp_path / "a.zarr", reference, "tyx"), opened(tmp_path / "b.zarr", result, "tyx"), mask=opened(tmp_path / "m.zarr", cells, "yx"), inside=[2],
    )  # fmt: skip
    assert found.counts.tolist() == whole(reference[:, 8:18, 4:22], result[:, 8:18, 4:22])[1]


@pytest.mark.parametrize(
    ("inside", "counting"),
    [
        (None, {1, 2}),  # neither pending nor failed
        ([3], {3}),
    ],
)
def test_the_coverage_of_an_output_says_by_itself_what_counts(tmp_path, inside, counting):
    reference, result = pair_of((100, 90))
    one, two = placed(tmp_path / "a.zarr", reference), placed(tmp_path / "b.zarr", result)
    cells = np.random.default_rng(1).integers(0, 4, (7, 6)).astype("uint8")
    names = ("pending", "computed", "background", "failed")
    mask = cells_over(tmp_path / "c.zarr", two, 16, cells, meanings=names)
    found = confuse(one, two, mask=mask, inside=inside)
    kept = np.isin(np.kron(cells, np.ones((16, 16), "uint8"))[:100, :90], list(counting))
    assert found.counts.tolist() == whole(reference[kept], result[kept])[1]


def test_blocks_outside_the_mask_are_not_read(tmp_path):
    reference, result = pair_of((64, 64))
    one, two = opened(tmp_path / "a.zarr", reference, "yx"), opened(tmp_path / "b.zarr", result, "yx")
    cells = np.array([[1, 0], [0, 0]], "uint8")
    for damaged in ("c/0/1", "c/1/0", "c/1/1"):
        (tmp_path / "b.zarr" / damaged).write_bytes(b"no chunk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 32 * 32)
        found = confuse(one, two, mask=cells_over(tmp_path / "m.zarr", two, 32, cells))
        assert found.counts.tolist() == whole(reference[:32, :32], result[:32, :32])[1]
        with pytest.raises(VolumeError, match="damaged"):
            confuse(one, two)


def test_a_cover_cuts_its_last_cells(tmp_path):
    mask = opened(tmp_path / "m.zarr", np.arange(12).reshape(3, 4), "yx")
    cover = Cover.over(opened(tmp_path / "v.zarr", np.zeros((8, 10), "uint8"), "yx"), mask, inside=range(5, 12))
    assert cover.cell == (3, 3)
    assert cover.of(Region((2, 4), (8, 10))).astype(int).tolist() == [[0] * 6] + [[1] * 6] * 5


ARRAY = np.ones((60, 50), "uint8")


@pytest.mark.parametrize(
    ("reference", "options", "said"),
    [
        (lambda p: opened(p, ARRAY[:59], "yx"), {}, r"same shape, not \(59, 50\) in .*the reference has 59 along 'y' where the result has 60"),
        (lambda p: opened(p, ARRAY, "zx"), {}, r"same axes, not \('z', 'x'\) in .*r.zarr' and \('y', 'x'\) in"),
        (lambda p: opened(p, ARRAY[None], "zyx"), {}, "same axes"),
        (lambda p: opened(p, ARRAY.astype("float32"), "yx"), {}, "labels must be whole numbers of at most 63 bits, not float32"),
        (lambda p: opened(p, ARRAY.astype("uint64"), "yx"), {}, "not uint64"),
        (lambda p: placed(p, ARRAY, spacing=0.25), {}, "same spacing, not 0.25 micrometer in .*0.5 micrometer in .* along 'y'"),
        (lambda p: placed(p, ARRAY, unit="millimeter"), {}, "0.5 millimeter in .*0.5 micrometer"),
        (lambda p: placed(p, ARRAY, origin=(0.0, 1.5)), {}, "start at the same place.* along 'x', 3 voxels apart"),
        (lambda p: placed(p, ARRAY), {"ignore": [1]}, r"at least one voxel must count.*labels \[1\] ignored"),
        (lambda p: opened(p, np.arange(3000, dtype="int32").reshape(60, 50), "yx"), {}, "at most 1000 of them.*2999 labels: numbers of objects"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_by_name(tmp_path, reference, options, said):
    with pytest.raises(UsageError, match=said):
        confuse(reference(tmp_path / "r.zarr"), placed(tmp_path / "s.zarr", ARRAY), **options)


@pytest.mark.parametrize(
    "reference",
    [
        lambda p: opened(p, ARRAY, "yx"),  # it does not say where it is
        lambda p: placed(p, ARRAY, spacing=0.5001),  # rounded by another writer
        lambda p: placed(p, ARRAY, origin=(0.1, 0.0)),  # less than half a voxel
    ],
)
def test_what_is_near_enough_is_compared(tmp_path, reference):
    assert confuse(reference(tmp_path / "r.zarr"), placed(tmp_path / "s.zarr", ARRAY)).counts.tolist() == [[3000]]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (lambda p: opened(p, ARRAY.astype("float32"), "yx"), "a mask must be whole numbers, not float32"),
        (lambda p: opened(p, ARRAY[None], "zyx"), "axes of a mask must be among"),
        (lambda p: opened(p, ARRAY.T.copy(), "xy"), "in that order"),
        (lambda p: opened(p, ARRAY[:3, :3], "yx"), "3 cells of .* over 60 along 'y'"),  # 20 to 29 voxels would fit
        (lambda p: placed(p, ARRAY[:40, :34], spacing=0.75), "40 cells of 1.5 voxels over 60"),
        (lambda p: opened(p, np.zeros_like(ARRAY), "yx"), "none does of .* inside the mask"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(tmp_path, mask, said):
    volume = placed(tmp_path / "v.zarr", ARRAY)
    with pytest.raises(UsageError, match=said):
        confuse(volume, volume, mask=mask(tmp_path / "m.zarr"))


def test_measure_opens_what_it_is_given(tmp_path):
    reference, result = pair_of((60, 50))
    urls = []
    for name, array in (("a", reference), ("b", result)):
        urls.append(str(tmp_path / f"{name}.zarr"))
        zarr.create_array(store=urls[-1], data=array, chunks=(20, 20))  # bare, without names of axes
    with pytest.raises(VolumeError, match="--axes"):
        measure(*urls)
    found = measure(*urls, axes="yx", labels=[1, 2], names={1: "tissue"})
    assert found.confusion.counts.tolist() == whole(reference, result)[1]
    assert [row.name for row in found.table] == ["tissue", "2", "macro", "micro"]
    assert (found.reference, found.result) == tuple(urls)
