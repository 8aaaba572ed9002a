"""From a source and a model to a plan: opens both, learns the geometry, measures the cost, and weighs the shapes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Protocol

import torch

from engine.errors import PlanError, UsageError
from engine.geometry.axes import Axis, Role, positions
from engine.geometry.edges import Edge
from engine.geometry.model_geometry import ModelGeometry
from engine.memory import BASE_BYTES, available_bytes, n_cpus
from engine.models.allocator import keep_freed_memory
from engine.models.culprit import check_determinism
from engine.models.fitted import unfitted
from engine.models.forward import free_device_bytes, pick_device
from engine.models.learn import blamed_on, check_periodic, cost_of, example, learn, precision_error, probe_shapes
from engine.models.load import Model, load_model
from engine.models.measure import PRECISIONS
from engine.plan import ModelFacts, Plan, SourceFacts, TileCost
from engine.planner import Wishes, make_plan
from engine.runtime.masking import Mask
from engine.sight import at_resolution, sight
from engine.storage.fingerprint import fingerprint
from engine.storage.volume import Readable, open_volume

MEMORY_SHARE = 0.6
"""Part of the memory that is free now that a run may take where no limit is given."""

SECONDS_PER_TIMING = 4.0
"""A tile that takes longer than this is not timed again: the probe's figure stands."""


LONGEST_MASKED_BLOCK = 2048
"""Voxels of a block along each axis where only part of the source is wanted: larger ones would skip little."""

FEWEST_THREADS = 2
"""On one thread torch takes another kernel for 1 x 1 convolutions, and the last bits differ (2, 3 and 4 agree)."""


@dataclass(frozen=True)
class Options:
    """How to run; None and empty leave it to the engine."""

    memory: int | None = None
    """Bytes for all workers of one machine."""
    workers: int | None = None
    """Worker processes: one per GPU, else one."""
    threads: int | None = None
    """CPU threads of each worker, at least 2: all CPUs divided among the workers."""
    tile: tuple[int, ...] | None = None
    """Input voxels of a tile, per space axis."""
    block: tuple[int, ...] | None = None
    """Input voxels of a block, per space axis."""
    batch: int | None = None
    """Tiles in one call of the model."""
    edges: Mapping[str, Edge] = field(default_factory=dict)
    """Edge rule per space axis; what the volume says of itself, else ``model``."""
    nan: str = "refuse"
    precision: str | None = None
    """float32, float64 or bfloat16; the model's own by default."""
    device: str | None = None
    axes: str | None = None
    """Names of the source's axes, where it does not say."""
    weights: str | None = None
    tissue: str | None = None
    """What is wanted of a slide: ``auto``, polygons, a mask or a model; see ``tissue/wanted.py``. All by default."""
    mpp: float | None = None
    """Micrometre per voxel to read a slide at; what the model declares by default, else the slide's own."""
    pyramid: bool = True
    extend: bool = True
    in_flight: int = 3


@dataclass(frozen=True)
class Prepared:
    """A plan with what it was made from, still open."""

    plan: Plan
    model: Model
    source: Readable
    device: torch.device
    n_threads: int
    mask: Mask | None = None
    """What is wanted, where that is not everything."""


@dataclass(frozen=True)
class Learnt:
    """What is known of a model before any plan: good for every source with the same axes and channels."""

    model: Model
    geometry: ModelGeometry
    facts: ModelFacts
    """Without the constants that are fitted to a source."""
    cost: TileCost
    device: torch.device
    n_workers: int
    n_threads: int


class Shaped(Protocol):
    """What has axes and a shape: a volume, or the facts of one."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """In storage order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""


