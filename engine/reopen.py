"""Outputs that exist: go on with one, verify it, say how it stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from engine.adopt import adopt
from engine.certificate import Certificate, certify
from engine.errors import LedgerError, PlanError, ResumeError, VerifyError
from engine.models.load import Model
from engine.plan import Plan, differences
from engine.plan_json import identity, plan_from_json
from engine.prepare import Options, Prepared
from engine.run import N_CERTIFIED, Report, RunnerMaker, fill, quiet, serial_runner
from engine.runtime.events import Listener
from engine.storage.cells import read_cells
from engine.storage.ledger import State
from engine.storage.output import WANTED, open_output


@dataclass(frozen=True, slots=True)
class Status:
    """How an output stands, from its ledger."""

    url: str
    plan: Plan
    counts: Mapping[State, int]
    failures: Mapping[int, str]
    provenance: Mapping[str, Any]
    n_background: int = 0
    """Blocks of level 0 that were skipped."""


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
    prepared, options, given = reopen(output, source=source, model=model, plan=plan, device=device)
    return fill(
        prepared, output, model=given, options=options, runner=runner, listener=listener, n_certified=n_certified
    )


def reopen(
    output: str,
    *,
    source: str | None = None,
    model: str | torch.nn.Module | Model | None = None,
    plan: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> tuple[Prepared, Options, str | torch.nn.Module]:
    """Open an output with its source and model, and refuse any that is not its own."""
    provenance = open_output(output).provenance
    made = _plan_of(output, provenance)
    if plan is not None and (differing := differences(identity(plan), identity(provenance["plan"]))):
        raise ResumeError(f"the plan given is not the one of '{output}': {'; '.join(differing[:5])}. Start a new run.")
    given = model if model is not None else made.model.spec
    if isinstance(given, str) and given.startswith("<module "):
        raise ResumeError(
            f"'{output}' was made by a module given as an object, {given}, and it must be given again. "
            "Call engine.resume(output, model=...)."
        )
    weights = provenance.get("weights") if model is None and "@" not in made.model.spec else None
    options = Options(axes=provenance.get("axes"), weights=weights, device=device)
    owner = f"'{output}'"
    cells = read_cells(f"{output}/{WANTED}") > 0 if made.mask is not None else None
    prepared = adopt(made, source=source, model=given, options=options, owner=owner, error=ResumeError, cells=cells)
    return prepared, options, given.spec if isinstance(given, Model) else given


def _plan_of(output: str, provenance: Mapping[str, Any]) -> Plan:
    try:
        return plan_from_json(provenance["plan"])
    except PlanError as error:
        raise LedgerError(f"the plan in the attributes of '{output}' is damaged: {error} Start a new run.") from error


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
    prepared, _, _ = reopen(output, source=source, model=model, device=device)
    opened = open_output(output)
    drawn = seed if seed is not None else int(datetime.now(UTC).timestamp())
    certificate = certify(
        prepared.plan,
        prepared.model,
        prepared.source,
        opened,
        n_tiles=n_tiles,
        seed=drawn,
        device=prepared.device,
        mask=prepared.mask,
    )
    opened.record(certificate=certificate.to_json())
    if not certificate.n_tiles:
        raise VerifyError(
            f"no tile of '{output}' could be compared: none of its blocks there is done. Resume it first."
        )
    broken = [
        f"'{name}' by up to {seams.max_difference:.3g}"
        for name, seams in certificate.outputs.items()
        if not seams.holds
    ]
    if broken:
        raise VerifyError(
            f"recomputed tiles differ from '{output}' beyond rounding: {', '.join(broken)} in {certificate.n_tiles} "
            "tiles. The output was changed, or the model depends on something that the checks did not see. Run it anew."
        )
    return certificate


def status(output: str) -> Status:
    """Return how an output stands. Reads its attributes and its ledger only."""
    opened = open_output(output)
    plan = _plan_of(output, opened.provenance)
    n_background = opened.n_background(plan.graph.n_blocks) if plan.mask is not None else 0
    return Status(output, plan, opened.ledger.counts(), opened.ledger.failures(), opened.provenance, n_background)
