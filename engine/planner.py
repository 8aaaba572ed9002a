"""Makes plans: weighs tile and block shapes against memory, and refuses what cannot be kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from engine.canvas_plan import SLAB_BYTES, bytes_per_share, canvas_axes
from engine.errors import PlanError
from engine.geometry.axes import STEP, Role, positions
from engine.geometry.edges import MODEL_EDGE, Edge, EdgeKind, check_edges
from engine.geometry.extent import extend
from engine.geometry.model_geometry import Canvas, ModelGeometry
from engine.layout import describe_output, pyramid_factors
from engine.memory import BASE_BYTES, Projection, format_bytes
from engine.plan import BatchAxis, ModelFacts, Plan, SourceFacts, TileCost
from engine.projection import project, source_bytes
from engine.search import UNITS, AxisFacts, Budget, Cut, Tiling, cuts, search, unit_for

ITEM_BLOCK_BYTES = 64 * 2**20
"""Batch axes are cut so that a block's source comes to about this much."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user may ask of a plan; None leaves it to the search."""

    memory_limit: int
    """Bytes that all workers together may use."""
    n_workers: int = 1
    n_in_flight: int = 3
    batch_size: int | None = None
    tile: tuple[int, ...] | None = None
    """Input voxels of a tile, per space axis."""
    is_tile_exact: bool = True
    """Whether a tile of another length is refused; else the next longer one that each axis can have is taken."""
    block: tuple[int, ...] | None = None
    """Input voxels of a block, per space axis."""
    longest_block: int | None = None
    """Of the blocks that the search may choose, along any axis."""
    longest_core: int | None = None
    """About the most that a tile may decide along any axis; where much is not wanted, small tiles leave out more."""
    edges: Mapping[str, Edge] | None = None
    nan: str = "refuse"
    with_pyramid: bool = True
    extend: bool = True
    """Extend, by reflection, an axis whose size the model cannot take; else refuse it."""
    base_bytes: int = BASE_BYTES
    """What a worker holds before its first block."""
    device_bytes: int | None = None
    """Memory of the GPU that a worker may use; None on a CPU, where tiles share the worker's own."""


def make_plan(source: SourceFacts, model: ModelFacts, geometry: ModelGeometry, cost: TileCost, wishes: Wishes) -> Plan:
    """Return the cheapest plan that fits the memory. Reads nothing and writes nothing.

    Raises:
        PlanError: If the source does not fit the model, an edge cannot be kept, or memory is too small.
    """
    _check_source(source, geometry, wishes)
    facts = _axis_facts(source, geometry, wishes)
    batches = _batches(source, facts, geometry, wishes)
    chosen = _choose(source, geometry, cost, wishes, facts=facts, batches=batches)
    tilings = tuple(fact.tiling(tile=cut.tile, block=cut.block) for fact, cut in zip(facts, chosen, strict=True))
    batch_size = wishes.batch_size or geometry.n_batch or 1
    plan = Plan(
        source=source,
        model=model,
        geometry=geometry,
        tilings=tilings,
        batches=batches,
        batch_size=batch_size,
        outputs=tuple(describe_output(source, tensor, tilings, batches) for tensor in geometry.outputs),
        factors=pyramid_factors(source, tilings) if wishes.with_pyramid and source.flavour == "ngff" else (),
        nan=wishes.nan,
        n_workers=wishes.n_workers,
        n_in_flight=wishes.n_in_flight,
        cost=cost,
        projection=Projection(wishes.base_bytes, 0, 0, 0, wishes.n_in_flight, 0),
        memory_limit=wishes.memory_limit,
        notes=_notes(geometry, tilings, model),
    )
    projection = project(plan, base_bytes=wishes.base_bytes, is_on_device=wishes.device_bytes is not None)
    if projection.n_bytes * wishes.n_workers > wishes.memory_limit:
        raise PlanError(
            f"a worker would need {format_bytes(projection.n_bytes)}, and {wishes.n_workers} may use "
            f"{format_bytes(wishes.memory_limit)} together. Raise --memory, or give a smaller --tile or --block."
        )
    return replace(plan, projection=projection)


