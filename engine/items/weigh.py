"""Makes the plan of a run over items: looks at their shapes, tries the model on one, and weighs batches and blocks."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CollectionError, EngineError, PlanError
from engine.items.manifest import Item
from engine.items.outputs import Output, outputs_of
from engine.items.plan import UNKNOWN, Bucket, ItemPlan, batch_size_within, bucketed
from engine.items.reading import Reader
from engine.memory import BASE_BYTES, available_bytes, resident_bytes
from engine.models.forward import free_device_bytes
from engine.models.item_pass import ItemPass
from engine.runtime.events import one_line

Array = NDArray[Any]

MOST_ITEMS = {"cpu": 8, "cuda": 64}
"""Of a batch: more make no device faster."""

FEWEST_ITEMS = 2
"""Of a batch: at 1, torch takes a path for 3-d networks on a CPU that is 4 times slower (DESIGN.md, section 5)."""

ITEMS_PER_BLOCK = 64
"""At most, where a batch is no longer: what a crash may cost, and what a shard of voxels holds."""

SHARE = 0.8
"""Part of the memory that is there which is used where none is named."""

BLOCK_SHARE = 0.25
"""Part of a worker's memory, beyond the process itself, that the items of a block and their results may take."""

N_TRIES = 8
"""Items of a bucket that the model is tried on, until one goes well."""

COPIES = 3
"""Of an item at once: as it was read, in its batch, and in the model's dtype."""

N_LOOKING = 8
"""Threads that look at the shapes of items: they wait for a disk."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What the workers may use."""

    memory: int | None
    """Bytes for all of them; most of what is free if None."""
    n_workers: int
    batch_size: int | None
    """Items in one call of the model; as many as fit if None."""

    def left(self) -> int:
        """Return the bytes of each worker beyond the process itself."""
        memory = int(SHARE * available_bytes()) if self.memory is None else self.memory
        return memory // self.n_workers - max(BASE_BYTES, resident_bytes())


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What one batch of the largest items showed."""

    outputs: tuple[Output, ...]
    bytes_per_value: float
    """Activations for each value of an item's array."""
    out_per_value: float
    """Bytes of results for each."""


def shapes_of(items: Sequence[Item], reader: Reader) -> list[tuple[int, ...]]:
    """Return the shape of each item; ``UNKNOWN`` of one that cannot be looked at: trying it will say why."""

    def shape(item: Item) -> tuple[int, ...]:
        try:
            return tuple(int(n) for n in reader.shape_of(item))
        except (EngineError, OSError, ValueError):
            return UNKNOWN

    with ThreadPoolExecutor(N_LOOKING) as pool:
        return list(pool.map(shape, items))


def weighed(items: Sequence[Item], reader: Reader, passes: ItemPass, budget: Budget) -> tuple[ItemPlan, Trial]:
    """Return the plan of all items, and what the model showed on one.

    Raises:
        CollectionError: If no item that was tried can be read and computed.
        PlanError: If an item does not fit the memory.
    """
    found = bucketed(shapes_of(items, reader))
    for _, rows in sorted(found, key=lambda pair: -prod(pair[0] or (0,))):
        for example, outputs in tried(items, rows, reader, passes):
            trial = _trial(example, outputs, passes)
            return ItemPlan(tuple(_bucket(shape, rows, trial, budget, passes) for shape, rows in found)), trial
    raise CollectionError(
        f"a run needs an item that can be read and computed, and there is none; '{items[0].id}': "
        f"{_why_not(items[0], reader, passes)}"
    )


def tried(
    items: Sequence[Item], rows: NDArray[np.int64], reader: Reader, passes: ItemPass
) -> Iterator[tuple[Array, tuple[Output, ...]]]:
    """Yield the array and the outputs of those of the first few items that can be read and computed."""
    for row in rows[:N_TRIES]:
        try:
            array = reader.read(items[int(row)])
            outputs = outputs_of(passes.run([array] * FEWEST_ITEMS))
        except Exception:  # noqa: BLE001 -- the item's rim: the run will tell what is wrong with it
            continue
        yield array, outputs


def _why_not(item: Item, reader: Reader, passes: ItemPass) -> str:
    """Return why an item cannot be read and computed, in a line."""
    try:
        passes.run([reader.read(item)] * FEWEST_ITEMS)
    except Exception as error:  # noqa: BLE001 -- as above
        return one_line(str(error))
    return "it was changed meanwhile. Try again."


def _trial(example: Array, outputs: tuple[Output, ...], passes: ItemPass) -> Trial:
    peak = passes.cost([example] * FEWEST_ITEMS).peak_bytes / FEWEST_ITEMS
    return Trial(outputs, peak / example.size, sum(output.n_bytes for output in outputs) / example.size)


def _bucket(shape: tuple[int, ...], rows: NDArray[np.int64], trial: Trial, budget: Budget, passes: ItemPass) -> Bucket:
    """Return the bucket of a shape: its batch fits, and so do the items of a block."""
    if shape == UNKNOWN:
        return Bucket(shape, rows, 1, ITEMS_PER_BLOCK)
    n_values, left = prod(shape), budget.left()
    activations = int(trial.bytes_per_value * n_values)
    there = free_device_bytes(passes.device) or int((1 - BLOCK_SHARE) * left)
    most = budget.batch_size or MOST_ITEMS[passes.device.type]
    fitting = batch_size_within(there, per_item=activations, most=most)
    if budget.batch_size and 2 * fitting <= budget.batch_size:
        raise PlanError(
            f"a batch of {budget.batch_size} items of {shape} needs {budget.batch_size * activations:,} bytes, and "
            f"{there:,} are left. Ask for --batch {fitting}, or give more --memory."
        )
    size = budget.batch_size or fitting
    held = int((COPIES * passes.dtype.itemsize + trial.out_per_value) * n_values)
    fits = int(BLOCK_SHARE * left) // max(held, 1)
    return Bucket(shape, rows, size, max(1, min(ITEMS_PER_BLOCK, fits) // size) * size)
