"""One contract for every runner: all tasks once, in order of need, and nothing lost when something breaks."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from engine.errors import RunError
from engine.geometry.block_graph import BlockGraph
from engine.runtime.events import RunFinished, RunStarted, TaskDone, TaskFailed, TaskRetried, WorkerLost
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from engine.storage.ledger import Ledger, State
from tests.faults import Diary, Fault, FaultyFactory, Killer, Stillborn

GRAPH = BlockGraph((5, 4), ((2, 2), (1, 2), (2, 2)))  # levels of 5 x 4, 3 x 2, 3 x 1, 2 x 1 blocks: 31 tasks
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["plain loop", "two threads", "two actors"])
def make_runner(request):
    if request.param == "two actors":
        request.getfixturevalue("local_ray")
        return _two_actors
    n_in_flight = 1 if request.param == "plain loop" else 2
    return lambda factory: SerialRunner(factory, n_in_flight=n_in_flight)


@pytest.fixture
def two_actors(local_ray):
    return _two_actors


def _two_actors(factory, **options):
    from engine.runtime.actors import RayRunner

    return RayRunner(factory, **{"n_workers": 2, "n_in_flight": 2, **options})


@pytest.fixture
def ledger(tmp_path):
    return Ledger.create(str(tmp_path), GRAPH.n_tasks)


@pytest.fixture
def diary(tmp_path):
    return Diary(str(tmp_path / "diary.txt"))


def _drive(runner, ledger, **options):
    events = []
    try:
        with runner:
            summary = drive(GRAPH, runner, ledger, events.append, **options)
    finally:
        assert isinstance(events[0], RunStarted)
        assert isinstance(events[-1], RunFinished)
    return summary, events


def _states(tmp_path):
    """What the stored ledger says, to another reader."""
    return list(Ledger.open(str(tmp_path)).states(0, GRAPH.n_tasks))


def test_every_task_is_done_once_and_after_what_it_depends_on(make_runner, ledger, diary, tmp_path):
    summary, events = _drive(make_runner(diary), ledger)
    assert sorted(diary.ended()) == list(range(GRAPH.n_tasks))
    place = {(what, task): i for i, (what, task, _, _) in enumerate(diary.entries())}
    for task in range(GRAPH.n_tasks):
        for finer in GRAPH.dependencies(task):
            assert place["end", finer] < place["start", task]
    assert _states(tmp_path) == [State.DONE] * GRAPH.n_tasks
    assert summary.is_complete
    assert (summary.n_done, summary.n_voxels, summary.n_bytes_written) == (31, 310, 93)
    assert sum(isinstance(event, TaskDone) for event in events) == 31


def test_a_shuffled_run_does_the_same_tasks_in_another_order(make_runner, ledger, diary, tmp_path):
    _drive(make_runner(diary), ledger, shuffle_seed=3)
    assert sorted(diary.ended()) == list(range(GRAPH.n_tasks))
    blocks = [task for task in diary.ended() if task < GRAPH.n_blocks]
    assert sum(abs(a - b) for a, b in zip(blocks, sorted(blocks), strict=True)) > 40


@pytest.mark.parametrize("wave_limit", [4, 10_000])  # what needs it is planned after it fails; and before
def test_a_task_that_fails_is_retried_then_recorded_and_the_rest_completes(
    make_runner, ledger, diary, tmp_path, wave_limit
):
    faults = (Fault(5, "raise", (1, 2)), Fault(2, "raise"))
    summary, events = _drive(make_runner(FaultyFactory(diary, faults)), ledger, wave_limit=wave_limit)
    blocked = set()
    stack = [2]
    while stack:
        coarser = GRAPH.dependents(stack.pop())
        blocked.update(coarser)
        stack.extend(coarser)
    states = _states(tmp_path)
    assert {task for task, state in enumerate(states) if state == State.PENDING} == blocked
    assert {task for task, state in enumerate(states) if state == State.FAILED} == {2}
    assert Ledger.open(str(tmp_path)).failures() == {2: "attempt 3: ValueError: scripted fault in task 2"}
    assert (summary.n_failed, summary.n_retried, summary.n_pending) == (1, 4, len(blocked))
    assert not summary.is_complete
    assert [event.receipt.task for event in events if isinstance(event, TaskFailed)] == [2]
    assert Counter(e.receipt.task for e in events if isinstance(e, TaskRetried)) == {5: 2, 2: 2}


def test_a_second_run_takes_only_what_is_missing(make_runner, ledger, diary, tmp_path):
    first = FaultyFactory(diary, (Fault(7, "raise"), Fault(12, "raise")))
    _drive(make_runner(first), ledger, n_attempts=1)
    before = set(diary.ended())
    assert 0 < len(before) < GRAPH.n_tasks
    summary, _ = _drive(make_runner(diary), Ledger.open(str(tmp_path)))
    assert Counter(diary.ended()) == Counter(range(GRAPH.n_tasks))
    assert _states(tmp_path) == [State.DONE] * GRAPH.n_tasks
    assert (summary.n_done_before, summary.n_done) == (len(before), GRAPH.n_tasks - len(before))
    assert Ledger.open(str(tmp_path)).failures() == {}
    third, _ = _drive(make_runner(diary), Ledger.open(str(tmp_path)))
    assert third.n_done == 0


def test_a_full_disk_ends_the_run_and_the_next_run_finishes_it(make_runner, ledger, diary, tmp_path):
    with pytest.raises(RunError, match="no space left"):
        _drive(make_runner(FaultyFactory(diary, (Fault(9, "no_space"),))), ledger)
    states = _states(tmp_path)
    assert State.FAILED not in states
    assert {task for task, state in enumerate(states) if state == State.DONE} == set(diary.ended())
    assert 0 < len(diary.ended()) < GRAPH.n_tasks
    summary, _ = _drive(make_runner(diary), Ledger.open(str(tmp_path)))
    assert summary.is_complete
    assert Counter(diary.ended()) == Counter(range(GRAPH.n_tasks))


def test_only_chosen_blocks_and_what_they_complete_are_done(make_runner, ledger, diary, tmp_path):
    _drive(make_runner(diary), ledger, chosen=lambda tasks: tasks < 8)  # the first two rows
    assert sorted(diary.ended()) == [*range(8), 20, 21, 26]


def test_an_interrupt_leaves_what_was_done_in_the_ledger(make_runner, ledger, diary, tmp_path):
    seen = []

    def interrupt(event):
        seen.append(event)
        if sum(isinstance(event, TaskDone) for event in seen) == 6:
            raise KeyboardInterrupt

    with make_runner(diary) as runner, pytest.raises(KeyboardInterrupt):
        drive(GRAPH, runner, ledger, interrupt)
    assert isinstance(seen[-1], RunFinished)
    done = {task for task, state in enumerate(_states(tmp_path)) if state == State.DONE}
    assert {event.receipt.task for event in seen if isinstance(event, TaskDone)} <= done
    summary, _ = _drive(make_runner(diary), Ledger.open(str(tmp_path)))
    assert summary.is_complete


def test_a_worker_killed_in_mid_block_is_replaced_and_its_neighbours_are_done(two_actors, ledger, tmp_path):
    diary = Diary(str(tmp_path / "diary.txt"), seconds=0.05)
    summary, events = _drive(two_actors(FaultyFactory(diary, (Fault(6, "kill", (1,), 0.03),))), ledger)
    assert summary.is_complete
    assert _states(tmp_path) == [State.DONE] * GRAPH.n_tasks
    assert (summary.n_workers_lost, summary.n_failed) == (1, 0)
    assert sum(isinstance(event, WorkerLost) for event in events) == 1
    retried = {event.receipt.task for event in events if isinstance(event, TaskRetried)}
    assert 6 in retried
    assert len(retried) <= 2
    assert all(n == 1 or task in retried for task, n in Counter(diary.ended()).items())


@pytest.mark.parametrize("n_attempts", [1, 2])
def test_a_block_that_always_kills_its_worker_fails_alone(two_actors, ledger, tmp_path, n_attempts):
    diary = Diary(str(tmp_path / "diary.txt"), seconds=0.02)
    factory = FaultyFactory(diary, (Fault(6, "kill", seconds=0.01),))
    summary, _ = _drive(two_actors(factory), ledger, n_attempts=n_attempts)
    states = _states(tmp_path)
    assert {task for task, state in enumerate(states) if state == State.FAILED} == {6}
    assert "died" in Ledger.open(str(tmp_path)).failures()[6]
    assert summary.n_pending == 3  # the blocks over it
    assert summary.n_done == GRAPH.n_tasks - 4
    assert summary.n_workers_lost == n_attempts + 1


def test_a_single_worker_that_dies_with_the_last_block_in_flight_does_not_end_the_run(two_actors, ledger, tmp_path):
    diary = Diary(str(tmp_path / "diary.txt"))
    factory = FaultyFactory(diary, (Fault(0, "kill"),))
    summary, _ = _drive(two_actors(factory, n_workers=1, n_in_flight=1), ledger, n_attempts=1)
    assert (summary.n_failed, summary.n_pending) == (1, 3)
    assert summary.n_done == GRAPH.n_tasks - 4


def test_a_task_that_fails_is_tried_on_the_other_actor(two_actors, ledger, diary):
    runner = two_actors(FaultyFactory(diary, (Fault(0, "raise", (1,)),)), n_in_flight=1)
    while runner.n_free < runner.n_slots:  # until both are up
        assert runner.next_receipt(30) is None
    _, events = _drive(runner, ledger)
    tries = [e.receipt for e in events if isinstance(e, TaskRetried | TaskDone) and e.receipt.task == 0]
    assert len({receipt.worker for receipt in tries}) == 2


def test_a_worker_that_cannot_be_made_is_one_clear_error(make_runner):
    with pytest.raises((RunError, FileNotFoundError), match=r"weights\.safetensors: no such file"):
        make_runner(Stillborn())


def test_workers_that_die_while_they_start_are_given_up(two_actors):
    with pytest.raises(RunError, match="no worker could be started: ActorDiedError"):
        two_actors(Killer(), n_workers=1)


def test_workers_that_ray_could_never_start_are_refused(two_actors, diary):
    with pytest.raises(RunError, match="need 64 CPUs, and Ray has 2"):
        two_actors(diary, n_workers=64)


def test_an_address_without_a_cluster_is_refused(diary):
    """In a process of its own: joining needs a Ray that is not connected yet."""
    code = """
        from tests.faults import Idle
        from engine.errors import RunError
        from engine.runtime.actors import RayRunner
        try:
            RayRunner(Idle(), n_workers=1, address="127.0.0.1:1")
        except RunError as error:
            print("refused:", error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "refused: no Ray at '127.0.0.1:1'" in result.stdout


@pytest.mark.slow  # tests/test_nothing_lost.py kills a driver too
def test_a_killed_driver_leaves_a_whole_ledger_no_orphans_and_a_quiet_terminal(tmp_path):
    code = """
        import sys
        from tests.faults import Diary, Fault, FaultyFactory
        from engine.geometry.block_graph import BlockGraph
        from engine.runtime.actors import RayRunner
        from engine.runtime.events import TaskDone
        from engine.runtime.schedule import drive
        from engine.storage.ledger import Ledger
        diary = Diary(sys.argv[1] + "/diary.txt", seconds=0.02)
        ledger = Ledger.create(sys.argv[1], 2000)
        faults = (Fault(3, "kill", (1,)),)
        with RayRunner(FaultyFactory(diary, faults), n_workers=2, n_in_flight=2) as runner:
            drive(BlockGraph((2000,)), runner, ledger, lambda e: isinstance(e, TaskDone) and print("done", flush=True))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        said = [driver.stdout.readline() for _ in range(100)]
        diary = Diary(str(tmp_path / "diary.txt"))
        actors = {pid for *_, pid in diary.entries()}
        driver.send_signal(signal.SIGKILL)
        errors = driver.stderr.read() if _are_gone(actors) else ""
    assert set(said) == {"done\n"}
    assert errors == ""
    assert len(actors) >= 2
    assert _are_gone(actors)
    n_done = Ledger.open(str(tmp_path)).counts()[State.DONE]
    assert n_done >= 100 - 4  # the last receipts may have been taken, and not yet stored
    assert n_done <= len(set(diary.ended()))
    with SerialRunner(diary) as runner:
        summary = drive(
            BlockGraph((2000,)), runner, Ledger.open(str(tmp_path)), lambda _: None, chosen=lambda t: t < 200
        )
    assert summary.n_done + summary.n_done_before == max(200, n_done)


def _are_gone(pids, *, seconds=20.0):
    """Say whether all ``pids`` end within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_the_serial_runner_needs_no_ray():
    code = "import sys; import engine.runtime.schedule, engine.runtime.serial; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={**os.environ})
