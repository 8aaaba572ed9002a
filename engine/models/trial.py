"""What a part of a model gives for a batch of items of which each must be seen alone: found by trying it."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from engine.errors import EngineError, ModelError
from engine.models.weights import one_line


def tried(
    answers: Callable[[torch.Tensor], torch.Tensor],
    part: nn.Module,
    shape: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
    what: str,
    item: str,
    cure: str,
) -> tuple[int, torch.dtype]:
    """Return the channels and the dtype that a part gives for a random batch.

    Args:
        answers: Takes (item, ...), gives (item, channel, ...).
        part: What answers; where it has tensors, the batch lies on their device.
        shape: Of the batch.
        dtype: Of the batch.
        device: Of the batch where the part has no tensors.
        what: Its name in messages.
        item: What one item is called there.
        cure: Why items may meet, and what helps.

    Raises:
        ModelError: If ``answers`` does, or items of one batch meet.
        RuntimeError: If it fails: another number of channels may do.
    """
    device = next((tensor.device for tensor in (*part.parameters(), *part.buffers())), device)
    batch = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)
    with torch.no_grad():
        try:
            y = answers(batch)
            is_steady = not y.is_meta and len(y) > 1 and torch.equal(y, answers(batch))
            difference = _between_items(answers, batch, y) if is_steady else 0.0
        except EngineError:
            raise
        except Exception as error:
            raise RuntimeError(f"{what} fails on a batch of {tuple(shape)}: {one_line(error)}") from error
    if difference > 0:
        raise ModelError(
            f"every {item} must be seen alone, but {what} gives other values (by {difference:.2g}) when another {item} "
            f"of the batch changes: {cure}"
        )
    return y.shape[1], y.dtype


def _between_items(answers: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, y: torch.Tensor) -> float:
    """Return by how much the answers to others change with an item in the middle; 0 where it is rounding."""
    changed, middle = batch.clone(), len(batch) // 2
    changed[middle] = 3 * changed[middle] + 1
    others = torch.arange(len(batch), device=batch.device) != middle
    difference = float((answers(changed) - y)[others].abs().max())
    return difference if difference > 1e-4 * float(y[others].abs().max()) else 0.0
