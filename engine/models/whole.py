"""A model over one array in one pass: for what is small enough, such as a thumbnail."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.models.load import Model


def whole_pass(model: Model, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the model's named outputs for an array (channel, *space): each without its batch axis."""
    x = torch.from_numpy(np.ascontiguousarray(array))[None].to(model.dtype)
    with torch.inference_mode():
        return {name: value[0].numpy() for name, value in model.module(x).items()}
