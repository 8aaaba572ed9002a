"""The table of objects: one row per object in the order of ids, as columns of measured facts, stored as Parquet."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from engine.objects import parts
from engine.objects.layers import Place
from engine.objects.recipe import Recipe
from engine.objects.sums import CLASS, FIRST, SIZE, Columns, IntArray, means
from engine.storage import arrays

pa: Any = pyarrow  # it has no types of its own
pq: Any = pyarrow.parquet
Table = Any
"""A table of Arrow."""

N_ROWS_AT_ONCE = 65_536
"""Rows of a row group, and of all that is held at once."""


def derived(rows: IntArray, *, first_id: int, place: Place, measured: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the columns of the table for some rows, by name, in order.

    ``area_px`` and ``area_um2`` are called ``n_voxels`` and ``volume_um3`` in 3-d. Boxes are in voxels of the label
    volume, ``centroid_y_px`` in level-0 pixels from the slide's corner (the middle of the first pixel is 0.5), and
    ``centroid_y_um`` in micrometre from there.
    """
    n_axes = len(place.names)
    columns = Columns(n_axes, len(measured))
    size, size_um = ("area_px", "area_um2") if n_axes == 2 else ("n_voxels", "volume_um3")
    unknown = np.full(len(rows), np.nan)
    found: dict[str, NDArray[Any]] = {
        "id": np.arange(first_id, first_id + len(rows), dtype=np.uint32),
        "class": rows[:, CLASS],
        size: rows[:, SIZE],
        size_um: unknown if place.voxel_um is None else rows[:, SIZE] * place.voxel_um,
    }
    centres = [_quotients(rows[:, columns.place][:, axis], rows[:, SIZE]) for axis in range(n_axes)]
    for axis, name in enumerate(place.names):
        found[f"centroid_{name}_px"] = (centres[axis] + 0.5) * place.scale[axis] + place.shift[axis]
    for axis, name in enumerate(place.names):
        micron = None if place.spacing_um is None else place.spacing_um[axis] / place.scale[axis]
        found[f"centroid_{name}_um"] = unknown if micron is None else found[f"centroid_{name}_px"] * micron
    for axis, name in enumerate(place.names):
        found[f"{name}_start"] = rows[:, columns.start][:, axis]
        found[f"{name}_stop"] = rows[:, columns.stop][:, axis]
    found["first_voxel"] = rows[:, FIRST]
    for number, name in enumerate(measured):
        found[f"mean_{name}"] = means(rows, columns, number)
    return found


def write_table(
    url: str, pieces: Iterator[tuple[int, IntArray]], *, place: Place, recipe: Recipe, measured: Sequence[str]
) -> None:
    """Store the table, row group after row group, and show it when it is whole.

    Args:
        url: Where.
        pieces: The first id and the rows of each row group; one at least, which may be empty.
        place: Where the voxels lie.
        recipe: Names the classes.
        measured: Names of the measured volumes, in the order of the rows.
    """
    with parts.appearing(url) as file:
        writer = None
        for first_id, rows in pieces:
            columns = derived(rows, first_id=first_id, place=place, measured=measured)
            table = _with_names(columns, recipe)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def read_table(url: str, columns: Sequence[str] | None = None) -> Table:
    """Return the table of objects, or some of its columns, in memory; ids ascend from 1.

    Raises:
        VolumeError: If it is not there.
    """
    if arrays.is_local(url):
        parts.read_bytes(url, 0, 4)
        return pq.read_table(arrays.local_path(url), columns=columns, memory_map=True)
    return pq.read_table(pa.BufferReader(parts.read_bytes(url)), columns=columns)


def _with_names(columns: dict[str, NDArray[Any]], recipe: Recipe) -> Table:
    """Return an Arrow table in which a class has its name too, and what is unknown is null."""
    values: dict[str, Any] = {}
    for name, column in columns.items():
        values[name] = pa.array(column, from_pandas=True)
        if name == "class":
            kinds, which = np.unique(column, return_inverse=True)
            names = pa.array([recipe.class_of(int(kind)).name for kind in kinds], pa.string())
            values["class_name"] = names.take(pa.array(which.ravel()))
    return pa.table(values)


def _quotients(totals: IntArray, counts: IntArray) -> NDArray[np.float64]:
    """Return exact quotients, each rounded once: sums of coordinates may exceed 2^53."""
    return np.array([a / b for a, b in zip(totals.tolist(), counts.tolist(), strict=True)], np.float64)
