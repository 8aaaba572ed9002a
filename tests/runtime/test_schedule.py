"""The loop stores what it was told before it waits, and survives any order of receipts."""

import random

import numpy as np
import pytest

from engine.errors import LedgerError
from engine.geometry.block_graph import BlockGraph
from engine.runtime.events import Receipt, RunFinished, Runner, TileShrunk
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from engine.storage.ledger import Ledger, State
from tests.faults import Idle

GRAPH = BlockGraph((9, 9), ((2, 2),) * 4)


class Watched(Runner):
    """Hands back receipts in a random order, in bursts, and looks at the stored ledger at each wait."""

    n_slots = 6

    def __init__(self, url, seed):
        self._url = url
        self._random = random.Random(seed)
        self._flying = []
        self._burst = 0
        self.handed = set()
        self.n_waits = 0

    @property
    def n_free(self):
        return self.n_slots - len(self._flying)

    def submit(self, task, attempt, *, is_alone=False):
        assert set(GRAPH.dependencies(task)) <= self.handed
        self._flying.append(task)

    def next_receipt(self, timeout):
        if timeout == 0 and self._burst == 0:
            return None
        if timeout is None:
            self._look()
            self._burst = self._random.randint(1, 5)
            if self._random.random() < 0.2:
                return None  # as when the number of free slots has changed
        if not self._flying:
            return None
        self._burst = max(0, self._burst - 1)
        task = self._flying.pop(self._random.randrange(len(self._flying)))
        self.handed.add(task)
        return Receipt(task, 1, "a", tile_shrunk_to=(8, 8) if task > 20 else None)

    def close(self):
        pass

    def _look(self):
        """All receipts that were handed out are on disk."""
        self.n_waits += 1
        stored = Ledger.open(self._url).states(0, GRAPH.n_tasks)
        assert set(np.flatnonzero(stored == State.DONE).tolist()) == self.handed


@pytest.mark.parametrize("seed", range(5))
def test_a_receipt_is_stored_before_the_loop_waits_again(tmp_path, seed):
    runner = Watched(str(tmp_path), seed)
    events = []
    summary = drive(GRAPH, runner, Ledger.create(str(tmp_path), GRAPH.n_tasks), events.append, wave_limit=30)
    assert summary.is_complete
    assert runner.handed == set(range(GRAPH.n_tasks))
    assert runner.n_waits > 20
    assert sum(isinstance(event, TileShrunk) for event in events) == 1


def test_a_ledger_that_cannot_be_stored_ends_the_run(tmp_path, monkeypatch):
    ledger = Ledger.create(str(tmp_path), GRAPH.n_tasks)

    def refuse():
        raise LedgerError("cannot store the ledger: disk full")

    monkeypatch.setattr(ledger, "flush", refuse)
    events = []
    with SerialRunner(Idle()) as runner, pytest.raises(LedgerError, match="disk full"):
        drive(GRAPH, runner, ledger, events.append)
    assert isinstance(events[-1], RunFinished)
    assert Ledger.open(str(tmp_path)).counts()[State.DONE] == 0


def test_a_second_wave_may_need_what_failed_or_flies_in_the_first(tmp_path):
    """Waves of one block: nearly every dependency lies in an earlier wave."""
    runner = Watched(str(tmp_path), 0)
    summary = drive(GRAPH, runner, Ledger.create(str(tmp_path), GRAPH.n_tasks), lambda _: None, wave_limit=1)
    assert summary.is_complete
