"""A collection: each slide's failure is its own, a second call does nothing, and --only-failed tries what failed."""

import csv
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest

import engine
from engine.collection.batch import batch, check_all_done
from engine.collection.job import FIRST_BLOCK, step_of
from engine.errors import CollectionError, RunError
from engine.geometry.region import Region
from engine.prepare import Options
from engine.runtime.actors import RayRunner
from engine.storage.volume import open_volume
from tests.slides import picture, write_slide
from tests.stored import checksums

MODEL = "tests/collection/network.py:stain_net"
OPTIONS = Options(tile=(128, 128), block=(128, 128), threads=2)


def good(folder, n, *, size=400):
    return [
        write_slide(folder / f"good-{i}.tiff", picture(size + 40 * i, size, seed=i), compression="deflate")
        for i in range(n)
    ]


def bad(folder):
    """Five files that are bad in five ways."""
    sound = write_slide(folder / "sound.tiff", picture(420, 400, seed=99), compression="deflate").read_bytes()
    (folder / "sound.tiff").unlink()
    damaged = bytearray(sound)
    damaged[:4] = b"\0\0\0\0"
    (folder / "damaged.tiff").write_bytes(damaged)
    write_slide(folder / "truncated.tiff", picture(420, 400, seed=98), compression="deflate")
    truncate_tile(folder / "truncated.tiff")
    write_slide(folder / "no-mpp.tiff", picture(420, 400, seed=97), mpp=None)
    (folder / "empty.svs").write_bytes(b"")
    (folder / "text.svs").write_text("this is a letter and no slide\n")


