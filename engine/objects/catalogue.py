"""Where everything of one set of objects lies, and the facts of the blocks that all tasks share."""

from dataclasses import dataclass
from functools import cached_property

from engine.geometry.block_graph import BlockGraph
from engine.geometry.grid import Grid
from engine.objects.recipe import Method, Recipe
from engine.storage import arrays

PASSES = ("find", "split", "paint", "outline")
"""In the order in which they run; ``split`` only for the watershed, ``outline`` only where GeoJSON is wanted."""


@dataclass(frozen=True)
class Catalogue:
    """One set of objects of one output: paths and blocks. Picklable; nothing is open."""

    output: str
    recipe: Recipe
    grid: Grid
    """The blocks of the finest level."""
    n_levels: int
    """Levels of the label volume."""

    @property
    def folder(self) -> str:
        """Where the table and GeoJSON are written."""
        return f"{arrays.local_path(self.output)}/objects/{self.recipe.name}"

    @property
    def label_url(self) -> str:
        """Where the label volume is written."""
        return f"{arrays.local_path(self.output)}/labels/{self.recipe.name}"

    @property
    def table_url(self) -> str:
        """The table."""
        return f"{self.folder}/table.parquet"

    @property
    def geojson_url(self) -> str:
        """The outlines."""
        return f"{self.folder}/objects.geojson.gz"

    @property
    def n_axes(self) -> int:
        """Space axes."""
        return len(self.grid.shape)

    @property
    def parts_url(self) -> str:
        """The folder of what tasks leave for each other; deleted at the end."""
        return f"{self.folder}/parts"

    @property
    def starts_url(self) -> str:
        """The first border row of each block, then their number."""
        return f"{self.parts_url}/starts"

    @property
    def crossing_url(self) -> str:
        """The rows of what crosses block borders: first voxel, box and group of the whole component."""
        return f"{self.parts_url}/crossing"

    @property
    def merged_url(self) -> str:
        """The rows of connected components that reach a border, added up over blocks."""
        return f"{self.parts_url}/merged"

    @property
    def ids_url(self) -> str:
        """The first voxels of all objects that are kept, ascending: an object's id is its place there, from 1."""
        return f"{self.parts_url}/ids"

    def part(self, kind: str, block: int) -> str:
        """Return the file that a pass leaves for a block."""
        return f"{self.parts_url}/{kind}/{block}"

    @property
    def has_outlines(self) -> bool:
        """Whether GeoJSON is written."""
        return self.recipe.is_outlined and self.n_axes == 2

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes of this recipe."""
        left_out = set() if self.recipe.method is Method.WATERSHED else {"split"}
        left_out |= set() if self.has_outlines else {"outline"}
        return tuple(name for name in PASSES if name not in left_out)

    @cached_property
    def painted(self) -> BlockGraph:
        """The blocks of all levels of the label volume."""
        return BlockGraph(self.grid.counts, ((2,) * self.n_axes,) * (self.n_levels - 1))

    def graph(self, name: str) -> BlockGraph:
        """Return the tasks of a pass."""
        return self.painted if name == "paint" else BlockGraph(self.grid.counts)

    def number(self, name: str, task: int) -> int:
        """Return the number, among the tasks of all passes, of a task of one."""
        return PASSES.index(name) * self.painted.n_tasks + task

    def task(self, number: int) -> tuple[str, int]:
        """Return the pass and task of a number; inverse of :meth:`number`."""
        index, task = divmod(number, self.painted.n_tasks)
        return PASSES[index], task
