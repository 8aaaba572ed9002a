"""What a collection does to each of its slides: frozen, written beside the results, the same for all of them."""

from dataclasses import dataclass

from engine.collection.manifest import Entry
from engine.geometry.model_geometry import ModelGeometry
from engine.plan import ModelFacts, TileCost
from engine.planner import Wishes

TASKS_PER_SLIDE = 1 << 40
"""A task's number is ``slide * TASKS_PER_SLIDE + step``."""

OPEN, CONCLUDE, FIRST_BLOCK = 0, 1, 2
"""Steps of a slide: opened and planned, concluded, and from here on its blocks."""


@dataclass(frozen=True, slots=True)
class ObjectsWish:
    """Objects to be found on each slide."""

    output: str
    """Of the model: a label map, or a probability."""
    method: str = "connected"
    """``connected`` or ``watershed``."""
    min_area_um2: float = 0.0
    measured: tuple[str, ...] = ()
    """Outputs of the model that are averaged over each object."""


@dataclass(frozen=True, slots=True)
class ScoreWish:
    """A score to be given to each slide."""

    aggregator: str
    """Specification of the aggregator."""
    output: str
    """Of the model: the features."""


@dataclass(frozen=True)
class CollectionJob:
    """Everything that a worker must know, and no open file."""

    folder: str
    """Where the results go, one group a slide."""
    entries: tuple[Entry, ...]
    model: str
    """Its specification."""
    axes: str | None
    device: str
    n_threads: int
    geometry: ModelGeometry
    facts: ModelFacts
    cost: TileCost
    wishes: Wishes
    """The same tile, block and batch for every slide, so that the kernels are chosen once."""
    tissue: str
    """How the tissue of slides is found, unless their manifest says; ``none`` computes all."""
    mpp: float | None
    n_certified: int = 2
    objects: ObjectsWish | None = None
    score: ScoreWish | None = None

    def output(self, slide: int) -> str:
        """Return where the result of a slide goes."""
        return f"{self.folder}/{self.entries[slide].id}.zarr"

    def draft(self, slide: int) -> str:
        """Return where the result of a slide is described, to be moved when it is whole."""
        return f"{self.folder}/records/{self.entries[slide].id}.zarr"

    def tissue_of(self, slide: int) -> str | None:
        """Return how the tissue of a slide is found; None where all of it is wanted."""
        wanted = self.entries[slide].tissue or self.tissue
        return None if wanted == "none" else wanted


def step_of(task: int) -> tuple[int, int]:
    """Return the slide and the step of a task.

    >>> step_of(3 * TASKS_PER_SLIDE + 7)
    (3, 7)
    """
    return divmod(task, TASKS_PER_SLIDE)
