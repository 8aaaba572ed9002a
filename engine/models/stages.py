"""A pipeline taken apart where the engine works differently: on another grid, and through a sliding window."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from engine.errors import ModelError
from engine.geometry.model_geometry import Canvas, ModelGeometry, OutputTensor
from engine.geometry.nodes import Node
from engine.geometry.receptive_field import AxisProgram
from engine.models.learn import learn
from engine.models.load import Model, NamedOutputs
from engine.models.resampled import Resampled
from engine.models.windowed import Windowed
from engine.models.wrappers import Compose


@dataclass(frozen=True, eq=False)
class Stages:
    """What a pipeline does, in order. All but the network look at single voxels; each hands on one tensor."""

    before: nn.Module
    """On the source's grid, before it is resampled."""
    grid: Resampled | None
    inside: nn.Module
    """On the network's grid, before the windows are cut."""
    network: nn.Module
    windowed: Windowed | None
    blended: nn.Module
    """On the network's grid, after the windows are blended."""
    after: nn.Module
    """On the source's grid; it gives the named outputs."""


def unfold(module: nn.Module) -> Stages | None:
    """Return the stages of a loaded pipeline, or None where it has neither grid nor window: it is run as it is.

    Raises:
        ModelError: If a Resampled or a Windowed stands where it cannot be taken out: inside another module than a
            Compose, a Sequential or a Resampled, or more than once.
    """
    root = module.model if isinstance(module, NamedOutputs) else module
    kinds = [part for part in root.modules() if isinstance(part, Resampled | Windowed)]
    if not kinds:
        return None
    parts = _parts(root)
    grids = [part for part in parts if isinstance(part, Resampled)]
    grid = grids[0] if grids else None
    before, after = _around(parts, grid) if grid is not None else ([], [])
    inner = _parts(grid.inner) if grid is not None else parts
    windows = [part for part in inner if isinstance(part, Windowed)]
    found = [*grids, *windows]
    if len(found) != len(kinds) or len(grids) > 1 or len(windows) > 1:
        raise ModelError(
            f"a pipeline may have one Resampled and in it, or alone, one Windowed, as parts of a Compose, and this "
            f"one has {len(kinds)}, {len(found)} of them there. Write Compose(..., Resampled(Compose(..., "
            "Windowed(network)), spacing=...), ..., ArgMax())."
        )
    if not windows:
        return Stages(_joined(before), grid, _joined([]), _joined(inner), None, _joined([]), _joined(after))
    window = windows[0]
    inside, blended = _around(inner, window)
    if grid is None:
        before, inside, blended, after = inside, [], [], blended
    parts_of = (_joined(before), grid, _joined(inside), window.network, window, _joined(blended), _joined(after))
    return Stages(*parts_of)


def _parts(module: nn.Module) -> list[nn.Module]:
    """Return the modules that are run one after the other."""
    if type(module) not in (Compose, nn.Sequential):
        return [module]
    return [part for child in module.children() for part in _parts(child)]


