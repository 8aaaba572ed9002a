"""Learns a model's geometry: by proof from its graph where that can be, else by probing it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from engine.errors import EngineError, ModelError
from engine.geometry.edges import MODEL_EDGE, Edge, EdgeKind
from engine.geometry.model_geometry import ModelGeometry
from engine.models.load import Model
from engine.models.measure import Cost, measure, precision_context
from engine.models.missing import looks_about, takes_nan
from engine.models.probe import probe
from engine.models.shadow import UnknownError
from engine.models.skeleton import skeletons
from engine.models.subject import fixed_shape, meet
from engine.models.trace import trace
from engine.models.turn import check_turn, circular_axes
from engine.models.weights import one_line

PROBE_LENGTHS = {1: (16384, 65536, 262144), 2: (256, 512, 1024), 3: (48, 80, 128)}
"""Lengths per axis of the tiles that a model's cost is measured on, by number of space axes."""

FEWEST_STEPS = {2: 4}
"""Tiles to measure on are at least so many steps of the model long: an encoder of patches gets its batch of 16."""


@contextmanager
def blamed_on(spec: str) -> Iterator[None]:
    """Turn whatever a user's model raises inside into a ModelError that names it; the engine's own errors pass.

    Raises:
        ModelError: If something else than an EngineError was raised.
    """
    try:
        yield
    except EngineError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"the model '{spec}' fails when it is run: {one_line(error)}. Correct its forward.") from error


def learn(model: Model, *, n_channels: int, n_space: int) -> ModelGeometry:
    """Return what the model needs of its input.

    A TorchScript program, a graph with an operation that is not in the table, and an exported program that takes
    fewer sizes than its operations would, is probed instead of proved, and the geometry says so. An encoder of
    patches is not run but on two of them: its patch is all that it sees.

    Raises:
        ModelError: If the model cannot be tiled; it names the submodule at fault and the way out.
    """
    with skeletons():
        geometry = _learn(model, n_channels=n_channels, n_space=n_space)
    if looks_about(model.module) and any(program.is_circular for program in geometry.programs):
        raise ModelError(
            "gaps that are filled by the nearest voxel, or flagged, are sought no farther than the border of a tile, "
            "and the network goes round the globe by itself (circular padding, PadGlobe). Take that padding out "
            "(padding=0) and let the engine go round: --edge lon=wrap, --edge lat=pole:lon."
        )
    return geometry


def _learn(model: Model, *, n_channels: int, n_space: int) -> ModelGeometry:
    if model.kind != "torchscript" and not any(fixed_shape(model.module)[:1] + fixed_shape(model.module)[2:]):
        try:
            geometry = trace(model.module, n_channels=n_channels, n_space=n_space, dtype=model.dtype)
        except UnknownError:
            pass
        else:
            if model.kind != "exported" or _takes_all(model, geometry):
                return geometry
    return probe(model.module, dtype=model.dtype, n_space=n_space, n_channels=n_channels).geometry


def _takes_all(model: Model, geometry: ModelGeometry) -> bool:
    """Say whether an exported program takes all lengths that its operations could: it may have been promised fewer."""
    subject = meet(model.module, dtype=model.dtype, n_space=geometry.n_space, n_channels=geometry.n_channels)
    return all(
        lengths.at_least(n) == n
        for lengths, program in zip(subject.lengths, geometry.programs, strict=True)
        for n in range(lengths.smallest, lengths.smallest + 2 * max(program.step, lengths.modulus))
        if program.sizes(n) is not None
    )


def check_periodic(model: Model, geometry: ModelGeometry, names: Sequence[str], edges: Mapping[str, Edge]) -> None:
    """Refuse, on axes with the edge ``wrap``, a model that pads circularly in some layers only; see ``turn.py``.

    Raises:
        ModelError: If it does, naming the layers that pad otherwise.
    """
    wrapped = [axis for axis in circular_axes(geometry) if edges.get(names[axis], MODEL_EDGE).kind is EdgeKind.WRAP]
    check_turn(model.module, geometry, dtype=model.dtype, axes=wrapped)


def probe_shapes(geometry: ModelGeometry, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return legal tiles to measure on, from small to large, none longer than a volume of ``sizes`` asks for."""
    found, fewest = [], FEWEST_STEPS.get(geometry.n_space, 1)
    for wanted in PROBE_LENGTHS.get(geometry.n_space, (32,)):
        lengths = [min(max(wanted, fewest * p.step), n) for p, n in zip(geometry.programs, sizes, strict=True)]
        shape = [p.legal_size(n) for p, n in zip(geometry.programs, lengths, strict=True)]
        if None in shape:
            raise ModelError(f"the model takes no length from {wanted} on. Check it, or crop the source.")
        found.append(tuple(length or 0 for length in shape))
    return tuple(dict.fromkeys(found))


def example(model: Model, geometry: ModelGeometry, shape: tuple[int, ...], *, batch_size: int = 1) -> torch.Tensor:
    """Return a random input of (batch, channel, *shape), the same every time.

    Its voxels are normal with magnitudes from 1 to 100, so that networks for raw and for normalised
    intensities both answer to it.
    """
    generator = torch.Generator().manual_seed(0)
    whole = (batch_size, geometry.n_channels, *shape)
    magnitude = 10 ** (2 * torch.rand(whole, generator=generator))
    return (torch.randn(whole, generator=generator) * magnitude).to(model.dtype)


def with_gaps(model: Model, x: torch.Tensor) -> torch.Tensor:
    """Return (batch, channel, *space) with a box missing near its middle, where the model knows what that is."""
    if takes_nan(model.module):
        whole = slice(None)
        x[(whole, whole, *(slice(n // 3, n // 2) for n in x.shape[2:]))] = torch.nan
    return x


def cost_of(
    model: Model,
    geometry: ModelGeometry,
    shape: tuple[int, ...],
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
) -> Cost:
    """Return what one call on a batch of tiles of ``shape`` costs on ``device``."""
    x = with_gaps(model, example(model, geometry, shape, batch_size=batch_size)).to(device)
    return measure(model.module.to(device), x, precision=precision)


def precision_error(model: Model, geometry: ModelGeometry, shape: tuple[int, ...], *, device: torch.device) -> float:
    """Return the largest difference of a bfloat16 forward from a float32 one, on a random tile."""
    x = example(model, geometry, shape).to(device)
    module = model.module.to(device)
    with torch.inference_mode():
        full = module(x)
        with precision_context("bfloat16", device):
            half = module(x)
    return float(max(np.abs((half[name].double() - full[name].double()).cpu().numpy()).max() for name in full))
