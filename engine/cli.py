"""The command line: engine ingest | check | plan | run | resume | verify | status | report."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from engine.check import check
from engine.cli_errors import quiet_libraries, told
from engine.cli_options import (
    Address,
    AxisNames,
    Batch,
    Block,
    Certify,
    Device,
    EdgeRules,
    Extend,
    JsonFile,
    Memory,
    ModelSpec,
    MovedModel,
    MovedSource,
    Nan,
    OutputUrl,
    Paths,
    Precision,
    Pyramid,
    RunnerName,
    SavedPlan,
    ShardThreads,
    Source,
    Spacing,
    Threads,
    Tile,
    Variables,
    Weights,
    Workers,
    json_loaded,
    json_saved,
    numbers,
    options,
)
from engine.errors import UsageError
from engine.plan_json import plan_to_json
from engine.prepare import prepare
from engine.reopen import resume, status, verify
from engine.run import Report, RunnerMaker, check_complete, run_prepared, serial_runner
from engine.runtime.progress import progress
from engine.show import certificate_rows, plan_rows, print_check, print_rows, report_rows, status_rows
from engine.storage.ingest import ingest

app = typer.Typer(
    name="engine",
    help="Run any CNN over a volume that fits on no machine, and get the answer that you would have got had it fitted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("ingest")
def ingest_command(
    paths: Paths,
    spacing: Spacing = None,
    variables: Variables = None,
    threads: ShardThreads = 2,
) -> None:
    """Turn a slide, a scan or climate files into a chunked volume; call it again to go on after a kill."""
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}. Give 1 or more.")
    if len(paths) < 2:
        raise UsageError(f"ingest needs a source and a target, not only '{paths[0]}'. Give SOURCE... TARGET.")
    steps = tuple(numbers(spacing, "--spacing", float)) if spacing else None
    names = tuple(variables.split(",")) if variables else None
    with _shard_bar() as tell:
        volume = ingest(paths[:-1], paths[-1], progress=tell, spacing=steps, variables=names, n_threads=threads)
    levels = ", ".join(" x ".join(map(str, level.shape)) for level in volume.levels)
    axes = ", ".join(f"{a.name} ({a.role}, {a.spacing:g} {a.unit or ''})".replace(" )", ")") for a in volume.axes)
    rows = [("volume", paths[-1]), ("axes", axes), ("levels", levels), ("dtype", str(volume.dtype))]
    print_rows(rows, title="Ingested")


@app.command("check")
def check_command(
    model: ModelSpec,
    weights: Weights = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the input; found by trial.")] = None,
    space: Annotated[int | None, typer.Option(help="Space axes of the input; found by trial.")] = None,
    device: Device = None,
) -> None:
    """Show what a model needs per output and axis, proved or probed, and that tiles equal the whole."""
    with _spinner() as tell:
        found = check(model, weights=weights, n_space=space, n_channels=channels, device=device, tell=tell)
    print_check(found)


@app.command("plan")
def plan_command(
    source: Source,
    model: ModelSpec,
    weights: Weights = None,
    memory: Memory = None,
    workers: Workers = None,
    threads: Threads = None,
    tile: Tile = None,
    block: Block = None,
    batch: Batch = None,
    edge: EdgeRules = None,
    nan: Nan = "refuse",
    precision: Precision = None,
    device: Device = None,
    axes: AxisNames = None,
    pyramid: Pyramid = True,
    extend: Extend = True,
    json_file: JsonFile = None,
) -> None:
    """Show what a run would do, without writing a voxel."""
    chosen = options(
        weights=weights,
        memory=memory,
        workers=workers,
        threads=threads,
        tile=tile,
        block=block,
        batch=batch,
        edge=edge,
        nan=nan,
        precision=precision,
        device=device,
        axes=axes,
        pyramid=pyramid,
        extend=extend,
    )
    with _spinner() as tell:
        plan = prepare(source, model, chosen, tell=tell).plan
    print_rows(plan_rows(plan), title="Plan")
    if json_file is not None:
        json_saved(json_file, plan_to_json(plan))


@app.command("run")
def run_command(
    source: Source,
    model: ModelSpec,
    output: OutputUrl,
    weights: Weights = None,
    memory: Memory = None,
    workers: Workers = None,
    threads: Threads = None,
    tile: Tile = None,
    block: Block = None,
    batch: Batch = None,
    edge: EdgeRules = None,
    nan: Nan = "refuse",
    precision: Precision = None,
    device: Device = None,
    axes: AxisNames = None,
    pyramid: Pyramid = True,
    extend: Extend = True,
    runner: RunnerName = "ray",
    address: Address = None,
    n_certified: Certify = 4,
) -> None:
    """Run a model over a volume, block by block, and write the result with its seam certificate."""
    chosen = options(
        weights=weights,
        memory=memory,
        workers=workers,
        threads=threads,
        tile=tile,
        block=block,
        batch=batch,
        edge=edge,
        nan=nan,
        precision=precision,
        device=device,
        axes=axes,
        pyramid=pyramid,
        extend=extend,
    )
    maker = _runner(runner, address)
    with _spinner() as tell:
        prepared = prepare(source, model, chosen, tell=tell)
    print_rows(plan_rows(prepared.plan), title="Plan")
    with progress(Console(stderr=sys.stderr.isatty())) as listener:
        report = run_prepared(
            prepared, output, model=model, options=chosen, runner=maker, listener=listener, n_certified=n_certified
        )
    _finish(report)


@app.command("resume")
def resume_command(
    output: OutputUrl,
    source: MovedSource = None,
    model: MovedModel = None,
    plan: SavedPlan = None,
    device: Device = None,
    runner: RunnerName = "ray",
    address: Address = None,
    n_certified: Certify = 4,
) -> None:
    """Go on with an output: do what is missing or failed."""
    maker = _runner(runner, address)
    given = json_loaded(plan) if plan is not None else None
    with progress(Console(stderr=sys.stderr.isatty())) as listener:
        report = resume(
            output,
            source=source,
            model=model,
            plan=given,
            device=device,
            runner=maker,
            listener=listener,
            n_certified=n_certified,
        )
    _finish(report)


@app.command("verify")
def verify_command(
    output: OutputUrl,
    tiles: Annotated[int, typer.Option(help="Tiles to recompute.")] = 8,
    seed: Annotated[int | None, typer.Option(help="Which tiles; drawn anew by default.")] = None,
    source: MovedSource = None,
    model: MovedModel = None,
    device: Device = None,
) -> None:
    """Recompute random tiles on a shifted grid, and write the certificate into the output's attributes."""
    if tiles < 1:
        raise UsageError(f"--tiles must be at least 1, not {tiles}. Give 1 or more.")
    certificate = verify(output, source=source, model=model, n_tiles=tiles, seed=seed, device=device)
    print_rows(certificate_rows(certificate.to_json()), title="Verified")


