"""How near a run comes to the bare model over the same voxels in memory, and to the floor of its three stages."""

import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import ray
import torch

from benchmarks.report import Result
from benchmarks.runs import repeated
from benchmarks.volumes import generated
from engine.geometry.region import Region
from engine.memory import n_cpus
from engine.models.load import load_model
from engine.plan import Plan
from engine.prepare import Options, Prepared, prepare
from engine.runner import ray_runner
from engine.runtime.cluster import connect
from engine.runtime.stitch import block_jobs
from engine.storage.output import open_output
from engine.storage.volume import Volume

N_THREADS = 2
N_ROUNDS = 5

WHOLE = "one tile holds it"
EIGHTH = "a tile is an eighth at most"


@dataclass(frozen=True)
class Case:
    """A compute-bound network over a volume that fits in memory."""

    name: str
    model: str
    axes: str
    shape: tuple[int, ...]
    dtype: str = "uint8"


CASES = (
    Case("3-d U-Net", "benchmarks.networks:unet_3d", "zyx", (160, 160, 160)),
    Case("2-d U-Net", "benchmarks.networks:unet_2d", "cyx", (3, 2048, 2048)),
)


@dataclass(frozen=True)
class Spent:
    """Seconds of one thing done once."""

    wall: float
    cpu: float


def spend(deed: Callable[[], object]) -> Spent:
    """Return what a deed costs in this process."""
    wall, cpu = time.perf_counter(), _cpu()
    deed()
    return Spent(time.perf_counter() - wall, _cpu() - cpu)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> list[Result]:
    """Measure everything of this part."""
    torch.set_num_threads(N_THREADS)
    rows = [row for case in CASES for row in compute_bound(case)]
    compute = Result(
        "A run over the bare model, compute-bound",
        ("network, volume, memory", "tile", "computed/core", "bare s", "run s", "ratio", "wanted"),
        tuple(rows),
        f"Steady state: from the first submit to the last receipt, one Ray worker, warm, pyramid included. Best of "
        f"{N_ROUNDS} interleaved rounds, {N_THREADS} threads. Wanted: 1.10, times computed/core where memory is short.",
    )
    return [compute, io_bound()]


def compute_bound(case: Case) -> list[tuple[str, ...]]:
    """Return the rows of one network, with memory ample and short."""
    volume = generated(axes=case.axes, shape=case.shape, dtype=case.dtype)
    model = load_model(case.model)
    n_space = 3 if case.axes == "zyx" else 2
    sizes = case.shape[-n_space:]
    whole = volume.read(Region.whole(volume.shape)).reshape(1, -1, *sizes)
    x = torch.from_numpy(whole).to(torch.float32)
    rows = []
    for memory in (WHOLE, EIGHTH):
        prepared, options = _planned(case, volume, memory)
        bare: list[float] = []
        ours: list[float] = []
        with repeated(prepared, model=case.model, options=options, runner=ray_runner()) as run, torch.inference_mode():
            model.module(x)
            for _ in range(N_ROUNDS):
                bare.append(spend(lambda: model.module(x)).wall)
                ours.append(run.again())
        rows.append(_row(f"{case.name}, {_times(sizes)}", memory, prepared.plan, bare=min(bare), ours=min(ours)))
    return rows


def _planned(case: Case, volume: Volume, memory: str) -> tuple[Prepared, Options]:
    """Return a plan with memory ample, or so short that no tile holds more than an eighth of the volume."""
    options = Options(threads=N_THREADS)
    prepared = prepare(volume.url, case.model, options)
    if memory == WHOLE:
        return prepared, options
    n_voxels = prod(tiling.extent.size for tiling in prepared.plan.tilings)
    share = 1.1 / 8
    while prod(prepared.plan.tile_shape) * 8 > n_voxels:
        plan = prepared.plan
        limit = plan.projection.base + int(plan.cost.bytes_per_voxel * n_voxels * share)
        options = Options(threads=N_THREADS, memory=limit)
        prepared, share = prepare(volume.url, case.model, options), 0.85 * share
    return prepared, options


def _row(name: str, memory: str, plan: Plan, *, bare: float, ours: float) -> tuple[str, ...]:
    wanted = 1.1 * (plan.compute_ratio if memory == EIGHTH else 1)
    seconds = (f"{bare:.2f}", f"{ours:.2f}", f"{ours / bare:.2f}", f"{wanted:.2f}")
    return (f"{name}, {memory}", _times(plan.tile_shape), f"{plan.compute_ratio:.2f}", *seconds)


