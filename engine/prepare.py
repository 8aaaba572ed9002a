"""From a source and a model to a plan: opens both, learns the geometry, measures the cost, and weighs the shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from engine.errors import PlanError, UsageError
from engine.geometry.axes import STEP, Role, positions
from engine.geometry.edges import Edge
from engine.geometry.model_geometry import ModelGeometry
from engine.learnt import Learnt, Shaped, learn_model, timed
from engine.memory import BASE_BYTES, available_bytes, n_cpus
from engine.models.allocator import release_freed_memory
from engine.models.card import Card, card_of
from engine.models.fitted import unfitted
from engine.models.forward import free_device_bytes, pick_device
from engine.models.learn import blamed_on, check_periodic
from engine.models.load import Model, load_model
from engine.models.measure import PRECISIONS
from engine.models.missing import takes_nan
from engine.models.place import wanted_place
from engine.plan import Plan, SourceFacts
from engine.planner import Wishes, make_plan
from engine.poles import at_poles
from engine.runtime.masking import Mask
from engine.sight import at_resolution, sight
from engine.storage.fingerprint import fingerprint
from engine.storage.orientation import KEY
from engine.storage.readable import held_bytes
from engine.storage.source_url import parse_source
from engine.storage.volume import Readable, open_volume

MEMORY_SHARE = 0.6
"""Part of the memory that is free now that a run may take where no limit is given."""

LONGEST_MASKED_BLOCK = 2048
"""Voxels of a block along each axis where only part of the source is wanted: larger ones would skip little."""

FEWEST_THREADS = 2
"""On one thread torch takes another kernel for 1 x 1 convolutions, and the last bits differ (2, 3 and 4 agree)."""


@dataclass(frozen=True)
class Options:
    """How to run; None and empty leave it to the engine."""

    memory: int | None = None
    """Bytes for all workers of one machine."""
    workers: int | None = None
    """Worker processes: one per GPU, else one."""
    threads: int | None = None
    """CPU threads of each worker, at least 2: all CPUs divided among the workers."""
    tile: tuple[int, ...] | None = None
    """Input voxels of a tile, per space axis."""
    block: tuple[int, ...] | None = None
    """Input voxels of a block, per space axis."""
    batch: int | None = None
    """Tiles in one call of the model."""
    edges: Mapping[str, Edge] = field(default_factory=dict)
    """Edge rule per space axis; what the volume says of itself, else ``model``."""
    nan: str = "refuse"
    precision: str | None = None
    """float32, float64 or bfloat16; the model's own by default."""
    device: str | None = None
    axes: str | None = None
    """Names of the source's axes, where it does not say."""
    weights: str | None = None
    tissue: str | None = None
    """What is wanted of a slide: ``auto``, polygons, a mask or a model; see ``tissue/wanted.py``. All by default."""
    mpp: float | None = None
    """Micrometre per voxel to read a slide at; what the model declares by default, else the slide's own."""
    pyramid: bool = True
    extend: bool = True
    in_flight: int = 3


@dataclass(frozen=True)
class Prepared:
    """A plan with what it was made from, still open."""

    plan: Plan
    model: Model
    source: Readable
    device: torch.device
    n_threads: int
    mask: Mask | None = None
    """What is wanted, where that is not everything."""
    axes: str | None = None
    """Names of the source's axes, where it does not say."""


