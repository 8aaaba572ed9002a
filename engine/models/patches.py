"""Patch models as modules with a coarse output grid: any classifier or encoder of patches, run over a whole volume.

The field's patch models see a patch of fixed size and give one vector for it. :class:`Patches` cuts
its input into such patches, runs the encoder on each, and lays the vectors out as a grid:

    input   |pppppppp|pppppppp|pppppppp|ppp    size 8, stride 8; what is left at the far end is dropped
    output  |   v    |   v    |   v    |

What is global in the encoder (attention, pooling over space, instance norm) is bounded by the patch,
so its geometry is that of a convolution with the kernel ``size`` and no padding, by construction. To
learn it, the encoder is not run: such a convolution stands in for it; see :mod:`engine.models.skeleton`.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError
from engine.models.skeleton import in_own_thread, is_skeleton
from engine.models.trial import tried

BATCH_SIZE = 16
"""Patches in one call of an encoder: 4 by 4 of them make a tile of about a megapixel."""

MPP_TOLERANCE = 0.05
"""By how much a slide's spacing may differ from the encoder's, as a share of it."""

_CURE = (
    "a batch norm takes the batch's own statistics. Keep running statistics (track_running_stats=True) and use eval "
    "mode."
)


def longest_patch(module: nn.Module) -> int:
    """Return the side of the largest patch that a pipeline cuts, or 0 where it cuts none."""
    return max((part.size for part in module.modules() if isinstance(part, Patches)), default=0)


class Patches(nn.Module):
    """An encoder of patches as a module: (batch, channel, y, x) to (batch, feature, rows, columns).

    The encoder is always called on exactly ``batch_size`` patches, the last call filled up, so that no
    feature depends on how many patches a tile holds. A tile of fewer patches costs as much as a full batch.

    >>> Patches(nn.Flatten(), size=2, batch_size=4)(torch.arange(16.0).reshape(1, 1, 4, 4))[0, :, 1, 0]
    tensor([ 8.,  9., 12., 13.])

    Args:
        encoder: Takes (n, channel, size, size), gives (n, feature), (n,) or (n, feature, 1, 1).
        size: Side of a patch, in voxels.
        stride: From one patch to the next; ``size`` where not given.
        mpp: Micrometres per voxel that the encoder was trained on; None where it does not matter.
        mpp_tolerance: By how much a slide's spacing may differ, as a share of ``mpp``.
        batch_size: Patches in one call of the encoder.
        class_names: Of the features, where the encoder is a classifier.

    Raises:
        ModelError: If a number makes no sense.
    """

    stands_in = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        size: int,
        stride: int | None = None,
        mpp: float | None = None,
        mpp_tolerance: float = MPP_TOLERANCE,
        batch_size: int = BATCH_SIZE,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.size, self.stride, self.batch_size = size, size if stride is None else stride, batch_size
        self.mpp, self.mpp_tolerance = mpp, mpp_tolerance
        self.class_names = tuple(class_names)
        self._known: dict[tuple[int, torch.dtype], tuple[int, torch.dtype]] = {}
        for name in ("size", "stride", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ModelError(f"Patches needs a {name} of whole voxels or patches from 1 on, not {value}. Give one.")

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return (
            f"size={self.size}, stride={self.stride}, mpp={self.mpp}, mpp_tolerance={self.mpp_tolerance}, "
            f"batch_size={self.batch_size}, class_names={self.class_names}"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of every patch that lies whole in ``x`` (batch, channel, y, x), on their grid.

        Raises:
            ModelError: If the encoder gives no vector per patch.
        """
        if is_skeleton():
            return self._skeleton(x)
        windows = x.unfold(2, self.size, self.stride).unfold(3, self.size, self.stride)  # a view
        n_items, _, n_rows, n_columns = windows.shape[:4]
        places = [(b, i, j) for b in range(n_items) for i in range(n_rows) for j in range(n_columns)]
        n_missing = -len(places) % self.batch_size
        filled = [*places, *places[-1:] * n_missing]
        vectors = []
        for first in range(0, len(filled), self.batch_size):
            chunk = filled[first : first + self.batch_size]
            vectors.append(self.vectors(torch.stack([windows[b, :, i, j] for b, i, j in chunk])))
        grid = torch.cat(vectors)[: len(places)].reshape(n_items, n_rows, n_columns, -1)
        return grid.permute(0, 3, 1, 2).contiguous()

    def vectors(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the encoder's (n, feature) for ``patches`` (n, channel, size, size).

        Raises:
            ModelError: If it gives something else.
        """
        y = self.encoder(patches)
        if not isinstance(y, torch.Tensor):
            raise ModelError(
                f"the encoder {self._name} of Patches must give one tensor, not {_described(y)}. "
                "Wrap it in a module that picks the features."
            )
        if y.dim() == 0 or len(y) != len(patches) or y.numel() != len(patches) * (y.shape[1] if y.dim() > 1 else 1):
            raise ModelError(
                f"the encoder {self._name} of Patches must give (patch, feature) for {len(patches)} patches, not "
                f"{tuple(y.shape)}. Pool its map or its tokens, or take the class token."
            )
        return y.reshape(len(patches), -1)

    @property
    def _name(self) -> str:
        return f"'{getattr(self.encoder, 'original_name', type(self.encoder).__name__)}'"

    def _skeleton(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the true shape and dtype, whose voxels see exactly their patch."""
        key = (int(x.shape[1]), x.dtype)
        if key not in self._known:
            shape = (min(2, self.batch_size), x.shape[1], self.size, self.size)
            self._known[key] = in_own_thread(
                lambda: tried(
                    self.vectors, self.encoder, shape, dtype=x.dtype, device=x.device, item="patch", cure=_CURE,
                    what=f"the encoder {self._name} of Patches",
                )
            )  # fmt: skip
        n_features, dtype = self._known[key]
        seen = F.avg_pool2d(x, self.size, self.stride).mean(dim=1, keepdim=True)
        return seen.expand(-1, n_features, -1, -1).to(dtype)


def _described(value: object) -> str:
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, value)) or 'nothing'}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
