"""Small modules that users compose with a network: what comes before it, after it, and beside it."""

from collections.abc import Sequence

import torch
from torch import nn

from engine.errors import ModelError

NamedTensors = dict[str, torch.Tensor]


class Compose(nn.Module):
    """Modules run one after the other: a pipeline is one module.

    A lone tensor is handed on as it is, and so is the one entry of a dict that holds just "output".
    A dict of other names is handed on only to a module that says ``takes_named = True``.

    >>> Compose(nn.Identity(), ArgMax())(torch.tensor([[0.1, 0.9]]).reshape(1, 2, 1, 1))
    tensor([[[1]]], dtype=torch.uint8)
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self.add_module(str(index), module)

    def forward(self, x: torch.Tensor) -> torch.Tensor | NamedTensors:
        """Return what the last module gives for ``x`` (batch, channel, *space).

        Raises:
            ModelError: If named outputs meet a module that needs one tensor.
        """
        value: torch.Tensor | NamedTensors = x
        for module in self.children():
            value = module(_handed_on(value, module))
        return value


def _handed_on(value: torch.Tensor | NamedTensors, module: nn.Module) -> torch.Tensor | NamedTensors:
    if not isinstance(value, dict) or getattr(module, "takes_named", False):
        return value
    if list(value) == ["output"]:
        return value["output"]
    raise ModelError(
        f"{type(module).__name__} needs one tensor, but the part before it gives named outputs "
        f"{', '.join(map(repr, value))}. Put Select('{next(iter(value), 'name')}') between them."
    )


class Softmax(nn.Module):
    """Probabilities over channels.

    >>> Softmax()(torch.zeros(1, 2, 1)).flatten().tolist()
    [0.5, 0.5]
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, channel, *space), each voxel's channels summing to 1."""
        return torch.softmax(x, dim=1)


class ArgMax(nn.Module):
    """The channel with the largest value: a label map (batch, *space) without a channel axis.

    >>> ArgMax()(torch.tensor([[[1.0, 5.0], [3.0, 2.0]]]))
    tensor([[1, 0]], dtype=torch.uint8)
    """

    def __init__(self, dtype: torch.dtype = torch.uint8) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return labels of ``dtype``; the first of equal channels wins."""
        return torch.argmax(x, dim=1).to(self.dtype)


class Quantise(nn.Module):
    """Values of ``[low, high]`` spread evenly over a whole-number dtype; what lies outside is clipped.

    ``value = low + stored * (high - low) / steps`` takes it back, exact to half a step: see :meth:`dequantise`.

    >>> quantise = Quantise(0.0, 1.0)
    >>> quantise(torch.tensor([0.0, 0.5, 2.0])), quantise.dequantise(torch.tensor(255))
    (tensor([  0, 128, 255], dtype=torch.uint8), tensor(1.))

    Raises:
        ModelError: If ``low`` is not below ``high``, or the dtype is not of whole numbers.
    """

    def __init__(self, low: float, high: float, dtype: torch.dtype = torch.uint8) -> None:
        super().__init__()
        if not low < high:
            raise ModelError(f"Quantise needs low below high, not {low} and {high}. Give the range of the values.")
        if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
            raise ModelError(f"Quantise needs a dtype of whole numbers, not {dtype}. Use torch.uint8 or torch.int16.")
        self.low, self.high, self.dtype = float(low), float(high), dtype
        information = torch.iinfo(dtype)
        self.first, self.steps = information.min, information.max - information.min

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` as whole numbers of ``dtype``, same shape."""
        share = ((x - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        return (torch.round(share * self.steps) + self.first).to(self.dtype)

    def dequantise(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the values, float32, that the stored numbers stand for."""
        return self.low + (stored.to(torch.float32) - self.first) * ((self.high - self.low) / self.steps)


class Normalise(nn.Module):
    """``(x - mean) / std`` by constants, one for all channels or one per channel.

    >>> Normalise([1.0, 2.0], 2.0)(torch.full((1, 2, 1), 4.0)).flatten().tolist()
    [1.5, 1.0]

    Raises:
        ModelError: If a standard deviation is not positive.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).reshape(-1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).reshape(-1))
        if not bool((self.std > 0).all()):
            raise ModelError(f"Normalise needs a positive std, not {self.std.tolist()}. Leave a constant channel out.")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space), normalised, of the same dtype."""
        space = (1,) * (x.dim() - 2)
        return (x - self.mean.to(x.dtype).reshape(-1, *space)) / self.std.to(x.dtype).reshape(-1, *space)


class Select(nn.Module):
    """One of the named outputs of the part before.

    >>> Select("logits")({"logits": torch.ones(1), "distance": torch.zeros(1)})
    tensor([1.])
    """

    takes_named = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, outputs: NamedTensors) -> torch.Tensor:
        """Return the tensor of that name.

        Raises:
            ModelError: If there is none.
        """
        if self.name not in outputs:
            raise ModelError(f"there is no output '{self.name}' among {', '.join(map(repr, outputs))}. Select one.")
        return outputs[self.name]


class Named(nn.Module):
    """Several modules on one input, each giving the output of its name.

    >>> sorted(Named(p=Softmax(), label=ArgMax())(torch.zeros(1, 2, 1)))
    ['label', 'p']
    """

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(modules)

    def forward(self, x: torch.Tensor) -> NamedTensors:
        """Return each head's tensor under its name, in the order given."""
        return {name: head(x) for name, head in self.heads.items()}
