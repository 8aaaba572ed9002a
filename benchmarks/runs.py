"""Runs of the engine that can be repeated and timed: the plan, the output and the worker stay; the ledger is new."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from engine.factory import BlockWorkerFactory
from engine.plan import Plan
from engine.prepare import Options, Prepared
from engine.run import RunnerMaker, run_prepared
from engine.runtime.events import Receipt, Runner, TaskDone
from engine.runtime.schedule import drive
from engine.storage.ledger import Ledger


@dataclass
class _Kept(Runner):
    """A runner that stays open when a run is over."""

    inner: Runner

    @property
    def n_slots(self) -> int:
        return self.inner.n_slots

    @property
    def n_free(self) -> int:
        return self.inner.n_free

    def submit(self, task: int, attempt: int, *, is_alone: bool = False) -> None:
        self.inner.submit(task, attempt, is_alone=is_alone)

    def next_receipt(self, timeout: float | None) -> Receipt | None:
        return self.inner.next_receipt(timeout)

    def close(self) -> None:
        """Stay."""


@dataclass
class Repeated:
    """A run that was done once, to warm up, and can be done again."""

    plan: Plan
    folder: Path
    runner: Runner
    receipts: list[Receipt] = field(default_factory=list)
    """Of the last run."""

    def again(self) -> float:
        """Do every task anew and return the seconds from the first to the last receipt."""
        self.receipts.clear()
        self.clear()
        ledger = Ledger.create(str(self.folder / f"{uuid4().hex}.zarr"), self.plan.graph.n_tasks)
        summary = drive(self.plan.graph, self.runner, ledger, self._listen)
        if not summary.is_complete:
            raise RuntimeError(f"the run did not complete: {[r.error for r in self.receipts if r.error]}")
        return summary.seconds

    def clear(self) -> None:
        """Remove the stored shards: zarr reads one that is there before it writes it anew, and a first run has none."""
        for shards in [path for path in self.folder.rglob("c") if (path.parent / "zarr.json").exists()]:
            shutil.rmtree(shards)

    def _listen(self, event: object) -> None:
        if isinstance(event, TaskDone):
            self.receipts.append(event.receipt)


@contextmanager
def repeated(prepared: Prepared, *, model: str, options: Options, runner: RunnerMaker) -> Iterator[Repeated]:
    """Run once through the front door, and keep the worker."""
    kept: list[_Kept] = []

    def make(factory: BlockWorkerFactory, plan: Plan) -> Runner:
        kept.append(_Kept(runner(factory, plan)))
        return kept[0]

    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        try:
            run_prepared(prepared, str(folder / "out.zarr"), model=model, options=options, runner=make, n_certified=0)
            yield Repeated(prepared.plan, folder, kept[0])
        finally:
            for one in kept:
                one.inner.close()
