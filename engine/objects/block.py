"""One block as its tasks see it: its components, and the whole of those that leave it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import RunError
from engine.geometry.region import Region
from engine.objects import parts
from engine.objects.catalogue import Catalogue
from engine.objects.components import border_labels, components
from engine.objects.layers import Sources
from engine.objects.seams import owner
from engine.objects.split import parts_of
from engine.objects.sums import IntArray
from engine.objects.window import Window


@dataclass(frozen=True)
class Whole:
    """A component in its tight box, parted."""

    box: Region
    parts: NDArray[np.int32]
    """The part, 1 to n, at each voxel of the box; 0 outside the component."""

    @property
    def n_parts(self) -> int:
        """Parts of the component."""
        return int(self.parts.max())


@dataclass(frozen=True)
class Crossing:
    """The components that reach the border of a block, one entry per local label, ascending."""

    first: IntArray
    """First voxel of the whole component."""
    start: IntArray
    stop: IntArray
    """The box of the whole component, a row each."""
    group: IntArray
    """Number of the component among all that reach a border."""

    def of(self, chosen: NDArray[Any]) -> "Crossing":
        """Return some of them."""
        return Crossing(self.first[chosen], self.start[chosen], self.stop[chosen], self.group[chosen])

    def once(self) -> "Crossing":
        """Return each component once: one may reach a block in several pieces."""
        return self.of(np.unique(self.group, return_index=True)[1])

    def boxes(self) -> list[Region]:
        """Return the box of each."""
        ends = zip(self.start.tolist(), self.stop.tolist(), strict=True)
        return [Region(tuple(start), tuple(stop)) for start, stop in ends]


@dataclass(frozen=True)
class Block:
    """The voxels of one block, read and labelled on first use."""

    catalogue: Catalogue
    sources: Sources
    number: int

    @cached_property
    def region(self) -> Region:
        """Where it lies."""
        return self.catalogue.grid.region(self.number)

    @cached_property
    def classes(self) -> NDArray[Any]:
        """Class at each voxel."""
        return self.sources.classes(self.region)

    @cached_property
    def labelled(self) -> tuple[NDArray[np.int32], int]:
        """The component at each voxel, and how many there are: always the same numbers."""
        return components(self.classes, connectivity=self.catalogue.recipe.connectivity)

    @cached_property
    def border(self) -> NDArray[np.int32]:
        """The components that reach a neighbouring block, ascending."""
        return border_labels(self.labelled[0], self.region, self.catalogue.grid.shape)

    @cached_property
    def crossing(self) -> Crossing:
        """What the whole of each border component is."""
        start, stop = parts.read_rows(self.catalogue.starts_url, n_columns=1, start=self.number, stop=self.number + 2)[
            :, 0
        ].tolist()
        n = self.catalogue.n_axes
        rows = parts.read_rows(self.catalogue.crossing_url, n_columns=2 + 2 * n, start=start, stop=stop)
        return Crossing(rows[:, 0], rows[:, 1 : 1 + n], rows[:, 1 + n : 1 + 2 * n], rows[:, -1])

    @cached_property
    def owned(self) -> Crossing:
        """The crossing components whose first voxel lies here."""
        is_here = owner(self.catalogue.grid, self.crossing.first) == self.number
        return self.crossing.of(is_here).once()

    def wholes(self, chosen: Crossing) -> Iterator[tuple[int, Whole]]:
        """Yield the first voxel and the parts of crossing components.

        Raises:
            RunError: If one is larger than the recipe allows.
        """
        window = Window.around(self.region, chosen.boxes(), self.sources.classes, self.classes)
        for first, box in zip(chosen.first.tolist(), chosen.boxes(), strict=True):
            check_size(box, self.catalogue, first=first)
            classes = window.read(box)
            found, _ = components(classes, connectivity=self.catalogue.recipe.connectivity)
            at = np.unravel_index(first, self.catalogue.grid.shape)
            inside = tuple(int(i) - a for i, a in zip(at, box.start, strict=True))
            yield first, self.parted(found == found[inside], box)

    def parted(self, mask: NDArray[np.bool_], box: Region) -> Whole:
        """Return the parts of a component in its tight box."""
        recipe, shape = self.catalogue.recipe, self.catalogue.grid.shape
        found = parts_of(mask, box=box, shape=shape, min_distance=recipe.min_distance, connectivity=recipe.connectivity)
        return Whole(box, found)


def check_size(box: Region, catalogue: Catalogue, *, first: int) -> None:
    """Refuse a box that is too large to be held at once.

    Raises:
        RunError: If it is larger than the recipe allows.
    """
    most = catalogue.recipe.max_object_pixels
    if box.n_voxels > most:
        at = tuple(int(i) for i in np.unravel_index(first, catalogue.grid.shape))
        raise RunError(
            f"the box of a component must have at most {most} voxels, and the one whose first voxel is {at} has "
            f"{box.n_voxels}, {box.shape}, in '{catalogue.recipe.volume}'. Take method 'connected' without outlines, "
            "or a higher max_object_pixels."
        )
