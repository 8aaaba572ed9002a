"""Runs a model over the tiles of a block, on whatever device there is.

Three steps that a worker overlaps: ``upload`` (native dtype to the device), ``run`` (tiles cut from the
block on the device, converted there, computed in batches of one size, cores copied into the block's
outputs) and ``download``. On CUDA each step has its own stream, and host buffers are pinned and reused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch

from engine.errors import EngineError, ModelError
from engine.geometry.tile_job import TileJob
from engine.models.measure import pin_arithmetic, precision_context


class TileMemoryError(EngineError):
    """A tile does not fit the device's memory; a smaller one may."""


@dataclass(frozen=True, slots=True)
class Held:
    """Tensors on the device, and the event after which they may be used; None on a CPU."""

    tensors: dict[str, torch.Tensor]
    ready: torch.cuda.Event | None = None
    pinned: tuple[torch.Tensor, ...] = ()


@dataclass
class Forward:
    """A model on a device, with the one shape and batch that all its calls have."""

    module: torch.nn.Module
    """Takes (batch, channel, *space), gives a dict of named tensors."""
    dtype: torch.dtype
    """Of the model's input."""
    device: torch.device
    precision: str
    batch_size: int
    _spare: dict[tuple[tuple[int, ...], torch.dtype], list[torch.Tensor]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        pin_arithmetic(self.device)
        self.module = self.module.to(self.device)
        is_cuda = self.device.type == "cuda"
        self._streams = [_stream(self.device) for _ in range(3)] if is_cuda else []

    def upload(self, block: np.ndarray) -> Held:
        """Bring a block's input (item, channel, *space), any numeric dtype, to the device. A view on a CPU."""
        host = torch.from_numpy(block)
        if not self._streams:
            return Held({"input": host})
        pinned = self._take(tuple(host.shape), host.dtype)
        pinned.copy_(host)
        with torch.cuda.stream(self._streams[0]):
            there = pinned.to(self.device, non_blocking=True)
            return Held({"input": there}, self._streams[0].record_event(), (pinned,))

    def run(self, held: Held, jobs: Sequence[TileJob], shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> Held:
        """Compute all tiles and return the block's outputs, still on the device.

        Args:
            held: From :meth:`upload`.
            jobs: The block's tiles.
            shapes: Per output, the block's shape (item, [channel,] *space) and NumPy dtype.

        Raises:
            TileMemoryError: If a batch of tiles does not fit the memory.
            ModelError: If the model's output is not what its geometry says.
        """
        with torch.inference_mode(), self._on_stream(1, held), memory_errors():
            outputs = {
                name: torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
                for name, (shape, dtype) in shapes.items()
            }
            for first in range(0, len(jobs), self.batch_size):
                batch = jobs[first : first + self.batch_size]
                self._run_batch(held.tensors["input"], batch, outputs)
            ready = self._streams[1].record_event() if self._streams else None
        self._give_back(held)
        return Held(outputs, ready)

    def _run_batch(self, block: torch.Tensor, batch: Sequence[TileJob], outputs: dict[str, torch.Tensor]) -> None:
        filled = [*batch, *([batch[-1]] * (self.batch_size - len(batch)))]
        tiles = [block[job.item][(slice(None), *job.source.slices)] for job in filled]
        x = tiles[0][None] if len(tiles) == 1 else torch.stack(tiles)
        with precision_context(self.precision, self.device):
            results = self.module(x.to(self.dtype).contiguous())
        for name, whole in outputs.items():
            y = results[name]
            for i, job in enumerate(batch):
                copy = job.copies.get(name)
                if copy is None:
                    continue
                has_channels = y.ndim == x.ndim
                lead = (slice(None),) if has_channels else ()
                part = y[i][(*lead, *copy.local.slices)]
                if tuple(part.shape[len(lead) :]) != copy.local.shape:
                    raise ModelError(
                        f"output '{name}' has shape {tuple(y.shape)} for a tile of {tuple(x.shape)}, too small for "
                        f"its core {copy.local}: the model's geometry is not what it was when planned. Check the model."
                    )
                whole[job.item][(*lead, *copy.target.slices)] = part

    def download(self, held: Held) -> dict[str, np.ndarray]:
        """Bring a block's outputs back to the host. A view on a CPU."""
        if not self._streams:
            return {name: tensor.numpy() for name, tensor in held.tensors.items()}
        found = {}
        with self._on_stream(2, held):
            for name, tensor in held.tensors.items():
                pinned = self._take(tuple(tensor.shape), tensor.dtype)
                pinned.copy_(tensor, non_blocking=True)
                found[name] = pinned
            self._streams[2].synchronize()
        arrays = {name: pinned.numpy().copy() for name, pinned in found.items()}
        self._give_back(Held({}, None, tuple(found.values())))
        return arrays

    @contextmanager
    def _on_stream(self, number: int, held: Held) -> Iterator[None]:
        """Enter a stream that waits for what is held, and keep its memory until the stream is done with it."""
        if not self._streams:
            yield
            return
        stream = self._streams[number]
        with torch.cuda.stream(stream):
            if held.ready is not None:
                stream.wait_event(held.ready)
            for tensor in held.tensors.values():
                tensor.record_stream(stream)
            yield

    def _take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        with self._lock:
            spare = self._spare.setdefault((shape, dtype), [])
            if spare:
                return spare.pop()
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def _give_back(self, held: Held) -> None:
        """Return pinned buffers to the pool; each was read by the device before its event."""
        if held.ready is not None:
            held.ready.synchronize()
        with self._lock:
            for pinned in held.pinned:
                spare = self._spare[tuple(pinned.shape), pinned.dtype]
                if len(spare) < 2:
                    spare.append(pinned)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn every way to run out of memory into one error."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TileMemoryError(_first_line(error)) from error
    except RuntimeError as error:
        if "allocate memory" in str(error) or "not enough memory" in str(error):
            raise TileMemoryError(_first_line(error)) from error
        raise


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def pick_device(name: str | None = None) -> torch.device:
    """Return the device to run on: the one named, else a GPU where there is one, else the CPU.

    Raises:
        ModelError: If the device is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ModelError(f"the device must be cpu, cuda or cuda:NUMBER, not '{name}'. Use --device cpu or cuda.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device '{name}' was asked for, and torch sees no GPU here. Use --device cpu.")
    if number and int(number) >= torch.cuda.device_count():
        n_gpus = torch.cuda.device_count()
        raise ModelError(f"device '{name}' was asked for, and there are {n_gpus} GPUs. Use --device cuda:{n_gpus - 1}.")
    return torch.device(name)


DEVICE_SHARE = 0.8
"""Part of a GPU's free memory that a worker may use."""


def free_device_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU that a worker may use, or None for a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * DEVICE_SHARE)
