"""What is made of a slide's result: objects in the slide's own pixels, a score, and the picture of what was wanted."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.geometry.axes import Role, positions
from engine.geometry.region import Region
from engine.objects.find import ObjectsReport, find_objects
from engine.objects.find import RunnerMaker as PoolMaker
from engine.objects.recipe import Measured, Recipe
from engine.plan import OutputFacts, Plan
from engine.plan_json import plan_from_json
from engine.runtime.events import Listener
from engine.runtime.masking import Mask
from engine.runtime.serial import SerialRunner
from engine.score import THUMBNAIL_SIDE, SlideScore, score
from engine.storage import arrays
from engine.storage.cells import read_cells
from engine.storage.create import remove
from engine.storage.ledger import State
from engine.storage.output import SCORE, WANTED, Output, open_output
from engine.storage.view import at_mpp, without_mpp
from engine.storage.volume import open_volume
from engine.tissue.picture import draw_mask
from engine.tissue.wanted import cell_of, cell_sizes, thumbnail, wanted_cells

PICTURE_MPP = 16.0
"""Micrometre per pixel of the picture of the mask."""


def plan_of(output: str) -> Plan:
    """Return the plan that an output was made by.

    Raises:
        EngineError: If there is no output, or its plan is damaged.
    """
    return plan_from_json(open_output(output).provenance["plan"])


def slide_objects(
    output: str,
    recipe: Recipe,
    *,
    measured: Sequence[str] = (),
    runner: PoolMaker = SerialRunner,
    listener: Listener = lambda _: None,
) -> ObjectsReport:
    """Find the objects of a slide's result, with their outlines in the slide's level-0 pixels.

    Args:
        output: URL of the result.
        recipe: Which objects; its ``volume`` is the name of an output. Level 0 and what is measured are filled in.
        measured: Outputs whose mean is taken over each object; one with channels gives a column for each.
        runner: Makes the runner of all passes.
        listener: Is handed every event.

    Raises:
        UsageError: If the result has no such output.
        EngineError: See :func:`engine.objects.find.find_objects`.
    """
    plan = plan_of(output)
    paths = open_output(output).provenance["paths"]
    volume = paths[_named(plan, recipe.volume).name]
    columns: dict[str, Measured] = {}
    for name in measured:
        facts = _named(plan, name)
        channels = range(facts.shape[len(plan.batches)]) if facts.has_channels else (None,)
        columns |= {name if len(channels) == 1 else f"{name} {i}": Measured(paths[name], i) for i in channels}
    base = open_volume(without_mpp(plan.source.url))
    y, x = (base.axes[i].spacing for i in positions(base.axes, Role.SPACE))
    filled = replace(recipe, volume=volume, measured=columns, level0_spacing=(y, x))
    return find_objects(output, filled, runner=runner, listener=listener)


def _named(plan: Plan, name: str) -> OutputFacts:
    for output in plan.outputs:
        if output.name == name:
            return output
    known = ", ".join(output.name for output in plan.outputs)
    raise UsageError(f"the result has the outputs {known}, not '{name}', in '{plan.source.url}'. Name one of them.")


def slide_score(output: str, aggregator: str, *, features: str) -> SlideScore:
    """Score a slide's result by its features, of which the wanted cells are the bag.

    Args:
        output: URL of the result; ``score`` is written in it.
        aggregator: A specification; see :func:`engine.score.score`.
        features: Name of the output that holds the features.

    Raises:
        UsageError: If the result has no such output.
        EngineError: See :func:`engine.score.score`.
    """
    plan = plan_of(output)
    _named(plan, features)
    bag = wanted_voxels(output, features) if plan.mask is not None else None
    if arrays.exists(f"{output}/{SCORE}"):
        remove(f"{output}/{SCORE}")  # of a call that was broken off, or of another aggregator
    url = open_output(output).volumes[features].url
    return score(url, aggregator, output=f"{output}/{SCORE}", thumbnail=_figure_of(plan), mask=bag)


def _figure_of(plan: Plan) -> str | None:
    """Return the slide at a resolution at which its figure is small; None for what is no slide."""
    if plan.source.axes[-1].unit != "micrometer" or len(plan.tilings) != 2:
        return None
    longest = max(axis.spacing * n for axis, n in zip(plan.source.axes[-2:], plan.source.shape[-2:], strict=True))
    return at_mpp(plan.source.url, max(longest / THUMBNAIL_SIDE, *(axis.spacing for axis in plan.source.axes[-2:])))


def wanted_voxels(output: str, name: str) -> NDArray[np.bool_]:
    """Return which voxels over space of an output of a masked run are wanted.

    Raises:
        UsageError: If the result has no such output.
    """
    plan = plan_of(output)
    facts = _named(plan, name)
    mask = Mask(plan, read_cells(f"{output}/{WANTED}") > 0)
    return mask.meets(facts, Region.whole(facts.shape[-len(plan.tilings) :]))


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
        found["seconds_saved"] = round(plan.seconds_of(output.n_background(plan.graph.n_blocks)), 3)
    return found


def draw_tissue(source: str, method: str, path: Path) -> float:
    """Draw what would be wanted of a slide over its thumbnail, and return its share.

    Raises:
        TissueError: If nothing is, or the method is none.
    """
    cell = cell_of(source)
    cells = wanted_cells(source, method, cell=cell)
    draw_cells(path, source, method, cells=cells, cell=cell)
    return float(cells.mean())


def draw_cells(path: Path, source: str, method: str, *, cells: NDArray[np.bool_], cell: tuple[int, ...]) -> None:
    """Write the PNG of cells of a slide over its thumbnail."""
    picture, mpp = thumbnail(source, mpp=PICTURE_MPP)
    sizes = cell_sizes(open_volume(source), cell)
    title = f"{Path(without_mpp(source)).name}: {cells.mean():.1%} wanted, by '{method}'"
    draw_mask(path, picture=picture, mpp=mpp, cells=cells, cell_size=sizes, title=title)
