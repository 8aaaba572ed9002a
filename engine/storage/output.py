"""The group that a run fills: one volume per output, the ledger, and the provenance that makes it resumable."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import zarr

from engine.errors import LedgerError, VolumeError
from engine.geometry.axes import Axis
from engine.storage import arrays
from engine.storage.create import Coordinate, Flavour, create_volume, remove
from engine.storage.ledger import Ledger
from engine.storage.volume import Volume, open_volume

KEY = "haloengine"
"""The group attribute that holds the provenance."""


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


@dataclass(frozen=True)
class Output:
    """An output that exists."""

    url: str
    provenance: Mapping[str, Any]
    """What the run was, as written when it was created, and what was learnt since."""
    volumes: Mapping[str, Volume]
    ledger: Ledger

    def record(self, **facts: object) -> None:
        """Add facts to the provenance, on disk. The driver alone calls this.

        Raises:
            VolumeError: If the group cannot be written.
        """
        try:
            group = zarr.open_group(self.url, mode="r+")
            group.attrs[KEY] = {**dict(group.attrs[KEY]), **facts}  # type: ignore[arg-type, dict-item]
        except OSError as error:
            raise arrays.write_error(error, where=f"the attributes of '{self.url}'") from error

    def finish(self) -> None:
        """Note on every volume that all its objects are stored, so that a missing one is a loss and not a zero."""
        for name in self.volumes:
            try:
                group = zarr.open_group(f"{self.url}/{name}", mode="r+")
                group.attrs[KEY] = {**dict(group.attrs.get(KEY, {})), "is_finished": True}  # type: ignore[arg-type]
            except OSError as error:
                raise arrays.write_error(error, where=f"the attributes of '{self.url}/{name}'") from error


def create_output(url: str, *, outputs: Sequence[Described], provenance: Mapping[str, Any], n_tasks: int) -> Output:
    """Describe an output: all its volumes, an empty ledger, and last the provenance that makes it one.

    Raises:
        VolumeError: If something is at ``url``, or the place cannot be written. Nothing is left behind then.
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
    with _removed_on_failure(url):
        volumes = {}
        for one in outputs:
            volumes[one.name] = create_volume(
                f"{url}/{one.name}",
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
            )
        group = zarr.open_group(url, mode="a", zarr_format=3)
        ledger = Ledger.create(url, n_tasks)
        group.attrs[KEY] = dict(provenance)
    return Output(url, provenance, volumes, ledger)


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
        names = [output["name"] for output in provenance["plan"]["outputs"]]
    except (KeyError, TypeError) as error:
        message = f"the plan in the attributes of '{url}' is damaged: it names no outputs. Start a new run."
        raise LedgerError(message) from error
    volumes = {name: open_volume(f"{url}/{name}") for name in names}
    return Output(url, provenance, volumes, Ledger.open(url))
