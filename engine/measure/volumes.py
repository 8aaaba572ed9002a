"""How much of each label there is: voxels, and millilitres where the volume says how large a voxel is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from engine.geometry.grid import Grid
from engine.measure.alike import check_labels
from engine.measure.confusion import BLOCK, block_shape
from engine.measure.pairs import count_labels
from engine.measure.space import voxel_ml
from engine.storage.volume import open_volume


@dataclass(frozen=True, slots=True)
class LabelVolume:
    """One label of a volume."""

    label: int
    n_voxels: int
    ml: float | None
    """Millilitre; None where the volume has not 3 space axes, or does not give their steps in a unit of length."""


def label_volumes(
    url: str, *, axes: str | None = None, spacing: Sequence[float] | None = None
) -> tuple[LabelVolume, ...]:
    """Return how much there is of each label, rising; counted block by block.

    Args:
        url: A volume of labels.
        axes: Names for the axes of a bare array, as "zyx".
        spacing: Millimetre per space axis, for a volume that does not say.

    Raises:
        UsageError: If it holds no labels, or the spacing is not one step per space axis.
        VolumeError: If it does not open, or a block cannot be read.
    """
    volume = open_volume(url, axes=axes)
    check_labels(volume)
    ml, found = voxel_ml(volume, spacing=spacing), Counter[int]()
    grid = Grid(volume.shape, block_shape(volume.levels[0], n_voxels=BLOCK))
    for number in range(grid.n_cells):
        found.update(count_labels(volume.read(grid.region(number))))
    return tuple(LabelVolume(label, n, None if ml is None else n * ml) for label, n in sorted(found.items()))
