"""Runs a network whose outputs are made over a canvas: tiles or windows painted on its own grid, and brought back.

A block is painted from its first plane to its last. What no later tile paints is divided by the weights of
its windows, resampled to the source's grid a few planes at a time, reduced (an argmax, say), stored, and let
go: the canvas holds as many planes as tiles reach over, not the block, and no array of all classes over the
source's voxels is ever made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from engine.geometry.canvas import PAINTED
from engine.geometry.canvas_work import CanvasWork, Sight
from engine.geometry.tile_job import TileJob
from engine.models.forward import Forward, Held, memory_errors
from engine.models.measure import precision_context
from engine.models.resampled import resample_axis
from engine.models.stages import Stages
from engine.models.windowed import window_weights
from engine.models.wrappers import NamedTensors

SLAB_BYTES = 64 * 2**20
"""About how much of all classes on the source's grid is held at once; one plane at least."""

ROW = 1024
"""Voxels in a row, as modules that look at single voxels are shown them."""


@dataclass
class Painter(Forward):
    """A pipeline with a canvas on a device; its module is the network alone."""

    stages: Stages | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.stages is not None
        stages = self.stages
        for part in (stages.before, stages.inside, stages.blended, stages.after):
            part.to(self.device)
        self._weights: torch.Tensor | None = None

    def paint(self, held: Held, work: CanvasWork, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> Held:
        """Compute a block and return its outputs, still on the device.

        Args:
            held: The source voxels of ``work.read``, (item, channel, *space), from :meth:`upload`.
            work: What the block is made of.
            shapes: Per output, the block's shape (item, [channel,] *space) and NumPy dtype.

        Raises:
            TileMemoryError: If a batch of tiles, or the canvas, does not fit the memory.
        """
        with torch.inference_mode(), self._on_stream(1, held), memory_errors():
            outputs = {
                name: torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
                for name, (shape, dtype) in shapes.items()
            }
            batch: list[tuple[_Roll, TileJob, torch.Tensor]] = []
            for entry in self._tiles(held.tensors["input"], work, outputs):
                batch.append(entry)
                if len(batch) == self.batch_size:
                    self._paint_batch(batch)
                    batch = []
            if batch:
                self._paint_batch(batch)
            ready = self._streams[1].record_event() if self._streams else None
        self._give_back(held)
        return Held(outputs, ready)

    def _tiles(
        self, block: torch.Tensor, work: CanvasWork, outputs: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple["_Roll", TileJob, torch.Tensor]]:
        """Yield the tiles of each item in canonical order, with the roll that they are painted on."""
        assert self.stages is not None
        if self.stages.windowed is not None and self._weights is None:
            self._weights = window_weights(self.stages.windowed.windows(len(work.axes))).to(self.device)
        first = work.read.start[0]
        for item in range(len(block)):
            roll = _Roll(work, self.stages, {name: whole[item] for name, whole in outputs.items()}, self._weights)
            for row in work.rows:
                low, high = row.sights[0].read
                shown = self._shown(block[item : item + 1, :, low - first : high - first], row.sights)
                for job in row.jobs:
                    yield roll, job, shown[0][(slice(None), *job.source.slices)]

    def _shown(self, x: torch.Tensor, sights: Sequence[Sight]) -> torch.Tensor:
        """Return what a row of tiles is shown, of the source voxels that it is made of (1, channel, *space)."""
        assert self.stages is not None
        x = _lone(_voxelwise(self.stages.before, x.to(self.dtype)))
        for i, one in reversed(list(enumerate(sights))):
            is_all = one.there.is_identity and bool((np.diff(one.shown.voxels) == 1).all())
            if not is_all:
                x = resample_axis(x, i + 2, one.there, indices=one.shown.voxels, first=one.read[0])
        x = _lone(_voxelwise(self.stages.inside, x))
        if any(sum(one.shown.zeros) for one in sights):
            x = F.pad(x, [n for one in reversed(sights) for n in one.shown.zeros])
        return x

    def _paint_batch(self, batch: Sequence[tuple["_Roll", TileJob, torch.Tensor]]) -> None:
        tiles = [tile for _, _, tile in batch]
        tiles += [tiles[-1]] * (self.batch_size - len(batch))
        with precision_context(self.precision, self.device):
            y = self.module(torch.stack(tiles))[PAINTED]
        for i, (roll, job, _) in enumerate(batch):
            roll.paint(y[i], job)


class _Roll:
    """The canvas of one item: some planes of the first axis, from ``base`` on."""

    def __init__(
        self, work: CanvasWork, stages: Stages, outputs: Mapping[str, torch.Tensor], weights: torch.Tensor | None
    ) -> None:
        self.work = work
        self.stages = stages
        self.outputs = outputs
        """Per output, ([channel,] *space) of the block."""
        self.weights = weights
        self.n_left = work.n_tiles
        self.base = self.n_divided = 0
        """Planes of the canvas before the roll, and those whose sums are means by now; from what is needed first."""
        self.n_stored = 0
        """Planes of the outputs."""
        self.total: torch.Tensor | None = None
        self.count: torch.Tensor | None = None

    def paint(self, y: torch.Tensor, job: TileJob) -> None:
        """Add a tile's output (channel, *tile), and store what no later one paints."""
        copy = job.copies[PAINTED]
        self._advance(copy.target.start[0])
        if self.total is None:
            shape = self.work.canvas_shape
            dtype = torch.promote_types(y.dtype, torch.float32)
            self.total = torch.zeros((1, len(y), *shape), dtype=dtype, device=y.device)
            self.count = None if self.weights is None else self.total.new_zeros((1, 1, *shape))
        target = (slice(None), slice(None), *copy.target.shift([-self.base, *([0] * (y.dim() - 2))]).slices)
        local = copy.local.slices
        part = y[None][(slice(None), slice(None), *local)].to(self.total.dtype)
        if self.weights is None or self.count is None:
            self.total[target] = part
        else:
            weights = self.weights[local].to(part.dtype)
            self.total[target] += part * weights
            self.count[target] += weights
        self.n_left -= 1
        if not self.n_left:
            self._advance(self.work.axes[0].needed[1] - self.work.axes[0].needed[0])

    def _advance(self, n_painted: int) -> None:
        """Store what the first ``n_painted`` planes of the canvas give, and let go of those that nothing needs."""
        if self.total is None or n_painted <= self.n_divided:
            return
        if self.count is not None:
            done = slice(self.n_divided - self.base, n_painted - self.base)
            self.total[:, :, done] /= self.count[:, :, done]
        self.n_divided = n_painted
        first, (low, high) = self.work.axes[0].needed[0], self.work.axes[0].interval
        back = self.work.axes[0].back
        ready = min(back.n_ready(first + n_painted), high) - low
        while self.n_stored < ready:
            stop = min(ready, self.n_stored + self._planes_at_once())
            self._store(self.n_stored, stop)
            self.n_stored = stop
        kept = n_painted
        if low + self.n_stored < high:
            kept = min(kept, back.demand(low + self.n_stored, high - 1)[0] - first)
        self._let_go(kept)

    def _planes_at_once(self) -> int:
        assert self.total is not None
        plane = prod(axis.interval[1] - axis.interval[0] for axis in self.work.axes[1:])
        return max(1, SLAB_BYTES // (3 * plane * self.total.shape[1] * self.total.element_size()))

    def _store(self, start: int, stop: int) -> None:
        """Make planes [start, stop) of the outputs."""
        assert self.total is not None
        axes = self.work.axes
        first, low = axes[0].needed[0] + self.base, axes[0].interval[0]
        seen = axes[0].back.demand(low + start, low + stop - 1)
        x = _lone(_voxelwise(self.stages.blended, self.total[:, :, seen[0] - first : seen[1] + 1 - first]))
        for i, axis in enumerate(axes):
            span = (low + start, low + stop) if i == 0 else axis.interval
            if not axis.back.is_identity:
                at = seen[0] if i == 0 else axis.needed[0]
                x = resample_axis(x, i + 2, axis.back, indices=np.arange(*span), first=at)
        found = _voxelwise(self.stages.after, x)
        for name, whole in self.outputs.items():
            whole.narrow(whole.dim() - len(axes), start, stop - start).copy_(found[name][0])

    def _let_go(self, n_before: int) -> None:
        """Forget the planes before ``n_before``, and clear as many for what comes."""
        n_gone = n_before - self.base
        for tensor in (self.total, self.count):
            if tensor is not None and n_gone:
                n_kept = max(tensor.shape[2] - n_gone, 0)
                tensor[:, :, :n_kept] = tensor[:, :, tensor.shape[2] - n_kept :].clone()
                tensor[:, :, n_kept:] = 0
        self.base = n_before


def _voxelwise(module: nn.Module, x: torch.Tensor) -> NamedTensors:
    """Return what a module that looks at single voxels gives for ``x`` (batch, channel, *space), by name.

    It is shown the voxels in rows of one length: what is left over of a row may be computed by another kernel, and
    its last bits would tell where a block ends.
    """
    if isinstance(module, nn.Identity):
        return {"output": x}
    lead, space = x.shape[:2], x.shape[2:]
    n = prod(space)
    rows = F.pad(x.reshape(*lead, n), (0, -n % ROW)).reshape(*lead, *([1] * (len(space) - 2)), -1, ROW)
    value = module(rows if len(space) > 1 else rows.reshape(*lead, -1))
    found = value if isinstance(value, dict) else {"output": value}
    return {name: _unrolled(y, space) for name, y in found.items()}


def _unrolled(y: torch.Tensor, space: Sequence[int]) -> torch.Tensor:
    """Return voxels that lie in rows on their grid again."""
    lead = y.shape[: y.dim() - len(space)]
    return y.reshape(*lead, -1)[..., : prod(space)].reshape(*lead, *space)


def _lone(found: NamedTensors) -> torch.Tensor:
    (tensor,) = found.values()
    return tensor
