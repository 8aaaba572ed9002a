"""How far the surfaces of labels lie apart: Hausdorff, its 95th percentile, mean distances, surface Dice.

A voxel is on the surface of its label where one of its neighbours along an axis has another label, or where the volume
ends: the mask less its erosion by a cross, as MONAI's ``get_mask_edges`` has it. Distances run between the centres of
surface voxels, in millimetre.

Two passes. The first reads each block of both volumes once, with a halo of one voxel, and keeps the surface voxels on
disk: 4 bytes each. The second finds each one's nearest; see :mod:`engine.measure.nearest`. Surfaces are thin: that is
little beside the volume, and where it is not, it is still only disk.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.geometry.region import Region
from engine.measure.alike import check_alike
from engine.measure.confusion import Progress
from engine.measure.cover import Cover
from engine.measure.nearest import distances
from engine.measure.space import Space, space_of
from engine.measure.spool import Spool
from engine.measure.spread import Spread
from engine.storage.volume import Readable

BLOCK = 2**22
"""Voxels of a block: as many whole shards, else chunks, of the result as fit."""


@dataclass(frozen=True)
class SurfaceScore:
    """How far the surfaces of one label lie apart; all but counts and shares in millimetre.

    Where the label is in one volume only, distances are infinite and surface Dice is 0; in neither, all are None.
    """

    n_reference: int
    """Surface voxels in the reference."""
    n_result: int
    """Surface voxels in the result."""
    hausdorff_mm: float | None
    """The greatest distance of any surface voxel, of either volume, to the other surface."""
    hd95_mm: float | None
    """The 95th percentile of each direction's distances, and of the two the greater: MONAI's ``percentile=95``.

    Between two unlike neighbours it is interpolated in float64, as NumPy does; MONAI rounds the rank to float32, and is
    off by a few parts in a million there."""
    assd_mm: float | None
    """Average symmetric surface distance: the mean over the surface voxels of both."""
    mean_to_reference_mm: float | None
    """Mean distance of the result's surface voxels to the reference's surface: MONAI's ``symmetric=False``."""
    mean_to_result_mm: float | None
    """Mean distance of the reference's surface voxels to the result's surface."""
    surface_dice: float | None
    """Share of the surface voxels of both that lie within the tolerance of the other surface."""
    tolerance_mm: float
    """What surface Dice lets pass; compared as float32, so that rounding does not part equals."""

    @classmethod
    def of(cls, to_result: Spread, to_reference: Spread, *, tolerance_mm: float) -> "SurfaceScore":
        """Return the scores of the distances in both directions."""
        both, n = to_result.plus(to_reference), (to_result.n, to_reference.n)
        if not both.n:
            return cls(*n, None, None, None, None, None, None, tolerance_mm)
        if not all(n):
            far = float("inf")
            return cls(*n, far, far, far, far, far, 0.0, tolerance_mm)
        return cls(
            *n,
            hausdorff_mm=both.maximum,
            hd95_mm=max(to_result.quantile(0.95), to_reference.quantile(0.95)),
            assd_mm=both.mean,
            mean_to_reference_mm=to_reference.mean,
            mean_to_result_mm=to_result.mean,
            surface_dice=both.share_within(tolerance_mm),
            tolerance_mm=tolerance_mm,
        )


