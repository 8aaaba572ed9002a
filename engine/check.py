"""``engine check``: what a model needs per output and axis, proved or probed, and shown on real tiles."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import torch

from engine.check_canvas import at_once, painted, source_for, whole_grid, windowed_grid
from engine.geometry.edges import MODEL_EDGE, Edge, EdgeKind
from engine.geometry.extent import extend
from engine.geometry.model_geometry import ModelGeometry
from engine.geometry.receptive_field import AxisProgram
from engine.geometry.tile_job import tile_jobs
from engine.geometry.tiling import AxisTiling, legal_tile, shortest_tile
from engine.models.card import card_of
from engine.models.checks import check_dye
from engine.models.culprit import check_determinism
from engine.models.fitted import provisional
from engine.models.forward import Forward, pick_device
from engine.models.learn import blamed_on, example, learn, with_gaps
from engine.models.load import Model, load_model
from engine.models.resampled import on_its_own_grid
from engine.models.shadow import UnboundedError
from engine.models.shift import check_equivariance
from engine.models.stages import Stages, learn_stages, part_model, unfold
from engine.models.subject import meet
from engine.models.turn import check_turn

WINDOWED_ADVICE = (
    "put the network into engine.models.windowed.Windowed(network, window=...), with the window that it was trained on"
)
"""What to do with a network that only the windowed contract fits."""

LARGEST_CHECK = 2**22
"""Input voxels of the whole run that tiles are compared with, at most, unless the halo asks for more."""


@dataclass(frozen=True, slots=True)
class AxisCheck:
    """What was found for one output along one space axis."""

    output: str
    axis: int
    halo: tuple[int, int]
    jump: int
    scale: Fraction
    legal: str
    """The lengths that the model takes, in words."""


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """Tiles beside the whole run, for one output."""

    output: str
    max_difference: float
    largest: float
    """Largest magnitude of the whole run."""
    std: float
    """Standard deviation of the whole run: at 0 the comparison proves nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """All that ``engine check`` shows."""

    spec: str
    geometry: ModelGeometry
    axes: tuple[AxisCheck, ...]
    outputs: tuple[OutputCheck, ...]
    whole_shape: tuple[int, ...]
    tile_shape: tuple[int, ...]
    n_tiles: int


