"""What comes next, and what a step's end leads to, without a model: outputs are described, blocks are told as done."""

import pytest

from engine.collection.batch import batch
from engine.collection.job import CONCLUDE, FIRST_BLOCK, OPEN, ObjectsWish, step_of
from engine.collection.manifest import entries_of
from engine.collection.pool import patience_of
from engine.collection.record import SlideRecord, read_records, table_rows, write_record
from engine.errors import CollectionError, RunError, UsageError
from engine.prepare import Options
from engine.runtime.events import Failure, Receipt
from engine.runtime.seats import Seat
from engine.runtime.serial import SerialRunner
from tests.slides import picture, write_slide
from tests.stored import checksums

MODEL = "tests/collection/network.py:stain_net"
OPTIONS = Options(tile=(128, 128), block=(128, 128), threads=2)


@pytest.fixture
def slides(tmp_path):
    (tmp_path / "slides").mkdir()
    for i in range(2):
        write_slide(tmp_path / f"slides/s{i}.tiff", picture(400, 300 + 60 * i, seed=i), compression="deflate")
    return tmp_path / "slides"


def run_batch(slides, out, **options):
    return batch([str(slides)], MODEL, str(out), options=options.pop("options", OPTIONS), n_certified=1, **options)


class Full:
    """A worker on a disk that is full for one kind of step."""

    def __init__(self, inner, step):
        self.inner, self.step, self.n_in_flight = inner, step, 1

    def run(self, task, attempt):
        step = min(step_of(task)[1], FIRST_BLOCK)
        if step == self.step:
            return Receipt(task, attempt, error=Failure("no_space", "OSError: no space left"))
        return self.inner.run(task, attempt)


@pytest.mark.parametrize("step", [OPEN, FIRST_BLOCK, CONCLUDE])
def test_a_full_disk_stops_the_call_and_the_next_goes_on_with_every_slide(slides, tmp_path, step):
    out = tmp_path / "out"
    with pytest.raises(RunError, match="no space left"):
        run_batch(slides, out, runner=lambda factory: SerialRunner(lambda: Full(factory(), step)))
    assert len((out / "collection.csv").read_text().splitlines()) == 3
    report = run_batch(slides, out)
    assert report.count("done") == 2


def test_a_slide_whose_ledger_is_damaged_fails_alone(slides, tmp_path):
    out = tmp_path / "out"
    run_batch(slides, out)
    (out / "records/s0.json").unlink()
    chunk = next(p for p in (out / "s0.zarr/ledger/c").iterdir())
    chunk.write_bytes(b"damaged")
    report = run_batch(slides, out)
    assert {r.id: r.status for r in report.records} == {"s0": "failed", "s1": "done"}
    assert "ledger" in report.records[0].reason


def test_a_describing_that_was_broken_off_is_begun_anew(slides, tmp_path):
    out = tmp_path / "out"
    (out / "records/s0.zarr/probability").mkdir(parents=True)
    (out / "records/s0.zarr/zarr.json").write_text("{")
    assert run_batch(slides, out).count("done") == 2
    assert not (out / "records/s0.zarr").exists()


def test_slides_that_were_moved_keep_their_results_and_another_slide_of_the_name_does_not(slides, tmp_path):
    out = tmp_path / "out"
    run_batch(slides, out)
    before = checksums(out / "s0.zarr/probability")
    moved = tmp_path / "elsewhere"
    slides.rename(moved)
    write_slide(moved / "s1.tiff", picture(400, 360, seed=77), compression="deflate")
    report = run_batch(moved, out)
    by_id = {record.id: record for record in report.records}
    assert by_id["s0"].status == "done"
    assert by_id["s0"].path == f"{moved}/s0.tiff"
    assert checksums(out / "s0.zarr/probability") == before
    assert (by_id["s1"].status, by_id["s1"].code) == ("failed", "changed")


def test_a_manifest_may_ask_for_all_of_a_slide(slides, tmp_path):
    (tmp_path / "m.csv").write_text("slide,tissue,score\nslides/s0.tiff,none,high\nslides/s1.tiff,,low\n")
    report = batch([f"{tmp_path}/m.csv"], MODEL, f"{tmp_path}/out", options=OPTIONS, n_certified=0)
    assert report.count("done") == 2
    assert "tissue_mm2" not in report.records[0].measures
    assert report.records[1].measures["tissue_mm2"] > 0


def test_what_cannot_be_done_to_any_slide_is_refused_before_the_folder_is_claimed(slides, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="probability, label, not 'labl'"):
        run_batch(slides, out, objects=ObjectsWish("labl"))
    with pytest.raises(UsageError, match="connected or watershed, not 'magic'"):
        run_batch(slides, out, objects=ObjectsWish("label", "magic"))
    assert not out.exists()
    with pytest.raises(CollectionError, match="a folder of their own"):
        run_batch(slides, slides)
    with pytest.raises(CollectionError, match="a folder of this machine"):
        run_batch(slides, "s3://bucket/out")


def test_a_damaged_claim_is_refused_in_one_line(slides, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/collection.json").write_text('{"model": "ab')
    with pytest.raises(CollectionError, match="must be as the engine wrote it") as caught:
        run_batch(slides, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_records_take_up_what_the_manifest_says_now(tmp_path):
    (tmp_path / "m.csv").write_text("slide,patient\na.svs,p2\n")
    entries = entries_of([f"{tmp_path}/m.csv"])
    write_record(str(tmp_path), SlideRecord("a", entries[0].path, "done", others={"patient": "p1"}))
    record = read_records(str(tmp_path), entries)["a"]
    assert (record.status, record.others) == ("done", {"patient": "p2"})
    write_record(str(tmp_path), SlideRecord("a", "/old/a.svs", "failed", others={}))
    assert read_records(str(tmp_path), entries)["a"].status == "failed"


def test_a_column_of_the_manifest_never_stands_for_what_was_measured():
    rows = table_rows(
        [
            SlideRecord("a", "a.svs", "done", measures={"score": 0.5}, others={"score": "0.9", "status": "x"}),
            SlideRecord("b", "b.svs", "failed", others={"score": "0.8", "status": "y"}),
        ]
    )
    assert [row.get("score") for row in rows] == [0.5, None]
    assert [row["manifest_score"] for row in rows] == ["0.9", "0.8"]
    assert [row["status"] for row in rows] == ["done", "failed"]


def test_a_block_that_waited_behind_a_whole_slide_begins_its_patience_anew(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("engine.runtime.seats.time.monotonic", lambda: now[0])

    def patience(task):
        return 100.0 if task == CONCLUDE else 5.0

    seat = Seat(0, calls={CONCLUDE: 0.0, FIRST_BLOCK: 0.0})
    now[0] = 60.0
    assert seat.overdue(patience) is None
    seat.settle(CONCLUDE, patience)
    assert seat.overdue(patience) is None
    now[0] = 66.0
    assert seat.overdue(patience) == 5.0
    seat.settle(FIRST_BLOCK, patience)
    assert seat.overdue(patience) is None


def test_concluding_has_more_patience_only_where_a_whole_slide_is_gone_through():
    class Job:
        objects, score = ObjectsWish("label"), None

    assert patience_of(Job, 10.0)(CONCLUDE) > patience_of(Job, 10.0)(FIRST_BLOCK) == 10.0
    Job.objects = None
    assert patience_of(Job, 10.0)(CONCLUDE) == 10.0
