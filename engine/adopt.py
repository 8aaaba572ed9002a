"""A plan that exists already, with its own source and model: the same ones, or refused by name."""

from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import EngineError, PlanError, UsageError
from engine.models.fitted import set_constants
from engine.models.forward import pick_device
from engine.models.load import Model, load_model
from engine.plan import Plan
from engine.prepare import Options, Prepared, check_options, threads_of
from engine.runtime.masking import Mask
from engine.storage.fingerprint import fingerprint
from engine.storage.source_url import moved
from engine.storage.volume import open_volume
from engine.tissue.wanted import cells_fingerprint, wanted_cells

FREE = frozenset({"weights", "axes", "device", "threads"})
"""Options that a plan leaves open: where things are and what runs them, not what comes out."""


def adopt(
    plan: Plan,
    *,
    source: str | None,
    model: str | torch.nn.Module | Model | None,
    options: Options,
    owner: str = "the plan",
    error: type[EngineError] = PlanError,
    cells: NDArray[np.bool_] | None = None,
) -> Prepared:
    """Open the source and the model of a plan, and refuse any that is not its own.

    Args:
        plan: The plan.
        source: Where the source lies now; None for where the plan says.
        model: The model, or how it is loaded; None for the one that the plan names.
        options: May hold what a plan leaves open: weights, axes, device, threads.
        owner: What the plan belongs to, for messages.
        error: What to raise where the source or the model is another one.
        cells: The cells that the plan's mask wants, where they are kept; else they are made again as the plan says.

    Raises:
        UsageError: If an option would change the plan, or is none.
        EngineError: ``error``, if the source or the model is another one.
    """
    check_options(options)
    _check_free(options)
    if source is not None:
        plan = replace(plan, source=replace(plan.source, url=moved(plan.source.url, place=source)))
    given = model if model is not None else plan.model.spec
    loaded = given if isinstance(given, Model) else load_model(given, weights=options.weights)
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
    if plan.model.constants:
        loaded = loaded.own()
        set_constants(loaded.module, plan.model.constants)
    mask = None
    if plan.mask is not None:
        cells = wanted_cells(plan.source.url, plan.mask.method, cell=plan.mask.cell) if cells is None else cells
        if cells_fingerprint(cells) != plan.mask.fingerprint:
            raise error(
                f"the mask '{plan.mask.method}' is not the one that {owner} was made with: its cells differ. "
                "Restore what it is made from, or start a new run."
            )
        mask = Mask(plan, cells)
    n_threads = threads_of(options, plan.n_workers)
    return Prepared(plan, loaded, volume, pick_device(options.device), n_threads, mask, options.axes)


def _check_free(options: Options) -> None:
    default = Options()
    fixed = [f.name for f in fields(Options) if f.name not in FREE]
    changed = [name for name in fixed if getattr(options, name) != getattr(default, name)]
    if changed:
        flags = ", ".join(f"--{'no-' * (getattr(options, name) is False)}{name}" for name in changed)
        raise UsageError(f"a saved plan fixes {flags}: it cannot be given beside --plan. Leave it out, or plan anew.")