def check(
    model: str | torch.nn.Module,
    *,
    weights: str | None = None,
    n_space: int | None = None,
    n_channels: int | None = None,
    device: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Check:
    """Learn a model's geometry and show on random input that tiles equal the whole.

    Args:
        model: A specification or a module.
        weights: Weights of its first part.
        n_space: Space axes of its input; found by trial where not given.
        n_channels: Channels of its input; likewise.
        device: Where to run it.
        tell: Is told what goes on.

    Raises:
        ModelError: If it cannot be loaded or tiled; the submodule at fault is named, with the way out.
    """
    loaded = load_model(model, weights=weights)
    card = card_of(loaded.module)
    if card is not None:
        n_space, n_channels = n_space or card.n_space, n_channels or card.n_channels
    with blamed_on(loaded.spec), provisional(loaded.module):  # what is fitted is fitted to a source
        tell("meeting the model")
        if n_space is None or n_channels is None:
            with on_its_own_grid(loaded.module):
                subject = meet(loaded.module, dtype=loaded.dtype, n_space=n_space, n_channels=n_channels)
            n_space, n_channels = subject.n_space, subject.n_channels
        tell("tracing its graph")
        stages = unfold(loaded.module)
        if stages is not None:
            return _check_canvas(loaded, stages, n_channels, n_space, device=pick_device(device), tell=tell)
        geometry = learn(loaded, n_channels=n_channels, n_space=n_space)
        shape = tuple(program.legal_size(max(16, program.step)) or 0 for program in geometry.programs)
        tell("checking that it repeats itself, and moves with its input")
        check_determinism(loaded.module, example(loaded, geometry, shape, batch_size=geometry.n_batch or 1))
        check_equivariance(loaded.module, geometry, dtype=loaded.dtype)
        check_turn(loaded.module, geometry, dtype=loaded.dtype)
        check_dye(loaded.module, geometry, dtype=loaded.dtype)
        tell("comparing tiles with the whole run")
        whole_shape, tile_shape = _shapes(geometry)
        n_tiles, outputs = _compare(loaded, geometry, whole_shape, tile_shape, device=pick_device(device))
    return Check(loaded.spec, geometry, _axes(geometry), outputs, whole_shape, tile_shape, n_tiles)


def _check_canvas(
    loaded: Model,
    stages: Stages,
    n_channels: int,
    n_space: int,
    *,
    device: torch.device,
    tell: Callable[[str], None],
) -> Check:
    """Check a pipeline over a canvas: its network, and two blocks beside the whole."""
    geometry = learn_stages(loaded, stages, n_channels=n_channels, n_space=n_space)
    assert geometry.canvas is not None
    network, canvas = part_model(loaded, stages.network), geometry.canvas
    if canvas.windows is None:
        least, tile = _shapes(canvas.network)
        grid = whole_grid(canvas, least)
    else:
        grid, tile = windowed_grid(canvas), canvas.windows.shape
    tell("checking that it repeats itself")
    check_determinism(network.module, example(network, canvas.network, tile, batch_size=canvas.network.n_batch or 1))
    tell("comparing blocks with the whole run")
    shape, spacing = source_for(canvas, grid)
    x = example(loaded, geometry, shape)
    n_tiles, found = painted(loaded, stages, geometry, x, spacing=spacing, tile=tile, device=device)
    outputs = _differences(found, at_once(loaded, x, spacing=spacing))
    return Check(loaded.spec, geometry, _axes(canvas.network), outputs, shape, tile, n_tiles)


def _axes(geometry: ModelGeometry) -> tuple[AxisCheck, ...]:
    return tuple(
        AxisCheck(
            output.name,
            axis,
            program.halo(output.name),
            program.jump(output.name),
            program.scale(output.name),
            legal_lengths(program),
        )
        for output in geometry.outputs
        for axis, program in enumerate(geometry.programs)
    )


@dataclass(frozen=True, slots=True)
class Contract:
    """Which contract a model can be run under, and why."""

    name: Literal["exact", "windowed"]
    reason: str
    check: Check | None
    """What was found; None where the model as it stands has no contract."""


def recommend(
    model: str | torch.nn.Module,
    *,
    weights: str | None = None,
    n_space: int | None = None,
    n_channels: int | None = None,
    device: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Contract:
    """Return the contract that fits a model: exact where tiles can equal the whole, else windowed; see :func:`check`.

    Raises:
        ModelError: If it fits neither: it does not load or run, or does not repeat itself.
    """
    try:
        found = check(model, weights=weights, n_space=n_space, n_channels=n_channels, device=device, tell=tell)
    except UnboundedError as error:
        return Contract("windowed", str(error), None)
    if found.geometry.contract == "windowed":
        return Contract("windowed", "the network is shown windows of one size, blended by weights", found)
    return Contract("exact", "every output voxel sees a bounded part of the input, so tiles equal the whole", found)


def legal_lengths(program: AxisProgram) -> str:
    """Return the lengths that a model takes, in words.

    >>> from engine.geometry.nodes import Node, Window
    >>> legal_lengths(AxisProgram((Node(()), Window((0,), 2, 2, is_exact=True)), (("output", 1),)))
    'multiples of 2 from 2'
    """
    first = program.legal_size(1)
    if first is None:
        return "none found"
    if program.legal_size(first + 1) is None:
        return f"{first} only"
    period = max(program.step, 1)
    found = [n for n in range(first, first + 2 * period) if program.sizes(n) is not None]
    if len(found) == 2 * period:
        return f"any from {first}"
    if all(n % period == 0 for n in found):
        return f"multiples of {period} from {first}"
    remainders = sorted({n % period for n in found})
    if len(remainders) == 1:
        return f"{period} k + {remainders[0]} from {first}"
    return f"{len(remainders)} of every {period} from {first}"


def _edge(program: AxisProgram) -> Edge:
    """Return the edge to check an axis under: only a periodic one can be cut where the model pads circularly."""
    return Edge(EdgeKind.WRAP) if program.is_circular else MODEL_EDGE


def _shapes(geometry: ModelGeometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a whole shape and a tile shape that make at least two tiles along as many axes as the budget allows."""
    whole, tile = [], []
    budget = LARGEST_CHECK
    for axis, program in enumerate(geometry.programs):
        left = geometry.n_space - axis
        reach = max(sum(program.halo(output.name)) for output in geometry.outputs)
        length = _whole_length(program, reach + 6 * program.step + 16)
        share = int(budget ** (1 / left))
        length = length if length <= max(share, 8) or axis == 0 else _whole_length(program, max(8, program.step))
        extent = extend(program, _edge(program), size=length, name=str(axis))
        shortest = shortest_tile(program, extent)
        whole.append(extent.size)
        tile.append(legal_tile(program, extent, min(extent.extended, shortest + program.step)))
        budget = max(1, budget // extent.extended)
    return tuple(whole), tuple(tile)


def _whole_length(program: AxisProgram, at_least: int) -> int:
    """Return a legal length; whole steps where the axis is periodic."""
    length = program.legal_size(at_least) or 0
    while program.is_circular and length and length % program.step:
        length = program.legal_size(length + 1) or 0
    return length


def _compare(
    model: Model, geometry: ModelGeometry, whole: tuple[int, ...], tile: tuple[int, ...], *, device: torch.device
) -> tuple[int, tuple[OutputCheck, ...]]:
    """Run a random input whole and in tiles, and return the largest difference per output."""
    tilings = []
    for axis, (program, size, length) in enumerate(zip(geometry.programs, whole, tile, strict=True)):
        extent = extend(program, _edge(program), size=size, name=str(axis))
        block = -(-size // program.step) * program.step
        tilings.append(AxisTiling(str(axis), program, _edge(program), extent, length, block))
    origin = {output.name: (0,) * geometry.n_space for output in geometry.outputs}
    jobs = tile_jobs(
        [t.tiles(0) for t in tilings],
        tile_shape=tile,
        read_start=(0,) * geometry.n_space,
        block_starts=origin,
        n_items=1,
    )
    forward = Forward(model.module, model.dtype, device, "float32", geometry.n_batch or 1)
    x = with_gaps(model, example(model, geometry, whole, batch_size=geometry.n_batch or 1))
    with torch.inference_mode():
        reference = {name: y[:1].cpu() for name, y in forward.module(x.to(device)).items()}
    shapes = {name: (tuple(y.shape), str(y.dtype).removeprefix("torch.")) for name, y in reference.items()}
    beyond = [(t.extent.before, t.extent.far_extension) for t in tilings]
    extended = np.pad(x[:1].numpy(), [(0, 0), (0, 0), *beyond], mode="wrap")
    found = forward.download(forward.run(forward.upload(extended), jobs, shapes))
    return len(jobs), _differences(found, reference)


def _differences(found: Mapping[str, np.ndarray], reference: Mapping[str, torch.Tensor]) -> tuple[OutputCheck, ...]:
    checks = []
    for name, y in reference.items():
        ours, theirs = found[name].astype(np.float64), y.numpy().astype(np.float64)
        is_there = ~np.isnan(theirs)
        has_same_gaps = np.array_equal(np.isnan(ours), ~is_there)
        ours, theirs = ours[is_there], theirs[is_there]
        difference = float(np.abs(ours - theirs).max(initial=0.0)) if has_same_gaps else math.inf
        checks.append(OutputCheck(name, difference, float(np.abs(theirs).max(initial=0.0)), float(np.std(theirs))))
    return tuple(checks)
