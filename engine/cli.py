"""The command line: engine ingest | check | plan | run | resume | verify | status | report."""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from engine.check import Check, check
from engine.errors import EngineError, UsageError
from engine.geometry.edges import Edge, EdgeKind
from engine.memory import parse_bytes
from engine.plan_json import plan_to_json
from engine.prepare import Options, prepare
from engine.reopen import resume, status, verify
from engine.run import Report, RunnerMaker, check_complete, run_prepared, serial_runner
from engine.runtime.progress import progress
from engine.show import certificate_rows, plan_rows, print_rows, report_rows, status_rows
from engine.storage.ingest import ingest

app = typer.Typer(
    name="engine",
    help="Run any CNN over a volume that fits on no machine, and get the answer that you would have got had it fitted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Click = typer.BadParameter.__mro__[2]
"""typer's root of all usage errors, wherever its click lives."""

# Arguments and options that several commands share.
Source = Annotated[str, typer.Argument(help="URL of a volume: a Zarr array, an OME-Zarr group, an ingested volume.")]
ModelSpec = Annotated[str, typer.Argument(help="file.py:factory[@weights], package.module:factory, file.pt2 or file.pt; join parts with +.")]
OutputUrl = Annotated[str, typer.Argument(help="URL of the output group.")]
Weights = Annotated[str | None, typer.Option(help="Weights of the first part: safetensors, or a state dict.")]
Memory = Annotated[str | None, typer.Option(help="Memory for all workers of one machine: 8G, 500M.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes: one per GPU, else one.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of each worker.")]
Tile = Annotated[str | None, typer.Option(help="Input voxels of a tile per space axis: 512,512 or one number for all.")]
Block = Annotated[str | None, typer.Option(help="Input voxels of a block per space axis.")]
Batch = Annotated[int | None, typer.Option(help="Tiles in one call of the model.")]
EdgeRules = Annotated[list[str] | None, typer.Option("--edge", help="AXIS=model|wrap|reflect|constant[:VALUE]|pole:AROUND; repeat per axis.")]
Nan = Annotated[str, typer.Option(help="What NaN in a floating source means: refuse or keep.")]
Precision = Annotated[str | None, typer.Option(help="float32, float64 or bfloat16; the model's own by default.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; a GPU where there is one.")]
AxisNames = Annotated[str | None, typer.Option("--axes", help="Names of the source's axes, where it does not say: zyx, or t,c,y,x.")]
Pyramid = Annotated[bool, typer.Option(help="Write coarser levels.")]
Extend = Annotated[bool, typer.Option(help="Extend by reflection an axis whose size the model cannot take.")]
RunnerName = Annotated[str, typer.Option("--runner", help="ray: actors; serial: this process.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; a local Ray by default.")]
Certify = Annotated[int, typer.Option("--verify", help="Tiles recomputed at the end for the seam certificate.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Save it as JSON here.")]


@app.command("ingest")
def ingest_command(
    paths: Annotated[list[str], typer.Argument(help="SOURCE... TARGET: a slide, a NIfTI scan, or NetCDF files in time; then the volume to write.")],
    spacing: Annotated[str | None, typer.Option(help="Step per space axis where the file does not say: 0.5 or 1,0.7,0.7.")] = None,
    variables: Annotated[str | None, typer.Option(help="Climate variables to keep, by name: T,U,V.")] = None,
    threads: Annotated[int, typer.Option(help="Shards in work at a time.")] = 2,
) -> None:
    """Turn a slide, a scan or climate files into a chunked volume; call it again to go on after a kill."""
    if len(paths) < 2:
        raise UsageError(f"ingest needs a source and a target, not only '{paths[0]}'. Give SOURCE... TARGET.")
    steps = tuple(_numbers(spacing, "--spacing", float)) if spacing else None
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
    _print_check(found)


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
    options = _options(
        weights=weights, memory=memory, workers=workers, threads=threads, tile=tile, block=block, batch=batch,
        edge=edge, nan=nan, precision=precision, device=device, axes=axes, pyramid=pyramid, extend=extend,
    )
    with _spinner() as tell:
        plan = prepare(source, model, options, tell=tell).plan
    print_rows(plan_rows(plan), title="Plan")
    if json_file is not None:
        _save(json_file, plan_to_json(plan))


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
    options = _options(
        weights=weights, memory=memory, workers=workers, threads=threads, tile=tile, block=block, batch=batch,
        edge=edge, nan=nan, precision=precision, device=device, axes=axes, pyramid=pyramid, extend=extend,
    )
    maker = _runner(runner, address)
    with _spinner() as tell:
        prepared = prepare(source, model, options, tell=tell)
    print_rows(plan_rows(prepared.plan), title="Plan")
    with progress() as listener:
        report = run_prepared(
            prepared, output, model=model, options=options, runner=maker, listener=listener, n_certified=n_certified
        )
    _finish(report)


@app.command("resume")
def resume_command(
    output: OutputUrl,
    source: Annotated[str | None, typer.Option(help="Where the source lies now, if it was moved.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, if it was moved.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan saved as JSON that the output must have been made by.")] = None,
    device: Device = None,
    runner: RunnerName = "ray",
    address: Address = None,
    n_certified: Certify = 4,
) -> None:
    """Go on with an output: do what is missing or failed."""
    maker = _runner(runner, address)
    given = _load(plan) if plan is not None else None
    with progress() as listener:
        report = resume(
            output, source=source, model=model, plan=given, device=device, runner=maker, listener=listener,
            n_certified=n_certified,
        )
    _finish(report)


@app.command("verify")
def verify_command(
    output: OutputUrl,
    tiles: Annotated[int, typer.Option(help="Tiles to recompute.")] = 8,
    seed: Annotated[int | None, typer.Option(help="Which tiles; drawn anew by default.")] = None,
    source: Annotated[str | None, typer.Option(help="Where the source lies now, if it was moved.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, if it was moved.")] = None,
    device: Device = None,
) -> None:
    """Recompute random tiles on a shifted grid, and write the certificate into the output's attributes."""
    if tiles < 1:
        raise UsageError(f"--tiles must be at least 1, not {tiles}.")
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
        _save(json_file, dict(found.provenance))


def _options(
    *, memory: str | None, tile: str | None, block: str | None, edge: list[str] | None, **others: Any  # noqa: ANN401
) -> Options:
    return Options(
        memory=_bytes(memory) if memory else None,
        tile=tuple(_numbers(tile, "--tile", int)) if tile else None,
        block=tuple(_numbers(block, "--block", int)) if block else None,
        edges=dict(_edge(rule) for rule in edge or ()),
        **others,
    )


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"--memory must be a size such as 8G or 500M, not '{text}'.") from error