def prepare(
    source: str, model: str | torch.nn.Module, options: Options, *, tell: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Return a plan for ``model`` over the volume at ``source``. Reads a few voxels; writes nothing.

    Args:
        source: URL of a volume, or of a slide as it came from the scanner.
        model: A specification (``file.py:factory@weights``, ``.pt2``, TorchScript), or a module.
        options: How to run.
        tell: Is told, line by line, what goes on.

    Raises:
        EngineError: If anything is refused; every refusal happens here.
    """
    check_options(options)
    loaded = load_model(model, weights=options.weights)
    loaded = loaded.own() if unfitted(loaded.module) else loaded
    options = replace(options, nan="keep") if takes_nan(loaded.module) else options
    url = with_place(at_resolution(source, loaded, mpp=options.mpp), loaded)
    volume = open_volume(url, axes=options.axes)
    card = card_of(loaded.module)
    _check_orientation(card, volume)
    seen = sight(url, loaded, tissue=options.tissue, axes=options.axes, nan=options.nan, tell=tell)
    learnt = learnt_for(loaded, volume, options, tell=tell)
    _check_chain(volume, learnt.geometry)
    tell("weighing tile and block shapes")
    lost = tuple(sum(program.widest_halo) for program in learnt.geometry.programs)
    names = [volume.axes[i].name for i in positions(volume.axes, Role.SPACE)]
    around = [name for name, p in zip(names, learnt.geometry.programs, strict=True) if p.is_around]
    edges = {name: edge for name, edge in volume.edges.items() if name not in around}
    options = replace(options, edges=at_poles(options.edges, volume))
    wishes = wishes_of(options, edges, learnt)
    wishes = replace(
        wishes, longest_core=seen.best_core(lost), base_bytes=wishes.base_bytes + held_bytes(volume)
    )
    with blamed_on(loaded.spec):
        check_periodic(loaded, learnt.geometry, names, wishes.edges or {})
    plan = make_plan(source_facts(volume, url), learnt.facts, learnt.geometry, learnt.cost, wishes)
    plan = timed(plan, loaded, wishes, device=learnt.device)
    notes = (*plan.notes, *(card.notes if card is not None else ()))
    plan = replace(plan, model=replace(plan.model, constants=seen.constants), notes=notes)
    plan, mask = seen.on(plan)
    release_freed_memory()
    return Prepared(plan, loaded, volume, learnt.device, learnt.n_threads, mask, options.axes)


def with_place(url: str, model: Model) -> str:
    """Return the URL of a source with the place that a model asks for."""
    found, names = parse_source(url), wanted_place(model.module)
    return str(replace(found, views=replace(found.views, place=names))) if names else url


def _check_chain(volume: Readable, geometry: ModelGeometry) -> None:
    """Refuse a model that is to be applied again and again and does not give what it takes.

    Raises:
        PlanError: If it has several outputs, or not one voxel and channel of output for one of the source.
    """
    if volume.axes[0].name != STEP:
        return
    n_channels = geometry.n_channels - len(parse_source(volume.url).views.place)
    scales = {program.scale(one.name) for program in geometry.programs for one in geometry.outputs}
    gives = ", ".join(f"{one.name} ({one.n_channels or 'no'} channels, {one.dtype})" for one in geometry.outputs)
    first = geometry.outputs[0]
    is_state = len(geometry.outputs) == 1 and scales == {1} and first.n_channels == n_channels
    if not is_state or np.dtype(first.dtype).kind != volume.dtype.kind or volume.dtype.kind != "f":
        raise PlanError(
            f"a model that is applied again and again must give what it takes, {n_channels} channels of {volume.dtype} "
            f"on the grid of '{volume.url}', and this one gives {gives}. Leave out '#steps', or wrap the model so that "
            "it returns the next state."
        )


def _check_orientation(card: Card | None, volume: Readable) -> None:
    """Refuse a scan whose axes point elsewhere than those that a model folder's network was trained on.

    Raises:
        PlanError: If they do, as both say.
    """
    wanted = card.orientation if card is not None else None
    found = "".join(volume.attributes.get(KEY, {}).get("axcodes", ()))
    if wanted and found and wanted != found:
        raise PlanError(
            f"the model was trained on scans whose x, y and z point to {wanted}, and those of '{volume.url}' point to "
            f"{found}. Turn the scan first, as nibabel.as_closest_canonical does for RAS."
        )


def learnt_for(
    loaded: Model, volume: Shaped, options: Options, *, tell: Callable[[str], None] = lambda _: None
) -> Learnt:
    """Return a model's geometry and cost as it will be run; see :func:`engine.learnt.learn_model`."""
    device = pick_device(options.device)
    n_workers = options.workers or (torch.cuda.device_count() if device.type == "cuda" else 1)
    return learn_model(
        loaded,
        volume,
        device=device,
        precision=options.precision,
        n_workers=n_workers,
        n_threads=threads_of(options, n_workers),
        tell=tell,
    )


def source_facts(volume: Readable, url: str) -> SourceFacts:
    """Return a source as a plan holds it."""
    return SourceFacts(
        url=url,
        axes=volume.axes,
        shape=volume.shape,
        dtype=volume.dtype.name,
        fingerprint=fingerprint(volume),
        flavour="cf" if _is_cf(volume) else "ngff",
        translation=volume.levels[0].translation,
    )


def threads_of(options: Options, n_workers: int) -> int:
    """Return the CPU threads of each worker: those asked for, else all CPUs divided among the workers."""
    return options.threads or max(FEWEST_THREADS, n_cpus() // n_workers)


def check_options(options: Options) -> None:
    """Refuse what no run can be done with.

    Raises:
        UsageError: If an option is none of its values, or too small.
    """
    if options.nan not in ("refuse", "keep"):
        raise UsageError(f"--nan must be refuse or keep, not '{options.nan}'. Name one of them.")
    if options.precision not in (None, *PRECISIONS):
        known = ", ".join(PRECISIONS)
        raise UsageError(f"--precision must be one of {known}, not '{options.precision}'. Name one of them.")
    least = {"workers": 1, "threads": FEWEST_THREADS, "batch": 1, "in_flight": 1, "memory": 1}
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {smallest}, not {value}. Give more.")


def _is_cf(volume: Readable) -> bool:
    return "Conventions" in volume.attributes


def wishes_of(options: Options, edges: Mapping[str, Edge], learnt: Learnt) -> Wishes:
    """Return what the options ask of a plan over a volume with these edges of its own."""
    return Wishes(
        memory_limit=options.memory or int(available_bytes() * MEMORY_SHARE),
        n_workers=learnt.n_workers,
        n_in_flight=options.in_flight,
        batch_size=options.batch,
        tile=options.tile,
        block=options.block,
        longest_block=LONGEST_MASKED_BLOCK if options.tissue is not None else None,
        edges={**edges, **options.edges},
        nan=options.nan,
        with_pyramid=options.pyramid,
        extend=options.extend,
        base_bytes=BASE_BYTES + learnt.model.n_parameter_bytes,
        device_bytes=free_device_bytes(learnt.device),
    )
