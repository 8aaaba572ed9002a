"""``engine check`` of a pipeline over a canvas: blocks beside the module over a whole random volume."""

from copy import deepcopy
from itertools import count
from math import ceil

import numpy as np
import torch

from engine.canvas_plan import canvas_axes
from engine.geometry.axes import Axis, Role
from engine.geometry.canvas import PAINTED, CanvasTiling
from engine.geometry.canvas_work import canvas_work
from engine.geometry.edges import MODEL_EDGE
from engine.geometry.model_geometry import Canvas, ModelGeometry
from engine.geometry.region import Region
from engine.geometry.resampling import grid_size
from engine.models.canvas import Painter
from engine.models.load import Model
from engine.models.resampled import Resampled
from engine.models.stages import Stages, part_model
from engine.plan import SourceFacts

FINER = 0.75
"""Spacing of the source that is made up, as a part of the network's grid."""


def source_for(canvas: Canvas, grid: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the voxels and the spacing of a source over which the network's grid has so many voxels."""
    wanted = canvas.spacing or (None,) * len(grid)
    shape, spacing = [], []
    for n, step in zip(grid, wanted, strict=True):
        own = 1.0 if step is None else FINER * step
        size = n if step is None else ceil((n - 0.5) * step / own)
        while step is not None and grid_size(size, spacing=own, wanted=step) < n:
            size += 1
        shape.append(size)
        spacing.append(own)
    return tuple(shape), tuple(spacing)


def whole_grid(canvas: Canvas, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the next grid of which the network gives every voxel: pools drop what is left over of an odd one."""
    programs = zip(canvas.network.programs, grid, strict=True)
    return tuple(next(n for n in count(least) if (p.sizes(n) or {}).get(PAINTED) == n) for p, least in programs)


def windowed_grid(canvas: Canvas) -> tuple[int, ...]:
    """Return a grid of a few windows: half as long again as one along the first axis."""
    assert canvas.windows is not None
    first, *others = canvas.windows.shape
    return (first + max(1, first // 2), *others)


def painted(
    model: Model,
    stages: Stages,
    geometry: ModelGeometry,
    x: torch.Tensor,
    *,
    spacing: tuple[float, ...],
    tile: tuple[int, ...],
    device: torch.device,
) -> tuple[int, dict[str, np.ndarray]]:
    """Return how many tiles or windows two blocks of ``x`` (1, channel, *space) took, and what they give together."""
    assert geometry.canvas is not None
    shape = tuple(x.shape[2:])
    axes = tuple(Axis(f"axis {i}", Role.SPACE, spacing=step) for i, step in enumerate(spacing))
    source = SourceFacts("random input", axes, shape, "float32", "none")
    found = canvas_axes(source, geometry, geometry.canvas, edges=[MODEL_EDGE] * len(shape), units=shape)
    tilings = [axis.tiling(tile=axis.legal(n), block=size) for axis, n, size in zip(found, tile, shape, strict=True)]
    network = part_model(model, stages.network).module
    painter = Painter(network, model.dtype, device, "float32", geometry.canvas.network.n_batch or 1, stages=stages)
    parts, n_jobs = [], 0
    middle = max(1, shape[0] // 2)
    for span in sorted({(0, middle), (middle, shape[0])}):
        if span[0] == span[1]:
            continue
        box = Region((span[0], *([0] * (len(shape) - 1))), (span[1], *shape[1:]))
        work = canvas_work([t for t in tilings if isinstance(t, CanvasTiling)], box)
        shapes = {
            tensor.name: ((1, *((tensor.n_channels,) if tensor.n_channels else ()), *box.shape), tensor.dtype)
            for tensor in geometry.outputs
        }
        block = np.ascontiguousarray(x.numpy()[(slice(None), slice(None), *work.read.slices)])
        parts.append(painter.download(painter.paint(painter.upload(block), work, shapes)))
        n_jobs += work.n_tiles
    return n_jobs, {
        name: np.concatenate([part[name] for part in parts], axis=parts[0][name].ndim - len(shape)) for name in parts[0]
    }


def at_once(model: Model, x: torch.Tensor, *, spacing: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """Return what the whole pipeline gives for ``x``, in memory."""
    module = deepcopy(model.module)
    for part in module.modules():
        if isinstance(part, Resampled):
            part.source_spacing = spacing
    with torch.inference_mode():
        found: dict[str, torch.Tensor] = module(x)
    return found
