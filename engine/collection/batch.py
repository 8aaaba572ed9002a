"""Many slides through one pool of workers: the front door of collections."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from engine.collection.claim import CLAIM, identity_of, kept_shapes, shapes_of
from engine.collection.job import CollectionJob, ObjectsWish, ScoreWish
from engine.collection.manifest import Entry, entries_of
from engine.collection.queue import CollectionQueue
from engine.collection.record import SlideRecord, read_records, write_record, write_tables
from engine.collection.worker import CollectionWorkerFactory
from engine.errors import CollectionError, RunError, UsageError
from engine.geometry.axes import Axis, Role
from engine.learnt import timed
from engine.models.fitted import provisional
from engine.models.load import Model, load_model
from engine.models.mil_weights import load_aggregator
from engine.models.resolution import declared_mpp
from engine.objects.recipe import Method
from engine.plan import Plan, SourceFacts
from engine.planner import make_plan
from engine.prepare import LONGEST_MASKED_BLOCK, Options, check_options, learnt_for, wishes_of
from engine.runtime.events import Listener, Runner
from engine.runtime.loop import Loop
from engine.runtime.serial import SerialRunner
from engine.storage.claim import keep_claim

LONG_SIDE = 65_536
"""Pixels along each side of the slide that shapes are chosen for: larger than most."""

TILE_CORE = 1024
"""About the pixels that a tile decides along each axis: on slides that are mostly glass, longer ones leave out less."""

N_ATTEMPTS = 2
"""Tries of each step of a slide."""

RunnerMaker = Callable[[CollectionWorkerFactory], AbstractContextManager[Runner]]
"""Makes the pool."""


class Watcher(Protocol):
    """Whoever is told how a collection goes on."""

    def listen(self, queue: CollectionQueue) -> Listener:
        """Return the listener of a run over ``queue``."""

    def settled(self, record: SlideRecord) -> None:
        """Hear of a slide that has come to its end."""


class Nobody:
    """Listens to nothing."""

    def listen(self, queue: CollectionQueue) -> Listener:  # noqa: ARG002 -- a Watcher takes it
        """Return a listener that forgets."""
        return lambda _: None

    def settled(self, record: SlideRecord) -> None:
        """Forget it."""


def unwatched(_: int) -> AbstractContextManager[Watcher]:
    """Return nobody."""
    return nullcontext(Nobody())


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """How a collection stands after a call."""

    folder: str
    records: tuple[SlideRecord, ...]
    """Of all slides, in the manifest's order."""
    n_tried: int
    """Slides that this call worked on."""
    parquet: Path
    table: Path

    def count(self, status: str) -> int:
        """Return how many slides have a status."""
        return sum(record.status == status for record in self.records)


def serial_pool(factory: CollectionWorkerFactory) -> Runner:
    """Return a pool of one worker in this process: nothing protects it from a decoder that crashes."""
    return SerialRunner(factory, n_in_flight=factory.job.wishes.n_in_flight)


def batch(
    paths: Sequence[str],
    model: str,
    folder: str,
    *,
    options: Options | None = None,
    runner: RunnerMaker = serial_pool,
    objects: ObjectsWish | None = None,
    score: ScoreWish | None = None,
    only_failed: bool = False,
    n_certified: int = 2,
    watch: Callable[[int], AbstractContextManager[Watcher]] = unwatched,
    tell: Callable[[str], None] = lambda _: None,
) -> CollectionReport:
    """Run ``model`` over every slide of a collection, and write a group per slide and a table of all.

    Slides go largest first through one pool; blocks of several are worked on at once. What fails on one
    slide is noted in its row. A second call does what was never finished, and nothing else: a slide that
    failed is tried again only if ``only_failed`` says so. Each slide resumes at its own missing blocks.

    Args:
        paths: Manifests (.csv, .tsv), folders, patterns, or slides.
        model: Specification of the model.
        folder: Where the results go.
        options: How to run; ``tissue`` is ``auto`` unless it is given, ``none`` computes all.
        runner: Makes the pool.
        objects: Objects to be found on each slide.
        score: How each slide is scored.
        only_failed: Try the slides that failed, and no others.
        n_certified: Tiles recomputed at the end of each slide.
        watch: Given the number of slides to be done, makes who is told of them.
        tell: Is told what goes on before the first slide.

    Raises:
        EngineError: If the collection, the model or the options are refused; nothing is written then.
        RunError: If no worker is left, or the disk is full. What is done is kept.
    """
    entries = entries_of(paths)
    asked = options or Options()
    check_options(asked)
    _check_folder(folder, paths, entries)
    loaded = load_model(model, weights=asked.weights)
    identity = identity_of(loaded, asked, objects=objects, score=score)
    shapes = kept_shapes(folder, identity)
    records = read_records(folder, entries)
    wanted = "failed" if only_failed else "pending"
    chosen = [(n, records[entry.id]) for n, entry in enumerate(entries) if records[entry.id].status == wanted]
    chosen.sort(key=lambda pair: -entries[pair[0]].n_bytes)

    def settled(record: SlideRecord) -> None:
        records[record.id] = record
        write_record(folder, record)

    if chosen:
        plan, job = _job(entries, loaded, folder, replace(asked, **(shapes or {})), tell=tell)
        _check_wishes(plan, objects=objects, score=score)
        job = replace(job, objects=objects, score=score, n_certified=n_certified)
        if shapes is None:
            keep_claim(Path(folder) / CLAIM, {**identity, "shapes": shapes_of(job)})
        queued = [(n, replace(record, status="pending", code="", reason="")) for n, record in chosen]
        try:
            with watch(len(queued)) as watcher, runner(CollectionWorkerFactory(job)) as pool:
                _drive(job, queued, pool, watcher, settled)
        except BaseException:
            write_tables(folder, list(records.values()))
            raise
    parquet, table = write_tables(folder, list(records.values()))
    return CollectionReport(folder, tuple(records.values()), len(chosen), parquet, table)


