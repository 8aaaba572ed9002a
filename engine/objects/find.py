"""Finds the objects of a result, measures them, and writes labels, table and outlines: the front door of objects."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from engine.errors import ResumeError, RunError, UsageError
from engine.geometry.grid import Grid
from engine.layout import CHUNK_LENGTHS, SMALLEST_LEVEL
from engine.objects import index, parts
from engine.objects.catalogue import Catalogue
from engine.objects.geojson import write_geojson
from engine.objects.label_group import describe, enrol
from engine.objects.layers import Place, Sources, open_sources, place_of
from engine.objects.recipe import Recipe
from engine.objects.sums import IntArray
from engine.objects.table import N_ROWS_AT_ONCE, write_table
from engine.objects.worker import ObjectWorkerFactory, PassRunner
from engine.runtime.events import Event, Listener, Runner, WorkerFactory
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from engine.storage import arrays, record
from engine.storage.create import create_volume, remove
from engine.storage.ledger import Ledger

logger = logging.getLogger(__name__)

RunnerMaker = Callable[[WorkerFactory], Runner]
"""Makes the runner of all passes: ``SerialRunner``, or ``lambda factory: RayRunner(factory, n_workers=8)``."""

BLOCK_LENGTHS = {2: 2048, 3: 256}
"""About the voxels per axis of a block, by number of space axes."""


@dataclass(frozen=True, slots=True)
class ObjectsReport:
    """What was found, and where it is."""

    n_objects: int
    label_url: str
    """Ids from 1, 0 for none: OME-Zarr, uint32."""
    table_url: str
    """Parquet, a row per object in the order of ids."""
    geojson_url: str | None
    """None where no outlines were wanted."""


def quiet(_: Event) -> None:
    """Listen to nothing."""


def find_objects(
    output: str,
    recipe: Recipe | None = None,
    *,
    block: Sequence[int] | None = None,
    runner: RunnerMaker = SerialRunner,
    listener: Listener = quiet,
) -> ObjectsReport:
    """Find the objects of a result; the same, to the bit, as if the whole volume were labelled at once.

    Writes ``labels/<name>``, ``objects/<name>/table.parquet`` and ``objects/<name>/objects.geojson.gz`` in the output.
    A call that was broken off is taken up by the same call; one that has ended only reports.

    Args:
        output: URL of the result, as a run wrote it, or of any group or folder that holds volumes.
        recipe: Which objects; components of the volume ``label`` by default.
        block: Voxels per axis of a block; about 2048 in 2-d by default.
        runner: Makes the runner.
        listener: Is handed every event of every pass.

    Raises:
        EngineError: If anything is refused, before a byte is written; if the run stops, what is done is kept.
    """
    recipe = recipe or Recipe()
    sources = open_sources(output, recipe)
    place = place_of(sources.objects, recipe).rounded()
    if place.voxel_um is None and (recipe.min_area_um2 > 0 or recipe.max_area_um2 is not None):
        raise UsageError(
            f"limits of area are in micrometre, and the axes of '{sources.objects.volume.url}' have no unit of length. "
            "Leave min_area_um2 and max_area_um2 out, or name the unit in its attributes."
        )
    catalogue = _catalogue(output, recipe, sources, block)
    if report := _begin(catalogue, sources):
        return report
    with runner(ObjectWorkerFactory(catalogue)) as ready:
        found = _run_passes(catalogue, sources, place, ready, listener)
    return _end(catalogue, sources, place, found)


def _run_passes(catalogue: Catalogue, sources: Sources, place: Place, ready: Runner, listener: Listener) -> index.Index:
    """Do what is missing of each pass, and between them what needs all blocks."""
    found = None
    for name in catalogue.passes:
        if name == "paint":
            found = index.number(catalogue, sources, place)
            _describe_labels(catalogue, sources)
        _run_pass(catalogue, name, ready, listener)
        if name == "find" and not arrays.exists(catalogue.starts_url):
            index.join(catalogue, sources)
    assert found is not None
    return found


def _run_pass(catalogue: Catalogue, name: str, ready: Runner, listener: Listener) -> None:
    graph, url = catalogue.graph(name), f"{catalogue.parts_url}/ledgers/{name}"
    ledger = Ledger.open(url) if arrays.exists(url) else Ledger.create(url, graph.n_tasks)
    if ledger.next_pending(0) is None:
        return
    summary = drive(graph, PassRunner(ready, catalogue, name), ledger, listener)
    logger.info("%s: %d tasks in %.1f s", name, graph.n_tasks, summary.seconds)
    if not summary.is_complete:
        task, why = next(iter(ledger.failures().items()), (None, "unknown"))
        raise RunError(
            f"all {graph.n_tasks} blocks of pass '{name}' are wanted, and {summary.n_failed} failed in "
            f"'{catalogue.folder}'; block {task}: {why.rstrip('. ')}. Mend the cause, then give the same call again."
        )


def _end(catalogue: Catalogue, sources: Sources, place: Place, found: index.Index) -> ObjectsReport:
    """Write what is made of all blocks, note that the set is whole, and delete the parts."""
    names = tuple(sources.measured)
    pieces = _pieces(catalogue, sources, found)
    write_table(catalogue.table_url, pieces, place=place, recipe=catalogue.recipe, measured=names)
    if catalogue.has_outlines:
        write_geojson(catalogue.geojson_url, catalogue, found)
    volume = catalogue.recipe.volume
    is_inside = sources.objects.volume.url == f"{arrays.local_path(catalogue.output)}/{volume}"
    describe(catalogue.label_url, source=f"../../{volume}" if is_inside else None)
    enrol(catalogue.output, catalogue.recipe.name)
    geojson_url = catalogue.geojson_url if catalogue.has_outlines else None
    report = ObjectsReport(found.n, catalogue.label_url, catalogue.table_url, geojson_url)
    parts.write_bytes(f"{catalogue.folder}/report.json", json.dumps({"n_objects": found.n}).encode())
    remove(catalogue.parts_url)
    return report


def _pieces(catalogue: Catalogue, sources: Sources, found: index.Index) -> Iterator[tuple[int, IntArray]]:
    """Yield the rows of the table in the order of ids, a row group at a time."""
    for start in range(0, max(found.n, 1), N_ROWS_AT_ONCE):
        span = slice(start, min(start + N_ROWS_AT_ONCE, found.n))
        yield start + 1, index.gathered(catalogue, sources, found, span)


def _begin(catalogue: Catalogue, sources: Sources) -> ObjectsReport | None:
    """Note what is being made, or check that the same was begun; return the report if it has ended.

    Raises:
        ResumeError: If the name belongs to another recipe, or to other volumes.
    """
    url = f"{catalogue.folder}/recipe.json"
    layers = {"objects": sources.objects, **sources.measured}
    wanted = {
        **catalogue.recipe.to_json(),
        "volumes": {name: layer.described() for name, layer in layers.items()},
        "block": list(catalogue.grid.cell),
    }
    if not arrays.exists(url):
        parts.write_bytes(url, json.dumps(wanted, indent=2).encode())
        return None
    began = json.loads(parts.read_bytes(url))
    is_ended = arrays.exists(f"{catalogue.folder}/report.json")
    differs = [key for key in wanted if began.get(key) != wanted[key] and not (is_ended and key == "block")]
    if differs:
        key = differs[0]
        raise ResumeError(
            f"objects '{catalogue.recipe.name}' were begun with {key} = {began.get(key)}, not {wanted[key]}, in "
            f"'{catalogue.output}'. Choose another name, or remove '{catalogue.folder}' and '{catalogue.label_url}'."
        )
    if not is_ended:
        return None
    n = json.loads(parts.read_bytes(f"{catalogue.folder}/report.json"))["n_objects"]
    geojson_url = catalogue.geojson_url if catalogue.has_outlines else None
    return ObjectsReport(n, catalogue.label_url, catalogue.table_url, geojson_url)


def _catalogue(output: str, recipe: Recipe, sources: Sources, block: Sequence[int] | None) -> Catalogue:
    shape = sources.shape
    cell = tuple(block) if block is not None else _default_block(sources)
    if len(cell) != len(shape) or min(cell) < 1:
        raise UsageError(
            f"a block of one positive length per axis is wanted, not {cell}, for objects in "
            f"'{sources.objects.volume.url}' of {shape}. Correct it."
        )
    n_levels, longest = 1, max(shape)
    while longest > SMALLEST_LEVEL[len(shape)]:
        n_levels, longest = n_levels + 1, ceil(longest / 2)
    return Catalogue(output, recipe, Grid(shape, cell), n_levels)


def _default_block(sources: Sources) -> tuple[int, ...]:
    """Return whole stored objects near the usual length, so that each is decoded once."""
    length = BLOCK_LENGTHS[len(sources.shape)]
    return tuple(n * max(1, round(length / n)) for n in sources.objects.object_shape)


def _describe_labels(catalogue: Catalogue, sources: Sources) -> None:
    """Describe the label volume if it is not there: a shard per block."""
    if arrays.exists(catalogue.label_url):
        return
    cell = catalogue.grid.cell
    create_volume(
        catalogue.label_url,
        axes=sources.objects.axes,
        dtype="uint32",
        shape=sources.shape,
        chunk_shape=[_chunk(n, CHUNK_LENGTHS[len(cell)]) for n in cell],
        shard_shape=cell,
        n_levels=catalogue.n_levels,
        origin=sources.objects.translation,
        attributes={record.KEY: {"is_finished": False}},
    )


def _chunk(length: int, target: int) -> int:
    """Return the largest divisor of a block's length that is not above the target; the length if all are tiny.

    >>> _chunk(2048, 512), _chunk(1000, 512), _chunk(1009, 512)
    (512, 500, 1009)
    """
    found = next(length // n for n in range(ceil(length / target), length + 1) if length % n == 0)
    return found if found > target // 8 else length
