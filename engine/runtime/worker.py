"""One block, from the source to the stored shard: read | compute | write, overlapped between blocks.

Up to ``n_in_flight`` threads call :meth:`BlockWorker.run` at once. Each stage lets one block in at a
time, so while one block is computed the next is read and the last is written: the bound on memory is
the number of callers. Computing happens on one thread of its own, so that torch keeps one set of
threads.
"""

import gc
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from engine.memory import resident_bytes
from engine.models.allocator import computing_thread, release_freed_memory
from engine.models.forward import Forward, Held, TileMemoryError
from engine.plan import Plan
from engine.projection import shrink_tile
from engine.runtime.coarsen import coarse_block
from engine.runtime.compute import compute_block
from engine.runtime.events import Failure, Receipt
from engine.runtime.masking import Cells, Mask, blank
from engine.runtime.stitch import read_block
from engine.storage.volume import Readable, Volume

KEPT_SHARE = 0.95
"""Part of the projected memory up to which freed memory is kept for the next block."""


@dataclass
class Stage:
    """One step of the pipeline: lets one block in at a time, and adds up its own seconds."""

    lock: Lock
    seconds: float = 0.0

    @contextmanager
    def enter(self, spent: dict[str, float], name: str) -> Iterator[None]:
        """Wait for the stage, hold it, and note in ``spent`` how long it was held."""
        with self.lock:
            begin = time.perf_counter()
            try:
                yield
            finally:
                spent[name] = time.perf_counter() - begin


class Stages:
    """The three steps of one process, whatever plans it works on: each lets one block in at a time."""

    def __init__(self) -> None:
        self.read, self.compute, self.write = (Stage(Lock()) for _ in range(3))
        self.computer = computing_thread()


class BlockWorker:
    """Runs blocks of one plan: holds the model, the source and the outputs, opened once."""

    def __init__(
        self,
        plan: Plan,
        forward: Forward,
        source: Readable,
        outputs: dict[str, Volume],
        *,
        mask: Mask | None = None,
        stages: Stages | None = None,
    ) -> None:
        self.plan = plan
        self.mask = mask
        self.forward = forward
        self.source = source
        self.outputs = outputs
        self._stages = stages or Stages()
        self._shrunk: tuple[int, ...] | None = None
        projection = plan.projection
        above_base = projection.n_bytes - projection.base
        self._most_kept = KEPT_SHARE * (max(projection.base, resident_bytes()) + above_base)

    @property
    def n_in_flight(self) -> int:
        """Calls of :meth:`run` that make sense at once."""
        return self.plan.n_in_flight

    def run(self, task: int, attempt: int) -> Receipt:
        """Do one task and return its receipt; never raises. Idempotent: it writes the same bits again."""
        receipt = Receipt(task=task, attempt=attempt)
        try:
            level = self.plan.graph.level_of(task)
            index = self.plan.graph.index(task)
            if self.mask is not None and not self.mask.is_wanted(index, level):
                return replace(receipt, is_skipped=True)
            done = self._reduce(receipt, index, level) if level else self._infer(receipt, index)
        except Exception as error:  # noqa: BLE001 -- the worker's rim: whatever a block does, the run goes on
            done = replace(receipt, error=Failure.of(error))
        if resident_bytes() > self._most_kept:
            release_freed_memory()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return replace(done, peak_rss_bytes=peak, tile_shrunk_to=self._shrunk)

    def _infer(self, receipt: Receipt, index: tuple[int, ...]) -> Receipt:
        """Compute a block of level 0."""
        spent: dict[str, float] = {}
        plan = self.plan
        wanted = self.mask.wanted(index) if self.mask is not None else None
        with self._stages.read.enter(spent, "read"):
            block = read_block(plan, self.source, index)
            n_read = block.nbytes
            held = self.forward.upload(block)
        with self._stages.compute.enter(spent, "compute"):
            computed = self._stages.computer.submit(self._compute, plan, held, block, index, wanted)
            results, n_tiles = computed.result()
        del held, block
        with self._stages.write.enter(spent, "write"):
            voxels = self.forward.download(results)
            del results
            if wanted is not None:
                voxels = blank(voxels, wanted)
            n_voxels, n_written = self._store(voxels, index)
        return replace(
            receipt,
            read_seconds=spent["read"],
            compute_seconds=spent["compute"],
            write_seconds=spent["write"],
            n_voxels=n_voxels,
            n_tiles=n_tiles,
            n_bytes_read=n_read,
            n_bytes_written=n_written,
        )

    def _compute(
        self, plan: Plan, held: Held, block: np.ndarray, index: tuple[int, ...], wanted: Mapping[str, Cells] | None
    ) -> tuple[Held, int]:
        """Run the tiles of a block, and count them; smaller ones when memory runs out, which later blocks keep."""
        had = plan.read_region(index)
        while True:
            try:
                return compute_block(plan, self.forward, held, index, wanted)
            except TileMemoryError:
                smaller = shrink_tile(plan)
                if smaller is None:
                    raise
                gc.collect()
                self.plan, self._shrunk, plan = smaller, smaller.tile_shape, smaller
                needed = smaller.read_region(index)
                if not had.holds(needed):
                    raise
                inside = needed.shift([-a for a in had.start])
                held = self.forward.upload(np.ascontiguousarray(block[(slice(None), slice(None), *inside.slices)]))

    def _store(self, voxels: dict[str, np.ndarray], index: tuple[int, ...]) -> tuple[int, int]:
        n_voxels = n_bytes = 0
        for name, array in voxels.items():
            output = self.plan.output(name)
            region = self.plan.block_region(output, index)
            self.outputs[name].write(region, array.reshape(region.shape))
            n_voxels, n_bytes = n_voxels + array.size, n_bytes + array.nbytes
        return n_voxels, n_bytes

    def _reduce(self, receipt: Receipt, index: tuple[int, ...], level: int) -> Receipt:
        """Make a block of a coarser level from the finer level; it counts as writing, one at a time."""
        n_voxels = n_read = n_written = 0
        spent: dict[str, float] = {}
        with self._stages.write.enter(spent, "write"):
            for output in self.plan.outputs:
                target = self.plan.block_region(output, index, level)
                if not target.n_voxels:
                    continue
                volume = self.outputs[output.name]
                coarse, n_bytes = coarse_block(self.plan, output, volume, target=target, level=level)
                volume.write(target, coarse, level=level)
                n_voxels, n_read, n_written = n_voxels + coarse.size, n_read + n_bytes, n_written + coarse.nbytes
        return replace(
            receipt,
            write_seconds=spent["write"],
            n_voxels=n_voxels,
            n_bytes_read=n_read,
            n_bytes_written=n_written,
        )