def _times(lengths: tuple[int, ...]) -> str:
    return " x ".join(map(str, lengths))


def io_bound() -> Result:
    """Compare a run of a small network with its stages, each alone."""
    spec = "benchmarks.networks:three_layers"
    volume = generated(axes="yx", shape=(16384, 16384), dtype="uint16")
    one = Options(threads=N_THREADS, batch=1, pyramid=False)
    two = replace(one, workers=2, in_flight=2)
    ways = {"ray, 1 worker": one, "ray, 2 workers": two}
    prepared = prepare(volume.url, spec, one)
    spent: dict[str, list[Spent]] = {"read": [], "compute": [], "write": []}
    ours: dict[str, list[float]] = {name: [] for name in ways}
    stages = Stages(prepared.plan, volume, prepared.model.module)
    with ExitStack() as stack:
        if connect(None, n_cpus=8, is_debug=False):  # room for the workers of both
            stack.callback(ray.shutdown)
        runs = {
            name: stack.enter_context(
                repeated(prepare(volume.url, spec, options), model=spec, options=options, runner=ray_runner())
            )
            for name, options in ways.items()
        }
        output = open_output(str(runs["ray, 1 worker"].folder / "out.zarr")).volumes["output"]
        for _ in range(N_ROUNDS):
            runs["ray, 1 worker"].clear()
            for name, deed in stages.deeds(output).items():
                spent[name].append(spend(deed))
            for name, run in runs.items():
                ours[name].append(run.again())
    return _beside_floor(prepared.plan, spent, ours)


def _beside_floor(plan: Plan, spent: dict[str, list[Spent]], ours: dict[str, list[float]]) -> Result:
    wall = {name: min(s.wall for s in all_) for name, all_ in spent.items()}
    cpu = {name: min(s.cpu for s in all_) for name, all_ in spent.items()}
    floor = max(*wall.values(), sum(cpu.values()) / n_cpus())
    rows = [(f"{name} alone", f"{wall[name]:.2f}", f"{cpu[name]:.2f}", "", "") for name in spent]
    rows.append(("floor", f"{floor:.2f}", f"{sum(cpu.values()):.2f}", "1.00", ""))
    for name, seconds in ours.items():
        rows.append((f"run: {name}", f"{min(seconds):.2f}", "", f"{min(seconds) / floor:.2f}", "1.25"))
    return Result(
        "An I/O-bound run over its floor",
        ("what", "wall s", "CPU s", "over floor", "wanted"),
        tuple(rows),
        f"Three layers over {_times(plan.source.shape)} uint16 to float32, blocks "
        f"{_times(tuple(t.block for t in plan.tilings))}, tiles {_times(plan.tile_shape)}. Floor: the larger of the "
        f"slowest stage alone and all CPU seconds over {n_cpus()} cores. No pyramid. "
        f"Best of {N_ROUNDS} interleaved rounds.",
    )


class Stages:
    """The three stages, each alone over the same voxels, with the library calls that a worker makes.

    What is computed and what is written lies in memory, all of it: a tile that is used again and again stays in the
    cache, and takes half the time.
    """

    def __init__(self, plan: Plan, volume: Volume, model: torch.nn.Module) -> None:
        self._plan, self._volume, self._model = plan, volume, model
        self._voxels = torch.from_numpy(volume.read(Region.whole(volume.shape)))
        self._indices = list(product(*map(range, plan.graph.counts)))
        self._scores = np.empty(plan.outputs[0].shape, np.float32)
        with torch.inference_mode():
            for region in self._blocks():
                block = self._voxels[region.slices[-2:]][None, None]
                self._scores[region.slices] = model(block.to(torch.float32))["output"][0]

    def deeds(self, output: Volume) -> dict[str, Callable[[], None]]:
        """Return each stage by name; the last one writes to ``output``."""
        return {"read": self._read, "compute": self._compute, "write": lambda: self._write(output)}

    def _blocks(self) -> list[Region]:
        return [self._plan.block_region(self._plan.outputs[0], index) for index in self._indices]

    def _read(self) -> None:
        for index in self._indices:
            self._volume.read(self._plan.read_region(index))

    @torch.inference_mode()
    def _compute(self) -> None:
        for index in self._indices:
            block = self._voxels[self._plan.read_region(index).slices]
            for job in block_jobs(self._plan, index):
                self._model(block[job.source.slices][None, None].to(torch.float32))

    def _write(self, output: Volume) -> None:
        for region in self._blocks():
            output.write(region, self._scores[region.slices])
