"""The command line: check | plan | run | resume | verify | status | report here, the others beside it."""

import signal
import sys
from typing import Annotated

import typer
from rich.console import Console

from engine.adopt import adopt
from engine.check import recommend
from engine.cli_batch import batch_command
from engine.cli_errors import INTERRUPTED, quiet_libraries, told
from engine.cli_items import items_command
from engine.cli_options import (
    Address,
    AxisNames,
    Batch,
    Block,
    Certify,
    Device,
    EdgeRules,
    Extend,
    GivenPlan,
    JsonFile,
    Memory,
    ModelSpec,
    MovedModel,
    MovedSource,
    Mpp,
    Nan,
    OutputUrl,
    Precision,
    Pyramid,
    RunnerName,
    SavedPlan,
    Source,
    Threads,
    Tile,
    Tissue,
    Weights,
    Workers,
    check_positive,
    json_loaded,
    json_saved,
    options,
    runner_maker,
)
from engine.cli_report import report_command
from engine.cli_scans import export_command
from engine.cli_thickness import thickness_command
from engine.cli_volumes import ingest_command, measure_command, objects_command, score_command, tissue_command
from engine.plan_json import plan_from_json, plan_to_json
from engine.prepare import prepare
from engine.reopen import resume, status, verify
from engine.run import Report, check_complete, run_prepared
from engine.runtime.progress import progress
from engine.show import (
    certificate_rows,
    plan_rows,
    print_contract,
    print_rows,
    report_rows,
    spinner,
    status_rows,
)

app = typer.Typer(
    name="engine",
    help="Run any CNN over a volume that fits on no machine, and get the answer that you would have got had it fitted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("ingest")(ingest_command)


@app.command("check")
def check_command(
    model: ModelSpec,
    weights: Weights = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the input; found by trial.")] = None,
    space: Annotated[int | None, typer.Option(help="Space axes of the input; found by trial.")] = None,
    device: Device = None,
) -> None:
    """Recommend a contract: exact, with what the model needs, and tiles beside the whole; or windowed, and why."""
    with spinner() as tell:
        found = recommend(model, weights=weights, n_space=space, n_channels=channels, device=device, tell=tell)
    print_contract(found)


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
    tissue: Tissue = None,
    mpp: Mpp = None,
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
        tissue=tissue,
        mpp=mpp,
        pyramid=pyramid,
        extend=extend,
    )
    with spinner() as tell:
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
    tissue: Tissue = None,
    mpp: Mpp = None,
    pyramid: Pyramid = True,
    extend: Extend = True,
    plan: GivenPlan = None,
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
        tissue=tissue,
        mpp=mpp,
        pyramid=pyramid,
        extend=extend,
    )
    maker = runner_maker(runner, address)
    if plan is not None:
        saved = plan_from_json(json_loaded(plan))
        prepared = adopt(saved, source=source, model=model, options=chosen, owner=f"the plan '{plan}'")
    else:
        with spinner() as tell:
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
    maker = runner_maker(runner, address)
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
    check_positive(tiles, "--tiles")
    certificate = verify(output, source=source, model=model, n_tiles=tiles, seed=seed, device=device)
    print_rows(certificate_rows(certificate.to_json()), title="Verified")


@app.command("status")
def status_command(output: OutputUrl) -> None:
    """Say how an output stands: done, failed, pending."""
    print_rows(status_rows(status(output)), title="Status")


app.command("report")(report_command)
app.command("tissue")(tissue_command)
app.command("objects")(objects_command)
app.command("score")(score_command)
app.command("measure")(measure_command)
app.command("thickness")(thickness_command)
app.command("batch")(batch_command)
app.command("items")(items_command)
app.command("export")(export_command)


def _finish(report: Report) -> None:
    print_rows(report_rows(report), title="Report")
    check_complete(report)


def main() -> None:
    """Run the command line; a refusal is one line on standard error and a non-zero exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        quiet_libraries()
        code = app(prog_name="engine", standalone_mode=False)
        if code == INTERRUPTED:  # typer has taken the interrupt itself
            code = told(KeyboardInterrupt())
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- the last rim: whatever it is, one line
        code = told(error)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