def _check_folder(folder: str, paths: Iterable[str], entries: Iterable[Entry]) -> None:
    """Refuse to mix results with slides: the next call would take the ones for the others."""
    ours = Path(folder).resolve()
    for entry in entries:
        if Path(entry.path).resolve() == ours / f"{entry.id}.zarr":
            raise CollectionError(f"the slide '{entry.path}' lies where its result would go. Name another folder.")
    for path in paths:
        if "://" not in path and Path(path).resolve() == ours:
            raise CollectionError(f"results need a folder of their own, and '{folder}' is one of slides. Name another.")


def _check_wishes(plan: Plan, *, objects: ObjectsWish | None, score: ScoreWish | None) -> None:
    """Refuse objects and scores of outputs that the model has not, before a slide is computed for them.

    Raises:
        UsageError: If an output or a method is unknown.
        ModelError: If the aggregator cannot be loaded.
    """
    known = [output.name for output in plan.outputs]
    wanted = [objects.output, *objects.measured] if objects else []
    wanted += [score.output] if score else []
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"the model has the outputs {', '.join(known)}, not '{unknown[0]}'. Name one of them.")
    if objects and objects.method not in tuple(Method):
        raise UsageError(f"objects are found by {' or '.join(Method)}, not '{objects.method}'. Name one of them.")
    if score:
        load_aggregator(score.aggregator)


def _drive(
    job: CollectionJob,
    queued: Sequence[tuple[int, SlideRecord]],
    pool: Runner,
    watcher: Watcher,
    settled: Callable[[SlideRecord], None],
) -> None:
    """Take every slide to its end, or as far as the pool lives."""

    def end(record: SlideRecord) -> None:
        settled(record)
        watcher.settled(record)

    queue = CollectionQueue(queued, output=job.output, n_slots=pool.n_slots, settled=end)
    loop = Loop(queue, pool, queue, watcher.listen(queue), n_attempts=N_ATTEMPTS)
    try:
        loop.run()
    except KeyboardInterrupt:
        loop.take_what_is_there()
        raise
    finally:
        queue.flush()


def _job(
    entries: tuple[Entry, ...], loaded: Model, folder: str, options: Options, *, tell: Callable[[str], None]
) -> tuple[Plan, CollectionJob]:
    """Learn the model once, and choose one tile and block for all slides, as in a plan for a large one."""
    mpp = options.mpp or (declared_mpp(loaded.module) or (0.5,))[0]
    nominal = SourceFacts("a slide", slide_axes(mpp), (3, LONG_SIDE, LONG_SIDE), "uint8", "none")
    with provisional(loaded.module):  # what is fitted is fitted to each slide
        learnt = learnt_for(loaded, nominal, options, tell=tell)
        tell("weighing tile and block shapes")
        wishes = replace(wishes_of(options, {}, learnt), is_tile_exact=False, longest_core=TILE_CORE)
        wishes = replace(wishes, longest_block=LONGEST_MASKED_BLOCK)
        plan = make_plan(nominal, learnt.facts, learnt.geometry, learnt.cost, wishes)
        if options.batch is None:
            plan = timed(plan, loaded, wishes, device=learnt.device)
    block = tuple(tiling.block for tiling in plan.tilings)
    job = CollectionJob(
        folder=str(Path(folder).absolute()),
        entries=entries,
        model=loaded.spec,
        axes=options.axes,
        device=learnt.device.type,
        n_threads=learnt.n_threads,
        geometry=learnt.geometry,
        facts=learnt.facts,
        cost=plan.cost,
        wishes=replace(wishes, tile=plan.tile_shape, block=block, batch_size=plan.batch_size),
        tissue=options.tissue or "auto",
        mpp=options.mpp,
    )
    return plan, job


def slide_axes(mpp: float) -> tuple[Axis, ...]:
    """Return the axes of a slide."""
    space = (Axis(name, Role.SPACE, spacing=mpp, unit="micrometer") for name in "yx")
    return (Axis("c", Role.CHANNEL), *space)


def check_all_done(report: CollectionReport) -> None:
    """Refuse a report in which a slide is not done.

    Raises:
        RunError: If one failed, or was not reached.
    """
    n_failed, n_pending = report.count("failed"), report.count("pending")
    if n_failed or n_pending:
        codes = sorted({record.code for record in report.records if record.status == "failed"})
        again = "the same command with --only-failed" if n_failed else "the same command again"
        raise RunError(
            f"{n_failed} of {len(report.records)} slides failed ({', '.join(codes)}) and {n_pending} are pending; the "
            f"reasons are in '{report.table}'. Mend the causes, then give {again}."
        )
