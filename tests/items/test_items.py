"""Items: the table equals one item at a time, each failure is its own, and a run that was broken off goes on with the same bits."""

import csv
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from engine.cli_items import items_command
from engine.errors import CollectionError, PlanError, RunError, UsageError
from engine.geometry.region import Region
from engine.items.run import ItemOptions, check_all_done, items
from engine.runtime.actors import RayRunner
from engine.runtime.events import TaskDone
from engine.runtime.serial import SerialRunner
from engine.storage.volume import open_volume
from tests.faults import Fault, FaultyFactory
from tests.items.network import scores
from tests.stored import checksums, store

MODEL = "tests/items/network.py:scores"
SHAPES = ((8, 9, 10), (8, 9, 10), (6, 7, 8), (8, 9, 10), (6, 7, 8), (8, 9, 10), (8, 9, 10))


def arrays(seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(np.float32) for shape in SHAPES]


def manifest(folder, volumes, *, name="manifest.csv", order=None):
    """Write the volumes and a manifest that names them by their place."""
    folder.mkdir(exist_ok=True)
    for i, volume in enumerate(volumes):
        np.save(folder / f"{i}.npy", volume)
    lines = [f"item-{i},{i}.npy,batch {i % 2}" for i in (order or range(len(volumes)))]
    (folder / name).write_text("\n".join(["id,path,plate", *lines]) + "\n")
    return str(folder / name)


def options(**changes):
    return ItemOptions(**{"batch": 2, "threads": 1, "voxels": True, **changes})


def rows_of(report):
    return {row["id"]: row for row in pq.read_table(report.table).to_pylist()}


def voxels_of(report, row, name="map"):
    volume = open_volume(f"{report.folder}/voxels.zarr/{name}/{row['bucket']}")
    return volume.read(Region.whole(volume.shape))[row["index"]]


def stored(report):
    """Checksums of all results: rows and voxels."""
    return {name: checksums(f"{report.folder}/{name}") for name in ("table.parquet", "voxels.zarr")}


def test_the_table_and_the_voxels_are_what_the_model_gives_for_each_item_alone(tmp_path):
    volumes = arrays()
    report = items(manifest(tmp_path / "in", volumes), MODEL, str(tmp_path / "out"), options=options())
    check_all_done(report)
    rows = rows_of(report)
    assert list(next(iter(rows.values()))) == [
        "id",
        "bucket",
        "index",
        "score",
        "classes_0",
        "classes_1",
        "classes_2",
        "reason",
    ]
    network = scores().eval()
    wanted = []
    for i, volume in enumerate(volumes):
        with torch.inference_mode():
            alone = network(torch.from_numpy(volume)[None, None])
        row = rows[f"item-{i}"]
        wanted.append(alone["score"].item())
        assert row["score"] == pytest.approx(wanted[-1], abs=1e-5)
        assert [row[f"classes_{k}"] for k in range(3)] == pytest.approx(alone["classes"][0].tolist(), abs=1e-5)
        np.testing.assert_allclose(voxels_of(report, row), alone["map"][0].numpy(), atol=1e-5)
        assert row["reason"] is None
    assert np.std(wanted) > 0.01
    assert report.n_failed == 0
    assert report.failures.read_text() == "id,reason,path,plate\n"


def test_only_items_of_one_shape_share_a_batch_and_every_batch_has_one_size(tmp_path, monkeypatch):
    seen = []
    model = scores()
    forward = model.forward
    model.forward = lambda x: seen.append(tuple(x.shape)) or forward(x)
    items(manifest(tmp_path / "in", arrays()), model, str(tmp_path / "out"), options=options(batch=4, voxels=False))
    assert set(seen[-3:]) == {(4, 1, 8, 9, 10), (4, 1, 6, 7, 8)}  # five items in two batches, two in one
    assert seen[-3:].count((4, 1, 8, 9, 10)) == 2


def test_bits_do_not_depend_on_blocks_nor_on_who_is_in_the_batch(tmp_path, monkeypatch):
    volumes = arrays()
    path = manifest(tmp_path / "in", volumes)
    first = rows_of(items(path, MODEL, str(tmp_path / "one"), options=options()))
    monkeypatch.setattr("engine.items.weigh.ITEMS_PER_BLOCK", 2)
    shorter = rows_of(items(path, MODEL, str(tmp_path / "two"), options=options()))
    turned = manifest(tmp_path / "in", volumes, name="turned.csv", order=(6, 4, 3, 2, 0, 5, 1))
    others = rows_of(items(turned, MODEL, str(tmp_path / "three"), options=options()))
    for id_, row in first.items():
        for name in ("score", "classes_0", "classes_1", "classes_2"):
            assert row[name] == shorter[id_][name] == others[id_][name]
    assert len({row["score"] for row in first.values()}) == len(volumes)