@app.command("status")
def status_command(output: OutputUrl) -> None:
    """Say how an output stands: done, failed, pending."""
    print_rows(status_rows(status(output)), title="Status")


@app.command("report")
def report_command(output: OutputUrl, json_file: JsonFile = None) -> None:
    """Show an output's plan, how it went, and its certificate."""
    found = status(output)
    print_rows(plan_rows(found.plan), title="Plan")
    print_rows(status_rows(found), title="Status")
    summary = found.provenance.get("summary")
    if summary:
        print_rows([(name, f"{value:,.6g}") for name, value in summary.items()], title="Last run")
    if json_file is not None:
        json_saved(json_file, dict(found.provenance))


def _runner(name: str, address: str | None) -> RunnerMaker:
    if name == "serial":
        if address:
            raise UsageError(f"--address {address} needs --runner ray, not serial. Leave one of them out.")
        return serial_runner
    if name != "ray":
        raise UsageError(f"--runner must be ray or serial, not '{name}'. Name one of them.")
    return ray_runner(address)


def ray_runner(address: str | None = None) -> RunnerMaker:
    """Return what makes a pool of Ray actors for a plan; imports ray only now."""
    from engine.runner import ray_runner as make

    return make(address)


def _finish(report: Report) -> None:
    print_rows(report_rows(report), title="Report")
    check_complete(report)


@contextmanager
def _spinner() -> Iterator[Any]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("opening") as spinner:
        yield spinner.update


@contextmanager
def _shard_bar() -> Iterator[Any]:
    """Show shards done, bytes/s and time left; nothing where there is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"), TimeRemainingColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("shards", total=None)
        yield lambda done, total, _: bar.update(task, completed=done, total=total)


def main() -> None:
    """Run the command line; a refusal is one line on standard error and a non-zero exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        quiet_libraries()
        code = app(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- the last rim: whatever it is, one line
        code = told(error)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
