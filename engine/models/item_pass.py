"""A model over batches of whole items, all of one shape and one number: no tiles, no halo."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.models.forward import memory_errors
from engine.models.load import Model
from engine.models.measure import Cost, measure, pin_arithmetic, precision_context


@dataclass(frozen=True, slots=True)
class ItemPass:
    """A model on a device."""

    module: torch.nn.Module
    """Takes (batch, channel, *space), gives a dict of named tensors."""
    dtype: torch.dtype
    """Of the model's input."""
    device: torch.device
    precision: str

    @classmethod
    def of(cls, model: Model, device: torch.device, precision: str) -> "ItemPass":
        """Return a loaded model on ``device``, where it is moved to."""
        pin_arithmetic(device)
        return cls(model.module.to(device), model.dtype, device, precision)

    def run(self, batch: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return each named output (item, ...) for items (channel, *space), each of the same shape.

        Raises:
            TileMemoryError: If the batch does not fit the memory.
            ModelError: If an output does not have the batch as its first axis.
        """
        with torch.inference_mode(), memory_errors(), precision_context(self.precision, self.device):
            outputs = self.module(self._held(batch))
            found = {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in outputs.items()}
            for name, value in found.items():
                if value.ndim == 0 or len(value) != len(batch):
                    raise ModelError(
                        f"output '{name}' must have the batch of {len(batch)} items as its first axis, not the shape "
                        f"{tuple(value.shape)}. Keep that axis."
                    )
            return {name: value.cpu().numpy() for name, value in found.items()}

    def cost(self, batch: Sequence[NDArray[Any]]) -> Cost:
        """Return the seconds and the peak bytes of a call on ``batch``, measured."""
        with memory_errors():
            return measure(self.module, self._held(batch), precision=self.precision)

    def _held(self, batch: Sequence[NDArray[Any]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(batch)).to(self.device).to(self.dtype)