def _around(parts: Sequence[nn.Module], middle: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    at = next(i for i, part in enumerate(parts) if part is middle)
    return list(parts[:at]), list(parts[at + 1 :])


def _joined(parts: Sequence[nn.Module]) -> nn.Module:
    return Compose(*parts) if parts else nn.Identity()


def learn_stages(model: Model, stages: Stages, *, n_channels: int, n_space: int) -> ModelGeometry:
    """Return the geometry of a pipeline with a canvas.

    Raises:
        ModelError: If a part around the network does not look at single voxels, or the network does not give one
            tensor as large as its input.
    """
    n_input = _pointwise(model, stages.before, n_channels, n_space, what="before the grid or window")
    n_input = _pointwise(model, stages.inside, n_input, n_space, what="before the window")
    inner = part_model(model, stages.network)
    if stages.windowed is None:
        network, windows = _same_size(learn(inner, n_channels=n_input, n_space=n_space)), None
    else:
        windows = stages.windowed.windows(n_space)
        network = _shown_a_window(inner, n_input, windows.shape)
    n_painted = network.outputs[0].n_channels or 0
    n_painted = _pointwise(model, stages.blended, n_painted, n_space, what="after the window")
    after = _learn_pointwise(model, stages.after, n_painted, n_space, what="after the grid or window")
    grid = stages.grid
    return ModelGeometry(
        programs=after.programs,
        outputs=after.outputs,
        n_channels=n_channels,
        evidence=network.evidence,
        n_batch=network.n_batch,
        canvas=Canvas(
            network,
            windows,
            None if grid is None else _per_axis(grid.spacing, n_space),
            "linear" if grid is None else grid.order,
            "linear" if grid is None else grid.back,
        ),
    )


def part_model(model: Model, part: nn.Module) -> Model:
    """Return a part of a loaded model as one of its own."""
    return replace(model, module=NamedOutputs(part))


def network_part(model: Model, geometry: ModelGeometry) -> tuple[Model, ModelGeometry]:
    """Return the network that tiles or windows are shown to, with its own geometry: all of a model without a canvas."""
    stages = unfold(model.module) if geometry.canvas is not None else None
    if stages is None or geometry.canvas is None:
        return model, geometry
    return part_model(model, stages.network), geometry.canvas.network


def _per_axis(spacing: tuple[float | None, ...], n_space: int) -> tuple[float | None, ...]:
    steps = spacing * n_space if len(spacing) == 1 else spacing
    if len(steps) != n_space:
        raise ModelError(
            f"Resampled has {len(spacing)} spacings {spacing}, and the source {n_space} space axes. Give one for "
            "each, in storage order."
        )
    return steps


def _pointwise(model: Model, part: nn.Module, n_channels: int, n_space: int, *, what: str) -> int:
    """Return the channels that a part hands on."""
    if isinstance(part, nn.Identity):
        return n_channels
    tensors = _learn_pointwise(model, part, n_channels, n_space, what=what).outputs
    if len(tensors) != 1 or tensors[0].n_channels is None:
        raise ModelError(
            f"what stands {what} must hand on one tensor with channels, not {len(tensors)} outputs "
            f"({', '.join(tensor.name for tensor in tensors)}). Put it behind."
        )
    return tensors[0].n_channels


def _learn_pointwise(model: Model, part: nn.Module, n_channels: int, n_space: int, *, what: str) -> ModelGeometry:
    geometry = learn(part_model(model, part), n_channels=n_channels, n_space=n_space)
    for program in geometry.programs:
        is_as_long = all(size == n for n in (7, 8) for size in (program.sizes(n) or {"": 0}).values())
        is_as_long = all(size == n for n in (7, 8) for size in (program.sizes(n) or {"": 0}).values())
        if program.step != 1 or program.widest_halo != (0, 0) or not is_as_long:
            raise ModelError(
                f"what stands {what} must look at single voxels, and a part of it sees {program.widest_halo} voxels "
                "about one. Put it into the network."
            )
    return geometry


def _same_size(geometry: ModelGeometry) -> ModelGeometry:
    """Refuse a network whose one output is not as large as its input."""
    tensors = geometry.outputs
    scales = {program.scale(tensor.name) for program in geometry.programs for tensor in tensors}
    if len(tensors) != 1 or tensors[0].n_channels is None or scales != {1}:
        raise ModelError(
            f"a network inside Resampled must give one tensor with channels on its own grid, not "
            f"{', '.join(t.name for t in tensors)} at scale {', '.join(map(str, sorted(scales)))}. Put what reduces "
            "classes after Resampled."
        )
    return replace(geometry, outputs=(replace(tensors[0], name="output"),)) if tensors[0].name != "output" else geometry


def _shown_a_window(model: Model, n_channels: int, window: tuple[int, ...]) -> ModelGeometry:
    """Return the geometry of a network that is only ever shown windows of one size: it is run on one."""
    x = torch.randn((1, n_channels, *window), generator=torch.Generator().manual_seed(0)).to(model.dtype)
    with torch.inference_mode():
        try:
            found = model.module(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"the network cannot be shown a window of {window} voxels with {n_channels} channels: {reason}. Give "
                "the window that it was trained with."
            ) from error
    y = found.get("output")
    if len(found) != 1 or y is None or y.dim() != x.dim() or y.shape[2:] != x.shape[2:]:
        got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in found.items())
        raise ModelError(
            f"a windowed network must give one tensor (batch, channel, *{window}), as large as the window, not {got}. "
            "Select one output, and put what reduces classes after Windowed."
        )
    alone = AxisProgram((Node(()),), (("output", 0),))
    tensor = OutputTensor("output", y.shape[1], str(y.dtype).removeprefix("torch."))
    return ModelGeometry((alone,) * len(window), (tensor,), n_channels, "proved")
