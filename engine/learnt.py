"""What is known of a model before any plan: its geometry, and what its tiles cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch

from engine.errors import PlanError
from engine.geometry.axes import Axis, Role, positions
from engine.geometry.model_geometry import ModelGeometry
from engine.models.allocator import keep_freed_memory
from engine.models.culprit import check_determinism
from engine.models.learn import blamed_on, cost_of, example, learn, precision_error, probe_shapes
from engine.models.load import Model
from engine.models.stages import learn_stages, network_part, unfold
from engine.plan import ModelFacts, Plan, TileCost
from engine.planner import Wishes, make_plan

SECONDS_PER_TIMING = 4.0
"""A tile that takes longer than this is not timed again: the probe's figure stands."""


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


def learn_model(
    loaded: Model,
    volume: Shaped,
    *,
    device: torch.device,
    precision: str | None,
    n_workers: int,
    n_threads: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Learnt:
    """Return a model's geometry and cost, for volumes with the axes of this one.

    Args:
        loaded: The model.
        volume: What it is to be run on, or the like.
        device: Where.
        precision: The model's own where None.
        n_workers: Processes that will run it.
        n_threads: CPU threads of each.
        tell: Is told what goes on.

    Raises:
        ModelError: If it cannot be tiled, or fails when it is run.
    """
    tell("learning the model's geometry")
    with blamed_on(loaded.spec):
        geometry = learn_geometry(loaded, volume)
        network, own = network_part(loaded, geometry)
        shapes = cost_shapes(geometry, volume)
        check_determinism(network.module, example(network, own, _smallest(geometry)))
    tell("measuring the model's cost")
    precision = precision or str(loaded.dtype).removeprefix("torch.")
    torch.set_num_threads(n_threads)
    keep_freed_memory()  # as the workers do, so that what is timed here is what they take
    with blamed_on(loaded.spec):
        error = precision_error(network, own, shapes[0], device=device) if precision == "bfloat16" else 0.0
        cost = measured_cost(network, own, shapes, device=device, precision=precision)
    facts = ModelFacts(loaded.spec, loaded.fingerprint, precision, error)
    return Learnt(loaded, geometry, facts, cost, device, n_workers, n_threads)


def learn_geometry(loaded: Model, volume: Shaped) -> ModelGeometry:
    """Return the geometry of a model for volumes with these axes and channels.

    Raises:
        ModelError: If it cannot be tiled.
    """
    channel, n_space = positions(volume.axes, Role.CHANNEL), len(positions(volume.axes, Role.SPACE))
    n_channels = volume.shape[channel[0]] if channel else 1
    stages = unfold(loaded.module)
    if stages is not None:
        return learn_stages(loaded, stages, n_channels=n_channels, n_space=n_space)
    return learn(loaded, n_channels=n_channels, n_space=n_space)


def _windows(geometry: ModelGeometry) -> tuple[int, ...] | None:
    """Return the one shape that the network is ever shown, if there is one."""
    canvas = geometry.canvas
    return canvas.windows.shape if canvas is not None and canvas.windows is not None else None


def cost_shapes(geometry: ModelGeometry, volume: Shaped) -> tuple[tuple[int, ...], ...]:
    """Return the tiles on which a model's cost is measured."""
    sizes = tuple(volume.shape[i] for i in positions(volume.axes, Role.SPACE))
    window = _windows(geometry)
    network = geometry.canvas.network if geometry.canvas is not None else geometry
    return (window,) if window is not None else probe_shapes(network, sizes)


def _smallest(geometry: ModelGeometry) -> tuple[int, ...]:
    window = _windows(geometry)
    network = geometry.canvas.network if geometry.canvas is not None else geometry
    return window or tuple(program.legal_size(max(8, program.step)) or 0 for program in network.programs)


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
    network, geometry = network_part(model, plan.geometry)

    def cost(batch_size: int) -> TileCost:
        found = cost_of(
            network,
            geometry,
            plan.tile_shape,
            device=device,
            precision=plan.model.precision,
            batch_size=batch_size,
        )
        n = voxels * batch_size
        return TileCost(max(found.peak_bytes / n, plan.cost.bytes_per_voxel), ((n, found.seconds / n),))

    one = cost(plan.batch_size)
    tiles_per_block = plan.n_tiles / plan.graph.n_blocks
    can_batch = wishes.batch_size is None and geometry.n_batch is None and tiles_per_block >= 2
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
