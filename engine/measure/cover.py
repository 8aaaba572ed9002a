"""Which voxels count: those in the wanted cells of a mask, whose grid may be coarser by whole numbers."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.geometry.region import Region
from engine.measure.alike import SPACING_TOLERANCE
from engine.storage.volume import Readable

FAILED = "failed"
"""Name of the value that an output's coverage gives to cells whose block failed."""


@dataclass(frozen=True)
class Cover:
    """A mask laid over a volume: cell i along an axis covers voxels ``i * cell`` to ``(i + 1) * cell - 1``.

    mask     |  0  |  1  |  1  |
    volume   |.....|#####|###|        the last cell may reach beyond the end
    """

    mask: Readable
    places: tuple[int, ...]
    """Where each axis of the mask stands in the volume; along the others the mask is the same everywhere."""
    cell: tuple[int, ...]
    """Voxels of one cell, per axis of the mask."""
    inside: frozenset[int] | None
    """Values whose cells count; None counts all but 0."""

    @classmethod
    def over(cls, volume: Readable, mask: Readable, *, inside: Collection[int] | None = None) -> Self:
        """Lay a mask over a volume.

        Args:
            volume: What is covered.
            mask: Whole numbers, over some or all of the volume's axes, on the same or a coarser grid.
            inside: Values whose cells count. By default all but 0, and of an output's coverage not the failed.

        Raises:
            UsageError: If the mask is not of whole numbers, or its grid does not divide the volume's.
        """
        names, own = [axis.name for axis in volume.axes], [axis.name for axis in mask.axes]
        if mask.dtype.kind not in "biu":
            raise UsageError(
                f"a mask must be whole numbers, not {mask.dtype} as in '{mask.url}'. Threshold it, and cast to uint8."
            )
        if [name for name in names if name in own] != own:
            raise UsageError(
                f"the axes of a mask must be among {tuple(names)} of '{volume.url}' in that order, not {tuple(own)} as "
                f"in '{mask.url}'. Name or order its axes so."
            )
        places = tuple(names.index(name) for name in own)
        cell = tuple(_cell(volume, mask, place=place, axis=axis) for axis, place in enumerate(places))
        return cls(mask, places, cell, _wanted(mask, inside))

    def of(self, region: Region) -> NDArray[np.bool_]:
        """Return which voxels of a region count, with as many axes; those that the mask lacks have length 1."""
        spans = [(region.start[place], region.stop[place]) for place in self.places]
        start = tuple(a // n for (a, _), n in zip(spans, self.cell, strict=True))
        stop = tuple(-(-b // n) for (_, b), n in zip(spans, self.cell, strict=True))
        cells = self.mask.read(Region(start, stop))
        counts = cells != 0 if self.inside is None else np.isin(cells, sorted(self.inside))
        shape = [1] * len(region.shape)
        for axis, (place, (a, b), n) in enumerate(zip(self.places, spans, self.cell, strict=True)):
            counts = counts.take(np.arange(a, b) // n - start[axis], axis)
            shape[place] = b - a
        return np.asarray(counts.reshape(shape), np.bool_)


def _wanted(mask: Readable, inside: Collection[int] | None) -> frozenset[int] | None:
    meanings = mask.attributes.get("meanings")
    if inside is not None:
        return frozenset(inside)
    if not isinstance(meanings, dict) or FAILED not in meanings.values():
        return None
    return frozenset(int(value) for value, name in meanings.items() if int(value) and name != FAILED)


def _cell(volume: Readable, mask: Readable, *, place: int, axis: int) -> int:
    """Return the voxels of one cell along an axis: as the spacings say, else the only number that fits the shapes."""
    n, m = volume.shape[place], mask.shape[axis]
    ratio, whole = mask.axes[axis].spacing / volume.axes[place].spacing, 0
    if mask.axes[axis].unit == volume.axes[place].unit and abs(ratio - round(ratio)) <= SPACING_TOLERANCE * ratio:
        whole = round(ratio)
    if whole and -(-n // whole) == m:
        return whole
    is_known = mask.axes[axis].unit is not None and volume.axes[place].unit is not None
    fewest, most = -(-n // m), n if m == 1 else -(-n // (m - 1)) - 1
    if not is_known and (fewest == most or m == 1):
        return fewest
    name = volume.axes[place].name
    raise UsageError(
        f"a mask must have the volume's grid, or cells of a whole number of its voxels, as its spacing says, not "
        f"{m} cells of {ratio:g} voxels over {n} along '{name}' of '{mask.url}'. Make the mask on the volume's grid, "
        "or give it its true spacing."
    )