def _numbers(text: str, option: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.replace("x", ",").split(",")]
    except ValueError as error:
        raise UsageError(f"{option} must be numbers joined by commas, such as 512,512, not '{text}'.") from error


def _edge(rule: str) -> tuple[str, Edge]:
    axis, _, name = rule.partition("=")
    name, _, detail = name.partition(":")
    if not axis or name not in set(EdgeKind):
        raise UsageError(f"--edge must be AXIS=RULE with one of {', '.join(EdgeKind)}, not '{rule}'.")
    kind = EdgeKind(name)
    if kind is EdgeKind.CONSTANT:
        (value,) = _numbers(detail or "0", "--edge", float)
        return axis, Edge(kind, value=value)
    return axis, Edge(kind, around=detail or None)


def _runner(name: str, address: str | None) -> RunnerMaker:
    if name == "serial":
        if address:
            raise UsageError(f"--address {address} needs --runner ray, not serial.")
        return serial_runner
    if name != "ray":
        raise UsageError(f"--runner must be 'ray' or 'serial', not '{name}'.")
    return ray_runner(address)


def ray_runner(address: str | None = None) -> RunnerMaker:
    """Return what makes a pool of Ray actors for a plan; imports ray only now."""
    from engine.runner import ray_runner as make

    return make(address)


def _finish(report: Report) -> None:
    print_rows(report_rows(report), title="Report")
    check_complete(report)


def _print_check(found: Check) -> None:
    table = Table(title=f"{found.spec}: {found.geometry.evidence}", title_justify="left")
    for column in ("output", "axis", "halo before + after", "jump", "scale", "legal sizes"):
        table.add_column(column)
    for one in found.axes:
        before, after = one.halo
        table.add_row(one.output, str(one.axis), f"{before} + {after}", str(one.jump), str(one.scale), one.legal)
    console = Console()
    console.print(table)
    whole, tile = (" x ".join(map(str, shape)) for shape in (found.whole_shape, found.tile_shape))
    rows = [("compared", f"{found.n_tiles} tiles of {tile} with one pass over {whole}, random input")]
    rows += [
        (f"  {one.output}", f"max |tile - whole| {one.max_difference:.3g} of {one.largest:.3g}, std {one.std:.3g}")
        for one in found.outputs
    ]
    print_rows(rows, title="", console=console)


def _save(path: Path, value: object) -> None:
    try:
        path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot save JSON to '{path}': {error.strerror}. Choose another path.") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' must be a plan saved by 'engine plan --json', and cannot be read: {error}.") from error
    return value


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
    logging.basicConfig(level=os.environ.get("ENGINE_LOG", "ERROR"))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
    except EngineError as error:
        _say(f"{type(error).__name__}: {error}")
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted: what is stored is kept. Go on with 'engine resume OUTPUT'.")
        code = 130
    except Click as error:
        _say(f"UsageError: {getattr(error, 'format_message', lambda: str(error))()} See 'engine --help'.")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr)


if __name__ == "__main__":
    main()
