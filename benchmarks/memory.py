"""Peak memory of a worker while the volume grows, the memory limit staying as it is."""

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Result
from benchmarks.volumes import generated
from engine.memory import format_bytes
from engine.prepare import Options, prepare
from engine.run import RunnerMaker, run_prepared, serial_runner
from engine.runner import ray_runner
from engine.runtime.events import TaskDone

LIMIT = 1400 * 2**20
SHAPES = ((320, 320, 320), (640, 640, 320), (640, 1024, 800))
"""64, 262 and 1049 MB of int16."""

WORKERS: dict[str, tuple[RunnerMaker, Options]] = {
    "ray, one shape for all": (ray_runner(), Options(threads=2, memory=LIMIT, tile=(136,), block=(128,))),
    "ray": (ray_runner(), Options(threads=2, memory=LIMIT)),
    "serial, with the planner": (serial_runner, Options(threads=2, memory=LIMIT)),
}


def main() -> list[Result]:
    """Run one small network over volumes that grow 16-fold, in each kind of worker."""
    rows = []
    for name in WORKERS:
        for shape in SHAPES:
            generated(axes="zyx", shape=shape, dtype="int16")
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # peaks are a process's own
                rows.append(fresh.submit(_row, name, shape).result())
    note = (
        f"Limit {format_bytes(LIMIT)} for one worker, two threads, 3 blocks in flight; peak RSS as its receipts "
        "tell; pyramid included. Wanted: flat, and under the projection."
    )
    columns = ("worker", "volume", "blocks", "block", "tile", "projected", "peak RSS", "of projection")
    return [Result("A worker's memory while the volume grows", columns, tuple(rows), note)]


def _row(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    volume = generated(axes="zyx", shape=shape, dtype="int16")
    logging.disable(logging.WARNING)
    spec = "benchmarks.networks:smoother_3d"
    runner, options = WORKERS[name]
    prepared = prepare(volume.url, spec, options)
    peaks: list[int] = []

    def listen(event: object) -> None:
        if isinstance(event, TaskDone):
            peaks.append(event.receipt.peak_rss_bytes)

    with TemporaryDirectory(prefix="bench-") as folder:
        url = str(Path(folder) / "out.zarr")
        run_prepared(prepared, url, model=spec, options=options, runner=runner, listener=listen, n_certified=0)
    plan = prepared.plan
    return (
        name,
        f"{format_bytes(volume.n_bytes)} ({'x'.join(map(str, shape))})",
        str(plan.graph.n_blocks),
        "x".join(str(tiling.block) for tiling in plan.tilings),
        "x".join(map(str, plan.tile_shape)),
        format_bytes(plan.projection.n_bytes),
        format_bytes(max(peaks)),
        f"{max(peaks) / plan.projection.n_bytes:.2f}",
    )
