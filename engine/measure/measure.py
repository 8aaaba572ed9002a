"""From two places on disk to a table: what ``engine measure`` does."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.measure.confusion import Progress, confuse
from engine.measure.scores import Scores, score
from engine.measure.space import space_of, voxel_ml
from engine.measure.surface import surface_scores
from engine.storage.volume import open_volume


def measure(
    reference_url: str,
    result_url: str,
    *,
    labels: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
    ignore: Collection[int] = (),
    mask_url: str | None = None,
    inside: Collection[int] | None = None,
    axes: str | None = None,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float | None = None,
    n_threads: int = 2,
    progress: Progress | None = None,
) -> Scores:
    """Compare two volumes of labels of any size, block by block, with exact sums.

    Args:
        reference_url: What is true.
        result_url: What is measured, such as ``out.zarr/labels/nuclei``.
        labels: Which labels get a row and are part of the means; all that are found by default.
        names: What labels are called.
        ignore: Labels of the reference whose voxels do not count.
        mask_url: A volume outside which voxels do not count, on the same or a coarser grid, such as
            ``out.zarr/coverage``.
        inside: Values of the mask that count; by default all but 0, and of a coverage not the failed.
        axes: Names for the axes of bare arrays, as "zyx".
        spacing: Millimetre per space axis, for volumes that do not say.
        tolerance_mm: Measure surfaces too, and let surface Dice pass this distance; see :func:`surface_scores`.
        n_threads: Blocks read and counted at once.
        progress: Told blocks done and in all of each pass, in this thread.

    Raises:
        UsageError: If the volumes cannot be compared voxel for voxel, no voxel counts, or surfaces are wanted and the
            step of an axis is not known in millimetre.
        VolumeError: If one does not open, or a block cannot be read.
    """
    reference, result = open_volume(reference_url, axes=axes), open_volume(result_url, axes=axes)
    mask = None if mask_url is None else open_volume(mask_url)
    chosen: dict[str, Any] = {"ignore": ignore, "mask": mask, "inside": inside, "n_threads": n_threads}
    if tolerance_mm is not None:
        space_of(result, spacing=spacing)  # refused before the first pass, not after it
    confusion = confuse(reference, result, labels=labels or (), progress=progress, **chosen)
    surfaces = None
    if tolerance_mm is not None:
        rows = confusion.labels if labels is None else labels
        surfaces = surface_scores(
            reference, result, labels=rows, tolerance_mm=tolerance_mm, spacing=spacing, progress=progress, **chosen
        )
    return score(
        confusion,
        labels=labels,
        names=names,
        reference=reference.url,
        result=result.url,
        voxel_ml=voxel_ml(result, spacing=spacing),
        surfaces=surfaces,
    )