def broken(tmp_path):
    """Seven items, and five that are bad in five ways."""
    path = manifest(tmp_path / "in", arrays())
    folder = tmp_path / "in"
    (folder / "text.npy").write_text("this is no array\n")
    (folder / "short.npy").write_bytes((folder / "0.npy").read_bytes()[:200])
    nan = np.load(folder / "3.npy")
    nan[1, 2, 3] = np.nan
    np.save(folder / "nan.npy", nan)
    np.save(folder / "flat.npy", np.zeros((3, 4, 5, 6, 7), np.float32))
    lines = (folder / "manifest.csv").read_text().splitlines()
    bad = [f"bad-{name},{name}.npy,none" for name in ("text", "missing", "short", "nan", "flat")]
    mixed = [lines[0], lines[1], *bad[:4], *lines[2:], bad[4]]
    (folder / "mixed.csv").write_text("\n".join(mixed) + "\n")
    return path, str(folder / "mixed.csv")


def test_a_bad_item_is_its_own_failure_and_the_rest_of_its_block_is_done(tmp_path):
    sound, mixed = broken(tmp_path)
    alone = rows_of(items(sound, MODEL, str(tmp_path / "sound"), options=options()))
    report = items(mixed, MODEL, str(tmp_path / "out"), options=options())
    assert report.n_failed == 5
    assert report.summary.is_complete
    with pytest.raises(RunError, match=r"5 of 12 items failed; .*failures.csv"):
        check_all_done(report)
    failed = {row["id"]: row for row in csv.DictReader(report.failures.read_text().splitlines())}
    assert set(failed) == {"bad-text", "bad-missing", "bad-short", "bad-nan", "bad-flat"}
    assert "MissingError" in failed["bad-missing"]["reason"]
    assert "finite voxels" in failed["bad-nan"]["reason"]
    assert all("IngestError" in failed[f"bad-{name}"]["reason"] for name in ("text", "short"))
    assert failed["bad-nan"]["plate"] == "none"  # a manifest of its own
    rows = rows_of(report)
    assert rows["bad-nan"]["score"] is None
    for id_, row in alone.items():
        assert rows[id_]["score"] == pytest.approx(row["score"], abs=1e-5)
        assert rows[id_]["reason"] is None


def test_failures_are_a_manifest_of_what_to_try_again(tmp_path):
    _, mixed = broken(tmp_path)
    report = items(mixed, MODEL, str(tmp_path / "out"), options=options(voxels=False))
    np.save(tmp_path / "in" / "missing.npy", arrays()[0])
    again = items(str(report.failures), MODEL, str(tmp_path / "again"), options=options(voxels=False))
    assert again.n_items == 5
    assert again.n_failed == 4
    assert rows_of(again)["bad-missing"]["score"] == pytest.approx(rows_of(report)["item-0"]["score"], abs=1e-6)


class StopError(Exception):
    """What ends a run in its midst."""


def test_a_run_that_is_broken_off_goes_on_to_the_same_bits_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.items.weigh.ITEMS_PER_BLOCK", 2)
    path = manifest(tmp_path / "in", arrays())
    whole = items(path, MODEL, str(tmp_path / "whole"), options=options())
    done = []

    def stop(event):
        if isinstance(event, TaskDone):
            done.append(event.receipt.task)
            if len(done) == 2:
                raise StopError

    with pytest.raises(StopError):
        items(path, MODEL, str(tmp_path / "two"), options=options(), listener=stop)
    later = []
    report = items(path, MODEL, str(tmp_path / "two"), options=options(), listener=later.append)
    assert report.summary.n_done_before >= 1
    assert {event.receipt.task for event in later if isinstance(event, TaskDone)} | set(done) == set(
        range(whole.summary.n_tasks)
    )
    assert stored(report) == stored(whole)
    before = stored(report)
    assert items(path, MODEL, str(tmp_path / "two"), options=options()).summary.n_done == 0
    assert stored(report) == before


