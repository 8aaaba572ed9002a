"""The front door: plan a run, run it, resume it, verify it, say how it stands."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from engine.certificate import Certificate, certify
from engine.errors import ResumeError, RunError, VerifyError
from engine.factory import BlockWorkerFactory
from engine.geometry.axes import Role
from engine.models.forward import pick_device
from engine.models.load import Model, load_model
from engine.plan import OutputFacts, Plan, differences
from engine.plan_json import identity, plan_from_json, plan_hash, plan_to_json
from engine.memory import n_cpus
from engine.prepare import FEWEST_THREADS, Options, Prepared, prepare
from engine.runtime.events import Listener, Runner, Summary, Tally
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from engine.storage.create import Coordinate, read_coordinates
from engine.storage.fingerprint import fingerprint
from engine.storage.ledger import State
from engine.storage.output import Described, Output, create_output, open_output
from engine.storage.volume import Volume, open_volume

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

    @property
    def is_complete(self) -> bool:
        """Whether every block is stored and the certificate, if any, holds."""
        return self.summary.is_complete and (self.certificate is None or self.certificate.holds)


@dataclass(frozen=True, slots=True)
class Status:
    """How an output stands, from its ledger."""

    url: str
    plan: Plan
    counts: Mapping[State, int]
    failures: Mapping[int, str]
    provenance: Mapping[str, Any]


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
        tell: Is told what goes on before the first block.

    Raises:
        EngineError: If anything is refused, before a byte is written; if the run stops, what is done is kept.
    """
    prepared = prepare(source, model, options or Options(), tell=tell)
    return run_prepared(
        prepared, output, model=model, options=options or Options(), runner=runner, listener=listener,
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
    plan = prepared.plan
    create_output(
        output,
        outputs=[_described(plan, facts, prepared.source) for facts in plan.outputs],
        provenance=_provenance(plan, options),
        n_tasks=plan.graph.n_tasks,
    )
    return _fill(prepared, output, model=model, options=options, runner=runner, listener=listener, n_certified=n_certified)


def _described(plan: Plan, facts: OutputFacts, source: Volume) -> Described:
    halved = plan.factors[0] if plan.factors else (1,) * len(plan.tilings)
    names = [tiling.name for tiling in plan.tilings]
    known = read_coordinates(source) if plan.source.flavour == "cf" else {}
    sizes = {axis.name: n for axis, n in zip(facts.axes, facts.shape, strict=True) if axis.role is not Role.CHANNEL}
    return Described(
        name=facts.name,
        axes=facts.axes,
        dtype=facts.dtype,
        shape=facts.shape,
        chunk_shape=facts.chunk_shape,
        shard_shape=facts.shard_shape,
        n_levels=plan.graph.n_levels,
        downsampled=tuple(name for name, factor in zip(names, halved, strict=True) if factor == 2),
        origin=facts.translation,
        flavour=plan.source.flavour,
        coordinates={name: c for name, c in known.items() if _fits(c, sizes)},
    )


def _fits(coordinate: Coordinate, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(axis) == n for axis, n in zip(coordinate.axes, coordinate.values.shape, strict=True))


def _provenance(plan: Plan, options: Options) -> dict[str, Any]:
    value = plan_to_json(plan)
    return {
        "engine": _version(),
        "torch": torch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "contract": "exact",
        "evidence": plan.geometry.evidence,
        "precision": plan.model.precision,
        "notes": list(plan.notes),
        "plan": value,
        "plan_hash": plan_hash(value),
        "weights": options.weights,
        "axes": options.axes,
    }


def _version() -> str:
    try:
        return version("haloengine")
    except PackageNotFoundError:
        return "unknown"


def _fill(
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

    if _is_done(output):
        summary = Tally().summary(n_tasks=plan.graph.n_tasks, n_done_before=plan.graph.n_tasks, seconds=0.0)
    else:
        with runner(factory, plan) as ready:
            summary = drive(plan.graph, ready, output.ledger, listen, n_voxels=plan.output_voxels)
    facts: dict[str, Any] = {"summary": asdict(summary), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    if shrunk:
        facts["tiles_shrunk_to"] = [list(shape) for shape in sorted(shrunk)]
    certificate = None
    if n_certified and summary.n_done + summary.n_done_before:
        certificate = certify(
            plan, prepared.model, prepared.source, output, n_tiles=n_certified, seed=0, device=prepared.device
        )
        facts["certificate"] = certificate.to_json()
    output.record(**facts)
    if summary.is_complete:
        output.finish()
    return Report(url, plan, summary, certificate, output.ledger.failures())


def _is_done(output: Output) -> bool:
    counts = output.ledger.counts()
    return counts[State.DONE] + counts[State.SKIPPED] == output.ledger.n_tasks


def resume(
    output: str,
    *,
    source: str | None = None,
    model: str | torch.nn.Module | None = None,
    plan: Mapping[str, Any] | None = None,
    device: str | None = None,
    runner: RunnerMaker = serial_runner,
    listener: Listener = quiet,
    n_certified: int = N_CERTIFIED,
) -> Report:
    """Go on with an output: do what its ledger says is missing or failed. Idempotent.

    Args:
        output: URL of the output.
        source: Where the source lies now, if it was moved.
        model: The model, where it was given as a module or was moved.
        plan: A plan in JSON that the output must have been made by.
        device: Where to run.
        runner: Makes the runner.
        listener: Is handed every event.
        n_certified: Tiles recomputed at the end.

    Raises:
        ResumeError: If the model, the plan or the source is not the one of the output; it names what differs.
    """
    prepared, options, given = _reopen(output, source=source, model=model, plan=plan, device=device)
    return _fill(
        prepared, output, model=given, options=options, runner=runner, listener=listener, n_certified=n_certified
    )


def _reopen(
    output: str,
    *,
    source: str | None,
    model: str | torch.nn.Module | None,
    plan: Mapping[str, Any] | None,
    device: str | None,
) -> tuple[Prepared, Options, str | torch.nn.Module]:
    """Open an output with its source and model, and refuse any that is not its own."""
    provenance = open_output(output).provenance
    own = dict(provenance["plan"])
    if plan is not None and (differing := differences(identity(plan), identity(own))):
        raise ResumeError(f"the plan given is not the one of '{output}': {'; '.join(differing[:5])}. Start a new run.")
    if source is not None:
        own = {**own, "source": {**own["source"], "url": source}}
    made = plan_from_json(own)
    given = model if model is not None else made.model.spec
    if isinstance(given, str) and given.startswith("<module "):
        raise ResumeError(
            f"'{output}' was made by a module given as an object, {given}, and it must be given again. "
            "Call engine.resume(output, model=...)."
        )
    loaded = _same_model(output, made, given, weights=provenance.get("weights") if model is None else None)
    volume = open_volume(made.source.url, axes=provenance.get("axes"))
    found = fingerprint(volume)
    if found != made.source.fingerprint:
        raise ResumeError(
            f"the source at '{made.source.url}' is not the one that '{output}' was made from: fingerprint "
            f"{found[:12]} now, {made.source.fingerprint[:12]} then. Restore it, or start a new run."
        )
    options = Options(axes=provenance.get("axes"))
    n_threads = max(FEWEST_THREADS, n_cpus() // made.n_workers)
    prepared = Prepared(made, loaded, volume, pick_device(device), n_threads)
    return prepared, options, given


def _same_model(output: str, plan: Plan, given: str | torch.nn.Module, *, weights: str | None) -> Model:
    has_weights = isinstance(given, str) and "@" not in given
    loaded = load_model(given, weights=weights if has_weights else None)
    if loaded.fingerprint != plan.model.fingerprint:
        raise ResumeError(
            f"the model '{loaded.spec}' is not the one that '{output}' was made by: fingerprint "
            f"{loaded.fingerprint[:12]} now, {plan.model.fingerprint[:12]} then. Give the same code and weights, or "
            "start a new run."
        )
    return loaded


def verify(
    output: str,
    *,
    source: str | None = None,
    model: str | torch.nn.Module | None = None,
    n_tiles: int = 8,
    seed: int | None = None,
    device: str | None = None,
) -> Certificate:
    """Recompute random tiles of an output on a shifted grid, and write the certificate into its attributes.

    Raises:
        VerifyError: If they differ by more than rounding, or no block is done yet.
        ResumeError: If the model or the source is not the one of the output.
    """
    prepared, _, _ = _reopen(output, source=source, model=model, plan=None, device=device)
    opened = open_output(output)
    drawn = seed if seed is not None else int(datetime.now(UTC).timestamp())
    certificate = certify(
        prepared.plan, prepared.model, prepared.source, opened, n_tiles=n_tiles, seed=drawn, device=prepared.device
    )
    opened.record(certificate=certificate.to_json())
    if not certificate.n_tiles:
        raise VerifyError(f"no tile of '{output}' could be compared: none of its blocks there is done. Resume it first.")
    broken = [f"'{name}' by up to {seams.max_difference:.3g}" for name, seams in certificate.outputs.items() if not seams.holds]
    if broken:
        raise VerifyError(
            f"recomputed tiles differ from '{output}' beyond rounding: {', '.join(broken)} in {certificate.n_tiles} "
            "tiles. The output was changed, or the model depends on something that the checks did not see: run it anew."
        )
    return certificate


def status(output: str) -> Status:
    """Return how an output stands. Reads its attributes and its ledger only."""
    opened = open_output(output)
    plan = plan_from_json(opened.provenance["plan"])
    return Status(output, plan, opened.ledger.counts(), opened.ledger.failures(), opened.provenance)


def check_complete(report: Report) -> None:
    """Refuse a report of a run that is not complete.

    Raises:
        RunError: If blocks failed or are pending.
        VerifyError: If the seam certificate does not hold.
    """
    summary = report.summary
    if not summary.is_complete:
        first = next(iter(report.failures.items()), None)
        why = f"; block {first[0]}: {first[1]}" if first else ""
        raise RunError(
            f"{summary.n_failed} blocks failed and {summary.n_pending} wait for them, of {summary.n_tasks} in "
            f"'{report.url}'{why}. Mend the cause, then 'engine resume {report.url}'."
        )
    if report.certificate is not None and not report.certificate.holds:
        raise VerifyError(f"the seam certificate of '{report.url}' does not hold: see 'engine report {report.url}'.")