def truncate_tile(path):
    """Overwrite the compressed bytes of a tile in the middle of level 0."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        middle = len(page.dataoffsets) // 2 + 1
        offset, length = page.dataoffsets[middle], page.databytecounts[middle]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * length)


def run_batch(folder, out, **options):
    return batch([str(folder)], MODEL, str(out), options=OPTIONS, n_certified=1, **options)


def test_the_good_slides_finish_the_bad_have_their_reasons_and_a_second_call_does_nothing(tmp_path):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    good(slides, 3)
    bad(slides)
    first = run_batch(slides, out)
    assert first.count("done") == 3
    assert first.count("failed") == 5
    assert first.n_tried == 8
    codes = {record.id: record.code for record in first.records if record.status == "failed"}
    assert codes["no-mpp"] == "no_mpp"
    assert codes["truncated"] == codes["damaged"] == "unreadable"
    assert codes["empty"] == "empty"
    assert codes["text"] == "unreadable"
    assert all("\n" not in r.reason and r.reason for r in first.records if r.status == "failed")
    with pytest.raises(RunError, match="5 of 8 slides failed .* --only-failed"):
        check_all_done(first)
    rows = {row["id"]: row for row in csv.DictReader(first.table.read_text().splitlines())}
    assert rows["good-1"]["status"] == "done"
    assert float(rows["good-1"]["tissue_mm2"]) > 0
    assert float(rows["good-1"]["seam_difference"]) < 1e-4
    assert pq.read_table(first.parquet).num_rows == 8

    before = checksums(out)
    second = run_batch(slides, out)
    assert second.n_tried == 0
    assert checksums(out) == before
    assert second.records == first.records
    third = run_batch(slides, out, only_failed=True)
    assert third.n_tried == 5
    assert third.count("failed") == 5


def test_a_slide_in_a_collection_equals_the_slide_alone(tmp_path):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    paths = good(slides, 2)
    run_batch(slides, out)
    for path in paths:
        options = Options(tissue="auto", tile=(192, 192), threads=2)
        engine.run(str(path), MODEL, str(tmp_path / f"{path.stem}.zarr"), options=options)
        ours, alone = (open_volume(f"{f}/{path.stem}.zarr/probability") for f in (out, tmp_path))
        ours, alone = (v.read(Region.whole(v.shape)) for v in (ours, alone))
        assert alone.std() > 0.001
        np.testing.assert_allclose(ours, alone, atol=1e-6, rtol=0)


def test_statistics_of_one_slide_are_not_those_of_another(tmp_path):
    slides, out, model = tmp_path / "slides", tmp_path / "out", MODEL.replace("stain_net", "centred_net")
    slides.mkdir()
    good(slides, 3)
    report = batch([str(slides)], model, str(out), options=OPTIONS, n_certified=2)
    assert report.count("done") == 3
    found = []
    for i in range(3):
        alone = engine.run(
            f"{slides}/good-{i}.tiff", model, f"{tmp_path}/{i}.zarr", options=Options(tissue="auto", tile=(192, 192), threads=2)
        )
        found.append(alone.plan.model.constants)
        one, two = (open_volume(f"{url}/probability") for url in (f"{out}/good-{i}.zarr", f"{tmp_path}/{i}.zarr"))
        one, two = (v.read(Region.whole(v.shape)) for v in (one, two))
        np.testing.assert_allclose(one, two, atol=1e-6, rtol=0)
    assert found[0] != found[1] != found[2]


def test_a_mended_slide_is_done_by_only_failed(tmp_path):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    good(slides, 1)
    (slides / "late.tiff").write_bytes(b"")
    assert run_batch(slides, out).count("failed") == 1
    write_slide(slides / "late.tiff", picture(400, 400))
    report = run_batch(slides, out, only_failed=True)
    assert report.n_tried == 1
    assert report.count("done") == 2
    check_all_done(report)


def test_another_model_in_the_same_folder_is_refused(tmp_path):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    good(slides, 1)
    run_batch(slides, out)
    with pytest.raises(CollectionError, match="another call: model differ"):
        batch([str(slides)], MODEL.replace("stain_net", "other_net"), str(out), options=OPTIONS)


@dataclass(frozen=True)
class CrashingFactory:
    """Kills its process, or hangs, in the first block of some slides: what a bad decoder does."""

    inner: object
    crash: str
    hang: str

    def __call__(self):
        return CrashingWorker(self.inner(), self)


class CrashingWorker:
    def __init__(self, inner, script):
        self.inner, self.script, self.n_in_flight = inner, script, inner.n_in_flight
        self.ids = [entry.id for entry in script.inner.job.entries]

    def run(self, task, attempt):
        slide, step = step_of(task)
        if step == FIRST_BLOCK and self.ids[slide] == self.script.crash:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == FIRST_BLOCK and self.ids[slide] == self.script.hang:
            time.sleep(1000)
        return self.inner.run(task, attempt)


def test_a_decoder_that_crashes_or_hangs_takes_a_worker_and_not_the_run(tmp_path, local_ray, monkeypatch):
    monkeypatch.setattr("engine.collection.batch.N_ATTEMPTS", 1)  # each attempt takes a worker with it
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    good(slides, 4)

    def pool(factory):
        script = CrashingFactory(factory, "good-1", "good-2")
        return RayRunner(script, n_workers=1, n_in_flight=2, patience=lambda task: 6.0)

    report = run_batch(slides, out, runner=pool)
    by_id = {record.id: record for record in report.records}
    assert by_id["good-0"].status == by_id["good-3"].status == "done"
    assert by_id["good-1"].code == "crashed"
    assert by_id["good-2"].code == "no_answer"


def test_an_interrupted_collection_goes_on_with_the_same_bits(tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    good(slides, 2, size=500)
    run_batch(slides, tmp_path / "one")

    class Stop:
        n = 0

        def listen(self, queue):
            def take(event):
                Stop.n += 1
                if Stop.n == 9:
                    raise KeyboardInterrupt

            return take

        def settled(self, record):
            pass

    from contextlib import nullcontext

    with pytest.raises(KeyboardInterrupt):
        run_batch(slides, tmp_path / "two", watch=lambda _: nullcontext(Stop()))
    report = run_batch(slides, tmp_path / "two")
    assert report.count("done") == 2
    for slide in ("good-0", "good-1"):
        for path in ("probability/0", "labels/label/0"):
            assert checksums(tmp_path / f"one/{slide}.zarr/{path}") == checksums(tmp_path / f"two/{slide}.zarr/{path}")
