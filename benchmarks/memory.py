"""Peak memory of a worker while the volume grows, the memory limit staying as it is."""

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import Result
from benchmarks.volumes import generated
from engine.memory import format_bytes
from engine.prepare import Options, prepare
from engine.run import RunnerMaker, run_prepared, serial_runner
from engine.runner import ray_runner
from engine.runtime.events import TaskDone

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One kind of worker, and volumes that grow 16-fold."""

    name: str
    network: str
    axes: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    options: Options
    runner: RunnerMaker


def _shallow(name: str, runner: RunnerMaker, **options: Any) -> Case:
    shapes = ((320, 320, 320), (640, 640, 320), (640, 1024, 800))
    given = Options(threads=2, memory=1400 * MIB, **options)
    return Case(name, "benchmarks.networks:smoother_3d", "zyx", shapes, "int16", given, runner)


CASES = (
    _shallow("ray, shallow, one shape for all", ray_runner(), tile=(136,), block=(128,)),
    _shallow("ray, shallow", ray_runner()),
    _shallow("serial, shallow", serial_runner),
    Case(
        "ray, 2-d U-Net, one shape for all",
        "benchmarks.networks:unet_2d",
        "cyx",
        ((3, 2048, 2048), (3, 4096, 4096), (3, 8192, 8192)),
        "uint8",
        Options(threads=2, memory=2200 * MIB, tile=(1072,), block=(1024,)),
        ray_runner(),
    ),
)


def main() -> list[Result]:
    """Run small networks over volumes that grow 16-fold, in each kind of worker."""
    rows = []
    for i, case in enumerate(CASES):
        for shape in case.shapes:
            generated(axes=case.axes, shape=shape, dtype=case.dtype)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # peaks are a process's own
                rows.append(fresh.submit(_row, i, shape).result())
    note = (
        "One worker, two threads, 3 blocks in flight; peak RSS as its receipts tell; pyramid included. "
        "Wanted: flat, and under the projection."
    )
    columns = ("worker", "limit", "volume", "blocks", "block", "tile", "projected", "peak RSS", "of projection")
    return [Result("A worker's memory while the volume grows", columns, tuple(rows), note)]


def _row(number: int, shape: tuple[int, ...]) -> tuple[str, ...]:
    case = CASES[number]
    volume = generated(axes=case.axes, shape=shape, dtype=case.dtype)
    logging.disable(logging.WARNING)
    prepared = prepare(volume.url, case.network, case.options)
    peaks: list[int] = []

    def listen(event: object) -> None:
        if isinstance(event, TaskDone):
            peaks.append(event.receipt.peak_rss_bytes)

    with TemporaryDirectory(prefix="bench-") as folder:
        url = str(Path(folder) / "out.zarr")
        run_prepared(
            prepared, url, model=case.network, options=case.options, runner=case.runner, listener=listen, n_certified=0
        )
    plan = prepared.plan
    return (
        case.name,
        format_bytes(plan.memory_limit),
        f"{format_bytes(volume.n_bytes)} ({'x'.join(map(str, shape))})",
        str(plan.graph.n_blocks),
        "x".join(str(tiling.block) for tiling in plan.tilings),
        "x".join(map(str, plan.tile_shape)),
        format_bytes(plan.projection.n_bytes),
        format_bytes(max(peaks)),
        f"{max(peaks) / plan.projection.n_bytes:.2f}",
    )
