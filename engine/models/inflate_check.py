"""Whether a network's forward does to every slice of a volume what it does to that slice alone.

What a forward calls by itself (``F.interpolate``, ``F.group_norm``, a mean over the last dimensions) stands in no tree
of layers. So both networks are run on a few random slices, and where they first part is told by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from engine.errors import ModelError
from engine.models.load import NamedOutputs, submodule_name
from engine.models.operations import leaves
from engine.models.subject import meet
from engine.models.weights import one_line

N_SLICES = 3
"""Slices of the trial: more than one, and unlike the sides of a plane."""

SHORTEST, N_STEPS = 48, 4
"""Voxels of the trial's plane along each axis, at least, and steps of the model: where the coarsest level is smaller
than its kernel, a pool of three dimensions refuses what one of two takes."""

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest magnitude; layers of two and of three dimensions round otherwise."""

LABEL_TOLERANCE = 1e-2
"""Largest share of labels that may differ: ties that rounding breaks one way or the other."""

CURES = {
    "interpolate": "torch.nn.Upsample(scale_factor=...)",
    "upsample": "torch.nn.Upsample(scale_factor=...)",
    "max_pool2d": "torch.nn.MaxPool2d",
    "avg_pool2d": "torch.nn.AvgPool2d",
    "adaptive_avg_pool2d": "torch.nn.AdaptiveAvgPool2d",
    "adaptive_max_pool2d": "torch.nn.AdaptiveMaxPool2d",
    "conv2d": "torch.nn.Conv2d",
    "conv_transpose2d": "torch.nn.ConvTranspose2d",
    "group_norm": "torch.nn.GroupNorm",
    "instance_norm": "torch.nn.InstanceNorm2d",
    "pad": "torch.nn.ZeroPad2d or its like",
}
"""Layers that can be inflated, by the function that does the same."""


@dataclass(eq=False)
class Trial(TorchFunctionMode):
    """What a network gives for one input, submodule by submodule as they end, and what each calls by itself."""

    ended: list[tuple[str, list[torch.Tensor]]] = field(default_factory=list)
    calls: dict[str, list[str]] = field(default_factory=dict)
    """Names of torch functions, by the path of the innermost submodule in whose forward they were called."""
    error: Exception | None = None
    running: list[str] = field(default_factory=list)
    """Paths of the submodules that have begun and not ended, the innermost last."""
    is_noting: bool = False
    """Whether what is called now is our own."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 -- torch calls it so
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if self.running and not self.is_noting:
            self.calls.setdefault(self.running[-1], []).append(getattr(func, "__name__", ""))
        return func(*args, **dict(kwargs or {}))

    def of(self, network: torch.nn.Module, x: torch.Tensor) -> "Trial":
        """Run ``network`` on ``x``; what it raises is kept, not raised."""
        with self._listening(network), torch.no_grad(), self:
            try:
                network(x)
            except Exception as error:  # noqa: BLE001 -- whatever a user's forward raises on a volume
                self.error = error
        return self

    @contextmanager
    def _listening(self, network: torch.nn.Module) -> Iterator[None]:
        handles = []
        for path, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(lambda _m, _x, path=path: self.running.append(path)))
            handles.append(module.register_forward_hook(lambda _m, _x, y, path=path: self._end(path, y)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _end(self, path: str, output: object) -> None:
        self.is_noting = True
        self.ended.append((path, [value.clone() for value in leaves(output, torch.Tensor)]))
        self.is_noting = False
        self.running.pop()


def check_slices(network: torch.nn.Module, sliced: torch.nn.Module, *, axis: int) -> None:
    """Refuse a network of two dimensions that does not do to slices of a volume what it does to each alone.

    Args:
        network: The network of two dimensions, in eval mode.
        sliced: The same made of layers of three dimensions that join no slices.
        axis: Where in space the slices follow each other.

    Raises:
        ModelError: If the outputs differ, naming the innermost submodule where they first do and what it calls.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    subject = meet(NamedOutputs(network), dtype=dtype, n_space=2)
    sides = [max(SHORTEST, N_STEPS * lengths.modulus) for lengths in subject.lengths]
    plane = (subject.lengths[0].at_least(sides[0]), subject.lengths[1].at_least(sides[1] + 1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((N_SLICES, subject.n_channels, *plane), generator=generator).to(subject.device, dtype)
    flat, solid = Trial().of(network, x), Trial().of(sliced, x.movedim(0, 1)[None].movedim(2, 2 + axis))
    if flat.error is not None:
        raise ModelError(
            f"a network that runs on a batch of {N_SLICES} is wanted, and this one does not: {one_line(flat.error)}. "
            "Correct its forward."
        ) from flat.error
    if solid.error is None and _is_same(flat.ended[-1][1], solid.ended[-1][1]):
        return
    raise _refusal(network, flat, solid) from solid.error


def _refusal(network: torch.nn.Module, flat: Trial, solid: Trial) -> ModelError:
    """Return the error that names where two trials first part."""
    pairs = zip(flat.ended, solid.ended, strict=False)
    parted = next((one for one, other in pairs if one[0] != other[0] or not _is_same(one[1], other[1])), None)
    path = parted[0] if parted is not None else (solid.running or [flat.ended[-1][0]])[-1]
    module = network.get_submodule(path)
    calls = flat.calls.get(path, [])
    named = next((name for name in calls if name in CURES), None)
    where = submodule_name(path, module)
    why = f" ({one_line(solid.error)})" if solid.error is not None and parted is None else ""
    if named is not None:
        return ModelError(
            f"a network whose layers all stand in its tree can be inflated, and {where} calls '{named}' in its "
            f"forward, which no longer does to a slice what it did{why}. Use {CURES[named]} as a layer instead, or run "
            "the network slice by slice: scan.zarr#slices=1."
        )
    shown = f" (it calls {', '.join(dict.fromkeys(filter(str.isidentifier, calls)))})" if calls else ""
    return ModelError(
        f"a network that does to every slice of a volume what it does to that slice alone can be inflated, and {where} "
        f"does not{shown}{why}. Write its forward so that it names no dimension of space, or run the network slice by "
        "slice: scan.zarr#slices=1."
    )


def _is_same(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    """Say whether tensors of a volume are those of its slices (slice, ...), whichever dimension these lie along."""
    return len(wanted) == len(found) and all(_fits(a, b) for a, b in zip(wanted, found, strict=True))


def _fits(wanted: torch.Tensor, found: torch.Tensor) -> bool:
    if found.dim() != wanted.dim() + 1 or len(found) != 1:
        return False
    return any(_close(wanted, found.movedim(d, 1)[0]) for d in range(1, found.dim()))


def _close(wanted: torch.Tensor, found: torch.Tensor) -> bool:
    if wanted.shape != found.shape:
        return False
    if not wanted.is_floating_point():
        return float((wanted != found).double().mean()) <= LABEL_TOLERANCE
    most = float(wanted.abs().nan_to_num().max()) if wanted.numel() else 0.0
    return torch.allclose(wanted, found, rtol=0.0, atol=TOLERANCE * max(most, 1e-30), equal_nan=True)
