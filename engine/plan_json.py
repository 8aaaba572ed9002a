"""A plan as JSON: saved with the output, compared on resume, read by other programs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.errors import PlanError
from engine.geometry.axes import Axis, Role
from engine.geometry.canvas import CanvasTiling
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.extent import Extent
from engine.geometry.model_geometry import ModelGeometry
from engine.geometry.resampling import Resampling
from engine.geometry.tiling import AxisTiling
from engine.memory import Projection
from engine.plan import BatchAxis, MaskFacts, ModelFacts, OutputFacts, Plan, SourceFacts, TileCost
from engine.search import Tiling

PLACES = ("url", "spec", "method")
"""Where things lie, not what they are: a moved source or model is the same."""

ESTIMATES = ("cost", "projection", "memory_limit", "n_workers", "n_in_flight")
"""How a plan is carried out, not what comes out."""


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    tilings = [
        {
            "name": t.name,
            "edge": asdict(t.edge),
            "extent": asdict(t.extent),
            "tile": t.tile,
            "block": t.block,
            "grid": asdict(t.grid) if isinstance(t, CanvasTiling) else None,
        }
        for t in plan.tilings
    ]
    value = {
        "source": asdict(plan.source),
        "model": asdict(plan.model),
        "geometry": plan.geometry.to_json(),
        "tilings": tilings,
        "batches": [asdict(axis) for axis in plan.batches],
        "batch_size": plan.batch_size,
        "outputs": [asdict(output) for output in plan.outputs],
        "factors": plan.factors,
        "nan": plan.nan,
        "n_workers": plan.n_workers,
        "n_in_flight": plan.n_in_flight,
        "cost": asdict(plan.cost),
        "projection": asdict(plan.projection),
        "memory_limit": plan.memory_limit,
        "mask": None if plan.mask is None else asdict(plan.mask),
        "notes": plan.notes,
    }
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def plan_from_json(value: Mapping[str, Any]) -> Plan:
    """Return the plan that :func:`plan_to_json` wrote.

    Raises:
        PlanError: If it is not one.
    """
    try:
        return _plan(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PlanError(f"this is not a plan of this engine: {type(error).__name__} {error}. Make it again.") from error


def _plan(value: Mapping[str, Any]) -> Plan:
    geometry = ModelGeometry.from_json(value["geometry"])
    tilings = [_tiling(item, geometry, axis) for axis, item in enumerate(value["tilings"])]
    return Plan(
        source=SourceFacts(**{**_tupled(value["source"]), "axes": _axes(value["source"]["axes"])}),
        model=ModelFacts(**value["model"]),
        geometry=geometry,
        tilings=tuple(tilings),
        batches=tuple(BatchAxis(**axis) for axis in value["batches"]),
        batch_size=value["batch_size"],
        outputs=tuple(OutputFacts(**{**_tupled(o), "axes": _axes(o["axes"])}) for o in value["outputs"]),
        factors=_tuple(value["factors"]),
        nan=value["nan"],
        n_workers=value["n_workers"],
        n_in_flight=value["n_in_flight"],
        cost=TileCost(**_tupled(value["cost"])),
        projection=Projection(**value["projection"]),
        memory_limit=value["memory_limit"],
        mask=MaskFacts(**_tupled(value["mask"])) if value.get("mask") else None,
        notes=_tuple(value["notes"]),
    )


def _tiling(item: Mapping[str, Any], geometry: ModelGeometry, axis: int) -> Tiling:
    edge, extent = _tupled(item["edge"]), Extent(**_tupled(item["extent"]))
    edge["kind"] = EdgeKind(edge["kind"])
    program, canvas = geometry.programs[axis], geometry.canvas
    if canvas is None:
        return AxisTiling(item["name"], program, Edge(**edge), extent, item["tile"], item["block"])
    grid = Extent(**_tupled(item["grid"]))
    return CanvasTiling(
        name=item["name"],
        program=program,
        extent=extent,
        network=canvas.network.programs[axis],
        grid=grid,
        there=Resampling(extent.size, grid.size, canvas.order),
        back=Resampling(grid.size, extent.size, canvas.back),
        starts=None if canvas.windows is None else canvas.windows.starts(axis, grid.size),
        tile=item["tile"],
        block=item["block"],
    )


def _axes(items: list[dict[str, Any]]) -> tuple[Axis, ...]:
    return tuple(Axis(**{**item, "role": Role(item["role"])}) for item in items)


def _tupled(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _tuple(value) for key, value in item.items()}


def _tuple(value: Any) -> Any:  # noqa: ANN401 -- any JSON value
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


def identity(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a plan's JSON that decides the bits of the result."""
    kept = {key: item for key, item in value.items() if key not in ESTIMATES}
    for key in ("source", "model", "mask"):
        if not kept.get(key):
            continue
        kept[key] = {name: item for name, item in kept[key].items() if name not in PLACES}
    return kept


def plan_hash(value: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of a plan's identity."""
    return hashlib.sha256(json.dumps(identity(value), sort_keys=True).encode()).hexdigest()
