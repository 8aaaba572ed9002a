"""What people see: a plan, a check, a report and a status as tables; what is going on before and beside a run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from engine.check import WINDOWED_ADVICE, Check, Contract
from engine.geometry.axes import Axis, Role
from engine.geometry.canvas import CanvasTiling
from engine.geometry.model_geometry import ModelGeometry
from engine.memory import format_bytes
from engine.plan import Plan
from engine.reopen import Status
from engine.run import Report
from engine.storage.volume import Volume

Row = tuple[str, str]


def volume_rows(volume: Volume) -> list[Row]:
    """Return a volume as pairs of what and how much."""
    steps = [
        f"{axis.name} ({axis.role}, {axis.spacing:g} {axis.unit or ''})".replace(" )", ")") for axis in volume.axes
    ]
    levels = [" x ".join(map(str, level.shape)) for level in volume.levels]
    return [
        ("volume", volume.url),
        ("axes", ", ".join(steps)),
        ("levels", ", ".join(levels)),
        ("dtype", str(volume.dtype)),
    ]


def plan_rows(plan: Plan) -> list[Row]:
    """Return a plan as pairs of what and how much."""
    by_axis = zip(plan.source.axes, plan.source.shape, strict=True)
    names = [tiling.name for tiling in plan.tilings]
    return [
        ("source", f"{plan.source.url}"),
        ("volume", f"{_sizes(by_axis)}, {plan.source.dtype}"),
        ("model", plan.model.spec),
        ("contract", f"{plan.geometry.contract}, geometry {plan.geometry.evidence}, {plan.model.precision}"),
        *_canvas_rows(plan, names),
        ("edges", ", ".join(f"{tiling.name} {tiling.edge.kind}" for tiling in plan.tilings)),
        ("tile", f"{_by(names, plan.tile_shape)}, batches of {plan.batch_size}"),
        ("block", _by(names, [min(tiling.block, tiling.extent.size) for tiling in plan.tilings])),
        ("blocks", f"{plan.graph.n_blocks:,}, and {plan.graph.n_tasks - plan.graph.n_blocks:,} of coarser levels"),
        ("tiles", f"{plan.n_tiles:,}"),
        ("computed / core", f"{plan.compute_ratio:.3f} voxels"),
        ("read / core", f"{plan.read_ratio:.3f} bytes"),
        ("memory a worker", f"{format_bytes(plan.projection.n_bytes)}: {_memory(plan)}"),
        ("workers", f"{plan.n_workers}, {format_bytes(plan.memory_limit)} in all"),
        (
            "time",
            f"{_duration(plan.n_seconds)} of computing, by a probe of "
            f"{1e-6 / max(plan.seconds_per_voxel, 1e-15):.2f} Mvoxel/s",
        ),
        *_mask_rows(plan),
        *(("output", _output(plan, i)) for i in range(len(plan.outputs))),
        *(("note", note) for note in plan.notes),
    ]


def _canvas_rows(plan: Plan, names: Sequence[str]) -> list[Row]:
    """Return what the network sees: its halo, or its window, and the grid that it works on."""
    canvas = plan.geometry.canvas
    network = plan.geometry if canvas is None else canvas.network
    halo = ("halo", "; ".join(_halo(network, axis, name) for axis, name in enumerate(names)))
    if canvas is None:
        return [halo]
    rows = [halo]
    if canvas.windows is not None:
        windows = canvas.windows
        overlap = ", ".join(f"{part:g}" for part in windows.overlap)
        rows = [("window", f"{_by(names, windows.shape)}, overlap {overlap}, {windows.weights}, {windows.rule}'s rule")]
    grid = [tiling.grid.size for tiling in plan.tilings if isinstance(tiling, CanvasTiling)]
    if canvas.spacing is not None:
        rows.append(("network's grid", f"{_by(names, grid)}, {canvas.order} there, {canvas.back} back"))
    return rows


def _mask_rows(plan: Plan) -> list[Row]:
    if plan.mask is None:
        return []
    um = [axis.spacing * n for axis, n in zip(_space_axes(plan), plan.mask.cell, strict=True)]
    unit = _space_axes(plan)[0].unit or "voxels"
    return [
        (
            "wanted",
            f"{plan.mask.share:.1%} of {_by([t.name for t in plan.tilings], plan.mask.shape)} cells of "
            f"{' x '.join(f'{n:g}' for n in um)} {unit}, by '{plan.mask.method}'; tiles that touch none are left out",
        )
    ]


def _space_axes(plan: Plan) -> list[Axis]:
    return [axis for axis in plan.source.axes if axis.role is Role.SPACE]


def _sizes(pairs: Iterable[tuple[object, int]]) -> str:
    return " x ".join(f"{getattr(axis, 'name', axis)} {n:,}" for axis, n in pairs)


def _by(names: Iterable[str], lengths: Iterable[int]) -> str:
    return _sizes(zip(names, lengths, strict=True))


def _halo(geometry: ModelGeometry, axis: int, name: str) -> str:
    program = geometry.programs[axis]
    before, after = program.widest_halo
    return f"{name} {before}+{after}, jump {program.step}"


def _memory(plan: Plan) -> str:
    projection = plan.projection
    blocks = projection.n_in_flight * (projection.block_in + projection.block_out)
    return (
        f"{format_bytes(projection.base)} base, {format_bytes(projection.tile)} tile, "
        f"{format_bytes(blocks)} in {projection.n_in_flight} blocks, {format_bytes(projection.storing)} storing"
    )


def _output(plan: Plan, number: int) -> str:
    output = plan.outputs[number]
    shape = _sizes(zip(output.axes, output.shape, strict=True))
    chunk = " x ".join(map(str, output.chunk_shape))
    levels = plan.graph.n_levels
    return f"{output.name}: {shape}, {output.dtype}, chunks {chunk}, {levels} level{'s' * (levels > 1)}"


def _duration(seconds: float) -> str:
    """Return seconds for people.

    >>> _duration(0.25), _duration(75), _duration(7300)
    ('0.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def report_rows(report: Report) -> list[Row]:
    """Return how a run ended as pairs of what and how much."""
    summary, plan = report.summary, report.plan
    ended = summary.n_done + summary.n_skipped + summary.n_done_before
    rows = [
        ("output", report.url),
        (
            "tasks",
            f"{ended:,} of {summary.n_tasks:,} stored or skipped, {summary.n_failed} failed, "
            f"{summary.n_pending} pending",
        ),
        (
            "this run",
            f"{summary.n_done:,} stored, {summary.n_skipped:,} skipped, {summary.n_retried} retried, "
            f"{summary.n_workers_lost} workers lost",
        ),
        *background_rows(plan, report.n_background),
        *_tile_rows(report),
        ("wall time", _duration(summary.seconds)),
        ("throughput", f"{summary.n_voxels / max(summary.seconds, 1e-9) / 1e6:.2f} M output voxels/s"),
        (
            "read | compute | write",
            " | ".join(_duration(s) for s in (summary.read_seconds, summary.compute_seconds, summary.write_seconds)),
        ),
        (
            "peak memory",
            f"{format_bytes(summary.peak_rss_bytes)} of the largest worker; "
            f"{format_bytes(plan.projection.n_bytes)} projected",
        ),
    ]
    if report.certificate is not None:
        rows += certificate_rows(report.certificate.to_json())
    return rows + [(f"block {task}", reason) for task, reason in list(report.failures.items())[:10]]


def background_rows(plan: Plan, n_background: int) -> list[Row]:
    """Return what a mask saved of whole blocks; tiles left out of the other blocks come on top."""
    if plan.mask is None:
        return []
    n, saved = plan.graph.n_blocks, _duration(plan.seconds_of(n_background))
    return [("background", f"{n_background:,} of {n:,} blocks skipped, which saved about {saved} of computing")]


def _tile_rows(report: Report) -> list[Row]:
    """Return what a mask saved in all, where one call did all of the run."""
    plan, summary = report.plan, report.summary
    if plan.mask is None or summary.n_done_before or not summary.is_complete:
        return []
    n_left_out = plan.n_tiles - summary.n_tiles
    saved = _duration(plan.n_seconds * n_left_out / plan.n_tiles)
    return [("tiles", f"{summary.n_tiles:,} of {plan.n_tiles:,} computed; leaving out the others saved about {saved}")]


def certificate_rows(certificate: dict[str, object]) -> list[Row]:
    """Return a seam certificate as pairs of what and how much."""
    outputs: dict[str, dict[str, float]] = certificate["outputs"]  # type: ignore[assignment]
    verdict = "holds" if certificate["holds"] else "DOES NOT HOLD"
    shape = " x ".join(str(n) for n in certificate["tile_shape"])  # type: ignore[attr-defined]
    rows = [("seam certificate", f"{verdict}: {certificate['n_tiles']} tiles of {shape} recomputed on a shifted grid")]
    for name, seams in outputs.items():
        rows.append(
            (
                f"  {name}",
                f"max |difference| {seams['max_difference']:.3g} of {seams['largest']:.3g}, "
                f"{int(seams['n_different']):,} of {int(seams['n_voxels']):,} voxels differ, std {seams['std']:.3g}",
            )
        )
    return rows


def status_rows(status: Status) -> list[Row]:
    """Return how an output stands as pairs of what and how much."""
    rows = [("output", status.url), ("created", str(status.provenance.get("created", "unknown")))]
    rows += [(state.name.lower(), f"{n:,}") for state, n in status.counts.items()]
    rows += [*_mask_rows(status.plan), *background_rows(status.plan, status.n_background)]
    certificate = status.provenance.get("certificate")
    if certificate:
        rows += certificate_rows(certificate)
    return rows + [(f"block {task}", reason) for task, reason in list(status.failures.items())[:20]]


def print_contract(contract: Contract) -> None:
    """Print the contract that fits a model, and what was found."""
    rows = [("contract", contract.name), ("because", contract.reason)]
    if contract.check is None:
        print_rows([*rows, ("to run it", WINDOWED_ADVICE)], title="Check")
        return
    print_rows(rows, title="Check")
    print_check(contract.check)


def print_check(found: Check) -> None:
    """Print what a model needs per output and axis, and how tiles or windows compared with the whole."""
    console, canvas = Console(), found.geometry.canvas
    is_windowed = canvas is not None and canvas.windows is not None
    table = Table(title=f"{found.spec}: {found.geometry.evidence}", title_justify="left")
    for column in ("output", "axis", "halo before + after", "jump", "scale", "legal sizes"):
        table.add_column(column)
    for one in found.axes:
        before, after = one.halo
        table.add_row(one.output, str(one.axis), f"{before} + {after}", str(one.jump), str(one.scale), one.legal)
    if not is_windowed:
        console.print(table)
    whole, tile = (" x ".join(map(str, shape)) for shape in (found.whole_shape, found.tile_shape))
    what = "windows" if is_windowed else "tiles"
    rows = [("compared", f"{found.n_tiles} {what} of {tile} with one pass over {whole}, random input")]
    rows += [
        (f"  {one.output}", f"max |tile - whole| {one.max_difference:.3g} of {one.largest:.3g}, std {one.std:.3g}")
        for one in found.outputs
    ]
    print_rows(rows, title="", console=console)


def print_rows(rows: Iterable[Row], *, title: str, console: Console | None = None) -> None:
    """Print pairs as a table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, how in rows:
        table.add_row(escape(what), escape(how))
    (console or Console()).print(table)


def print_table(table: Table) -> None:
    """Print a table."""
    Console().print(table)


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """Turn while something is prepared, and tell what; nothing where there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("opening") as turning:
        yield turning.update


@contextmanager
def shard_bar() -> Iterator[Callable[[int, int, int], None]]:
    """Show shards done, bytes/s and time left; nothing where there is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"), TimeRemainingColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("shards", total=None)
        yield lambda done, total, _: bar.update(task, completed=done, total=total)
