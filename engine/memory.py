"""How many bytes a worker will hold: plain integer arithmetic, checked before a run."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

BASE_BYTES = 700 * 2**20
"""An empty worker: Python, torch, ray, zarr and their threads. Measured 0.45 to 0.6 GB of RSS on Linux."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected bytes of one worker at its peak."""

    base: int
    """The process before any block: interpreter, libraries, weights."""
    tile: int
    """Activations of one model call on a whole batch of tiles."""
    block_in: int
    """Source voxels that one block reads, halo included."""
    block_out: int
    """Output voxels that one block holds until they are stored."""
    n_in_flight: int
    """Blocks that one worker holds at once: one read, one computed, one written."""
    storing: int
    """Copies that encoding one block makes."""
    on_device: int = 0
    """On a GPU: activations and the blocks in flight there; ``tile`` is 0 then."""

    @property
    def n_bytes(self) -> int:
        """All of it.

        >>> Projection(base=100, tile=50, block_in=10, block_out=5, n_in_flight=3, storing=7).n_bytes
        202
        """
        return self.base + self.tile + self.n_in_flight * (self.block_in + self.block_out) + self.storing


def tile_bytes(*, bytes_per_voxel: float, tile_voxels: int, batch_size: int) -> int:
    """Return the projected activations of a model call, from what a probe run measured per voxel.

    >>> tile_bytes(bytes_per_voxel=192.5, tile_voxels=1000, batch_size=2)
    385000
    """
    return int(bytes_per_voxel * tile_voxels * batch_size)


def available_bytes() -> int:
    """Return the memory this process may use: the cgroup's limit where there is one, else what the machine has free."""
    free = int(psutil.virtual_memory().available)
    limits = [free]
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit():
        limits.append(int(slurm) * 2**20)
    return min(limits)


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def n_cpus() -> int:
    """Return the CPUs this process may use: affinity, cgroup quota and Slurm counted; at least 1."""
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1]
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota.isdigit():
            counts.append(max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit():
        counts.append(int(slurm))
    return max(1, min(counts))


def parse_bytes(text: str) -> int:
    """Return the bytes that a person wrote: 500M, 2G, 1.5GiB, 1000000.

    >>> parse_bytes("1.5G"), parse_bytes("64KiB")
    (1610612736, 65536)

    Raises:
        ValueError: If the text is not a size.
    """
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    bare = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = bare[-1:] if bare[-1:] in "KMGT" else ""
    value = float(bare[: len(bare) - len(unit)])
    if not 0 < value < float("inf"):
        raise ValueError(f"a size in bytes must be positive, not {text!r}")
    return int(value * units[unit])


def format_bytes(n: int) -> str:
    """Return a size for people.

    >>> format_bytes(1610612736), format_bytes(900)
    ('1.5 GiB', '900 B')
    """
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