def _check_source(source: SourceFacts, geometry: ModelGeometry, wishes: Wishes) -> None:
    space = [source.axes[i].name for i in positions(source.axes, Role.SPACE)]
    channel = positions(source.axes, Role.CHANNEL)
    n_channels = source.shape[channel[0]] if channel else 1
    if len(space) != geometry.n_space:
        raise PlanError(
            f"the model takes {geometry.n_space} space axes, and the source has {len(space)} ({', '.join(space)}) in "
            f"{source.url}. Use a model for {len(space)} axes, or make an axis a batch."
        )
    if n_channels != geometry.n_channels:
        raise PlanError(
            f"the model takes {geometry.n_channels} channels, and the source has {n_channels} in {source.url}. "
            "Select channels in a module before it, or use another model."
        )
    if wishes.batch_size and geometry.n_batch and wishes.batch_size != geometry.n_batch:
        raise PlanError(
            f"the model was exported for a batch of {geometry.n_batch} only, not {wishes.batch_size}. "
            "Leave out --batch, or export it with a dynamic batch."
        )
    if np.dtype(source.dtype).kind not in "uif":
        raise PlanError(f"the source must hold numbers, not {source.dtype}, in {source.url}. Convert it first.")
    unknown = sorted(set(wishes.edges or {}) - set(space))
    if unknown:
        raise PlanError(
            f"edges are given for {', '.join(unknown)}, and the space axes are {', '.join(space)} in {source.url}. "
            f"Name one of these, as {space[-1]}=wrap."
        )
    sizes = [source.shape[i] for i in positions(source.axes, Role.SPACE)]
    check_edges([(wishes.edges or {}).get(name, MODEL_EDGE) for name in space], names=space, shape=sizes)
    for given, what in ((wishes.tile, "tile"), (wishes.block, "block")):
        if given is not None and (len(given) not in (1, len(space)) or min(given) < 1):
            raise PlanError(
                f"--{what} needs one positive length per space axis ({', '.join(space)}), or one for all, not {given}. "
                f"Give it as {','.join(['64'] * len(space))}."
            )


def _axis_facts(source: SourceFacts, geometry: ModelGeometry, wishes: Wishes) -> list[AxisFacts]:
    facts: list[AxisFacts] = []
    if geometry.canvas is not None:
        return _canvas_facts(source, geometry, geometry.canvas, wishes)
    for program, i in zip(geometry.programs, positions(source.axes, Role.SPACE), strict=True):
        name = source.axes[i].name
        edge = (wishes.edges or {}).get(name, MODEL_EDGE)
        extent = extend(program, edge, size=source.shape[i], name=name)
        if edge.kind is EdgeKind.MODEL and extent.far_extension and not wishes.extend:
            raise PlanError(
                f"the model cannot take {extent.size} voxels along '{name}' of {source.url}; the next length it takes "
                f"is {extent.extended}. Leave out --no-extend to extend the far edge by reflection, or crop the source."
            )
        facts.append(AxisFacts(name, program, edge, extent, unit_for(program, extent, geometry.n_space)))
    return facts


def _canvas_facts(
    source: SourceFacts, geometry: ModelGeometry, canvas: Canvas, wishes: Wishes
) -> list[AxisFacts]:
    space = positions(source.axes, Role.SPACE)
    edges = [(wishes.edges or {}).get(source.axes[i].name, MODEL_EDGE) for i in space]
    units = [min(UNITS.get(geometry.n_space, 64), source.shape[i]) for i in space]
    return canvas_axes(source, geometry, canvas, edges=edges, units=units)


def _choose(
    source: SourceFacts,
    geometry: ModelGeometry,
    cost: TileCost,
    wishes: Wishes,
    *,
    facts: Sequence[AxisFacts],
    batches: Sequence[BatchAxis],
) -> tuple[Cut, ...]:
    budget = _budget(source, geometry, cost, wishes, batches)
    options = [
        cuts(
            fact,
            tile=_given_tile(fact, _along(wishes.tile, i), is_exact=wishes.is_tile_exact) if wishes.tile else None,
            block=_given_block(fact, _along(wishes.block, i), geometry) if wishes.block else None,
            longest_block=None if wishes.block else wishes.longest_block,
            longest_core=wishes.longest_core,
        )
        for i, fact in enumerate(facts)
    ]
    try:
        return search(options, budget)
    except PlanError as error:
        circular = [fact.name for fact in facts if fact.program.is_circular and fact.edge.kind is EdgeKind.MODEL]
        if not circular:
            raise
        raise PlanError(
            f"{error} The model's circular padding allows no tile short of the whole of {', '.join(circular)}: the "
            f"edge 'wrap' does (--edge {circular[0]}=wrap)."
        ) from error


