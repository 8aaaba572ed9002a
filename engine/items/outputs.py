"""What a model gives for an item: names, shapes and dtypes, seen on one; and where each output goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError

Array = NDArray[Any]

ID, BUCKET, INDEX, REASON = "id", "bucket", "index", "reason"
"""The table's own columns: an item's name, where its volumes lie (the array's number, and the place along its first
axis), and why it failed, null where it did not."""

OURS = {ID, BUCKET, INDEX, REASON}

LONGEST_VECTOR = 1024
"""Columns of one output in the table: features of a network, but no volume."""


@dataclass(frozen=True, slots=True)
class Output:
    """One named output of a model, for one item."""

    name: str
    shape: tuple[int, ...]
    """Without the item axis; of a volume, that of the item it was seen on."""
    dtype: str

    @property
    def is_volume(self) -> bool:
        """Whether it is no value, and no vector of few."""
        return len(self.shape) > 1 or self.shape > (LONGEST_VECTOR,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns in the table.

        >>> Output("score", (1,), "float32").columns, Output("class", (2,), "float32").columns
        (('score',), ('class_0', 'class_1'))
        """
        if self.is_volume:
            return ()
        if self.shape in ((), (1,)):
            return (self.name,)
        return tuple(f"{self.name}_{i}" for i in range(self.shape[0]))

    @property
    def n_bytes(self) -> int:
        """Bytes of one item's."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def outputs_of(found: Mapping[str, Array]) -> tuple[Output, ...]:
    """Return what the outputs (item, ...) of a batch are for one item."""
    return tuple(Output(name, values.shape[1:], values.dtype.name) for name, values in found.items())


def wanted_outputs(outputs: Sequence[Output], *, has_voxels: bool) -> tuple[Output, ...]:
    """Return the outputs that are kept: values, and volumes only if asked for.

    Raises:
        UsageError: If there is none, or one is called as a column of ours.
    """
    kept = tuple(output for output in outputs if has_voxels or not output.is_volume)
    if not kept:
        names = ", ".join(f"'{output.name}' {output.shape}" for output in outputs)
        raise UsageError(f"a table needs an output of one value or vector an item, and there is {names}. Add --voxels.")
    columns = [column for output in kept for column in output.columns]
    if twice := sorted(OURS & {*columns} | {name for name in columns if columns.count(name) > 1}):
        raise UsageError(f"columns need names of their own, and '{twice[0]}' comes twice. Rename the output.")
    return kept
