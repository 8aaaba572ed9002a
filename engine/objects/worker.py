"""Does the tasks of all passes, one block each: what any runner runs for objects."""

import resource
import time
from dataclasses import dataclass, replace
from functools import cached_property

from engine.objects import outline, tasks
from engine.objects.block import Block
from engine.objects.catalogue import Catalogue
from engine.objects.layers import open_sources, place_of
from engine.runtime.events import Failure, Receipt, Runner
from engine.storage.arrays import configure_codecs
from engine.storage.volume import Volume, open_group


@dataclass(frozen=True)
class ObjectWorkerFactory:
    """Opens what a recipe reads, in the worker's own process. Picklable."""

    catalogue: Catalogue
    n_threads: int = 1
    """Threads that decode."""

    def __call__(self) -> "ObjectWorker":
        """Return a worker, ready to run blocks."""
        configure_codecs(self.n_threads)
        return ObjectWorker(self.catalogue)


class ObjectWorker:
    """Runs blocks of one set of objects; holds the volumes, opened once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._sources = open_sources(catalogue.output, catalogue.recipe)
        self._place = place_of(self._sources.objects, catalogue.recipe).rounded()

    @property
    def n_in_flight(self) -> int:
        """Calls of :meth:`run` that make sense at once."""
        return 1

    @cached_property
    def _painted(self) -> Volume:
        return open_group(self._catalogue.label_url)

    def run(self, task: int, attempt: int) -> Receipt:
        """Do one task and return its receipt; never raises. Idempotent: it leaves the same bits again."""
        began = time.perf_counter()
        receipt = Receipt(task, attempt)
        try:
            receipt = replace(receipt, n_voxels=self._do(*self._catalogue.task(task)))
        except Exception as error:  # noqa: BLE001 -- the worker's rim: whatever a block does, the run goes on
            receipt = replace(receipt, error=Failure.of(error))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return replace(receipt, compute_seconds=time.perf_counter() - began, peak_rss_bytes=peak)

    def _do(self, name: str, task: int) -> int:
        graph = self._catalogue.graph(name)
        level = graph.level_of(task)
        if level:
            return tasks.coarsen(self._painted, task - graph.level_starts[level], level=level)
        block = Block(self._catalogue, self._sources, task)
        if name == "find":
            return tasks.find(block)
        if name == "split":
            return tasks.split(block)
        if name == "paint":
            return tasks.paint(block, self._painted)
        return outline.outline(block, self._painted, self._place)


class PassRunner(Runner):
    """One pass on a runner that serves all passes: its workers stay, the numbers of its tasks move. Not its owner."""

    def __init__(self, runner: Runner, catalogue: Catalogue, name: str) -> None:
        self._runner = runner
        self._first = catalogue.number(name, 0)

    @property
    def n_slots(self) -> int:
        """Tasks that may be in flight in all."""
        return self._runner.n_slots

    @property
    def n_free(self) -> int:
        """Tasks that can be submitted now."""
        return self._runner.n_free

    def submit(self, task: int, attempt: int, *, is_alone: bool = False) -> None:
        """Start ``task`` of this pass."""
        self._runner.submit(task + self._first, attempt, is_alone=is_alone)

    def next_receipt(self, timeout: float | None) -> Receipt | None:
        """Return the next receipt, with the number that the task has in this pass."""
        receipt = self._runner.next_receipt(timeout)
        return None if receipt is None else replace(receipt, task=receipt.task - self._first)

    def close(self) -> None:
        """Do nothing: the next pass goes on with the same workers."""
