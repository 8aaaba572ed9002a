"""Which objects there are, over all blocks: joined across borders, sorted by their first voxels, numbered."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import RunError
from engine.objects import parts
from engine.objects.catalogue import Catalogue
from engine.objects.layers import Place, Sources
from engine.objects.recipe import Method
from engine.objects.seams import crossing_table, joined, owner
from engine.objects.sums import FIRST, SIZE, Columns, IntArray
from engine.objects.tasks import read_faces


@dataclass(frozen=True)
class Index:
    """Where the row of each object is; object ``i`` has id ``i + 1``."""

    first: IntArray
    """First voxel, ascending."""
    part: NDArray[np.int32]
    """The block whose file has the row; the number of blocks for the rows added up over blocks."""
    row: NDArray[np.int32]
    """Which row of that file."""

    @property
    def n(self) -> int:
        """Objects."""
        return len(self.first)


def join(catalogue: Catalogue, sources: Sources) -> None:
    """Leave what crosses block borders, for the passes that follow. Idempotent."""
    n_layers = len(sources.measured) if catalogue.recipe.method is Method.CONNECTED else 0
    grid, empty = catalogue.grid, Columns(catalogue.n_axes, n_layers).empty()
    tables = [parts.read_archive(catalogue.part("found", block))["border"] for block in range(grid.n_cells)]
    starts = np.cumsum([0, *map(len, tables)])
    rows = np.concatenate([empty, *tables])
    del tables
    groups = joined(
        grid,
        rows,
        starts,
        lambda block: read_faces(parts.read_archive(catalogue.part("found", block))),
        connectivity=catalogue.recipe.connectivity,
    )
    crossing, merged = crossing_table(rows, groups, n_axes=catalogue.n_axes)
    parts.write_rows(catalogue.crossing_url, crossing)
    parts.write_rows(catalogue.merged_url, merged)
    parts.write_rows(catalogue.starts_url, starts[:, np.newaxis])


def number(catalogue: Catalogue, sources: Sources, place: Place) -> Index:
    """Return where the rows of all objects are that the recipe keeps, and leave their ids. Idempotent.

    Raises:
        RunError: If there are more than a label volume can tell apart, or one is too large to be outlined.
    """
    found = []
    for part in range(catalogue.grid.n_cells + 1):
        rows = rows_of(catalogue, sources, part)
        kept = np.flatnonzero(_is_kept(rows[:, SIZE], catalogue, place))
        if catalogue.has_outlines:
            _check_outlines(catalogue, rows[kept])
        found.append((rows[kept, FIRST], np.full(len(kept), part, np.int32), kept.astype(np.int32)))
    first, part_of, row = (np.concatenate(column) for column in zip(*found, strict=True))
    if len(first) >= 2**32:
        raise RunError(
            f"at most {2**32 - 1} objects fit in a label volume, not {len(first)} as in '{catalogue.recipe.volume}'. "
            "Raise min_area_um2 or the threshold."
        )
    order = np.argsort(first, kind="stable")
    parts.write_rows(catalogue.ids_url, first[order][:, np.newaxis])
    return Index(first[order], part_of[order], row[order])


def rows_of(catalogue: Catalogue, sources: Sources, part: int) -> IntArray:
    """Return the rows of a part: a block, or after the last block what was added up over blocks."""
    columns = Columns(catalogue.n_axes, len(sources.measured))
    if part < catalogue.grid.n_cells:
        return parts.read_rows(catalogue.part("objects", part), n_columns=columns.n)
    if catalogue.recipe.method is not Method.CONNECTED:
        return columns.empty()
    return parts.read_rows(catalogue.merged_url, n_columns=columns.n)


def gathered(catalogue: Catalogue, sources: Sources, index: Index, span: slice) -> IntArray:
    """Return the rows of some objects in the order of their ids; no more parts are read than hold them."""
    part, row = index.part[span], index.row[span]
    rows = np.empty((len(part), Columns(catalogue.n_axes, len(sources.measured)).n), np.int64)
    for number in np.unique(part).tolist():
        here = part == number
        rows[here] = rows_of(catalogue, sources, number)[row[here]]
    return rows


def owners(catalogue: Catalogue, index: Index, span: slice) -> IntArray:
    """Return the block that outlines each of some objects."""
    is_merged = index.part[span] == catalogue.grid.n_cells
    return np.where(is_merged, owner(catalogue.grid, index.first[span]), index.part[span])


def _check_outlines(catalogue: Catalogue, rows: IntArray) -> None:
    columns = Columns(catalogue.n_axes, 0)
    sizes = np.prod(rows[:, columns.stop] - rows[:, columns.start], axis=1)
    largest = int(np.argmax(sizes)) if len(sizes) else 0
    most = catalogue.recipe.max_object_pixels
    if len(sizes) and sizes[largest] > most:
        at = tuple(int(i) for i in np.unravel_index(rows[largest, FIRST], catalogue.grid.shape))
        raise RunError(
            f"the box of an outlined object must have at most {most} pixels, and the one whose first pixel is {at} has "
            f"{sizes[largest]}, in '{catalogue.recipe.volume}'. Leave it out by max_area_um2, raise max_object_pixels, "
            "or set is_outlined to False; under another name, or after removing this set."
        )


def _is_kept(size: IntArray, catalogue: Catalogue, place: Place) -> NDArray[np.bool_]:
    recipe = catalogue.recipe
    if recipe.min_area_um2 == 0 and recipe.max_area_um2 is None:
        return np.ones(len(size), np.bool_)
    area = size * (place.voxel_um or 1.0)
    return np.asarray((area >= recipe.min_area_um2) & (area <= (recipe.max_area_um2 or np.inf)))
