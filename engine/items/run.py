"""Many small volumes through one model: the front door of items."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import RunError, UsageError
from engine.factory import ready_process
from engine.items.claim import manifest_digest, read_claim, write_claim
from engine.items.manifest import Item, read_manifest
from engine.items.outputs import Output, wanted_outputs
from engine.items.plan import ItemPlan
from engine.items.reading import reader_of
from engine.items.table import FAILURES, TABLE, write_failures
from engine.items.voxels import create_voxels
from engine.items.weigh import Budget, tried, weighed
from engine.items.worker import ItemWorkerFactory
from engine.memory import n_cpus
from engine.models.forward import pick_device
from engine.models.item_pass import ItemPass
from engine.models.load import load_model
from engine.models.measure import PRECISIONS
from engine.runtime.events import Listener, Runner, Summary
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from engine.storage.ledger import Ledger

RunnerMaker = Callable[[ItemWorkerFactory], AbstractContextManager[Runner]]
"""Makes who does the blocks."""

N_ATTEMPTS = 2
"""Tries of a block; what is wrong with one item is not tried again."""


@dataclass(frozen=True, slots=True)
class ItemOptions:
    """How items are run."""

    weights: str | None = None
    memory: int | None = None
    """Bytes for all workers; most of what is free by default."""
    workers: int = 1
    threads: int | None = None
    """CPU threads of each worker; a share of all by default."""
    batch: int | None = None
    """Items in one call of the model; as many as fit by default."""
    precision: str | None = None
    device: str | None = None
    voxels: bool = False
    """Whether outputs that are volumes are stored."""


@dataclass(frozen=True, slots=True)
class ItemReport:
    """How a run over items stands."""

    folder: str
    n_items: int
    n_failed: int
    """Items that could not be read or computed."""
    summary: Summary
    """Of blocks, those of earlier calls included."""
    table: Path
    """Folder of Parquet files that opens as one table: a row per item."""
    failures: Path
    """The items that failed and why, as a manifest of its own."""


def quiet(_: object) -> None:
    """Listen to nothing."""


def items(
    manifest: str,
    model: str | torch.nn.Module,
    output: str,
    *,
    options: ItemOptions | None = None,
    runner: RunnerMaker = SerialRunner,
    listener: Listener = quiet,
) -> ItemReport:
    """Run ``model`` over every item of a manifest, and write a table with a row for each.

    Items of one shape go through in batches of one size. One that cannot be read, or that the model cannot take, has
    its reason in its row; the others have their results. A second call does the blocks that were not finished, and
    nothing else, and gives the bits that one call would have given.

    Args:
        manifest: A CSV or Parquet file; see ``manifest.py`` and ``reading.py`` for its columns.
        model: Specification of the model, or a module.
        output: Folder of the results.
        options: How to run.
        runner: Makes who does the blocks.
        listener: Told everything.

    Raises:
        EngineError: If the manifest, the model, the options or the folder are refused; nothing is written then.
        RunError: If no worker is left, or the disk is full. What is done is kept.
    """
    asked = options or ItemOptions()
    _check(asked)
    listed = read_manifest(manifest)
    folder = str(Path(output).absolute())
    n_threads = asked.threads or max(1, n_cpus() // asked.workers)
    ready_process(n_threads)
    loaded = load_model(model, weights=asked.weights)
    precision = asked.precision or str(loaded.dtype).removeprefix("torch.")
    identity = {"model": loaded.fingerprint, "precision": precision, "voxels": asked.voxels, "batch": asked.batch}
    identity["manifest"] = manifest_digest(listed)
    passes = ItemPass.of(loaded, pick_device(asked.device), precision)
    held = read_claim(folder, identity)
    plan, outputs = held if held is not None else _begin(folder, listed, passes, asked, identity)
    factory = ItemWorkerFactory(
        items=listed,
        plan=plan,
        outputs=outputs,
        folder=folder,
        model=model if isinstance(model, torch.nn.Module) else loaded.spec,
        weights=asked.weights if isinstance(model, str) else None,
        precision=precision,
        device=str(passes.device),
        n_threads=n_threads,
    )
    with runner(factory) as pool:
        summary = drive(plan.graph, pool, Ledger.open(folder), listener, n_attempts=N_ATTEMPTS)
    n_failed = write_failures(folder, listed)
    return ItemReport(folder, len(listed), n_failed, summary, Path(folder) / TABLE, Path(folder) / FAILURES)


def _check(asked: ItemOptions) -> None:
    """Refuse numbers below 1 and precisions that there are not."""
    counts = {"workers": asked.workers, "threads": asked.threads, "batch": asked.batch, "memory": asked.memory}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}. Give 1 or more.")
    if asked.precision not in (None, *PRECISIONS):
        raise UsageError(f"--precision must be one of {', '.join(PRECISIONS)}, not '{asked.precision}'. Name one.")


def _begin(
    folder: str, listed: Sequence[Item], passes: ItemPass, asked: ItemOptions, identity: Mapping[str, Any]
) -> tuple[ItemPlan, tuple[Output, ...]]:
    """Plan a run, and describe all that it will write; the claim is written last."""
    reader = reader_of(listed[0])
    plan, trial = weighed(listed, reader, passes, Budget(asked.memory, asked.workers, asked.batch))
    outputs = wanted_outputs(trial.outputs, has_voxels=asked.voxels)
    if any(output.is_volume for output in outputs):
        seen = (next(tried(listed, bucket.numbers, reader, passes), None) for bucket in plan.buckets)
        create_voxels(folder, plan, {n: one[1] for n, one in enumerate(seen) if one is not None})
    Path(folder).mkdir(parents=True, exist_ok=True)
    Ledger.create(folder, plan.graph.n_tasks)
    write_claim(folder, identity, plan, outputs)
    return plan, outputs


def check_all_done(report: ItemReport) -> None:
    """Refuse a report in which an item is not done.

    Raises:
        RunError: If items failed, or blocks were not finished.
    """
    summary = report.summary
    if not summary.is_complete:
        raise RunError(
            f"{summary.n_failed} blocks of items failed and {summary.n_pending} are pending, of {summary.n_tasks}. "
            "Mend the cause, then give the same command again."
        )
    if report.n_failed:
        raise RunError(
            f"{report.n_failed} of {report.n_items} items failed; the reasons are in '{report.failures}'. Mend them, "
            "then give that file as a manifest, and another folder."
        )
