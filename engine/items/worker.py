"""One block of items: read in threads | computed in batches as they come | stored as rows and voxels."""

import resource
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError
from engine.factory import ready_process
from engine.items.manifest import Item
from engine.items.outputs import Output
from engine.items.plan import Block, ItemPlan
from engine.items.reading import Reader, reader_of
from engine.items.table import part_path, write_part
from engine.items.voxels import open_voxels, write_voxels
from engine.models.forward import TileMemoryError, pick_device
from engine.models.item_pass import ItemPass
from engine.models.load import load_model
from engine.runtime.events import Failure, Receipt, one_line

Array = NDArray[Any]

N_READERS = 2
"""Threads that read and decode, beside the one that computes."""


@dataclass(frozen=True)
class ItemWorkerFactory:
    """Opens the model and what is written. Picklable."""

    items: tuple[Item, ...]
    plan: ItemPlan
    outputs: tuple[Output, ...]
    """What is kept of what the model gives."""
    folder: str
    model: Any
    """A specification, or the module itself where there is none."""
    weights: str | None
    precision: str
    device: str
    n_threads: int

    def __call__(self) -> "ItemWorker":
        """Return a worker, ready to run blocks."""
        ready_process(self.n_threads)
        loaded = load_model(self.model, weights=self.weights)
        passes = ItemPass.of(loaded, pick_device(self.device), self.precision)
        return ItemWorker(self, passes, reader_of(self.items[0]))


@dataclass
class Results:
    """What the items of a block gave, in their order."""

    values: dict[str, Array]
    """Per output (item, ...); items that failed hold zeros."""
    reasons: list[str | None]
    """Why each failed; None where it did not."""
    read_seconds: float = 0.0
    """Spent waiting for items, not reading them."""
    compute_seconds: float = 0.0


class ItemWorker:
    """Runs blocks of one plan: holds the model, and threads that read."""

    n_in_flight = 1
    """Reading and computing overlap within a block."""

    def __init__(self, factory: ItemWorkerFactory, passes: ItemPass, reader: Reader) -> None:
        self._factory = factory
        self._pass = passes
        self._reader = reader
        self._readers = ThreadPoolExecutor(N_READERS, "read")
        self._voxels = open_voxels(factory.folder, factory.plan, factory.outputs)

    def run(self, task: int, attempt: int) -> Receipt:
        """Do a block and return its receipt; never raises. Idempotent: it writes the same bits again."""
        receipt = Receipt(task=task, attempt=attempt)
        try:
            done = self._do(receipt, self._factory.plan.block(task))
        except Exception as error:  # noqa: BLE001 -- the worker's rim: whatever a block does, the run goes on
            done = replace(receipt, error=Failure.of(error))
        return replace(done, peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def _do(self, receipt: Receipt, block: Block) -> Receipt:
        results = self._compute(block)
        began = time.perf_counter()
        written = write_voxels(self._voxels, results.values, block)
        ids = [self._factory.items[number].id for number in block.numbers]
        path = part_path(self._factory.folder, receipt.task)
        outputs = self._factory.outputs
        written += write_part(path, ids, block, outputs=outputs, values=results.values, reasons=results.reasons)
        return replace(
            receipt,
            read_seconds=results.read_seconds,
            compute_seconds=results.compute_seconds,
            write_seconds=time.perf_counter() - began,
            n_voxels=sum(values.size for values in results.values.values()),
            n_tiles=len(ids),
            n_bytes_written=written,
            notes=tuple(f"{id_}: {why}" for id_, why in zip(ids, results.reasons, strict=True) if why),
        )

    def _compute(self, block: Block) -> Results:
        """Read the items of a block and run the model on them, batch by batch as they come."""
        bucket = self._factory.plan.buckets[block.bucket]
        coming = [self._readers.submit(self._read, int(number), bucket.shape) for number in block.numbers]
        results = Results({}, [None] * len(coming))
        for start in range(0, len(coming), bucket.batch_size):
            began = time.perf_counter()
            arrays = self._taken(coming[start : start + bucket.batch_size], start, results)
            read = time.perf_counter()
            self._run_batch(arrays, bucket.batch_size, start, results)
            results.read_seconds += read - began
            results.compute_seconds += time.perf_counter() - read
        return results

    def _read(self, number: int, shape: tuple[int, ...]) -> Array:
        item = self._factory.items[number]
        array = self._reader.read(item)
        if array.shape != shape:
            was = shape or "unreadable"
            raise EngineError(f"the item was {was} when the run was planned, and is {array.shape}. Run it anew.")
        return array

    def _taken(self, coming: Sequence["Future[Array]"], start: int, results: Results) -> list[Array | None]:
        """Wait for the items of a batch; None for one that cannot be read, whose reason is kept."""
        arrays: list[Array | None] = []
        for place, future in enumerate(coming, start):
            error = future.exception()
            arrays.append(future.result() if error is None else None)
            results.reasons[place] = None if error is None else reason(error)
        return arrays

    def _run_batch(self, arrays: Sequence[Array | None], size: int, start: int, results: Results) -> None:
        """Run the model on a batch filled up to ``size``, and keep what it gives for the items that were read."""
        good = next((array for array in arrays if array is not None), None)
        if good is None:
            return
        filled = [good if array is None else array for array in arrays] + [good] * (size - len(arrays))
        try:
            outputs = self._pass.run(filled)
        except TileMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 -- the item's rim: what the model cannot take is the item's failure
            self._run_without(arrays, size, start, results, error)
            return
        for name in (output.name for output in self._factory.outputs):
            values = outputs[name]
            kept = results.values.setdefault(name, np.zeros((len(results.reasons), *values.shape[1:]), values.dtype))
            for place, array in enumerate(arrays):
                if array is not None:
                    kept[start + place] = values[place]

    def _run_without(
        self, arrays: Sequence[Array | None], size: int, start: int, results: Results, error: Exception
    ) -> None:
        """Find the items of a batch that the model cannot take, each in a batch of its own, and run the others."""
        left = list(arrays)
        for place, array in enumerate(arrays):
            if array is None:
                continue
            try:
                self._pass.run([array] * size)
            except Exception as own:  # noqa: BLE001 -- as above
                left[place], results.reasons[start + place] = None, reason(own)
        if all(mine is theirs for mine, theirs in zip(left, arrays, strict=True)):
            raise error
        self._run_batch(left, size, start, results)


def reason(error: BaseException) -> str:
    """Return why an item failed, in one line."""
    return one_line(f"{type(error).__name__}: {error}")
