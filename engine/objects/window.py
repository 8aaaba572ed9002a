"""A box of a volume held in memory, a little larger than a block: crops of what leaves the block cost no read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.geometry.region import Region

N_VOXELS_BESIDE = 512
"""How far past a block one read goes; what reaches farther is read for itself."""

Reader = Callable[[Region], NDArray[Any]]


@dataclass(frozen=True)
class Window:
    """The voxels of a box, and how to read any other."""

    region: Region
    voxels: NDArray[Any]
    reader: Reader

    @classmethod
    def around(cls, block: Region, boxes: Sequence[Region], reader: Reader, voxels: NDArray[Any] | None = None) -> Self:
        """Return the box of a block and of those boxes that end near it; ``voxels`` are the block's, where known."""
        beside = (N_VOXELS_BESIDE,) * len(block.start)
        grown = block.grow(before=beside, after=beside)
        near = [block, *(box for box in boxes if grown.holds(box))]
        start, stop = np.min([box.start for box in near], axis=0), np.max([box.stop for box in near], axis=0)
        region = Region(tuple(start.tolist()), tuple(stop.tolist()))
        held = voxels if voxels is not None and region == block else reader(region)
        return cls(region, held, reader)

    def read(self, box: Region) -> NDArray[Any]:
        """Return the voxels of a box: a view where they are held."""
        return self.voxels[local(box, self.region)] if self.region.holds(box) else self.reader(box)


def local(box: Region, region: Region) -> tuple[slice, ...]:
    """Return the index of a box in the array of ``region``."""
    return box.shift([-a for a in region.start]).slices
