"""Labels of regions that overlap, such as a tumour in an organ: the later region lies over the earlier one."""

from collections.abc import Sequence

import torch
from torch import nn

from engine.errors import ModelError


class RegionLabels(nn.Module):
    """One label per voxel, of regions that each are a yes or no: a sigmoid above one half, that is a logit above 0.

    nnU-Net's ``regions_class_order``: where several regions say yes, the last one counts; where none does, 0 is given.

    >>> RegionLabels([1, 2])(torch.tensor([[[-1.0, 3.0, 3.0], [-1.0, -1.0, 3.0]]]))
    tensor([[0, 1, 2]], dtype=torch.uint8)

    Raises:
        ModelError: If there is no region, or a label is no uint8.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        super().__init__()
        if not labels or not all(0 <= label <= 255 for label in labels):
            raise ModelError(f"RegionLabels needs a label from 0 to 255 per region, not {list(labels)}. Give those.")
        self.labels = tuple(labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return labels (batch, *space) of logits (batch, region, *space)."""
        is_inside = x > 0
        found = torch.zeros_like(x[:, 0], dtype=torch.uint8)
        for region, label in enumerate(self.labels):
            found = found.masked_fill(is_inside[:, region], label)
        return found
