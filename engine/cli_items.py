"""The command ``engine items``: many small volumes, and a table of what each gave."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from engine.cli_options import Address, Device, Memory, Precision, RunnerName, Threads, Weights, options, pass_runner
from engine.items.run import ItemOptions, ItemReport, check_all_done, items
from engine.runtime.progress import progress
from engine.show import Row, print_rows

Manifest = Annotated[
    str,
    typer.Argument(
        help="CSV or Parquet with a row an item: id, and path (a volume), or receptor and ligand (.gninatypes, .pdb, "
        ".sdf) with center and turn where wanted."
    ),
]
Model = Annotated[str, typer.Option("--model", help="As for engine run.")]
Folder = Annotated[str, typer.Option("--output", help="Folder of the results: the table, what failed, the voxels.")]
Workers = Annotated[int, typer.Option(help="Worker processes.")]
Batch = Annotated[int | None, typer.Option(help="Items in one call of the model; as many as fit by default.")]
Voxels = Annotated[bool, typer.Option("--voxels", help="Store the outputs that are volumes, as Zarr.")]


def items_command(
    manifest: Manifest,
    model: Model,
    output: Folder,
    weights: Weights = None,
    memory: Memory = None,
    workers: Workers = 1,
    threads: Threads = None,
    batch: Batch = None,
    precision: Precision = None,
    device: Device = None,
    voxels: Voxels = False,
    runner: RunnerName = "ray",
    address: Address = None,
) -> None:
    """Run a model over many small volumes, in batches of one shape; call it again to go on."""
    asked = ItemOptions(
        weights=weights,
        memory=options(memory=memory, tile=None, block=None, edge=None).memory,
        workers=workers,
        threads=threads,
        batch=batch,
        precision=precision,
        device=device,
        voxels=voxels,
    )
    maker = pass_runner(runner, address, n_workers=workers)
    with progress(Console(stderr=sys.stderr.isatty())) as listener:
        report = items(manifest, model, output, options=asked, runner=maker, listener=listener)
    print_rows(report_rows(report), title="Items")
    check_all_done(report)


def report_rows(report: ItemReport) -> list[Row]:
    """Return how a run stands as pairs of what and how much."""
    summary = report.summary
    speed = summary.n_tiles / summary.seconds if summary.seconds else 0.0
    rows = [
        ("items", f"{report.n_items:,}, {report.n_failed:,} failed"),
        ("blocks", f"{summary.n_done_before + summary.n_done:,} of {summary.n_tasks:,} done"),
        ("this call", f"{summary.n_tiles:,} items in {summary.seconds:.1f} s, {speed:.1f} items/s"),
        ("table", str(report.table)),
    ]
    return [*rows, ("failures", str(report.failures))] if report.n_failed else rows
