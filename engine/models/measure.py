"""What one call of a model costs here: seconds and peak bytes, measured by running it."""

import re
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.models.allocator import HOLES, no_memory_kept, release_freed_memory

PRECISIONS = ("float32", "float64", "bfloat16")
"""What a run may compute in; float32 and float64 are the model's own, bfloat16 is autocast."""

SMALL_ELEMENTS = 2**20
"""Of an input whose first run is not measured: kernels are made then, and weights reordered, some 50 MB once."""

FEWEST_RUNS, MOST_RUNS, SECONDS_OF_RUNS = 2, 5, 0.5
"""A run is timed again until the seconds or the most are reached: the fastest counts. The first takes its memory anew
from the system, which a worker does once, and others may use the machine."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call on a batch of tiles."""

    seconds: float
    peak_bytes: int
    """Above what was held before the call, input included; on a CPU with the holes that kept memory has."""


def pin_arithmetic(device: torch.device) -> None:
    """Switch off what lets results differ by more than rounding: TF32 and kernel search. Idempotent."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False


def precision_context(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context that a forward of this precision runs in."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def measure(module: torch.nn.Module, x: torch.Tensor, *, precision: str = "float32") -> Cost:
    """Run ``module`` on ``x`` (batch, channel, *space), once for its memory, then a few times for its seconds.

    Returns:
        The fastest run's seconds, and the peak bytes of one run.
    """
    seconds: list[float] = []
    with torch.inference_mode(), precision_context(precision, x.device):
        with no_memory_kept():
            if x.numel() < SMALL_ELEMENTS:
                module(x)
            before = _mark(x.device)
            module(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            peak = _peak(x.device) - before
        while len(seconds) < FEWEST_RUNS or (len(seconds) < MOST_RUNS and sum(seconds) < SECONDS_OF_RUNS):
            begin = time.perf_counter()
            module(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            seconds.append(time.perf_counter() - begin)
    needed = max(peak, 0) + x.numel() * x.element_size()
    return Cost(min(seconds), needed if x.is_cuda else int(HOLES * needed))


def _mark(device: torch.device) -> int:
    """Reset the peak and return the bytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    release_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return _status_bytes("VmHWM")
    return _status_bytes("VmRSS")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found.group(1)) * 1024 if found else 0
