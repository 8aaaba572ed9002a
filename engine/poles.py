"""What a volume knows of its poles, put into the edges that a user asks for."""

from collections.abc import Mapping
from dataclasses import replace

from engine.errors import EdgeError
from engine.geometry.edges import Edge, EdgeKind
from engine.storage.climate_grid import POLE
from engine.storage.readable import Readable


def at_poles(edges: Mapping[str, Edge], volume: Readable) -> dict[str, Edge]:
    """Return the edges; a pole that says nothing itself is told which rows lie on it and which channels are odd.

    Args:
        edges: Per space axis.
        volume: A climate grid knows both from its latitudes and standard names; any other knows nothing.

    Raises:
        EdgeError: If an axis with this edge does not go from pole to pole.
    """
    facts = volume.attributes.get(POLE)
    if not isinstance(facts, Mapping):
        return dict(edges)
    return {name: _told(name, edge, facts, url=volume.url) for name, edge in edges.items()}


def _told(name: str, edge: Edge, facts: Mapping[str, list[int]], *, url: str) -> Edge:
    if edge.kind is not EdgeKind.POLE or edge.odd_channels or any(edge.has_pole_rows):
        return edge
    if not all(facts["ends_at_pole"]):
        end = "first" if not facts["ends_at_pole"][0] else "last"
        raise EdgeError(
            f"axis '{name}' with the edge 'pole' must go from pole to pole, and the {end} row of '{url}' is far from "
            f"one. Leave --edge {name} out: at the border of a region the model's own padding acts."
        )
    south, north = facts["has_pole_rows"]
    return replace(edge, has_pole_rows=(bool(south), bool(north)), odd_channels=tuple(facts["odd_channels"]))