def _budget(
    source: SourceFacts, geometry: ModelGeometry, cost: TileCost, wishes: Wishes, batches: Sequence[BatchAxis]
) -> Budget:
    """Return what a cut may use.

    Raises:
        PlanError: If the workers leave nothing for blocks.
    """
    left = wishes.memory_limit // wishes.n_workers - wishes.base_bytes - (SLAB_BYTES if geometry.canvas else 0)
    if left <= 0:
        raise PlanError(
            f"{format_bytes(wishes.memory_limit)} for {wishes.n_workers} workers leaves nothing above the "
            f"{format_bytes(wishes.base_bytes)} that each needs before any block. Raise --memory or lower --workers."
        )
    items = prod(axis.block for axis in batches)
    return Budget(
        tile_bytes=left if wishes.device_bytes is None else wishes.device_bytes,
        block_bytes=left // (wishes.n_in_flight + 2),
        bytes_per_tile_voxel=cost.bytes_per_voxel * (wishes.batch_size or geometry.n_batch or 1),
        bytes_per_read_voxel=source_bytes(source, geometry) * items,
        bytes_per_core_voxel=_output_bytes(geometry) * items,
        speeds=cost.speeds,
        batch_size=wishes.batch_size or geometry.n_batch or 1,
        n_workers=wishes.n_workers,
        n_items=prod(axis.n_blocks for axis in batches),
        n_blocks_beside=wishes.n_in_flight + (2 if wishes.device_bytes is None else 0),
        bytes_per_share=bytes_per_share(geometry),
    )


def _along(lengths: tuple[int, ...], axis: int) -> int:
    return lengths[axis] if len(lengths) > 1 else lengths[0]


def _given_tile(fact: AxisFacts, tile: int, *, is_exact: bool) -> int:
    shorter = min(tile, fact.longest_tile)
    return shorter if is_exact else fact.legal(shorter)


def _given_block(fact: AxisFacts, block: int, geometry: ModelGeometry) -> int:
    granule = unit_for(fact.program, replace(fact.extent, size=1), geometry.n_space)
    if block % granule and block < fact.extent.size:
        below = max(block // granule, 1) * granule
        raise PlanError(
            f"block length {block} along '{fact.name}' is not a multiple of {granule}, the model's step: blocks "
            f"would not be whole output shards. Use {below} or {below + granule}."
        )
    return -(-block // granule) * granule


def _output_bytes(geometry: ModelGeometry) -> float:
    total = 0.0
    for tensor in geometry.outputs:
        scale = prod(program.scale(tensor.name) for program in geometry.programs)
        total += float(scale) * (tensor.n_channels or 1) * np.dtype(tensor.dtype).itemsize
    return total


def _batches(
    source: SourceFacts, facts: Sequence[AxisFacts], geometry: ModelGeometry, wishes: Wishes
) -> tuple[BatchAxis, ...]:
    """Cut the batch axes: the last one first, until a block's source would be too large."""
    item = prod(fact.extent.extended for fact in facts) * (source_bytes(source, geometry) + _output_bytes(geometry))
    left = wishes.memory_limit // wishes.n_workers - wishes.base_bytes
    room = max(1, int(min(ITEM_BLOCK_BYTES, max(left, 0) // (4 * (wishes.n_in_flight + 1))) // item))
    found = []
    for i in reversed(positions(source.axes, Role.BATCH)):
        size = source.shape[i]
        block = max(1, min(room, -(-size // (2 * wishes.n_workers))))
        found.append(BatchAxis(source.axes[i].name, size, 1 if source.axes[i].name == STEP else block))
        room = max(1, room // block)
    return tuple(reversed(found))


def _notes(geometry: ModelGeometry, tilings: Sequence[Tiling], model: ModelFacts) -> tuple[str, ...]:
    notes = []
    for tiling in tilings:
        extent = tiling.extent
        if tiling.edge.kind is EdgeKind.MODEL and extent.far_extension:
            notes.append(
                f"axis '{tiling.name}': the model cannot take {extent.size} voxels; the far edge is extended by "
                f"reflection to {extent.extended}, and cropped after"
            )
        elif tiling.edge.kind is not EdgeKind.MODEL:
            notes.append(
                f"axis '{tiling.name}': edge '{tiling.edge.kind}' adds {extent.before} voxels before and "
                f"{extent.far_extension} after; the whole run is defined on these"
            )
        if tiling.program.is_around:
            notes.append(f"axis '{tiling.name}': the model crosses the poles in its layers; tiles go all round it")
    if geometry.evidence == "probed":
        notes.append("the geometry is probed by running the model, not proved from its graph")
    if model.precision == "bfloat16":
        notes.append(f"bfloat16: max |difference| from float32 on the probe tile {model.precision_error:.3g}")
    return tuple(notes)
