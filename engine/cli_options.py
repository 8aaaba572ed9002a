"""What can be typed after a command: its arguments and options, and what their text means."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.collection.batch import RunnerMaker as PoolMaker
from engine.collection.batch import serial_pool
from engine.errors import PlanError, UsageError
from engine.geometry.edges import FOLDS, Edge, EdgeKind
from engine.memory import parse_bytes
from engine.objects.find import RunnerMaker as PassMaker
from engine.plan_json import plan_from_json
from engine.prepare import Options
from engine.run import RunnerMaker, serial_runner
from engine.runtime.serial import SerialRunner

Paths = Annotated[
    list[str],
    typer.Argument(
        help="SOURCE... TARGET: a slide; one or more scans (NIfTI, MetaImage, NRRD, DICOM folder), which become "
        "channels; or NetCDF files in time; then the volume to write."
    ),
]
Spacing = Annotated[str | None, typer.Option(help="Step per space axis where the file does not say: 0.5 or 1,0.7,0.7.")]
Variables = Annotated[str | None, typer.Option(help="Climate variables to keep, by name: T,U,V.")]
ShardThreads = Annotated[int | None, typer.Option(help="Shards in work at a time; as many as there are CPUs.")]

Source = Annotated[
    str,
    typer.Argument(
        help="URL of a volume: Zarr, OME-Zarr, a slide, a scan (NIfTI, MetaImage, NRRD, DICOM folder), a climate grid "
        "(NetCDF, GRIB, xarray's Zarr)."
    ),
]
ModelSpec = Annotated[
    str,
    typer.Argument(help="file.py:factory[@weights], package.module:factory, file.pt2 or file.pt; join parts with +."),
]
OutputUrl = Annotated[str, typer.Argument(help="URL of the output group.")]
MovedSource = Annotated[str | None, typer.Option(help="Where the source lies now, if it was moved.")]
MovedModel = Annotated[str | None, typer.Option(help="The model, if it was moved.")]
SavedPlan = Annotated[Path | None, typer.Option(help="A plan saved as JSON that the output must have been made by.")]
GivenPlan = Annotated[Path | None, typer.Option(help="A plan saved as JSON, to be run as it is.")]

Weights = Annotated[str | None, typer.Option(help="Weights of the first part: safetensors, or a state dict.")]
Memory = Annotated[str | None, typer.Option(help="Memory for all workers of one machine: 8G, 500M.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes: one per GPU, else one.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of each worker.")]
Tile = Annotated[str | None, typer.Option(help="Input voxels of a tile per space axis: 512,512 or one number for all.")]
Block = Annotated[str | None, typer.Option(help="Input voxels of a block per space axis.")]
Batch = Annotated[int | None, typer.Option(help="Tiles in one call of the model.")]
EdgeRules = Annotated[
    list[str] | None,
    typer.Option(
        "--edge", help="AXIS=model|wrap|reflect|constant[:VALUE]|pole:AROUND|fold:AROUND:KIND; repeat per axis."
    ),
]
Nan = Annotated[str, typer.Option(help="What NaN in a floating source means: refuse or keep.")]
Tissue = Annotated[
    str | None,
    typer.Option(help="What is wanted of a slide: auto, polygons.geojson, mask.zarr, or a model for thumbnails."),
]
Mpp = Annotated[float | None, typer.Option(help="Micrometre per voxel to read a slide at; else as the model declares.")]
Precision = Annotated[str | None, typer.Option(help="float32, float64 or bfloat16; the model's own by default.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; a GPU where there is one.")]
AxisNames = Annotated[
    str | None,
    typer.Option("--axes", help="Names of the source's axes, where it does not say: zyx, or t,c,y,x."),
]
Pyramid = Annotated[bool, typer.Option(help="Write coarser levels.")]
Extend = Annotated[bool, typer.Option(help="Extend by reflection an axis whose size the model cannot take.")]
RunnerName = Annotated[str, typer.Option("--runner", help="ray: actors; serial: this process.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; a local Ray by default.")]
Certify = Annotated[int, typer.Option("--verify", help="Tiles recomputed at the end for the seam certificate.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Save it as JSON here.")]


def options(
    *,
    memory: str | None,
    tile: str | None,
    block: str | None,
    edge: list[str] | None,
    **others: Any,  # noqa: ANN401
) -> Options:
    """Return what was typed as the options of a run.

    Raises:
        UsageError: If a text is not what its option takes.
    """
    return Options(
        memory=_bytes(memory) if memory is not None else None,
        tile=tuple(numbers(tile, "--tile", int)) if tile is not None else None,
        block=tuple(numbers(block, "--block", int)) if block is not None else None,
        edges=_edges(edge or ()),
        **others,
    )


def numbers(text: str, option: str, kind: type) -> list[Any]:
    """Return numbers that were joined by commas.

    >>> numbers("512,256", "--tile", int), numbers("0.5", "--spacing", float)
    ([512, 256], [0.5])

    Raises:
        UsageError: If one is no number of this kind.
    """
    try:
        return [kind(part) for part in text.replace("x", ",").split(",")]
    except ValueError as error:
        wanted = "whole numbers" if kind is int else "numbers"
        example = "512,512" if kind is int else "1,0.7,0.7"
        raise UsageError(f"{option} must be {wanted} joined by commas, not '{text}'. Give it as {example}.") from error


def check_positive(value: int, option: str) -> None:
    """Refuse a number of an option that is not at least 1.

    Raises:
        UsageError: If it is not.
    """
    if value < 1:
        raise UsageError(f"{option} must be at least 1, not {value}. Give 1 or more.")


def runner_maker(name: str, address: str | None) -> RunnerMaker:
    """Return what makes the runner of this name.

    Raises:
        UsageError: If there is none, or it takes no address.
    """
    if name == "ray":
        from engine.runner import ray_runner  # only now: Ray takes a second to import

        return ray_runner(address)
    if name != "serial":
        raise UsageError(f"--runner must be ray or serial, not '{name}'. Name one of them.")
    if address:
        raise UsageError(f"--address {address} needs --runner ray, not serial. Leave one of them out.")
    return serial_runner


def pool_maker(name: str, address: str | None, *, patience: float | None) -> PoolMaker:
    """Return what makes the pool of a collection.

    Raises:
        UsageError: If there is no runner of this name, or it takes no address, or the patience is none.
    """
    if patience is not None and patience <= 0:
        raise UsageError(f"--patience must be above 0 seconds, not {patience:g}. Give more.")
    if runner_maker(name, address) is serial_runner:
        return serial_pool
    from engine.collection.pool import ray_pool  # only now: Ray takes a second to import

    return ray_pool(address, patience=patience)


def pass_runner(name: str, address: str | None, *, n_workers: int) -> PassMaker:
    """Return what makes the runner of passes over a result.

    Raises:
        UsageError: If there is no runner of this name, or it takes no address.
    """
    check_positive(n_workers, "--workers")
    if runner_maker(name, address) is serial_runner:
        return SerialRunner
    from engine.runtime.actors import RayRunner  # only now: Ray takes a second to import

    return lambda factory: RayRunner(factory, n_workers=n_workers, n_in_flight=1, address=address)


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"--memory must be a size above 0, not '{text}'. Give it as 8G or 500M.") from error


def _edges(rules: Iterable[str]) -> dict[str, Edge]:
    found: dict[str, Edge] = {}
    for rule in rules:
        axis, edge = _edge(rule)
        if axis in found:
            raise UsageError(f"--edge must come once per axis, and '{axis}' has two, the last '{rule}'. Keep one.")
        found[axis] = edge
    return found


def _edge(rule: str) -> tuple[str, Edge]:
    axis, _, name = rule.partition("=")
    name, colon, detail = name.partition(":")
    if not axis or name not in set(EdgeKind):
        raise UsageError(
            f"--edge must be AXIS=RULE with a rule of {', '.join(EdgeKind)}, not '{rule}'. Write it as x=wrap."
        )
    kind = EdgeKind(name)
    if kind is EdgeKind.CONSTANT:
        try:
            return axis, Edge(kind, value=float(detail or 0))
        except ValueError as error:
            raise UsageError(
                f"edge {axis}=constant takes a number, not '{detail}'. Write {axis}=constant:0."
            ) from error
    if kind is EdgeKind.POLE and not detail:
        raise UsageError(f"--edge {rule} must name the axis that the pole rolls. Write {axis}=pole:lon for longitude.")
    if kind is EdgeKind.FOLD and detail.partition(":")[2] not in FOLDS:
        raise UsageError(
            f"--edge {rule} must name the axis that the fold mirrors, and one of {', '.join(FOLDS)}: its pivot, and "
            f"the points where the values lie. Write {axis}=fold:x:T-T."
        )
    if colon and kind not in (EdgeKind.POLE, EdgeKind.FOLD):
        raise UsageError(f"--edge {axis}={name} takes no value, not '{detail}'. Write {axis}={name}.")
    around, _, fold = detail.partition(":")
    return axis, Edge(kind, around=around or None, fold=fold or None)


def json_saved(path: Path, value: object) -> None:
    """Save ``value`` as JSON.

    Raises:
        UsageError: If the file cannot be written.
    """
    try:
        path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot save JSON to '{path}': {error.strerror}. Choose another path.") from error


def json_loaded(path: Path) -> dict[str, Any]:
    """Return the plan that was saved as JSON.

    Raises:
        UsageError: If there is none, or it is not the JSON of a plan.
    """
    wanted = f"'{path}' must be a plan saved by 'engine plan --json'"
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{wanted}, and cannot be read: {reason}. Name another, or save it again.") from error
    try:
        plan_from_json(value)
    except PlanError as error:
        raise UsageError(f"{wanted}, and it holds something else. Name another, or save it again.") from error
    saved: dict[str, Any] = value
    return saved
