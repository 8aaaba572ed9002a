"""What the engine is compared with: whole runs, and the engine's own stitching over arrays in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from engine.geometry.axes import axes_from_names
from engine.geometry.edges import Edge
from engine.geometry.model_geometry import ModelGeometry
from engine.geometry.region import Region
from engine.models.forward import Forward
from engine.plan import ModelFacts, Plan, SourceFacts, TileCost
from engine.planner import Wishes, make_plan
from engine.runtime.worker import BlockWorker


class Named(nn.Module):
    """A module whose lone tensor is named ``output``, as loaded models are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.module(x)
        return y if isinstance(y, dict) else {"output": y}


@dataclass
class ArrayVolume:
    """A volume in memory: the real worker reads and writes it."""

    levels: list[np.ndarray]
    n_written: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n_written = [np.zeros(level.shape, np.uint8) for level in self.levels]

    def read(self, region: Region, *, level: int = 0) -> np.ndarray:
        return np.ascontiguousarray(self.levels[level][region.slices])

    def write(self, region: Region, voxels: np.ndarray, *, level: int = 0) -> None:
        self.levels[level][region.slices] = voxels
        self.n_written[level][region.slices] += 1


NAMES = {1: "cx", 2: "cyx", 3: "czyx"}


def plan_for(
    geometry: ModelGeometry,
    array: np.ndarray,
    *,
    tile: tuple[int, ...] | None = None,
    block: tuple[int, ...] | None = None,
    edges: Mapping[str, Edge] | None = None,
    batch_size: int = 1,
    names: str | None = None,
    **wishes: object,
) -> Plan:
    """Return a plan for an array (channel first, or by ``names``) with tiles and blocks as asked."""
    axes = axes_from_names(names or NAMES[geometry.n_space])
    source = SourceFacts("memory", axes, array.shape, array.dtype.name, "none")
    return make_plan(
        source,
        ModelFacts("memory", "none", "float32"),
        geometry,
        TileCost(bytes_per_voxel=1.0, speeds=((1, 1e-7),)),
        Wishes(memory_limit=2**34, tile=tile, block=block, edges=edges, batch_size=batch_size, **wishes),  # type: ignore[arg-type]
    )


def run_in_memory(plan: Plan, module: nn.Module, array: np.ndarray, dtype: torch.dtype) -> dict[str, ArrayVolume]:
    """Run a plan over an array with the real worker, block by block, and return every output."""
    outputs = {
        output.name: ArrayVolume(
            [np.zeros(plan.level_shape(output, level), output.dtype) for level in range(plan.graph.n_levels)]
        )
        for output in plan.outputs
    }
    forward = Forward(module, dtype, torch.device("cpu"), "float32", plan.batch_size)
    worker = BlockWorker(plan, forward, ArrayVolume([array]), outputs)  # type: ignore[arg-type]
    for task in range(plan.graph.n_tasks):
        receipt = worker.run(task, 1)
        assert receipt.error is None, receipt.error
    return outputs


def whole_run(module: nn.Module, array: np.ndarray, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Return the model's outputs over a whole array (channel, *space), the channel axis kept."""
    with torch.inference_mode():
        results = module(torch.from_numpy(array)[None].to(dtype))
    return {name: tensor[0].numpy() for name, tensor in results.items()}
