"""Nothing lost: actors and drivers killed in mid-block, blocks that raise, disks that fill; then the run goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

import engine
from engine.errors import LedgerError, ResumeError, RunError
from engine.plan_json import plan_to_json
from engine.runtime.actors import RayRunner
from engine.runtime.serial import SerialRunner
from engine.storage.ledger import State
from engine.storage.output import open_output
from tests import pipelines, watched
from tests.faults import Fault, FaultyFactory
from tests.stored import checksums, objects, smooth, store, stored

ROOT = Path(__file__).parents[1]
OPTIONS = engine.Options(tile=(44, 44), block=(32, 32), threads=2, batch=1, pyramid=False)
FLAGS = "--tile 44,44 --block 32,32 --threads 2 --batch 1 --no-pyramid --verify 1".split()
SLOTS = 3
"""Blocks that one worker holds at once."""


def field(folder: Path, *, marked: tuple[tuple[int, int], ...] = ()) -> str:
    array = smooth((1, 160, 192))
    for y, x in marked:
        array[0, y, x] = pipelines.MARK
    return store(folder / "in.zarr", array, "cyx")


def serially(factory, plan):
    return SerialRunner(factory, n_in_flight=2)


def undisturbed(source: str, model: str, folder: Path) -> dict[str, str]:
    report = engine.run(
        source, model, str(folder / "undisturbed.zarr"), options=OPTIONS, n_certified=0, runner=serially
    )
    assert report.is_complete
    assert stored(folder / "undisturbed.zarr").std() > 0
    return checksums(folder / "undisturbed.zarr")


@contextmanager
def until(condition, *, seconds: float = 60.0):
    """Wait for a condition, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
    yield


def test_an_actor_killed_in_mid_block_costs_only_what_it_had_in_flight(tmp_path, local_ray):
    source, diary = field(tmp_path), tmp_path / "diary"
    wanted = undisturbed(source, "tests.pipelines:scan2d", tmp_path)

    def killer():
        with until(lambda: sum(what == "middle" for what, _, _ in watched.entries(diary)) >= 6):
            victim = watched.entries(diary)[-1][2]
            os.kill(victim, signal.SIGKILL)

    def runner(factory, plan):
        return RayRunner(watched.Watched(factory, str(diary), 0.15), n_workers=2, n_cpus_per_worker=1, n_in_flight=2)

    thread = threading.Thread(target=killer)
    thread.start()
    report = engine.run(source, "tests.pipelines:scan2d", str(tmp_path / "out.zarr"), options=OPTIONS, runner=runner)
    thread.join()
    assert report.is_complete
    assert report.summary.n_workers_lost == 1
    assert checksums(tmp_path / "out.zarr") == wanted
    found = watched.entries(diary)
    ended = [task for what, task, _ in found if what == "end"]
    started = [task for what, task, _ in found if what == "start"]
    again = {task for task in started if started.count(task) > 1}
    finished_twice = {task for task in ended if ended.count(task) > 1}
    assert sorted(set(ended)) == list(range(report.plan.graph.n_tasks))
    assert 1 <= len(again) <= 2  # what one actor holds
    assert len(finished_twice) <= len(again)


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = process.communicate(timeout=120)
    return process.returncode, error


def stamps(url: Path) -> dict[str, tuple[int, int]]:
    """Return what changes when an object is written again: it is renamed into place, so its inode is another."""
    found = {}
    for path in objects(url):
        if not path.name.endswith(".partial"):
            stat = path.stat()
            found[str(path.relative_to(url))] = (stat.st_ino, stat.st_mtime_ns)
    return found


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("runner", [pytest.param("serial", marks=pytest.mark.slow), "ray"])
def test_a_driver_killed_in_mid_run_goes_on_where_it_was(tmp_path, runner):
    source, out = field(tmp_path), tmp_path / "out.zarr"
    wanted = undisturbed(source, "tests.pipelines:slow", tmp_path)
    process = command("run", source, "tests.pipelines:slow", str(out), "--runner", runner, *FLAGS)
    with until(lambda: out.exists() and len(objects(out)) >= 6):
        # Ray's two agents, which hold no block, look only once a minute whether their parent is there
        workers = [p for p in descendants(process.pid) if "Agent" not in " ".join(p.cmdline())]
        process.kill()
        process.communicate()
    with until(lambda: not alive(workers), seconds=30):
        before = stamps(out)
    ledger = open_output(str(out)).ledger
    n_done = ledger.counts()[State.DONE]
    assert 0 < n_done < ledger.n_tasks
    assert len(before) - n_done <= SLOTS + 1  # stored, and the driver died before it could note it
    code, error = finished(command("resume", str(out), "--runner", "serial", "--verify", "1"))
    assert code == 0, error
    after = stamps(out)
    rewritten = [name for name in before if after[name] != before[name]]
    assert len(rewritten) <= len(before) - n_done
    assert checksums(out) == wanted
    assert not list(out.rglob("*.partial"))


