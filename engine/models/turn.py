"""Whether a model that pads circularly is periodic: a turn of its input turns its output, up to the border."""

from collections.abc import Sequence

import torch

from engine.errors import ModelError
from engine.geometry.model_geometry import ModelGeometry
from engine.models.load import submodule_name
from engine.models.shift import TOLERANCES
from engine.models.subject import subject_of
from engine.models.witness import in_double


def circular_axes(geometry: ModelGeometry) -> tuple[int, ...]:
    """Return the space axes that some layer of the model pads circularly, and no other comes round."""
    programs = enumerate(geometry.programs)
    return tuple(axis for axis, program in programs if program.is_circular and not program.is_around)


def check_turn(
    module: torch.nn.Module, geometry: ModelGeometry, *, dtype: torch.dtype, axes: Sequence[int] | None = None
) -> None:
    """Refuse a model that pads an axis circularly in some layers and otherwise in others.

    Such a model has a seam that the edge ``wrap`` would quietly take away.

    Args:
        module: Takes (batch, channel, *space), gives a dict of named tensors; in eval mode.
        geometry: Traced.
        dtype: Of the model's input.
        axes: Space axes to turn; all that are padded circularly if None.

    Raises:
        ModelError: If a turn by one step does not turn the output, naming the layers that pad otherwise.
    """
    try:
        module, dtype = in_double(module), torch.float64
    except Exception:  # noqa: BLE001 -- not every model can be copied to float64
        module = module.eval()
    subject = subject_of(module, geometry, dtype=dtype)
    for axis in circular_axes(geometry) if axes is None else axes:
        program = geometry.programs[axis]
        reach = max(max(before, 0) + max(after, 0) for before, after in (program.halo(n) for n, _ in program.outputs))
        length = program.legal_size(reach + program.step)
        while length is not None and length % program.step:
            length = program.legal_size(length + 1)
        if length is None:
            continue
        x = torch.randn(subject.shape(axis, length), generator=torch.Generator().manual_seed(11), dtype=torch.float64)
        x = x.to(dtype)
        with torch.inference_mode():
            here, there = module(x), module(x.roll(program.step, dims=axis + 2))
        for name, y in here.items():
            scale = program.scale(name)
            dim = y.dim() - geometry.n_space + axis
            is_periodic = y.shape[dim] == length * scale and _agree(
                y.roll(int(program.step * scale), dims=dim), there[name], dtype
            )
            if not is_periodic:
                raise ModelError(_otherwise(module, axis, name))


def _agree(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool((a - b).abs().max() <= TOLERANCES.get(dtype, 0.02) * max(float(a.abs().max()), 1e-30))


def _otherwise(module: torch.nn.Module, axis: int, output: str) -> str:
    """Say which layers pad otherwise, as far as layers tell."""
    odd = [
        f"{submodule_name(path, layer)} pads with '{layer.padding_mode}'"
        for path, layer in module.named_modules()
        if getattr(layer, "padding_mode", "circular") != "circular" and _pads(layer, axis)
    ]
    where = "; ".join(odd[:3]) if odd else "another layer does not"
    return (
        f"a model that pads axis {axis} of space circularly must do so in every layer, and {where}: turning the input "
        f"does not turn output '{output}' at the border. Give that layer padding_mode='circular', or run the volume "
        "whole under the edge 'model'."
    )


def _pads(layer: torch.nn.Module, axis: int) -> bool:
    kernel, padding = getattr(layer, "kernel_size", ()), getattr(layer, "padding", 0)
    if isinstance(padding, str):
        return padding == "same" and len(kernel) > axis and kernel[axis] > 1
    return bool(padding[axis] if isinstance(padding, tuple) and len(padding) > axis else padding)
