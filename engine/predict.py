"""The lazy face: a model over an xarray or dask array gives one back, with the halo that the model needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import torch
import xarray as xr

from engine.errors import UsageError
from engine.factory import forward_of
from engine.geometry.axes import Axis, Role, axes_from_names, positions
from engine.geometry.edges import Edge
from engine.learnt import cost_shapes, learn_geometry, measured_cost
from engine.memory import BASE_BYTES, available_bytes
from engine.models.forward import Forward, pick_device
from engine.models.learn import check_periodic
from engine.models.load import Model, load_model
from engine.models.stages import network_part
from engine.plan import ModelFacts, OutputFacts, Plan, SourceFacts
from engine.planner import Wishes, make_plan
from engine.runtime.compute import compute_block
from engine.runtime.lazy import ChunkedVolume, LazyArray, as_lazy, lazy_outputs
from engine.runtime.stitch import read_block
from engine.search import Tiling


@dataclass
class BlockPredictor:
    """Computes one block of a plan from the chunks that it is handed. Picklable: the model goes along."""

    plan: Plan
    model: Model
    device: str
    _forward: Forward | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __call__(self, index: tuple[int, ...], volume: ChunkedVolume) -> dict[str, np.ndarray]:
        """Return the outputs of block ``index``, each in its own axes."""
        block = read_block(self.plan, volume, index)  # type: ignore[arg-type]
        with self._lock:
            if self._forward is None:
                self._forward = forward_of(self.plan, self.model, pick_device(self.device))
            held, _ = compute_block(self.plan, self._forward, self._forward.upload(block), index)
            arrays = self._forward.download(held)
        found = {}
        for output in self.plan.outputs:
            shape = self.plan.block_region(output, index).shape
            found[output.name] = arrays[output.name].reshape(shape) if prod(shape) else np.empty(shape, output.dtype)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what belongs to this process."""
        return {"plan": self.plan, "model": self.model, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up what was sent."""
        self.__dict__.update(state, _forward=None, _lock=Lock())


def predict(
    model: str | torch.nn.Module,
    array: LazyArray | xr.DataArray,
    *,
    axes: str | None = None,
    edges: Mapping[str, Edge] | None = None,
    tile: tuple[int, ...] | None = None,
    block: tuple[int, ...] | None = None,
    weights: str | None = None,
    device: str | None = None,
    nan: str = "refuse",
) -> Any:  # noqa: ANN401 -- the kind that came: dask or xarray, one or a dict of them
    """Return the model's output over ``array``, lazily: equal to one forward pass over all of it.

    Args:
        model: A specification, or a module that takes (batch, channel, *space).
        array: A dask array, or an xarray.DataArray over one; in memory is fine too.
        axes: Names of a dask array's axes ("cyx"); a DataArray has its own.
        edges: Edge rule per space axis; ``model`` by default.
        tile: Input voxels of a tile, per space axis; searched by default.
        block: Input voxels of a block, and so of an output chunk; searched by default.
        weights: Weights of the model's first part.
        device: Where to run.
        nan: ``refuse`` or ``keep``.

    Returns:
        One lazy array of the kind that came, or a dict of them where the model has several outputs. Axes are the
        batch axes, the channel where there is one, then space; a DataArray keeps its coordinates at scale 1.

    Raises:
        ModelError: If the model cannot be tiled.
        PlanError: If the array does not fit it.
    """
    names = tuple(str(dim) for dim in array.dims) if isinstance(array, xr.DataArray) else tuple(axes or ())
    if len(names) != array.ndim:
        raise UsageError(f"predict needs one axis name per dimension, not {names} for {array.shape}. Give axes='cyx'.")
    data = array.data if isinstance(array, xr.DataArray) else array
    data = as_lazy(data)
    loaded = load_model(model, weights=weights)
    target = pick_device(device)
    wishes = Wishes(
        memory_limit=available_bytes(),
        tile=tile,
        block=block,
        edges=edges,
        nan=nan,
        with_pyramid=False,
        base_bytes=min(BASE_BYTES, available_bytes() // 4),
    )
    plan = _plan(loaded, data, axes_from_names(names), wishes, device=target)
    outputs: dict[str, Any] = lazy_outputs(plan, data, BlockPredictor(plan, loaded, target.type))
    if isinstance(array, xr.DataArray):
        outputs = {name: _labelled(plan, plan.output(name), lazy, array) for name, lazy in outputs.items()}
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _plan(model: Model, data: LazyArray, axes: tuple[Axis, ...], wishes: Wishes, *, device: torch.device) -> Plan:
    source = SourceFacts("a dask array", axes, data.shape, data.dtype.name, "none")
    geometry = learn_geometry(model, source)
    check_periodic(model, geometry, [axes[i].name for i in positions(axes, Role.SPACE)], wishes.edges or {})
    precision = str(model.dtype).removeprefix("torch.")
    network, own = network_part(model, geometry)
    shapes = cost_shapes(geometry, source)[:1]
    cost = measured_cost(network, own, shapes, device=device, precision=precision)
    return make_plan(
        source,
        ModelFacts(model.spec, model.fingerprint, precision),
        geometry,
        cost,
        wishes,
    )


def _labelled(plan: Plan, output: OutputFacts, lazy: LazyArray, array: xr.DataArray) -> xr.DataArray:
    """Return an output as a DataArray, with the coordinates of axes that it shares with the input."""
    dims = [axis.name for axis in output.axes]
    scaled = {t.name for t in plan.tilings if not _is_same_grid(t, output.name)}
    channel = {axis.name for axis in output.axes if axis.role is Role.CHANNEL}
    kept = {
        name: coordinate
        for name, coordinate in array.coords.items()
        if set(map(str, coordinate.dims)) <= set(dims) - scaled - channel
    }
    return xr.DataArray(lazy, dims=dims, coords=kept, name=output.name)


def _is_same_grid(tiling: Tiling, output: str) -> bool:
    return tiling.program.scale(output) == 1 and tiling.kept[output] == tiling.extent.size