def test_a_block_that_fails_is_tried_again_and_then_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.items.weigh.ITEMS_PER_BLOCK", 2)
    path = manifest(tmp_path / "in", arrays())
    faults = (Fault(0, "raise", attempts=(1,)), Fault(1, "raise"))
    report = items(
        path,
        MODEL,
        str(tmp_path / "out"),
        options=options(),
        runner=lambda factory: SerialRunner(FaultyFactory(factory, faults)),
    )
    assert report.summary.n_retried == 2
    assert report.summary.n_failed == 1
    with pytest.raises(RunError, match="1 blocks of items failed"):
        check_all_done(report)
    check_all_done(items(path, MODEL, str(tmp_path / "out"), options=options()))


@dataclass(frozen=True)
class DyingFactory:
    """Kills the worker at its second block, once."""

    inner: object
    mark: str

    def __call__(self):
        return DyingWorker(self.inner(), self.mark)


class DyingWorker:
    def __init__(self, inner, mark):
        self.inner, self.mark, self.n_in_flight = inner, mark, 1

    def run(self, task, attempt):
        if task == 1 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.run(task, attempt)


@pytest.mark.slow
def test_two_ray_workers_of_which_one_dies_give_the_bits_of_the_plain_loop(tmp_path, monkeypatch, local_ray):
    monkeypatch.setattr("engine.items.weigh.ITEMS_PER_BLOCK", 2)
    path = manifest(tmp_path / "in", arrays())
    whole = items(path, MODEL, str(tmp_path / "whole"), options=options())

    def pool(factory):
        return RayRunner(DyingFactory(factory, str(tmp_path / "died")), n_workers=2, n_in_flight=1)

    report = items(path, MODEL, str(tmp_path / "ray"), options=options(workers=2), runner=pool)
    assert report.summary.n_workers_lost == 1
    assert (tmp_path / "died").exists()
    assert stored(report) == stored(whole)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("id,path\n", "at least one item"),
        ("id,file\na,b.npy\n", "needs a column 'path'"),
        ("id,path\na,0.npy\na,1.npy\n", "'a' twice"),
        ("id,path\na,nowhere.npy\n", "there is none; 'a': an item is read from a file"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_in_one_line(tmp_path, text, line):
    (tmp_path / "in.csv").write_text(text)
    with pytest.raises(CollectionError, match=line):
        items(str(tmp_path / "in.csv"), MODEL, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path):
    path = manifest(tmp_path / "in", arrays())
    network = "tests/items/network.py"
    with pytest.raises(UsageError, match="Add --voxels"):
        items(path, f"{network}:only_map", str(tmp_path / "out"), options=options(voxels=False))
    with pytest.raises(UsageError, match="'reason' comes twice"):
        items(path, f"{network}:clash", str(tmp_path / "out"), options=options())
    with pytest.raises(PlanError, match="one item needs"):
        items(path, MODEL, str(tmp_path / "out"), options=options(memory=2**20))
    with pytest.raises(UsageError, match="--workers must be at least 1"):
        items(path, MODEL, str(tmp_path / "out"), options=options(workers=0))
    assert not (tmp_path / "out").exists()
    items(path, MODEL, str(tmp_path / "out"), options=options(voxels=False))
    with pytest.raises(CollectionError, match="voxels differ"):
        items(path, MODEL, str(tmp_path / "out"), options=options())
    with pytest.raises(CollectionError, match=r"has no items\.json"):
        items(path, MODEL, str(tmp_path / "in"), options=options())


def test_a_manifest_may_be_parquet_and_an_item_any_volume(tmp_path):
    volume = np.random.default_rng(1).integers(0, 200, (6, 7, 8)).astype(np.uint8)
    np.save(tmp_path / "v.npy", volume)
    store(tmp_path / "v.zarr", volume, "zyx")
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4)), tmp_path / "v.nii.gz")
    table = pa.table({"id": ["a", "b", "c"], "path": ["v.npy", "v.zarr", "v.nii.gz"], "weight": [1.5, None, 2.5]})
    pq.write_table(table, tmp_path / "in.parquet")
    report = items(str(tmp_path / "in.parquet"), MODEL, str(tmp_path / "out"), options=options(voxels=False))
    check_all_done(report)
    a, b, c = (rows_of(report)[id_]["score"] for id_ in "abc")
    assert a == b == c != 0


def test_the_command_says_how_it_went(tmp_path, capsys):
    _, mixed = broken(tmp_path)
    with pytest.raises(RunError, match="5 of 12 items failed"):
        items_command(mixed, MODEL, str(tmp_path / "out"), batch=2, threads=1, runner="serial", memory="3G")
    said = capsys.readouterr().out
    assert "12, 5 failed" in said
    assert "items/s" in said
