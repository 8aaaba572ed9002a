"""The command ``engine batch``: a collection of slides through one pool."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from engine.cli_options import (
    Address,
    Batch,
    Block,
    Certify,
    Device,
    Memory,
    Mpp,
    Precision,
    Pyramid,
    RunnerName,
    Threads,
    Tile,
    Weights,
    Workers,
    options,
    pool_maker,
)
from engine.collection.batch import CollectionReport, batch, check_all_done
from engine.collection.job import ObjectsWish, ScoreWish
from engine.collection.progress import collection_progress
from engine.show import Row, print_rows

Slides = Annotated[
    list[str], typer.Argument(help="manifest.csv, a folder, patterns such as 'slides/*.svs', or slides.")
]
Folder = Annotated[str, typer.Option("--output", help="Folder of the results: a group per slide, and the table.")]
Model = Annotated[str, typer.Option("--model", help="As for engine run.")]
SlideTissue = Annotated[
    str, typer.Option(help="auto, none, polygons, a mask or a model; a manifest's own column goes first.")
]
Objects = Annotated[str | None, typer.Option(help="Output of the model whose objects are found, as label.")]
ObjectMethod = Annotated[str, typer.Option(help="connected: touching pixels; watershed: touching nuclei are parted.")]
ObjectArea = Annotated[float, typer.Option(help="Objects smaller than this, in square micrometre, are left out.")]
Measured = Annotated[list[str] | None, typer.Option(help="Output whose mean over each object is noted; repeat.")]
Score = Annotated[str | None, typer.Option(help="Aggregator that scores each slide: file.py:factory[@weights].")]
Features = Annotated[str, typer.Option(help="Output of the model that the aggregator takes.")]
OnlyFailed = Annotated[bool, typer.Option("--only-failed", help="Try the slides that failed, and no others.")]
Patience = Annotated[float | None, typer.Option(help="Seconds after which a step without an answer is given up.")]


def batch_command(
    slides: Slides,
    model: Model,
    output: Folder,
    weights: Weights = None,
    memory: Memory = None,
    workers: Workers = None,
    threads: Threads = None,
    tile: Tile = None,
    block: Block = None,
    batch_size: Batch = None,
    precision: Precision = None,
    device: Device = None,
    tissue: SlideTissue = "auto",
    mpp: Mpp = None,
    pyramid: Pyramid = True,
    objects: Objects = None,
    object_method: ObjectMethod = "connected",
    min_area: ObjectArea = 0.0,
    measured: Measured = None,
    score: Score = None,
    features: Features = "output",
    only_failed: OnlyFailed = False,
    runner: RunnerName = "ray",
    address: Address = None,
    patience: Patience = None,
    n_certified: Certify = 2,
) -> None:
    """Run a model over a collection of slides; call it again to go on, with --only-failed to try those again."""
    chosen = options(
        weights=weights,
        memory=memory,
        workers=workers,
        threads=threads,
        tile=tile,
        block=block,
        edge=None,
        batch=batch_size,
        precision=precision,
        device=device,
        tissue=tissue,
        mpp=mpp,
        pyramid=pyramid,
    )
    console = Console(stderr=sys.stderr.isatty())
    report = batch(
        slides,
        model,
        output,
        options=chosen,
        runner=pool_maker(runner, address, patience=patience),
        objects=ObjectsWish(objects, object_method, min_area, tuple(measured or ())) if objects else None,
        score=ScoreWish(score, features) if score else None,
        only_failed=only_failed,
        n_certified=n_certified,
        watch=lambda n_slides: collection_progress(console, n_slides=n_slides),
    )
    print_rows(report_rows(report), title="Collection")
    check_all_done(report)


def report_rows(report: CollectionReport) -> list[Row]:
    """Return how a collection stands as pairs of what and how much."""
    n = len(report.records)
    rows = [
        ("slides", f"{report.count('done')} of {n} done, {report.count('failed')} failed, {report.n_tried} tried now"),
        ("table", f"{report.table}, {report.parquet}"),
    ]
    return rows + [(r.id, f"{r.code}: {r.reason}") for r in report.records if r.status == "failed"]
