"""The ledger says what is done, survives what kills its writer, and costs nothing while empty."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import LocalStore

from engine.errors import LedgerError
from engine.storage.ledger import N_CELLS_PER_CHUNK, N_REASONS_KEPT, Ledger, State


def test_marks_are_read_back_by_another_ledger_after_a_flush(tmp_path):
    ledger = Ledger.create(str(tmp_path), 200_000)
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 4, 200_000).astype(np.uint8)
    for task in rng.choice(200_000, 5_000, replace=False):
        ledger.mark(int(task), State(int(expected[task])))
        expected[task] += 10
    expected = np.where(expected >= 10, expected - 10, 0)
    assert set(expected) == {0, 1, 2, 3}
    np.testing.assert_array_equal(Ledger.open(str(tmp_path)).states(0, 200_000), 0)
    ledger.flush()
    again = Ledger.open(str(tmp_path))
    np.testing.assert_array_equal(again.states(0, 200_000), expected)
    assert again.counts() == {state: int((expected == state).sum()) for state in State} == ledger.counts()
    assert again.state(7) == expected[7]


def test_next_pending_skips_done_and_skipped_and_stops_at_failed(tmp_path):
    n_tasks = N_CELLS_PER_CHUNK + 20
    ledger = Ledger.create(str(tmp_path), n_tasks)
    for task in range(n_tasks - 1):
        ledger.mark(task, State.DONE if task % 2 else State.SKIPPED)
    assert ledger.next_pending(0) == ledger.next_pending(N_CELLS_PER_CHUNK - 1) == n_tasks - 1
    ledger.mark(n_tasks - 1, State.DONE)
    assert ledger.next_pending(0) is None
    ledger.mark(N_CELLS_PER_CHUNK + 3, State.FAILED, "damaged chunk")
    assert ledger.next_pending(0) == N_CELLS_PER_CHUNK + 3


def test_a_thousand_million_tasks_cost_nothing_until_they_are_done(tmp_path):
    began = time.perf_counter()
    ledger = Ledger.create(str(tmp_path), 10**9)
    ledger.mark(987_654_321, State.DONE)
    ledger.flush()
    again = Ledger.open(str(tmp_path))
    assert again.counts() == {State.PENDING: 10**9 - 1, State.DONE: 1, State.SKIPPED: 0, State.FAILED: 0}
    assert again.next_pending(987_654_321) == 987_654_322
    assert time.perf_counter() - began < 5
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10_000


def test_reasons_are_kept_bounded_and_dropped_when_a_task_succeeds(tmp_path):
    ledger = Ledger.create(str(tmp_path), 5_000)
    for task in range(N_REASONS_KEPT + 5):
        ledger.mark(task, State.FAILED, f"reason {task}")
    ledger.mark(0, State.DONE)
    ledger.flush()
    again = Ledger.open(str(tmp_path))
    assert len(again.failures()) == N_REASONS_KEPT - 1
    assert again.failures()[1] == "reason 1"
    assert again.counts()[State.FAILED] == N_REASONS_KEPT + 4


def test_more_chunks_than_are_cached_are_all_stored(tmp_path):
    ledger = Ledger.create(str(tmp_path), 100 * N_CELLS_PER_CHUNK)
    for number in range(100):
        ledger.mark(number * N_CELLS_PER_CHUNK, State.DONE)
    ledger.flush()
    for number in range(100):
        ledger.mark(number * N_CELLS_PER_CHUNK + 1, State.DONE)
        ledger.flush()
    assert Ledger.open(str(tmp_path)).counts()[State.DONE] == 200


def test_a_missing_ledger_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="no ledger in"):
        Ledger.open(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["zarr.json", "c/0"])  # the metadata; a chunk
def test_a_damaged_ledger_is_refused(tmp_path, name):
    ledger = Ledger.create(str(tmp_path), 10)
    ledger.mark(0, State.DONE)
    ledger.flush()
    path = tmp_path / "ledger" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(LedgerError, match="cannot be read"):
        Ledger.open(str(tmp_path)).counts()


def test_a_second_ledger_in_one_output_is_refused(tmp_path):
    Ledger.create(str(tmp_path), 10)
    with pytest.raises(LedgerError, match="cannot create"):
        Ledger.create(str(tmp_path), 10)


def test_a_full_disk_is_said_and_leaves_the_older_state(tmp_path, monkeypatch):
    ledger = Ledger.create(str(tmp_path), 10)
    ledger.mark(0, State.DONE)
    ledger.flush()

    async def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ledger.mark(1, State.DONE)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", refuse)
        with pytest.raises(LedgerError, match="No space left"):
            ledger.flush()
    assert list(Ledger.open(str(tmp_path)).states(0, 3)) == [1, 0, 0]
    ledger.flush()
    assert list(Ledger.open(str(tmp_path)).states(0, 3)) == [1, 1, 0]


def test_a_writer_killed_in_mid_flush_leaves_a_whole_ledger(tmp_path):
    """Kill -9 while chunks are rewritten as fast as they can be: what is there reads, and only grows."""
    Ledger.create(str(tmp_path), 200_000)
    code = """
        import sys
        from engine.storage.ledger import Ledger, State
        ledger = Ledger.open(sys.argv[1])
        for task in range(200_000):
            ledger.mark(task, State.FAILED, "x")
            if task % 50 == 0:
                ledger.flush()
                print(task, flush=True)
    """
    for n_lines in (3, 20):
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as writer:
            for _ in range(n_lines):
                last = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        states = Ledger.open(str(tmp_path)).states(0, 200_000)
        n_marked = int((states == State.FAILED).sum())
        assert n_marked >= last + 1
        assert states[:n_marked].all()
