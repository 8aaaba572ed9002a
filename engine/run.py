"""The front door: plan a run, run it, certify it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from engine.adopt import adopt
from engine.certificate import Certificate, certify
from engine.describe import describe, grid_of
from engine.errors import RunError, VerifyError
from engine.factory import BlockWorkerFactory, open_source
from engine.models.allocator import release_freed_memory
from engine.plan import Plan
from engine.plan_json import plan_from_json
from engine.prepare import Options, Prepared, prepare
from engine.runtime.events import Listener, Runner, Summary, Tally
from engine.runtime.masking import Coverage, coverage
from engine.runtime.ready import chunk_of
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from engine.storage.cells import store_cells
from engine.storage.ledger import State
from engine.storage.output import COVERAGE, Output, open_output

RunnerMaker = Callable[[BlockWorkerFactory, Plan], Runner]
"""Makes the runner of a plan; ``serial`` here, Ray's in ``runtime/actors.py``."""

N_CERTIFIED = 4
"""Tiles recomputed at the end of a run."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended."""

    url: str
    plan: Plan
    summary: Summary
    certificate: Certificate | None
    """None where no tile was asked for, or nothing is done yet."""
    failures: Mapping[int, str]
    """Reason of each failed task."""
    n_background: int = 0
    """Blocks of level 0 that were skipped, in this and earlier calls."""

    @property
    def is_complete(self) -> bool:
        """Whether every block is stored and the certificate, if any, holds."""
        return self.summary.is_complete and (self.certificate is None or self.certificate.holds)


def serial_runner(factory: BlockWorkerFactory, plan: Plan) -> Runner:
    """Return the plain loop in this process, its stages overlapped."""
    return SerialRunner(factory, n_in_flight=plan.n_in_flight)


def quiet(_: object) -> None:
    """Listen to nothing."""


def run(
    source: str,
    model: str | torch.nn.Module,
    output: str,
    *,
    options: Options | None = None,
    runner: RunnerMaker = serial_runner,
    listener: Listener = quiet,
    n_certified: int = N_CERTIFIED,
    plan: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = quiet,
) -> Report:
    """Run ``model`` over the volume at ``source`` and write an output group at ``output``.

    Args:
        source: URL of a volume.
        model: A specification, or a module.
        output: Where; nothing may be there yet.
        options: How to run.
        runner: Makes the runner.
        listener: Is handed every event.
        n_certified: Tiles recomputed at the end for the seam certificate.
        plan: A plan in JSON to run as it is, instead of a new one: two runs of one plan store the same bits.
        tell: Is told what goes on before the first block.

    Raises:
        EngineError: If anything is refused, before a byte is written; if the run stops, what is done is kept.
    """
    chosen = options or Options()
    if plan is None:
        prepared = prepare(source, model, chosen, tell=tell)
    else:
        prepared = adopt(plan_from_json(plan), source=source, model=model, options=chosen)
    return run_prepared(
        prepared,
        output,
        model=model,
        options=chosen,
        runner=runner,
        listener=listener,
        n_certified=n_certified,
    )


def run_prepared(
    prepared: Prepared,
    output: str,
    *,
    model: str | torch.nn.Module,
    options: Options,
    runner: RunnerMaker = serial_runner,
    listener: Listener = quiet,
    n_certified: int = N_CERTIFIED,
) -> Report:
    """Run a plan that was prepared, perhaps shown, and agreed to; see :func:`run`."""
    describe(prepared, output, options=options)
    return fill(
        prepared, output, model=model, options=options, runner=runner, listener=listener, n_certified=n_certified
    )


def fill(
    prepared: Prepared,
    url: str,
    *,
    model: str | torch.nn.Module,
    options: Options,
    runner: RunnerMaker,
    listener: Listener,
    n_certified: int,
) -> Report:
    """Do what the ledger says is missing, certify, and record how it ended."""
    plan, output = prepared.plan, open_output(url)
    factory = BlockWorkerFactory(
        plan=plan,
        output_url=url,
        model=model if isinstance(model, torch.nn.Module) else prepared.model.spec,
        weights=None,
        axes=options.axes,
        device=prepared.device.type,
        n_threads=prepared.n_threads,
    )
    shrunk: set[tuple[int, ...]] = set()

    def listen(event: object) -> None:
        shape = getattr(event, "shape", None)
        if shape is not None:
            shrunk.add(shape)
        listener(event)  # type: ignore[arg-type]

    if is_done(output):
        summary = Tally().summary(n_tasks=plan.graph.n_tasks, n_done_before=plan.graph.n_tasks, seconds=0.0)
    else:
        with runner(factory, plan) as ready:
            chunks = chunk_of(plan, prepared.source.levels[0].decoded_shape)
            summary = drive(plan.graph, ready, output.ledger, listen, n_voxels=plan.output_voxels, chunk_of=chunks)
    facts: dict[str, Any] = {"summary": asdict(summary)}
    if shrunk:
        facts["tiles_shrunk_to"] = [list(shape) for shape in sorted(shrunk)]
    certificate = conclude(prepared, output, n_certified=n_certified, facts=facts)
    n_background = output.n_background(plan.graph.n_blocks) if plan.mask is not None else 0
    return Report(url, plan, summary, certificate, output.ledger.failures(), n_background)


def conclude(
    prepared: Prepared, output: Output, *, n_certified: int, facts: Mapping[str, Any] | None = None
) -> Certificate | None:
    """Certify what is stored, and note in the output how its run ended: certificate, coverage, and ``facts``."""
    plan, noted = prepared.plan, {"finished": datetime.now(UTC).isoformat(timespec="seconds"), **(facts or {})}
    certificate = None
    if n_certified and output.ledger.counts()[State.DONE]:
        release_freed_memory()  # what blocks have left behind: tiles of another shape would not fit into it
        certificate = certify(
            plan,
            prepared.model,
            open_source(plan, output.url, axes=prepared.axes) if plan.graph.is_chain else prepared.source,
            output,
            n_tiles=n_certified,
            seed=0,
            device=prepared.device,
            mask=prepared.mask,
        )
        noted["certificate"] = certificate.to_json()
    output.record(**noted)
    if prepared.mask is not None:
        became = coverage(prepared.mask, output.ledger)
        store_cells(f"{output.url}/{COVERAGE}", grid_of(plan, became), meanings=tuple(Coverage))
    if is_done(output):
        output.finish(is_sparse=prepared.mask is not None)
    return certificate


def is_done(output: Output) -> bool:
    """Say whether every block of an output is stored, or skipped as background."""
    counts = output.ledger.counts()
    return counts[State.DONE] + counts[State.SKIPPED] == output.ledger.n_tasks


def check_complete(report: Report) -> None:
    """Refuse a report of a run that is not complete.

    Raises:
        RunError: If blocks failed or are pending.
        VerifyError: If the seam certificate does not hold.
    """
    summary = report.summary
    if not summary.is_complete:
        first = next(iter(report.failures.items()), None)
        why = f"; block {first[0]}: {first[1].rstrip('. ')}" if first else ""
        raise RunError(
            f"{summary.n_failed} blocks failed and {summary.n_pending} wait for them, of {summary.n_tasks} in "
            f"'{report.url}'{why}. Mend the cause, then 'engine resume {report.url}'."
        )
    if report.certificate is not None and not report.certificate.holds:
        raise VerifyError(f"the seam certificate of '{report.url}' does not hold: see 'engine report {report.url}'.")
