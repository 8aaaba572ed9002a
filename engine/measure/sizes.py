"""The part of a row of scores that has a unit: millilitre of each side, millimetre between surfaces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum, isinf

from engine.measure.scores import NEITHER, Score, Scores

VOLUMES = ("reference_ml", "result_ml", "difference_ml")
"""Of voxels that count; the difference is the result's less the reference's."""

SHOWN_SURFACES = ("hausdorff_mm", "hd95_mm", "assd_mm", "surface_dice")
SURFACES = (*SHOWN_SURFACES, "mean_to_reference_mm", "mean_to_result_mm", "tolerance_mm")
"""Names as in :class:`engine.measure.surface.SurfaceScore`."""


@dataclass(frozen=True)
class Sizes:
    """What one row has to say, by column."""

    values: Mapping[str, float | None]
    notes: Mapping[str, str] = field(default_factory=dict)
    """Per value that is not defined or infinite, why."""

    def plus(self, other: "Sizes") -> "Sizes":
        """Return both."""
        return Sizes({**self.values, **other.values}, {**self.notes, **other.notes})


def row_sizes(scores: Scores, row: Score) -> Sizes:
    """Return the sizes of a row, as far as they were measured.

    The macro mean has the mean distances of the labels where they are defined, and is infinite where one is; the micro
    mean has the summed volumes, and no distances: those of several labels are not pooled.
    """
    found = Sizes({})
    if scores.voxel_ml is not None:
        found = found.plus(_volumes(row, scores.voxel_ml))
    if scores.surfaces:
        found = found.plus(_surfaces(scores, row))
    return found


def _volumes(row: Score, voxel_ml: float) -> Sizes:
    n = row.counts
    if n is None:
        return Sizes(dict.fromkeys(VOLUMES))
    reference, result = n.true_positive + n.false_negative, n.true_positive + n.false_positive
    counts = (reference, result, result - reference)
    return Sizes({name: count * voxel_ml for name, count in zip(VOLUMES, counts, strict=True)})


def _surfaces(scores: Scores, row: Score) -> Sizes:
    if row is scores.macro:
        return _mean(scores)
    if row.label is None:
        return Sizes(dict.fromkeys(SURFACES), dict.fromkeys(SHOWN_SURFACES, "not pooled over labels"))
    found = scores.surfaces[row.label]
    values = {name: getattr(found, name) for name in SURFACES}
    if not (found.n_reference or found.n_result):
        return Sizes(values, dict.fromkeys(SHOWN_SURFACES, NEITHER))
    if not (found.n_reference and found.n_result):
        where = "the result" if found.n_reference else "the reference"
        infinite = [name for name, value in values.items() if value is not None and isinf(value)]
        return Sizes(values, dict.fromkeys(infinite, f"infinite, nowhere in {where}"))
    return Sizes(values)


def _mean(scores: Scores) -> Sizes:
    values: dict[str, float | None] = {}
    notes = {}
    for name in SURFACES:
        found = {row.name: getattr(scores.surfaces[row.label], name) for row in scores.rows if row.label is not None}
        defined = [value for value in found.values() if value is not None]
        values[name] = fsum(defined) / len(defined) if defined else None
        far = ", ".join(label for label, value in found.items() if value is not None and isinf(value))
        missing = ", ".join(label for label, value in found.items() if value is None)
        if far:
            notes[name] = f"infinite for {far}"
        elif missing:
            notes[name] = f"without {missing}" if defined else "not defined for any label"
    return Sizes(values, notes)
