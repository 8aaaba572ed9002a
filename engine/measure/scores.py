"""How well two volumes of labels agree: six scores per label, their means, and why one is not defined."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from engine.measure.confusion import Confusion, Outcome
from engine.measure.surface import SurfaceScore

NEITHER = "in neither volume"
_FORMULAS: Mapping[str, tuple[Callable[[Outcome], tuple[int, int]], str]] = {
    "dice": (
        lambda n: (2 * n.true_positive, 2 * n.true_positive + n.false_positive + n.false_negative),
        NEITHER,
    ),
    "jaccard": (
        lambda n: (n.true_positive, n.true_positive + n.false_positive + n.false_negative),
        NEITHER,
    ),
    "sensitivity": (lambda n: (n.true_positive, n.true_positive + n.false_negative), "nowhere in the reference"),
    "specificity": (lambda n: (n.true_negative, n.true_negative + n.false_positive), "everywhere in the reference"),
    "precision": (lambda n: (n.true_positive, n.true_positive + n.false_positive), "nowhere in the result"),
    "accuracy": (
        lambda n: (
            n.true_positive + n.true_negative,
            n.true_positive + n.true_negative + n.false_positive + n.false_negative,
        ),
        "no voxel counts",
    ),
}
"""Numerator and denominator of each score, and what it means where the denominator is 0 (A. A. Taha and A. Hanbury,
Metrics for evaluating 3D medical image segmentation, BMC Medical Imaging 15:29, 2015)."""

MEASURES = tuple(_FORMULAS)
"""Names of the scores. Dice is also called F1, Jaccard IoU, and sensitivity recall."""


@dataclass(frozen=True)
class Score:
    """One row of the table: a label against all others, or a mean over labels."""

    name: str
    label: int | None
    """None of a mean."""
    counts: Outcome | None
    """None of the macro mean, whose counts are not one set of voxels."""
    dice: float | None
    """Each score lies in 0..1; None where it is not defined."""
    jaccard: float | None
    sensitivity: float | None
    specificity: float | None
    precision: float | None
    accuracy: float | None
    notes: Mapping[str, str] = field(default_factory=dict)
    """Per score that is not defined, why; per macro mean, which labels it had to leave out."""

    def value(self, measure: str) -> float | None:
        """Return a score by its name in :data:`MEASURES`."""
        found: float | None = getattr(self, measure)
        return found


@dataclass(frozen=True, eq=False)
class Scores:
    """The table, and the counts that it was made from."""

    rows: tuple[Score, ...]
    """One per label."""
    macro: Score
    """Each label counts alike: the mean of the rows, where they are defined."""
    micro: Score
    """Each voxel counts alike: the scores of the rows' summed counts."""
    confusion: Confusion
    """Of all labels, also of those that have no row."""
    reference: str = ""
    """Where the reference is."""
    result: str = ""
    """Where the result is."""
    voxel_ml: float | None = None
    """Millilitre of a voxel; None where the volumes do not say, or are not of 3 space axes."""
    surfaces: Mapping[int, SurfaceScore] = field(default_factory=dict)
    """By label, where surfaces were measured."""

    @property
    def agreement(self) -> float:
        """Share of the voxels that have the same label in both: the accuracy over all labels at once."""
        return int(self.confusion.counts.trace()) / self.confusion.n_voxels

    @property
    def table(self) -> tuple[Score, ...]:
        """The rows, and the two means after them."""
        return (*self.rows, self.macro, self.micro)


def score(
    confusion: Confusion,
    *,
    labels: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
    reference: str = "",
    result: str = "",
    voxel_ml: float | None = None,
    surfaces: Mapping[int, SurfaceScore] | None = None,
) -> Scores:
    """Return the scores of a confusion matrix; ratios of whole numbers, rounded once.

    Args:
        confusion: The counts.
        labels: Which labels get a row and are part of the means, in this order; all by default. Leave 0 out where it
            is background, since it is easy and lifts every mean.
        names: What labels are called; the rest by their numbers.
        reference: Where the reference is, to be shown.
        result: Where the result is, to be shown.
        voxel_ml: Millilitre of a voxel, where it is known.
        surfaces: Surface scores by label, where they were measured.
    """
    chosen = confusion.labels if labels is None else tuple(dict.fromkeys(labels))
    called = {label: (names or {}).get(label, str(label)) for label in chosen}
    outcomes = {label: confusion.outcome(label) for label in chosen}
    rows = tuple(_row(called[label], outcomes[label], label=label) for label in chosen)
    micro = _row("micro", _summed(outcomes.values()))
    return Scores(rows, _mean(rows), micro, confusion, reference, result, voxel_ml, surfaces or {})


def _row(name: str, counts: Outcome, *, label: int | None = None) -> Score:
    values: dict[str, float | None] = {}
    notes = {}
    for measure, (formula, reason) in _FORMULAS.items():
        above, below = formula(counts)
        values[measure] = above / below if below else None
        if not below:
            notes[measure] = reason
    return Score(name, label, counts, notes=notes, **values)


def _mean(rows: Sequence[Score]) -> Score:
    values: dict[str, float | None] = {}
    notes = {}
    for measure in MEASURES:
        defined = [value for row in rows if (value := row.value(measure)) is not None]
        values[measure] = float(sum(map(Fraction, defined)) / len(defined)) if defined else None
        if len(defined) < len(rows):
            left_out = ", ".join(row.name for row in rows if row.value(measure) is None)
            notes[measure] = f"without {left_out}" if defined else "not defined for any label"
    return Score("macro", None, None, notes=notes, **values)


def _summed(outcomes: Collection[Outcome]) -> Outcome:
    return Outcome(
        sum(n.true_positive for n in outcomes),
        sum(n.false_positive for n in outcomes),
        sum(n.false_negative for n in outcomes),
        sum(n.true_negative for n in outcomes),
    )
