"""The group attribute ``haloengine``: what the engine knows of a volume and no standard has a place for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import zarr

from engine.errors import AxisError, VolumeError
from engine.geometry.axes import Axis, Role, check_axes
from engine.geometry.edges import Edge, EdgeKind
from engine.storage.ngff import Dataset

KEY = "haloengine"
"""Name of the attribute."""


def described(
    *, axes: Sequence[Axis], datasets: Sequence[Dataset], edges: Mapping[str, Edge], is_whole: bool
) -> dict[str, Any]:
    """Return the record of a volume; ``is_whole`` adds axes and levels, which OME-Zarr says for itself."""
    found: dict[str, Any] = {"edges": {name: _edge_record(edge) for name, edge in edges.items()}}
    if is_whole:
        found["axes"] = [{**asdict(axis), "role": axis.role.value} for axis in axes]
        found["levels"] = [
            {"path": item.path, "spacing": list(item.spacing), "translation": list(item.translation)}
            for item in datasets
        ]
    return found


def packed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as a CF group holds them: objects as JSON text, for NetCDF has no other place for them.

    >>> packed({"Conventions": "CF-1.11", "haloengine": {"edges": {}}})
    {'Conventions': 'CF-1.11', 'haloengine': '{"edges": {}}'}
    """
    return {name: json.dumps(value) if _has_objects(value) else value for name, value in attributes.items()}


def unpacked(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they were before they were packed, or never were.

    >>> unpacked({"Conventions": "CF-1.11", "haloengine": '{"edges": {}}'})
    {'Conventions': 'CF-1.11', 'haloengine': {'edges': {}}}
    """
    return {name: _unpacked(value) for name, value in attributes.items()}


def note(group: zarr.Group, **facts: object) -> None:
    """Add facts to the record of a group, on disk, in the form that it has."""
    held = group.attrs.get(KEY, {})
    own = {**_unpacked(held), **facts}
    group.attrs[KEY] = json.dumps(own) if isinstance(held, str) else own


def _has_objects(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(map(_has_objects, value)))


def _unpacked(value: object) -> Any:  # noqa: ANN401 -- whatever JSON holds
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value  # a text of the user's that begins so
    return found if _has_objects(found) else value  # nothing else was packed


def is_unfinished(attributes: Mapping[str, Any]) -> bool:
    """Say whether an ingest into this group was broken off."""
    own = attributes.get(KEY)
    return isinstance(own, Mapping) and own.get("is_finished") is False


def is_finished(attributes: Mapping[str, Any]) -> bool:
    """Say whether all that was to be stored of the volume is."""
    own = attributes.get(KEY)
    return isinstance(own, Mapping) and own.get("is_finished") is True


def has_all_objects(attributes: Mapping[str, Any]) -> bool:
    """Say whether the volume is finished and no background was skipped: a missing object is a loss and not a zero."""
    return is_finished(attributes) and not attributes[KEY].get("is_sparse")


def parse(attributes: Mapping[str, Any], *, where: str) -> tuple[tuple[Axis, ...], tuple[Dataset, ...]] | None:
    """Return the axes and levels of a record, or None where it has none.

    Raises:
        VolumeError: If the record is damaged.
    """
    own = attributes.get(KEY)
    if not isinstance(own, Mapping) or "axes" not in own:
        return None
    try:
        axes = tuple(Axis(a["name"], Role(a["role"]), float(a["spacing"]), a["unit"]) for a in own["axes"])
        levels = tuple(
            Dataset(level["path"], tuple(map(float, level["spacing"])), tuple(map(float, level["translation"])))
            for level in own["levels"]
        )
        check_axes(axes)
    except (KeyError, TypeError, ValueError, AxisError) as error:
        raise _damaged(error, where=where) from error
    return axes, levels


def edges(attributes: Mapping[str, Any], *, where: str) -> dict[str, Edge]:
    """Return the edge rules of a record; none where it has none.

    Raises:
        VolumeError: If the record is damaged.
    """
    own = attributes.get(KEY)
    if not isinstance(own, Mapping):
        return {}
    try:
        return {name: _edge(item) for name, item in own.get("edges", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(error, where=where) from error


def _edge_record(edge: Edge) -> dict[str, Any]:
    """Return what of an edge is not the default.

    >>> _edge_record(Edge(EdgeKind.WRAP))
    {'kind': 'wrap'}
    """
    plain = asdict(Edge(edge.kind))
    changed = {name: value for name, value in asdict(edge).items() if value != plain[name]}
    return {"kind": edge.kind.value} | {k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}


def _edge(item: Mapping[str, Any]) -> Edge:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in item.items()}
    values["kind"] = EdgeKind(values["kind"])
    return Edge(**values)


def _damaged(error: Exception, *, where: str) -> VolumeError:
    return VolumeError(
        f"the '{KEY}' attribute of '{where}' must be as the engine wrote it: {type(error).__name__} {error}. "
        "Restore it, or make the volume again."
    )
