"""Peak memory of a worker while the volume grows, the memory limit staying as it is."""

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

RUNNERS: dict[str, RunnerMaker] = {"ray worker": ray_runner(), "serial, the planner's process": serial_runner}


def main() -> list[Result]:
    """Run one small network over volumes that grow 16-fold, in each kind of worker."""
    rows = [_row(name, shape, runner) for name, runner in RUNNERS.items() for shape in SHAPES]
    note = (
        f"Limit {format_bytes(LIMIT)} for one worker, two threads, 3 blocks in flight; peak RSS as the worker's last "
        "receipt tells. Wanted: flat, and under the projection."
    )
    columns = ("worker", "volume", "blocks", "block", "tile", "projected", "peak RSS", "of projection")
    return [Result("A worker's memory while the volume grows", columns, tuple(rows), note)]


def _row(name: str, shape: tuple[int, ...], runner: RunnerMaker) -> tuple[str, ...]:
    volume = generated(axes="zyx", shape=shape, dtype="int16")
    spec = "benchmarks.networks:smoother_3d"
    options = Options(threads=2, memory=LIMIT, pyramid=True)
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
