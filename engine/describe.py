"""The output of a plan before its first voxel: its volumes, what stands beside them, and what the run was."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.geometry.axes import Role, positions
from engine.plan import OutputFacts, Plan
from engine.plan_json import plan_hash, plan_to_json
from engine.prepare import Options, Prepared
from engine.storage.cells import CellGrid
from engine.storage.climate_coordinates import carried_globe
from engine.storage.create import Coordinate, read_coordinates
from engine.storage.orientation import carried
from engine.storage.output import Described, Output, create_output
from engine.storage.readable import Readable


def describe(prepared: Prepared, output: str, *, options: Options) -> Output:
    """Create the output of a plan: everything but its voxels.

    Raises:
        VolumeError: If something is there, or the place cannot be written.
    """
    plan = prepared.plan
    return create_output(
        output,
        outputs=[_described(plan, facts, prepared.source) for facts in plan.outputs],
        provenance=_provenance(plan, options),
        n_tasks=plan.graph.n_tasks,
        wanted=grid_of(plan, prepared.mask.cells) if prepared.mask is not None else None,
    )


def grid_of(plan: Plan, cells: NDArray[Any]) -> CellGrid:
    """Return cells of the plan's mask with their place."""
    assert plan.mask is not None
    space = positions(plan.source.axes, Role.SPACE)
    origin = plan.source.translation or (0.0,) * len(plan.source.axes)
    axes = tuple(plan.source.axes[i] for i in space)
    return CellGrid(axes, plan.mask.cell, tuple(origin[i] for i in space), cells.astype(np.uint8))


def _described(plan: Plan, facts: OutputFacts, source: Readable) -> Described:
    halved = plan.factors[0] if plan.factors else (1,) * len(plan.tilings)
    names = [tiling.name for tiling in plan.tilings]
    known = read_coordinates(source) if plan.source.flavour == "cf" else {}
    sizes = {axis.name: n for axis, n in zip(facts.axes, facts.shape, strict=True)}
    return Described(
        name=facts.name,
        axes=facts.axes,
        dtype=facts.dtype,
        shape=facts.shape,
        chunk_shape=facts.chunk_shape,
        shard_shape=facts.shard_shape,
        n_levels=plan.graph.n_levels,
        downsampled=tuple(name for name, factor in zip(names, halved, strict=True) if factor == 2),
        origin=facts.translation,
        flavour=plan.source.flavour,
        coordinates={name: c for name, c in known.items() if _fits(c, sizes) and _is_kept(c, plan)},
        attributes=carried(source.attributes) | (carried_globe(source, sizes) if plan.source.flavour == "cf" else {}),
        is_label=facts.is_label,
    )


def _fits(coordinate: Coordinate, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(axis) == n for axis, n in zip(coordinate.axes, coordinate.values.shape, strict=True))


def _is_kept(coordinate: Coordinate, plan: Plan) -> bool:
    """Return whether what the source says along an axis is true of an output: its channels are the model's own.

    Unless they are the next state.
    """
    channels = {axis.name for axis in plan.source.axes if axis.role is Role.CHANNEL}
    return plan.graph.is_chain or not channels & set(coordinate.axes)


def _provenance(plan: Plan, options: Options) -> dict[str, Any]:
    value = plan_to_json(plan)
    return {
        "engine": _version(),
        "torch": torch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "contract": plan.geometry.contract,
        "evidence": plan.geometry.evidence,
        "precision": plan.model.precision,
        "notes": list(plan.notes),
        "plan": value,
        "plan_hash": plan_hash(value),
        "weights": options.weights,
        "axes": options.axes,
    }


def _version() -> str:
    try:
        return version("haloengine")
    except PackageNotFoundError:
        return "unknown"
