"""The table of items: a Parquet file a block, whole or not at all, and the list of those that failed."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.items.manifest import Item
from engine.items.outputs import BUCKET, ID, INDEX, REASON, Output
from engine.items.plan import Block
from engine.storage import arrays

TABLE, FAILURES = "table.parquet", "failures.csv"
"""A folder of parts, which every reader of Parquet opens as one table; and a CSV file."""

Array = NDArray[Any]


def part_path(folder: str, task: int) -> Path:
    """Return where the rows of a block lie."""
    return Path(folder) / TABLE / f"part-{task:07d}.parquet"


def write_part(
    path: Path,
    ids: Sequence[str],
    block: Block,
    *,
    outputs: Sequence[Output],
    values: Mapping[str, Array],
    reasons: Sequence[str | None],
) -> int:
    """Store the rows of a block by a rename, and return their bytes.

    Args:
        path: Where.
        ids: Of the block's items.
        block: Where their volumes lie.
        outputs: What every part has columns of; those of volumes have none.
        values: Per output (item, ...); an output that no item of the block gave is missing.
        reasons: Of the items that failed, whose values are null.

    Raises:
        VolumeError: If it cannot be written.
    """
    is_failed = np.array([why is not None for why in reasons])
    table = {
        ID: pa.array(ids, pa.string()),
        BUCKET: pa.array(np.full(len(ids), block.bucket, np.int32)),
        INDEX: pa.array(np.arange(block.start, block.start + len(ids), dtype=np.int64)),
    }
    for output in outputs:
        found = values.get(output.name, np.zeros((len(ids), *output.shape), output.dtype))
        found = found.reshape(len(ids), -1)
        table |= {name: pa.array(found[:, i], mask=is_failed) for i, name in enumerate(output.columns)}
    table[REASON] = pa.array(reasons, pa.string())
    draft = path.with_suffix(".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), draft)
        draft.replace(path)
    except OSError as error:
        raise arrays.write_error(error, where=f"the table '{path}'") from error
    return path.stat().st_size


def write_failures(folder: str, items: Sequence[Item]) -> int:
    """Write the items that failed as a manifest, with their reasons, and return how many there are.

    Raises:
        VolumeError: If it cannot be written.
    """
    rows = dict(_failed(folder))
    columns = list(dict.fromkeys(name for item in items[:1] for name in item.row))
    path = Path(folder) / FAILURES
    draft = path.with_suffix(".writing")
    try:
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [ID, REASON, *columns], restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows({**item.row, ID: item.id, REASON: rows[item.id]} for item in items if item.id in rows)
        draft.replace(path)
    except OSError as error:
        raise arrays.write_error(error, where=f"the table '{path}'") from error
    return len(rows)


def _failed(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the id and the reason of each item that failed."""
    for part in sorted((Path(folder) / TABLE).glob("part-*.parquet")):
        rows = pq.read_table(part, columns=[ID, REASON]).to_pylist()
        yield from ((row[ID], row[REASON]) for row in rows if row[REASON] is not None)
