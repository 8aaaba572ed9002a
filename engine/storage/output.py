"""The group that a run fills: one volume per output, the ledger, and the provenance that makes it resumable."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import zarr

from engine.errors import LedgerError, VolumeError
from engine.geometry.axes import KNOWN_ROLES, Axis, Role
from engine.storage import arrays, ngff, record
from engine.storage.cells import CellGrid, store_cells
from engine.storage.create import Coordinate, Flavour, create_volume, remove
from engine.storage.ledger import Ledger, State
from engine.storage.record import KEY
from engine.storage.stored import Volume, open_stored

LABELS = "labels"
WANTED = "tissue"
COVERAGE = "coverage"
SCORE = "score"
RESERVED = {LABELS, WANTED, COVERAGE, SCORE, "ledger", "objects"}
"""Names in the group that are no output's."""


@dataclass(frozen=True, slots=True)
class Described:
    """One output volume, before it exists."""

    name: str
    axes: tuple[Axis, ...]
    dtype: str
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    n_levels: int
    downsampled: tuple[str, ...]
    """Axes that each pyramid level halves."""
    origin: tuple[float, ...]
    """Physical place of the first voxel's centre, per axis."""
    flavour: str
    coordinates: Mapping[str, Coordinate]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the source says of itself that holds for this volume too: see :data:`engine.storage.orientation.KEY`."""
    is_label: bool = False
    """Whether voxels are classes: it then goes under ``labels``, where viewers look for what lies over an image."""

    @property
    def path(self) -> str:
        """Where in the group it is."""
        return f"{LABELS}/{self.name}" if self.is_label and self.flavour == Flavour.NGFF else self.name


@dataclass(frozen=True)
class Output:
    """An output that exists."""

    url: str
    provenance: Mapping[str, Any]
    """What the run was, as written when it was created, and what was learnt since."""
    volumes: Mapping[str, Volume]
    ledger: Ledger

    def n_background(self, n_blocks: int) -> int:
        """Return how many of the first ``n_blocks`` tasks were skipped: they hold only background."""
        return int((self.ledger.states(0, n_blocks) == State.SKIPPED).sum())

    def record(self, **facts: object) -> None:
        """Add facts to the provenance, on disk. The driver alone calls this.

        Raises:
            VolumeError: If the group cannot be written.
        """
        try:
            group = zarr.open_group(self.url, mode="r+")
            record.note(group, **facts)
        except OSError as error:
            raise arrays.write_error(error, where=f"the attributes of '{self.url}'") from error

    def finish(self, *, is_sparse: bool) -> None:
        """Note on every volume that all its objects are stored, so that a missing one is a loss and not a zero.

        Where background was skipped (``is_sparse``) a missing object is either, and only the ledger tells.
        """
        facts = {"is_finished": True} | ({"is_sparse": True} if is_sparse else {})
        for volume in self.volumes.values():
            try:
                group = zarr.open_group(volume.url, mode="r+")
                record.note(group, **facts)
            except OSError as error:
                raise arrays.write_error(error, where=f"the attributes of '{volume.url}'") from error


def create_output(
    url: str,
    *,
    outputs: Sequence[Described],
    provenance: Mapping[str, Any],
    n_tasks: int,
    wanted: CellGrid | None = None,
) -> Output:
    """Describe an output: all its volumes, an empty ledger, and last the provenance that makes it one.

    Args:
        url: Where; nothing may be there yet.
        outputs: The volumes.
        provenance: What the run is.
        n_tasks: Tasks of the ledger.
        wanted: The cells that are to be computed, where that is not all.

    Raises:
        VolumeError: If something is at ``url``, or the place cannot be written. Nothing is left behind then.
    """
    _check_place(url, [one.name for one in outputs])
    with _removed_on_failure(url):
        volumes = {}
        for described in outputs:
            one = _as_stored(described)
            volume = _create(url, one)
            volumes[one.name] = volume.in_order([axis.name for axis in described.axes])
        if wanted is not None:
            store_cells(f"{url}/{WANTED}", wanted, meanings=("background", "wanted"))
        group = zarr.open_group(url, mode="a", zarr_format=3)
        _write_standard(group, outputs)
        ledger = Ledger.create(url, n_tasks)
        group.attrs[KEY] = {**provenance, "paths": {one.name: one.path for one in outputs}}
    return Output(url, provenance, volumes, ledger)


def _check_place(url: str, names: Sequence[str]) -> None:
    """Refuse a place where something is, and names that the engine keeps for itself.

    Raises:
        VolumeError: If it is so.
    """
    if arrays.exists(url):
        raise VolumeError(
            f"the output must not exist yet, and something is at '{url}'. Go on with it by 'engine resume', or choose "
            "another path."
        )
    if around := arrays.array_around(url):
        raise VolumeError(
            f"the output must lie beside arrays, and '{url}' is inside '{around}': their objects would mix. Choose "
            "another path."
        )
    if taken := sorted(set(names) & RESERVED):
        raise VolumeError(
            f"an output may not be called {', '.join(taken)}: the engine keeps its own there, in '{url}'. Rename it."
        )


def _create(url: str, one: Described) -> Volume:
    """Create one volume of an output."""
    return create_volume(
        f"{url}/{one.path}",
        axes=one.axes,
        dtype=one.dtype,
        shape=one.shape,
        chunk_shape=one.chunk_shape,
        shard_shape=one.shard_shape,
        n_levels=one.n_levels,
        downsampled=one.downsampled,
        origin=one.origin,
        flavour=Flavour(one.flavour),
        array_name=one.name,
        coordinates=one.coordinates,
        attributes=one.attributes,
    )


def _as_stored(one: Described) -> Described:
    """Return a volume as OME-Zarr wants it: slices that ran as a batch are space again, behind the channels."""
    if one.flavour != Flavour.NGFF:
        return one
    spaces = [KNOWN_ROLES.get(axis.name) is Role.SPACE for axis in one.axes]
    axes = tuple(replace(axis, role=Role.SPACE) if yes else axis for axis, yes in zip(one.axes, spaces, strict=True))
    ranks = {role: rank for rank, role in enumerate((Role.BATCH, Role.CHANNEL, Role.SPACE))}
    order = sorted(range(len(axes)), key=lambda i: ranks[axes[i].role])
    return replace(
        one,
        axes=tuple(axes[i] for i in order),
        shape=tuple(one.shape[i] for i in order),
        chunk_shape=tuple(one.chunk_shape[i] for i in order),
        shard_shape=tuple(one.shard_shape[i] for i in order),
        origin=tuple(one.origin[i] for i in order),
    )


def _write_standard(group: zarr.Group, outputs: Sequence[Described]) -> None:
    """Make the group itself an OME-Zarr image, its first intensity, with the label maps as its labels."""
    images = [one for one in outputs if one.flavour == Flavour.NGFF and not one.is_label]
    labels = [one for one in outputs if one.flavour == Flavour.NGFF and one.is_label]
    if images:
        first = images[0]
        group.attrs.update(ngff.nested(dict(group[first.path].attrs), path=first.path, name=first.name))
    if labels:
        group.require_group(LABELS).attrs.update(ngff.label_list([one.name for one in labels]))
    for one in labels:
        node = group[one.path]
        node.attrs.update(
            ngff.image_label(dict(node.attrs), image="../../" if images else None, n_colours=len(ngff.PALETTE))
        )


@contextmanager
def _removed_on_failure(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remove(url)
        raise arrays.write_error(error, where=f"'{url}'") from error
    except BaseException:
        if arrays.exists(url):
            remove(url)
        raise


def open_output(url: str) -> Output:
    """Open an output of the engine.

    Raises:
        VolumeError: If nothing is there.
        LedgerError: If what is there is not a whole output of the engine.
    """
    if not arrays.exists(url):
        raise VolumeError(f"an output of the engine is wanted, and nothing is at '{url}'. {arrays.did_you_mean(url)}")
    node = arrays.open_node(url)
    provenance: Any = node.attrs.get(KEY, {})
    if not isinstance(node, zarr.Group) or "plan" not in provenance:
        raise LedgerError(
            f"'{url}' is not an output of this engine: it has no plan in its attributes. Start a new run."
        )
    try:
        axes = {one["name"]: [axis["name"] for axis in one["axes"]] for one in provenance["plan"]["outputs"]}
        paths = provenance.get("paths", {})
    except (KeyError, TypeError) as error:
        message = f"the plan in the attributes of '{url}' is damaged: it names no outputs. Start a new run."
        raise LedgerError(message) from error
    volumes = {name: open_stored(f"{url}/{paths.get(name, name)}").in_order(names) for name, names in axes.items()}
    return Output(url, provenance, volumes, Ledger.open(url))
