"""A plan that exists already, with its own source and model: the same ones, or refused by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from engine.errors import EngineError, PlanError, UsageError
from engine.memory import n_cpus
from engine.models.forward import pick_device
from engine.models.load import load_model
from engine.plan_json import plan_from_json
from engine.prepare import FEWEST_THREADS, Options, Prepared, check_options
from engine.storage.fingerprint import fingerprint
from engine.storage.volume import open_volume

FREE = frozenset({"weights", "axes", "device", "threads"})
"""Options that a plan leaves open: where things are and what runs them, not what comes out."""


def adopt(
    value: Mapping[str, Any],
    *,
    source: str | None,
    model: str | torch.nn.Module | None,
    options: Options,
    owner: str = "the plan",
    error: type[EngineError] = PlanError,
) -> Prepared:
    """Open the source and the model of a plan in JSON, and refuse any that is not its own.

    Args:
        value: The plan, as :func:`engine.plan_json.plan_to_json` gives it.
        source: Where the source lies now; None for where the plan says.
        model: The model; None for the one that the plan names.
        options: May hold what a plan leaves open: weights, axes, device, threads.
        owner: What the plan belongs to, for messages.
        error: What to raise where the source or the model is another one.

    Raises:
        UsageError: If an option would change the plan, or is none.
        PlanError: If it is no plan.
    """
    check_options(options)
    _check_free(options)
    if source is not None and "source" in value:
        value = {**value, "source": {**value["source"], "url": source}}
    plan = plan_from_json(value)
    given = model if model is not None else plan.model.spec
    has_weights = isinstance(given, str) and "@" not in given
    loaded = load_model(given, weights=options.weights if has_weights else None)
    if loaded.fingerprint != plan.model.fingerprint:
        raise error(
            f"the model '{loaded.spec}' is not the one that {owner} was made by: fingerprint "
            f"{loaded.fingerprint[:12]} now, {plan.model.fingerprint[:12]} then. Give the same code and weights, or "
            "start a new run."
        )
    volume = open_volume(plan.source.url, axes=options.axes)
    found = fingerprint(volume)
    if found != plan.source.fingerprint:
        raise error(
            f"the source at '{plan.source.url}' is not the one that {owner} was made from: fingerprint "
            f"{found[:12]} now, {plan.source.fingerprint[:12]} then. Restore it, or start a new run."
        )
    n_threads = options.threads or max(FEWEST_THREADS, n_cpus() // plan.n_workers)
    return Prepared(plan, loaded, volume, pick_device(options.device), n_threads)


def _check_free(options: Options) -> None:
    default = Options()
    fixed = [f.name for f in fields(Options) if getattr(options, f.name) != getattr(default, f.name)]
    changed = [name for name in fixed if name not in FREE]
    if changed:
        flags = ", ".join(f"--{'no-' * (getattr(options, name) is False)}{name}" for name in changed)
        raise UsageError(f"a saved plan fixes {flags}: it cannot be given beside --plan. Leave it out, or plan anew.")
