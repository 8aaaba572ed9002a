"""What is done: one byte per task, in a small Zarr array beside the output, written by the driver only."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync

from engine.errors import LedgerError, LedgerWriteError
from engine.storage import arrays

ARRAY_NAME = "ledger"
N_CELLS_PER_CHUNK = 65_536
N_REASONS_KEPT = 1_000
N_CHUNKS_CACHED = 64

StateArray = NDArray[np.uint8]


class State(IntEnum):
    """What became of a task."""

    PENDING = 0
    DONE = 1
    SKIPPED = 2
    FAILED = 3


IS_FINISHED = np.array([False, True, True, False])
"""By state: whether a task needs no more work; a failed one is tried again by the next run."""


class Ledger:
    """The states of all tasks of one output, buffered in memory until :meth:`flush`.

    Sparse: a chunk of pending tasks is not stored, so that 10^9 tasks cost nothing before they are done.
    A chunk is replaced whole, by a rename on a local disk, so that a crash leaves the old or the new one.
    """

    def __init__(self, array: zarr.Array[Any], url: str) -> None:
        self._array = array
        self._url = url
        reasons: Any = array.attrs.get("failures", {})
        self._failures: dict[int, str] = {int(task): str(reason) for task, reason in reasons.items()}
        self._chunks: OrderedDict[int, StateArray] = OrderedDict()
        self._dirty: set[int] = set()
        self._are_failures_dirty = False

    @classmethod
    def create(cls, url: str, n_tasks: int) -> Self:
        """Store an empty ledger of ``n_tasks`` pending tasks in the group at ``url``.

        Raises:
            LedgerError: If it cannot be written, or there is one already.
        """
        try:
            array = zarr.create_array(
                store=url,
                name=ARRAY_NAME,
                shape=(n_tasks,),
                chunks=(max(1, min(n_tasks, N_CELLS_PER_CHUNK)),),
                dtype="uint8",
                fill_value=int(State.PENDING),
                compressors=ZstdCodec(level=1, checksum=True),
                dimension_names=("task",),
                attributes={"states": {state.name.lower(): int(state) for state in State}, "failures": {}},
            )
        except (OSError, ValueError) as error:
            reason = arrays.first_line(error)
            raise LedgerError(f"cannot create a ledger in {url}: {reason}. Check that it is writable.") from error
        return cls(array, url)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the ledger of the output at ``url``, to read and to go on with.

        Raises:
            LedgerError: If there is none, or it is damaged.
        """
        try:
            array = zarr.open_array(store=url, path=ARRAY_NAME, mode="r+")
        except FileNotFoundError as error:
            message = f"no ledger in {url}: it is not an output of this engine, or not a whole one. Start a new run."
            raise LedgerError(message) from error
        except Exception as error:  # zarr answers damaged metadata with any of a dozen errors
            raise LedgerError(f"the ledger in {url} cannot be read: {arrays.first_line(error)}. {_REPAIR}") from error
        if array.dtype != np.uint8 or array.ndim != 1:
            raise LedgerError(f"the ledger in {url} must be 1-d uint8, not {array.ndim}-d {array.dtype}. {_REPAIR}")
        return cls(array, url)

    @property
    def n_tasks(self) -> int:
        """Tasks in all."""
        return int(self._array.shape[0])

    def mark(self, task: int, state: State, reason: str | None = None) -> None:
        """Note, in memory, what became of ``task``, and why if it failed; the last mark counts."""
        number, cell = divmod(task, self._array.chunks[0])
        self._chunk(number)[cell] = state
        self._dirty.add(number)
        if self._failures.pop(task, None) is not None:
            self._are_failures_dirty = True
        if reason is not None and len(self._failures) < N_REASONS_KEPT:
            self._failures[task] = reason
            self._are_failures_dirty = True

    def flush(self) -> None:
        """Store all marks; free when there are none. Chunks that cannot be stored stay marked.

        Raises:
            LedgerWriteError: If the store refuses. What it holds by then is valid, if older.
        """
        try:
            for number in sorted(self._dirty):
                self._array[self._span(number)] = self._chunks[number]
                self._dirty.discard(number)
            if self._are_failures_dirty:
                self._array.attrs["failures"] = {str(task): reason for task, reason in self._failures.items()}
                self._are_failures_dirty = False
        except OSError as error:
            message = (
                f"cannot store the ledger in {self._url}: {arrays.first_line(error)}. What it says is still true. Free "
                "some space, then resume."
            )
            raise LedgerWriteError(message) from error

    def state(self, task: int) -> State:
        """Return what became of ``task``."""
        number, cell = divmod(task, self._array.chunks[0])
        return State(int(self._chunk(number)[cell]))

    def states(self, start: int, stop: int) -> StateArray:
        """Return the states of tasks ``start`` to ``stop - 1``: a copy, uint8, values of :class:`State`."""
        return self.states_of(np.arange(start, stop, dtype=np.int64))

    def states_of(self, tasks: NDArray[np.int64]) -> StateArray:
        """Return the states of ``tasks``, in their order: a copy, uint8, values of :class:`State`."""
        numbers, cells = np.divmod(tasks, self._array.chunks[0])
        states = np.empty(len(tasks), np.uint8)
        for number in np.unique(numbers):
            here = numbers == number
            states[here] = self._chunk(int(number))[cells[here]]
        return states

    def is_done(self, tasks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which of ``tasks`` need no more work: done or skipped."""
        return IS_FINISHED[self.states_of(tasks)]

    def counts(self) -> dict[State, int]:
        """Return how many tasks are in each state, reading only chunks that are stored or marked."""
        sums = np.zeros(len(State), np.int64)
        for number in sorted(self._stored_chunks() | self._dirty):
            sums += np.bincount(self._chunk(number), minlength=len(State))
        sums[State.PENDING] = self.n_tasks - sums[State.DONE :].sum()
        return {state: int(sums[state]) for state in State}

    def failures(self) -> dict[int, str]:
        """Return the reasons of failed tasks, the first thousand of them."""
        return dict(sorted(self._failures.items()))

    def next_pending(self, start: int) -> int | None:
        """Return the first task from ``start`` on that is pending or failed, or None."""
        size = self._array.chunks[0]
        for number in range(start // size, -(-self.n_tasks // size)):
            first = max(start - number * size, 0)
            open_cells = np.flatnonzero(~IS_FINISHED[self._chunk(number)[first:]])
            if len(open_cells):
                return number * size + first + int(open_cells[0])
        return None

    def _span(self, number: int) -> slice:
        size = self._array.chunks[0]
        return slice(number * size, min((number + 1) * size, self.n_tasks))

    def _chunk(self, number: int) -> StateArray:
        """Return the cells of chunk ``number``, shared with the cache: a change to them is a mark."""
        if number in self._chunks:
            self._chunks.move_to_end(number)
            return self._chunks[number]
        chunk = self._read(number)
        self._chunks[number] = chunk
        if len(self._chunks) > N_CHUNKS_CACHED:
            oldest = next(n for n in self._chunks if n not in self._dirty or n == number)
            if oldest != number:
                del self._chunks[oldest]
        return chunk

    def _read(self, number: int) -> StateArray:
        try:
            chunk = np.array(self._array[self._span(number)], np.uint8)
        except Exception as error:  # a damaged chunk fails in whatever codec meets it
            reason = arrays.first_line(error)
            message = f"chunk {number} of the ledger in {self._url} cannot be read: {reason}. {_REPAIR}"
            raise LedgerError(message) from error
        if chunk.max(initial=0) > max(State):
            message = (
                f"the ledger in {self._url} holds state {chunk.max()}, not one of 0 to {int(max(State))}. {_REPAIR}"
            )
            raise LedgerError(message)
        return chunk

    def _stored_chunks(self) -> set[int]:
        """Return the numbers of the chunks that the store holds: a listing, no reads."""
        prefix = f"{self._array.path}/c/"
        keys = sync(_listed(self._array.store.list_prefix(prefix)))
        tails = (key.removeprefix(prefix) for key in keys)
        return {int(tail) for tail in tails if tail.isdecimal()}


_REPAIR = "Start a new run, or put a copy of the ledger back."


async def _listed(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]