def test_a_block_that_raises_is_retried_and_recorded_while_the_rest_completes(tmp_path, monkeypatch):
    cause = tmp_path / "cause"
    cause.touch()
    source, out = field(tmp_path, marked=((90, 120),)), tmp_path / "out.zarr"  # seen by block (2, 3) alone
    wanted = undisturbed(source, "tests.pipelines:allergic", tmp_path)
    process = command("run", source, "tests.pipelines:allergic", str(out), *FLAGS, **{pipelines.ALLERGY: str(cause)})
    workers: list[psutil.Process] = []
    while process.poll() is None:
        workers += [p for p in descendants(process.pid) if p not in workers]
        time.sleep(0.2)
    code, error = finished(process)
    assert code == 1
    assert error.count("\n") == 1
    assert "RunError: 1 blocks failed" in error
    assert "a marked voxel" in error
    assert "engine resume" in error
    assert any("raylet" in p or "ray::" in p for p in _names(workers)) or len(workers) > 2
    with until(lambda: not alive(workers), seconds=20):
        pass  # no process of Ray is left
    found = engine.status(str(out))
    assert found.counts[State.FAILED] == 1
    assert found.counts[State.DONE] == 29
    ((task, reason),) = found.failures.items()
    assert task == 2 * 6 + 3
    assert reason == "attempt 3: ValueError: a marked voxel"
    before = stamps(out)
    assert len(before) == 29
    cause.unlink()
    report = engine.resume(str(out), runner=serially)
    assert report.is_complete
    assert report.summary.n_done == 1
    assert engine.status(str(out)).failures == {}
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    assert checksums(out) == wanted


def _names(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        try:
            found.append(" ".join([process.name(), *process.cmdline()[:1]]))
        except psutil.Error:
            continue
    return found


def interrupted(source: str, out: Path, model: str = "tests.pipelines:other") -> engine.Options:
    """Leave an output of which a few blocks are done."""
    n_done = 0

    def listen(event):
        nonlocal n_done
        n_done += type(event).__name__ == "TaskDone"
        if n_done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(source, model, str(out), options=OPTIONS, listener=listen, runner=serially)
    return OPTIONS


def test_resume_refuses_another_model_plan_or_source_and_names_what_differs(tmp_path):
    source, out = field(tmp_path), tmp_path / "out.zarr"
    interrupted(source, out)
    before = stamps(out)
    plan = plan_to_json(engine.status(str(out)).plan)
    other_plan = {**plan, "tilings": [{**plan["tilings"][0], "tile": 48}, plan["tilings"][1]], "batch_size": 2}
    with pytest.raises(ResumeError, match=r"the model '.*tests\.pipelines:allergic' is not the one .*fingerprint"):
        engine.resume(str(out), model="tests.pipelines:allergic")
    with pytest.raises(ResumeError, match=r"plan given is not the one.*batch_size: 2 here, 1 there.*tilings"):
        engine.resume(str(out), plan=other_plan)
    other = store(tmp_path / "other.zarr", smooth((1, 160, 192), seed=9), "cyx")
    with pytest.raises(ResumeError, match=r"the source at '.*other\.zarr' is not the one"):
        engine.resume(str(out), source=other)
    assert stamps(out) == before
    Path(source).rename(tmp_path / "moved.zarr")
    report = engine.resume(str(out), source=str(tmp_path / "moved.zarr"), plan=plan)
    assert report.is_complete
    assert report.summary.n_done_before >= 4


def test_a_done_output_resumed_again_does_nothing(tmp_path):
    source, out = field(tmp_path), tmp_path / "out.zarr"
    interrupted(source, out)
    assert engine.resume(str(out)).is_complete
    before = stamps(out)
    report = engine.resume(str(out))
    assert report.is_complete
    assert report.summary.n_done == 0
    assert stamps(out) == before


@contextmanager
def small_disk(folder: Path, *, size: str):
    """A file system of so many bytes, or skip."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def noise(folder: Path) -> str:
    """A field that does not compress."""
    return store(
        folder / "noise.zarr", np.random.default_rng(0).standard_normal((1, 160, 192)).astype("float32"), "cyx"
    )


def test_a_disk_that_is_full_stops_the_run_with_a_clear_error_and_it_goes_on_when_there_is_space(tmp_path):
    source = noise(tmp_path)
    wanted = undisturbed(source, "tests.pipelines:other", tmp_path)
    disk = tmp_path / "disk"
    with small_disk(disk, size="160k"):
        out = disk / "out.zarr"
        with pytest.raises((RunError, LedgerError), match=r"(?i)no space left .*Free some space, then resume"):
            engine.run(source, "tests.pipelines:other", str(out), options=OPTIONS, runner=serially)
        counts = open_output(str(out)).ledger.counts()
        assert 0 < counts[State.DONE] < 30
        assert counts[State.FAILED] == 0
        before = stamps(out)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        report = engine.resume(str(out), runner=serially)
        assert report.is_complete
        assert report.summary.n_done == 30 - counts[State.DONE]
        after = stamps(out)
        assert sum(after[name] != before[name] for name in before) <= len(before) - counts[State.DONE]
        assert checksums(out) == wanted


def test_a_worker_that_finds_no_space_stops_the_run_and_leaves_it_resumable(tmp_path):
    source, out = field(tmp_path), tmp_path / "out.zarr"
    wanted = undisturbed(source, "tests.pipelines:other", tmp_path)

    def runner(factory, plan):
        return SerialRunner(FaultyFactory(factory, (Fault(11, "no_space"),)), n_in_flight=2)

    with pytest.raises(RunError, match=r"no space left where task 11 .*Free some space, then resume"):
        engine.run(source, "tests.pipelines:other", str(out), options=OPTIONS, runner=runner)
    assert 0 < open_output(str(out)).ledger.counts()[State.DONE] <= 13
    assert engine.resume(str(out), runner=serially).is_complete
    assert checksums(out) == wanted
