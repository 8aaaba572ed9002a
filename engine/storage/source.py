"""What a file of any domain looks like to ingest: axes, shape, dtype, and a way to read a region."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import EmptyError, IngestError, MissingError
from engine.geometry.axes import Axis
from engine.geometry.edges import Edge
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.create import Coordinate, Flavour

_N_HASHED = 1 << 20


@dataclass(frozen=True)
class Layout:
    """How a domain stores its volumes, unless told otherwise."""

    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    n_levels: int
    flavour: Flavour
    edges: Mapping[str, Edge] = field(default_factory=dict)
    coordinates: Mapping[str, Coordinate] = field(default_factory=dict)
    origin: tuple[float, ...] | None = None
    """Physical place of the first voxel's centre, per axis; 0 where None."""


_PICTURE_CHUNK, _PICTURE_SHARD, _SMALLEST_SIDE = 256, 2048, 512


def picture_layout(shape: Sequence[int], *, origin: tuple[float, ...]) -> Layout:
    """Return chunks of 256 x 256 in shards of 2048 x 2048, colours together, and levels down to 512 pixels.

    Args:
        shape: Voxels per axis, channels first, y and x last.
        origin: Physical place of the first voxel's centre, per axis.
    """
    n_levels, side = 1, max(shape[-2:])
    while side > _SMALLEST_SIDE:
        n_levels, side = n_levels + 1, -(-side // 2)
    leading = tuple(shape[:1]) if len(shape) == 3 and shape[0] <= 4 else (1,) * (len(shape) - 2)
    chunk, shard = (*leading, *(_PICTURE_CHUNK,) * 2), (*leading, *(_PICTURE_SHARD,) * 2)
    return Layout(chunk, shard, n_levels, Flavour.NGFF, origin=origin)


class Source(Protocol):
    """One volume in its field's own format, open for reading."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """In storage order, with spacing and unit."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels as :meth:`read` gives them."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the field's metadata says beyond axes; kept in the group's attributes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed on the way in, in plain sentences."""

    @property
    def layout(self) -> Layout:
        """How its volume is stored by default."""

    @property
    def is_sequential(self) -> bool:
        """Whether regions must be read one at a time, in order; else any thread may read any region."""

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of ``region``, C-contiguous.

        Raises:
            IngestError: If the file is damaged there.
        """

    def close(self) -> None:
        """Let go of the file."""


def identity(paths: Sequence[Path]) -> str:
    """Return a SHA-256 over each file's name, size, and first and last MiB, and a listing of its companions."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0".encode())
        digest.update(sample(path))
    return digest.hexdigest()


def sample(path: Path) -> bytes:
    """Return a SHA-256 of a file's size, first and last MiB, and its companions' names and sizes; not of its name."""
    digest = ends(path)
    for other in companions(path):
        digest.update(f"{other.name}\0{other.stat().st_size}\0".encode())
    return digest.digest()


def ends(path: Path) -> "hashlib._Hash":
    """Return a SHA-256 of a file's size, first and last MiB, to be gone on with."""
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(f"{size}\0".encode())
    with path.open("rb") as file:
        digest.update(file.read(_N_HASHED))
        file.seek(max(_N_HASHED, size - _N_HASHED))
        digest.update(file.read(_N_HASHED))
    return digest


def companions(path: Path) -> list[Path]:
    """Return the files that belong to a slide's own: the data folder of MIRAX, the other instances of a DICOM series.

    A DICOM file's folder may hold other series; they are counted as well.
    """
    ending = path.suffix.lower()
    if ending == ".mrxs":
        return sorted(other for other in path.with_suffix("").glob("*") if other.is_file())
    if ending == ".dcm":
        return sorted(other for other in path.parent.glob("*.dcm") if other != path)
    return []


def check_inside(region: Region, *, level: int, shapes: Sequence[tuple[int, ...]], path: Path) -> None:
    """Refuse a region that leaves its level of a file.

    Raises:
        IngestError: If it does, or there is no such level.
    """
    if not (0 <= level < len(shapes) and Region.whole(shapes[level]).holds(region)):
        raise IngestError(
            f"a region must lie inside a level of {list(shapes)}, not {region.start} to {region.stop} of level "
            f"{level}, in '{path}'. Clip it, or fill the rest by an edge rule."
        )


def check_file(path: Path, *, wanted: str) -> None:
    """Refuse what is not a readable file with something in it.

    Raises:
        IngestError: If nothing is there, it is a folder, it is empty, or it may not be read.
    """
    if not path.exists():
        raise MissingError(f"{wanted} is wanted, and nothing is at '{path}'. {arrays.did_you_mean(str(path))}")
    if path.is_dir():
        raise IngestError(f"{wanted} is wanted, and '{path}' is a folder. Name the file in it.")
    if path.stat().st_size == 0:
        raise EmptyError(f"{wanted} is wanted, and '{path}' has 0 bytes. Copy or download it again.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise IngestError(
            f"{wanted} is wanted, and '{path}' may not be read ({arrays.first_line(error)}). Check its permissions."
        ) from error
