"""Commands about volumes rather than runs: ingest | tissue | objects | score | measure."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli_options import (
    Address,
    JsonFile,
    OutputUrl,
    Paths,
    RunnerName,
    ShardThreads,
    Spacing,
    Variables,
    Workers,
    check_positive,
    numbers,
    pass_runner,
)
from engine.errors import UsageError
from engine.measure import picture
from engine.measure.measure import measure
from engine.measure.table import save_csv, save_json, save_parquet, score_table, size_table
from engine.memory import n_cpus
from engine.objects.recipe import Method, Recipe
from engine.runtime.progress import progress
from engine.show import print_rows, print_table, shard_bar, volume_rows
from engine.slides import draw_tissue, slide_objects, slide_score
from engine.storage.append import append
from engine.storage.ingest import ingest


def ingest_command(
    paths: Paths,
    spacing: Spacing = None,
    variables: Variables = None,
    threads: ShardThreads = None,
    is_append: Annotated[
        bool, typer.Option("--append", help="Add climate files behind the last step of a TARGET that is there.")
    ] = False,
) -> None:
    """Turn a slide, a scan or climate files into a chunked volume; call it again to go on after a kill."""
    n_threads = n_cpus() if threads is None else threads
    check_positive(n_threads, "--threads")
    if len(paths) < 2:
        raise UsageError(f"ingest needs a source and a target, not only '{paths[0]}'. Give SOURCE... TARGET.")
    steps = tuple(numbers(spacing, "--spacing", float)) if spacing else None
    names = tuple(variables.split(",")) if variables else None
    if is_append and steps is not None:
        raise UsageError("--append takes climate files, which have no --spacing. Leave it out.")
    with shard_bar() as tell:
        if is_append:
            volume = append(paths[:-1], paths[-1], variables=names, progress=tell)
        else:
            volume = ingest(paths[:-1], paths[-1], progress=tell, spacing=steps, variables=names, n_threads=n_threads)
    print_rows(volume_rows(volume), title="Ingested")


def tissue_command(
    source: Annotated[str, typer.Argument(help="A slide, or a volume of one.")],
    picture_file: Annotated[Path, typer.Argument(help="The PNG to write.")],
    tissue: Annotated[str, typer.Option(help="auto, polygons.geojson, mask.zarr, or a model for thumbnails.")] = "auto",
) -> None:
    """Draw what a run with --tissue would compute of a slide, for a look before it."""
    share = draw_tissue(source, tissue, picture_file)
    print_rows([("source", source), ("wanted", f"{share:.1%}"), ("picture", str(picture_file))], title="Tissue")


def objects_command(
    output: OutputUrl,
    labels: Annotated[
        str, typer.Option(help="Output that holds the objects: a label map, or a probability.")
    ] = "label",
    threshold: Annotated[float | None, typer.Option(help="Least probability, where it is one.")] = None,
    channel: Annotated[int | None, typer.Option(help="Channel of the probability.")] = None,
    method: Annotated[str, typer.Option(help="connected; or watershed, which parts touching nuclei.")] = "connected",
    min_area: Annotated[float, typer.Option(help="Smaller objects are left out, in square micrometre.")] = 0.0,
    measured: Annotated[list[str] | None, typer.Option(help="Output whose mean over each object is noted.")] = None,
    name: Annotated[str, typer.Option(help="Of this set of objects.")] = "instances",
    workers: Workers = 1,
    runner: RunnerName = "serial",
    address: Address = None,
) -> None:
    """Find the objects of a slide's result: a table, outlines for QuPath, and a map of instances."""
    if method not in tuple(Method):
        raise UsageError(f"--method must be connected or watershed, not '{method}'. Name one of them.")
    recipe = Recipe(
        name=name, volume=labels, channel=channel, threshold=threshold, method=Method(method), min_area_um2=min_area
    )
    maker = pass_runner(runner, address, n_workers=workers or 1)
    with progress() as listener:
        found = slide_objects(output, recipe, measured=measured or (), runner=maker, listener=listener)
    rows = [("objects", f"{found.n_objects:,}"), ("table", found.table_url), ("map", found.label_url)]
    print_rows(rows + ([("outlines", found.geojson_url)] if found.geojson_url else []), title="Objects")


def score_command(
    output: OutputUrl,
    aggregator: Annotated[str, typer.Argument(help="clam@weights, dsmil@weights or file.py:factory[@weights].")],
    features: Annotated[str, typer.Option(help="Output that holds the features.")] = "output",
) -> None:
    """Score a slide by the features of its patches, and draw where the score comes from."""
    found = slide_score(output, aggregator, features=features)
    print_rows(
        [
            ("probabilities", ", ".join(f"{p:.4f}" for p in found.probabilities)),
            ("instances", f"{found.n_instances:,}, of which about {found.n_effective:.1f} count"),
            ("attention", found.attention),
            ("figure", found.figure),
        ],
        title="Score",
    )


def measure_command(
    reference: Annotated[str, typer.Argument(help="Volume of the true labels.")],
    result: Annotated[str, typer.Argument(help="Volume of labels to be measured, as out.zarr/labels/label.")],
    mask: Annotated[
        str | None, typer.Option(help="Volume outside which voxels do not count: out.zarr/coverage.")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Save the table here.")] = None,
    parquet_file: Annotated[Path | None, typer.Option("--parquet", help="Save the table here.")] = None,
    picture_file: Annotated[Path | None, typer.Option("--picture", help="Draw matrix and scores here, as PNG.")] = None,
    json_file: JsonFile = None,
    threads: ShardThreads = None,
    labels: Annotated[str | None, typer.Option(help="Labels that get a row: 1,2; all by default.")] = None,
    surface: Annotated[bool, typer.Option("--surface", help="Measure surface distances too, in millimetre.")] = False,
    tolerance: Annotated[float, typer.Option(help="Millimetre that surface Dice lets pass.")] = 1.0,
    spacing: Annotated[
        str | None, typer.Option(help="Millimetre per space axis where the volumes do not say: 3,0.7,0.7.")
    ] = None,
) -> None:
    """Compare two volumes of labels: Dice, Jaccard and the like, volumes in ml, distances between surfaces in mm."""
    n_threads = n_cpus() if threads is None else threads
    check_positive(n_threads, "--threads")
    scores = measure(
        reference,
        result,
        labels=None if labels is None else numbers(labels, "--labels", int),
        mask_url=mask,
        spacing=None if spacing is None else numbers(spacing, "--spacing", float),
        tolerance_mm=tolerance if surface else None,
        n_threads=n_threads,
    )
    print_table(score_table(scores))
    if (sizes := size_table(scores)) is not None:
        print_table(sizes)
    for path, save in (
        (csv_file, save_csv),
        (parquet_file, save_parquet),
        (json_file, save_json),
        (picture_file, picture.draw),
    ):
        if path is not None:
            save(path, scores)
