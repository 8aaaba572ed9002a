"""What is found on a slide once its blocks are done: the certificate, tissue, objects and score, as one row."""

from math import prod
from pathlib import Path
from typing import Any

from engine.collection.job import CollectionJob
from engine.collection.record import MEASURES
from engine.geometry.axes import Role, positions
from engine.plan import Plan
from engine.prepare import Prepared
from engine.run import conclude
from engine.storage.ledger import State
from engine.storage.output import Output, open_output
from engine.tissue.picture import draw_mask
from engine.tissue.wanted import thumbnail

PICTURE_MPP = 16.0
"""Micrometre per pixel of the picture of the mask."""


def conclude_slide(job: CollectionJob, slide: int, prepared: Prepared) -> None:
    """Certify and measure a slide, and keep what was found in its output; objects and scores of whole slides only."""
    url = job.output(slide)
    output = open_output(url)
    certificate = conclude(prepared, output, n_certified=job.n_certified)
    found = slide_facts(prepared.plan, output)
    if certificate is not None:
        found["seam_difference"] = max(seams.max_difference for seams in certificate.outputs.values())
        found["seams_hold"] = certificate.holds
    if prepared.mask is not None:
        draw_wanted(f"{job.folder}/{job.entries[slide].id}-tissue.png", prepared)
    output.record(**{MEASURES: found})


def slide_facts(plan: Plan, output: Output) -> dict[str, Any]:
    """Return how large a slide is, how much of it is wanted, and how its blocks ended."""
    space = positions(plan.source.axes, Role.SPACE)
    axes, shape = [plan.source.axes[i] for i in space], [plan.source.shape[i] for i in space]
    counts = output.ledger.counts()
    found: dict[str, Any] = {f"n_{axis.name}": n for axis, n in zip(axes, shape, strict=True)}
    found |= {f"spacing_{axis.name}": axis.spacing for axis in axes}
    found |= {f"blocks_{state.name.lower()}": counts[state] for state in (State.DONE, State.SKIPPED, State.FAILED)}
    if plan.mask is not None:
        cell = prod(axis.spacing * n for axis, n in zip(axes, plan.mask.cell, strict=True))
        found["tissue_mm2"] = round(plan.mask.n_wanted * cell / 1e6, 4)
        found["tissue_share"] = round(plan.mask.share, 5)
    return found


def draw_wanted(path: str, prepared: Prepared) -> None:
    """Draw the mask of a run over the thumbnail of its slide."""
    assert prepared.mask is not None
    assert prepared.plan.mask is not None
    plan = prepared.plan
    picture, mpp = thumbnail(plan.source.url, mpp=PICTURE_MPP)
    space = positions(plan.source.axes, Role.SPACE)
    steps = [plan.source.axes[i].spacing * n for i, n in zip(space, prepared.plan.mask.cell, strict=True)]
    share = f"{prepared.plan.mask.share:.1%} wanted"
    draw_mask(
        Path(path),
        picture=picture,
        mpp=mpp,
        cells=prepared.mask.cells,
        cell_size=tuple(steps),
        title=f"{Path(plan.source.url.split('#')[0]).name}: {share}, by '{prepared.plan.mask.method}'",
    )
