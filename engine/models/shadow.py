"""The walk that turns a graph of ATen operations into axis programs: labels of dimensions, and their nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.errors import ModelError
from engine.geometry.nodes import Join, Node

Label = int | str
"""What a dimension is: a space axis (its number), "batch", or "free" (channels and whatever else stays whole)."""


class UnboundedError(ModelError):
    """An operation sees the whole input, depends on position or chance, or mixes items: no tile can equal the whole."""


class UnknownError(ModelError):
    """An operation is not in the table, so nothing can be proved of it."""


@dataclass(frozen=True, slots=True)
class Traced:
    """One tensor of the graph: what its dimensions are, and the node of each space axis."""

    labels: tuple[Label, ...]
    shape: tuple[int, ...]
    nodes: tuple[int, ...]
    """Per space axis, the index of its node in :class:`Shadows`."""

    @property
    def n_space(self) -> int:
        """Space axes of the model."""
        return len(self.nodes)

    def at(self, axis: int) -> int:
        """Return the dimension that holds space axis ``axis``."""
        return self.labels.index(axis)


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that does not depend on the input: weights, buffers, grids."""

    shape: tuple[int, ...]


@dataclass(slots=True)
class Shadows:
    """The nodes found so far, per space axis, and the submodule that each came from."""

    programs: list[list[Node]]
    places: list[list[str]]
    place: str = ""
    """The submodule being walked: its path and class."""
    views: set[str] = field(default_factory=set)
    """Names of graph nodes that are views of others: writing into one is not traced."""

    @classmethod
    def begin(cls, n_space: int) -> "Shadows":
        """Return shadows that hold only the input."""
        return cls([[Node(())] for _ in range(n_space)], [["the input"] for _ in range(n_space)])

    def add(self, axis: int, node: Node) -> int:
        """Append a node to one axis and return its index."""
        self.programs[axis].append(node)
        self.places[axis].append(self.place)
        return len(self.programs[axis]) - 1

    def join(self, sources: Sequence[Traced]) -> tuple[int, ...]:
        """Return, per axis, the node where these tensors meet: their own, if they share it."""
        joined = []
        for axis, came in enumerate(zip(*(source.nodes for source in sources), strict=True)):
            distinct = tuple(dict.fromkeys(came))
            joined.append(distinct[0] if len(distinct) == 1 else self.add(axis, Join(distinct)))
        return tuple(joined)

    def unbounded(self, why: str, cure: str) -> UnboundedError:
        """Return the error that names the submodule at fault."""
        return UnboundedError(f"the model cannot be tiled exactly: {self.place} {why}. {cure}.")

    def unknown(self, name: str) -> UnknownError:
        """Return the error for an operation outside the table."""
        return UnknownError(
            f"operation '{name}' of {self.place} is not in the table of traced operations, so nothing is proved of it."
            " Replace it by a standard layer, or let the engine probe the model."
        )