def surface_scores(
    reference: Readable,
    result: Readable,
    *,
    labels: Sequence[int] | None = None,
    tolerance_mm: float = 1.0,
    spacing: Sequence[float] | None = None,
    ignore: Collection[int] = (),
    mask: Readable | None = None,
    inside: Collection[int] | None = None,
    n_threads: int = 2,
    progress: Progress | None = None,
) -> dict[int, SurfaceScore]:
    """Return the surface scores of each label; no bit depends on blocks or threads.

    Args:
        reference: What is true.
        result: What is measured; blocks are whole shards or chunks of it.
        labels: Which; all that are found by default, rising.
        tolerance_mm: Distance that surface Dice lets pass.
        spacing: Millimetre per space axis, for volumes that do not say.
        ignore: Labels of the reference whose voxels are no surface, in neither volume.
        mask: Voxels outside are no surface, in neither volume, but still neighbours; see :meth:`Cover.over`.
        inside: Values of the mask that count.
        n_threads: Threads that look for the nearest.
        progress: Called in this thread after each block of the first pass.

    Raises:
        UsageError: If the volumes do not lie on one grid, are not labels of one item and channel, their steps are not
            known, or the tolerance is negative.
        VolumeError: If a block cannot be read.
    """
    check_alike(reference, result)
    if not 0 <= tolerance_mm < float("inf"):
        raise UsageError(
            f"a tolerance must be a distance in millimetre, 0 or more, not {tolerance_mm}. Give one as 2.0."
        )
    sides = space_of(reference, spacing=spacing), space_of(result, spacing=spacing)
    cover = None if mask is None else Cover.over(result, mask, inside=inside)
    with TemporaryDirectory(prefix="surfaces-") as folder:
        spools = _spooled(sides, Path(folder), labels=labels, ignore=ignore, cover=cover, progress=progress)
        chosen = sorted({*spools[0].buckets, *spools[1].buckets}) if labels is None else labels
        steps = sides[1].spacing_mm
        return {
            label: SurfaceScore.of(
                distances(*spools, label, spacing=steps, n_threads=n_threads),
                distances(*spools[::-1], label, spacing=steps, n_threads=n_threads),
                tolerance_mm=tolerance_mm,
            )
            for label in chosen
        }


def on_surface(space: Space, region: Region) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the labels of a box, and which of its voxels are on the surface of their own label."""
    ones = (1,) * len(space.shape)
    around = region.grow(before=ones, after=ones).meet(Region.whole(space.shape))
    assert around is not None
    labels = space.read(around)
    inner = region.shift([-a for a in around.start])
    found = np.zeros(region.shape, np.bool_)
    for axis, n in enumerate(labels.shape):
        along = (slice(None),) * axis
        differ = labels[(*along, slice(1, n))] != labels[(*along, slice(0, n - 1))]
        ends = np.ones_like(differ, shape=(*labels.shape[:axis], 1, *labels.shape[axis + 1 :]))
        before, after = np.concatenate([ends, differ], axis), np.concatenate([differ, ends], axis)
        found |= (before | after)[inner.slices]
    return labels[inner.slices], found


def _spooled(
    sides: tuple[Space, Space],
    folder: Path,
    *,
    labels: Collection[int] | None,
    ignore: Collection[int],
    cover: Cover | None,
    progress: Progress | None,
) -> tuple[Spool, Spool]:
    grid = sides[1].blocks(BLOCK)
    spools = Spool(folder / "reference", grid), Spool(folder / "result", grid)
    for number in range(grid.n_cells):
        region = grid.region(number)
        (truth, true_edge), (found, edge) = (on_surface(side, region) for side in sides)
        counts = np.ones(region.shape, np.bool_)
        if cover is not None:
            place = sides[1].whole(region)
            counts &= np.broadcast_to(cover.of(place), place.shape).reshape(region.shape)
        if ignore:
            counts &= ~np.isin(truth, sorted(ignore))
        both = true_edge & edge & (truth == found)
        for spool, values, own in ((spools[0], truth, true_edge), (spools[1], found, edge)):
            _add(spool, number, values, own=own & counts, shared=both, labels=labels)
        if progress is not None:
            progress(number + 1, grid.n_cells)
    return spools


def _add(
    spool: Spool,
    number: int,
    values: NDArray[Any],
    *,
    own: NDArray[np.bool_],
    shared: NDArray[np.bool_],
    labels: Collection[int] | None,
) -> None:
    """Add the surface voxels of a block, label by label."""
    voxels = np.flatnonzero(own)
    of = values.reshape(-1)[voxels].astype(np.int64)
    is_shared = shared.reshape(-1)[voxels]
    for label in np.unique(of).tolist():
        if labels is None or label in labels:
            mine = of == label
            spool.add(label, number, own=voxels[mine & ~is_shared], shared=voxels[mine & is_shared])