def prepare(
    source: str, model: str | torch.nn.Module, options: Options, *, tell: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Return a plan for ``model`` over the volume at ``source``. Reads a few voxels; writes nothing.

    Args:
        source: URL of a volume, or of a slide as it came from the scanner.
        model: A specification (``file.py:factory@weights``, ``.pt2``, TorchScript), or a module.
        options: How to run.
        tell: Is told, line by line, what goes on.

    Raises:
        EngineError: If anything is refused; every refusal happens here.
    """
    check_options(options)
    loaded = load_model(model, weights=options.weights)
    loaded = loaded.own() if unfitted(loaded.module) else loaded
    url = at_resolution(source, loaded, mpp=options.mpp)
    volume = open_volume(url, axes=options.axes)
    seen = sight(url, loaded, tissue=options.tissue, tell=tell)
    learnt = learn_model(loaded, volume, options, tell=tell)
    tell("weighing tile and block shapes")
    lost = tuple(sum(program.widest_halo) for program in learnt.geometry.programs)
    wishes = replace(wishes_of(options, volume.edges, learnt), longest_core=seen.best_core(lost))
    with blamed_on(loaded.spec):
        names = [volume.axes[i].name for i in positions(volume.axes, Role.SPACE)]
        check_periodic(loaded, learnt.geometry, names, wishes.edges or {})
    plan = make_plan(source_facts(volume, url), learnt.facts, learnt.geometry, learnt.cost, wishes)
    plan = timed(plan, loaded, wishes, device=learnt.device)
    plan = replace(plan, model=replace(plan.model, constants=seen.constants))
    plan, mask = seen.on(plan)
    return Prepared(plan, loaded, volume, learnt.device, learnt.n_threads, mask)


def learn_model(
    loaded: Model, volume: Shaped, options: Options, *, tell: Callable[[str], None] = lambda _: None
) -> Learnt:
    """Return a model's geometry and cost, for volumes with the axes of this one.

    Raises:
        ModelError: If it cannot be tiled, or fails when it is run.
    """
    device = pick_device(options.device)
    space, channel = positions(volume.axes, Role.SPACE), positions(volume.axes, Role.CHANNEL)
    tell("learning the model's geometry")
    with blamed_on(loaded.spec):
        geometry = learn(loaded, n_channels=volume.shape[channel[0]] if channel else 1, n_space=len(space))
        shapes = probe_shapes(geometry, tuple(volume.shape[i] for i in space))
        check_determinism(loaded.module, example(loaded, geometry, _smallest(geometry)))
    tell("measuring the model's cost")
    precision = options.precision or str(loaded.dtype).removeprefix("torch.")
    n_workers = options.workers or (torch.cuda.device_count() if device.type == "cuda" else 1)
    n_threads = threads_of(options, n_workers)
    torch.set_num_threads(n_threads)
    keep_freed_memory()  # as the workers do, so that what is timed here is what they take
    with blamed_on(loaded.spec):
        error = precision_error(loaded, geometry, shapes[0], device=device) if precision == "bfloat16" else 0.0
        cost = measured_cost(loaded, geometry, shapes, device=device, precision=precision)
    facts = ModelFacts(loaded.spec, loaded.fingerprint, precision, error)
    return Learnt(loaded, geometry, facts, cost, device, n_workers, n_threads)


def source_facts(volume: Readable, url: str) -> SourceFacts:
    """Return a source as a plan holds it."""
    return SourceFacts(
        url=url,
        axes=volume.axes,
        shape=volume.shape,
        dtype=volume.dtype.name,
        fingerprint=fingerprint(volume),
        flavour="cf" if _is_cf(volume) else "ngff",
        translation=volume.levels[0].translation,
    )


def threads_of(options: Options, n_workers: int) -> int:
    """Return the CPU threads of each worker: those asked for, else all CPUs divided among the workers."""
    return options.threads or max(FEWEST_THREADS, n_cpus() // n_workers)


def check_options(options: Options) -> None:
    """Refuse what no run can be done with.

    Raises:
        UsageError: If an option is none of its values, or too small.
    """
    if options.nan not in ("refuse", "keep"):
        raise UsageError(f"--nan must be refuse or keep, not '{options.nan}'. Name one of them.")
    if options.precision not in (None, *PRECISIONS):
        known = ", ".join(PRECISIONS)
        raise UsageError(f"--precision must be one of {known}, not '{options.precision}'. Name one of them.")
    least = {"workers": 1, "threads": FEWEST_THREADS, "batch": 1, "in_flight": 1, "memory": 1}
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {smallest}, not {value}. Give more.")


def _smallest(geometry: ModelGeometry) -> tuple[int, ...]:
    return tuple(program.legal_size(max(8, program.step)) or 0 for program in geometry.programs)


def _is_cf(volume: Readable) -> bool:
    return "Conventions" in volume.attributes


def wishes_of(options: Options, edges: Mapping[str, Edge], learnt: Learnt) -> Wishes:
    """Return what the options ask of a plan over a volume with these edges of its own."""
    return Wishes(
        memory_limit=options.memory or int(available_bytes() * MEMORY_SHARE),
        n_workers=learnt.n_workers,
        n_in_flight=options.in_flight,
        batch_size=options.batch,
        tile=options.tile,
        block=options.block,
        longest_block=LONGEST_MASKED_BLOCK if options.tissue is not None else None,
        edges={**edges, **options.edges},
        nan=options.nan,
        with_pyramid=options.pyramid,
        extend=options.extend,
        base_bytes=BASE_BYTES + learnt.model.n_parameter_bytes,
        device_bytes=free_device_bytes(learnt.device),
    )


def measured_cost(
    model: Model, geometry: ModelGeometry, shapes: Sequence[tuple[int, ...]], *, device: torch.device, precision: str
) -> TileCost:
    """Return what tiles of ``shapes`` cost, one tile a call; a shape that would take too long is left out."""
    batch_size = geometry.n_batch or 1
    speeds: list[tuple[int, float]] = []
    bytes_per_voxel = 0.0
    for shape in shapes:
        voxels = prod(shape) * batch_size
        if speeds and speeds[-1][1] * voxels > SECONDS_PER_TIMING / 2:
            break
        cost = cost_of(model, geometry, shape, device=device, precision=precision, batch_size=batch_size)
        speeds.append((voxels, cost.seconds / voxels))
        bytes_per_voxel = cost.peak_bytes / voxels
    return TileCost(bytes_per_voxel, tuple(speeds))


def timed(plan: Plan, model: Model, wishes: Wishes, *, device: torch.device) -> Plan:
    """Time the chosen tile itself, and take batches of two where they are clearly faster.

    On a CPU torch takes a much slower path for small inputs at batch 1 (GEOMETRY: 47 against 12 ms).
    """
    voxels = prod(plan.tile_shape)
    if plan.seconds_per_voxel * voxels * plan.batch_size > SECONDS_PER_TIMING:
        return plan

    def cost(batch_size: int) -> TileCost:
        found = cost_of(
            model,
            plan.geometry,
            plan.tile_shape,
            device=device,
            precision=plan.model.precision,
            batch_size=batch_size,
        )
        n = voxels * batch_size
        return TileCost(max(found.peak_bytes / n, plan.cost.bytes_per_voxel), ((n, found.seconds / n),))

    one = cost(plan.batch_size)
    tiles_per_block = plan.n_tiles / plan.graph.n_blocks
    can_batch = wishes.batch_size is None and plan.geometry.n_batch is None and tiles_per_block >= 2
    if not can_batch or voxels * 2 * plan.cost.bytes_per_voxel > plan.memory_limit // plan.n_workers // 2:
        return replace(plan, cost=one)
    two = cost(2)
    if two.speeds[0][1] > 0.85 * one.speeds[0][1]:
        return replace(plan, cost=one)
    wished = replace(wishes, batch_size=2, tile=plan.tile_shape, block=tuple(t.block for t in plan.tilings))
    try:
        return make_plan(plan.source, plan.model, plan.geometry, two, wished)
    except PlanError:
        return replace(plan, cost=one)
