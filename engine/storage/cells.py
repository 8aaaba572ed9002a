"""A coarse grid of bytes beside an output: which cells are wanted, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.geometry.axes import Axis
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.create import Flavour, create_volume, remove
from engine.storage.volume import open_volume

CHUNK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class CellGrid:
    """Cells over the space axes of a volume: cell i covers voxels ``i * cell`` to ``(i + 1) * cell - 1``."""

    axes: tuple[Axis, ...]
    """The volume's own space axes."""
    cell: tuple[int, ...]
    """Voxels of one cell, per axis."""
    origin: tuple[float, ...]
    """Physical place of the volume's first voxel's centre, per axis."""
    values: NDArray[np.uint8]
    """One byte a cell."""


def store_cells(url: str, grid: CellGrid, *, meanings: Sequence[str] = ()) -> None:
    """Write a grid as a volume of one level, in place of one that is there.

    Args:
        url: Where.
        grid: The cells.
        meanings: Name of each value, from 0 on; kept in the attributes.

    Raises:
        VolumeError: If it cannot be written.
    """
    if arrays.exists(url):
        remove(url)
    axes = tuple(replace(axis, spacing=axis.spacing * n) for axis, n in zip(grid.axes, grid.cell, strict=True))
    origin = tuple(a + (n - 1) / 2 * axis.spacing for a, n, axis in zip(grid.origin, grid.cell, grid.axes, strict=True))
    volume = create_volume(
        url,
        axes=axes,
        dtype=np.uint8,
        shape=grid.values.shape,
        chunk_shape=[min(CHUNK, n) for n in grid.values.shape],
        origin=origin,
        flavour=Flavour.NGFF if len(axes) in (2, 3) else Flavour.CF,
        attributes={"meanings": dict(enumerate(meanings))} if meanings else None,
    )
    volume.write(Region.whole(volume.shape), grid.values)


def read_cells(url: str) -> NDArray[np.uint8]:
    """Return the cells of a grid that was stored.

    Raises:
        VolumeError: If there is none.
    """
    volume = open_volume(url)
    return volume.read(Region.whole(volume.shape))
