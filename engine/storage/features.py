"""Feature files of the field: one HDF5 file a slide, a vector and a place for each patch.

CLAM (Lu et al. 2021) and TRIDENT (Zhang et al. 2025) write ``features`` (n, feature) beside ``coords``
(n, 2): x and y of each patch's upper left corner, in pixels of level 0. What cut the patches stands in
the attributes of ``coords``. Between such a bag and the engine's feature grid go :func:`bag_of` and
:func:`cells_of`: instances are chosen by coverage, never by what their features are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import Role, positions
from engine.geometry.region import Region
from engine.storage import arrays
from engine.storage.volume import Readable

LARGEST_GRID = 2**26
"""Cells of a grid that coordinates may span: 8,000 by 8,000."""


@dataclass(frozen=True, eq=False)
class FeatureBag:
    """The patches of one slide: their features and places."""

    features: NDArray[np.float32]
    """(n, feature)."""
    coords: NDArray[np.int64]
    """(n, 2): x and y of each patch's upper left corner, in pixels of level 0."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of how patches were cut: patch_size, patch_level, patch_size_level0, ..."""

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.coords.shape != (len(self.features), 2):
            raise VolumeError(
                f"a bag needs features (n, feature) and coords (n, 2), not {self.features.shape} and "
                f"{self.coords.shape}. Give x and y for every instance."
            )

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Cells:
    """The regular grid that a bag lies on."""

    step: tuple[int, int]
    """Level-0 pixels from one cell to the next, along y and x."""
    origin: tuple[int, int]
    """Level-0 pixels of the first cell's upper left corner, y and x."""
    shape: tuple[int, int]
    """Rows and columns."""
    positions: NDArray[np.int64]
    """(n, 2): row and column of each instance."""
    is_exact: bool
    """Whether every instance lies on the grid to the pixel; else each is in the cell nearest to it."""


def read_features(path: str | Path) -> FeatureBag:
    """Return the bag of a feature file, read whole; a leading axis of one slide, (1, n, feature), is taken off.

    Raises:
        VolumeError: If the file is missing, damaged, lacks a dataset, or its shapes do not fit.
    """
    if not Path(path).is_file():
        raise VolumeError(f"a feature file is wanted, and there is none at '{path}'. Check the path.")
    try:
        with h5py.File(path, "r") as file:  # type: ignore[attr-defined, no-untyped-call]
            missing = [name for name in ("features", "coords") if name not in file]
            if missing:
                raise VolumeError(
                    f"'{path}' must hold 'features' and 'coords', and lacks {missing}; it holds {sorted(file)}. "
                    "Coordinates alone are no features: run the encoder first."
                )
            features, coords = np.asarray(file["features"]), np.asarray(file["coords"])
            attributes = {**_plain(file.attrs), **_plain(file["features"].attrs), **_plain(file["coords"].attrs)}
    except (OSError, KeyError) as error:
        reason = arrays.first_line(error)
        raise VolumeError(f"'{path}' is damaged or no HDF5 file: {reason}. Fetch it again.") from error
    if features.ndim == 3 and len(features) == 1:
        features = features[0]
    if coords.ndim == 3 and len(coords) == 1:
        coords = coords[0]
    try:
        return FeatureBag(features.astype(np.float32, copy=False), coords.astype(np.int64, copy=False), attributes)
    except VolumeError as error:
        raise VolumeError(f"'{path}' does not fit together: {error}") from error


def write_features(path: str | Path, bag: FeatureBag) -> None:
    """Store a bag as CLAM and TRIDENT read it; the file appears whole or not at all, and replaces an older one.

    Raises:
        VolumeError: If the file cannot be written.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(draft, "w") as file:  # type: ignore[attr-defined, no-untyped-call]
            for name, values in (
                ("features", bag.features.astype(np.float32, copy=False)),
                ("coords", bag.coords.astype(np.int64, copy=False)),
            ):
                dataset = file.create_dataset(name, data=values, **_layout(values))
                dataset.attrs.update(bag.attributes)
        draft.rename(target)
    except OSError as error:
        raise arrays.write_error(error, where=f"the feature file '{path}'") from error
    finally:
        draft.unlink(missing_ok=True)


def _layout(values: NDArray[Any]) -> dict[str, Any]:
    """Return how a dataset is stored: in compressed chunks of about a MiB, growable as CLAM's are."""
    if not values.size:
        return {}
    n_rows = max(1, min(len(values), 2**20 // values[:1].nbytes))
    rest = values.shape[1:]
    return {"chunks": (n_rows, *rest), "maxshape": (None, *rest), "compression": "gzip", "compression_opts": 1}


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return HDF5 attributes as Python's numbers, texts and lists."""
    found = {}
    for name, value in attributes.items():
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        found[name] = plain.decode(errors="replace") if isinstance(plain, bytes) else plain
    return found


def bag_of(
    volume: Readable,
    *,
    mask: NDArray[np.bool_] | None = None,
    stride: int = 1,
    attributes: Mapping[str, Any] | None = None,
) -> FeatureBag:
    """Return the features of a grid as a bag, row by row; read whole, 4 bytes a number.

    Args:
        volume: (channel, y, x), as a run of a patch encoder writes it.
        mask: (y, x), true where a cell belongs to the bag; all do where it is not given. Values never decide.
        stride: Level-0 pixels from one cell to the next: the coordinates' unit.
        attributes: To hand on with the bag, such as patch_size_level0.

    Raises:
        VolumeError: If the volume is no feature grid, the mask has another shape, or takes no cell.
    """
    space, channel = positions(volume.axes, Role.SPACE), positions(volume.axes, Role.CHANNEL)
    if (channel, space) != ((0,), (1, 2)) or len(volume.axes) != 3:
        names = tuple(axis.name for axis in volume.axes)
        raise VolumeError(
            f"a feature grid has axes (c, y, x), not {names} as '{volume.url}'. Name an encoder's output."
        )
    shape = volume.shape[1:]
    if mask is not None and mask.shape != shape:
        raise VolumeError(
            f"the mask must have the feature grid's {shape} cells, not {mask.shape}: '{volume.url}'. Resample it."
        )
    rows, columns = np.nonzero(np.ones(shape, bool) if mask is None else mask)
    if not len(rows):
        raise VolumeError(f"a bag needs at least one instance, and the mask leaves none of '{volume.url}'. Widen it.")
    grid = volume.read(Region.whole(volume.shape))
    features = np.ascontiguousarray(grid[:, rows, columns].T, dtype=np.float32)
    coords = np.stack([columns, rows], axis=1).astype(np.int64) * stride
    return FeatureBag(features, coords, dict(attributes or {}))


def cells_of(bag: FeatureBag) -> Cells:
    """Return the grid that a bag's coordinates lie on, by the step that its attributes or its coordinates tell.

    CLAM starts a grid anew in each piece of tissue, so that pieces may lie off each other's: an instance is
    then in the cell nearest to it.

    Raises:
        VolumeError: If the bag is empty, or spans more cells than a slide has.
    """
    if not len(bag):
        raise VolumeError("a grid needs at least one instance, and the bag is empty. Check what wrote it.")
    yx = bag.coords[:, ::-1]
    origin, extent = yx.min(axis=0), np.ptp(yx, axis=0)
    told = _told_step(bag.attributes)
    steps = [told or _least_difference(yx[:, axis]) for axis in range(2)]
    moved = yx - origin
    found = (2 * moved + steps) // (2 * np.array(steps))  # rounded, halves up
    shape = tuple(int(n) + 1 for n in found.max(axis=0))
    if shape[0] * shape[1] > LARGEST_GRID:
        raise VolumeError(
            f"the coordinates must lie on a grid of at most {LARGEST_GRID:,} cells, not {shape[0]:,} x {shape[1]:,} "
            f"(extent {tuple(extent.tolist())} pixels, step {tuple(steps)}). Give patch_size_level0 in the attributes."
        )
    is_exact = bool((moved % steps == 0).all())
    return Cells((steps[0], steps[1]), (int(origin[0]), int(origin[1])), (shape[0], shape[1]), found, is_exact)


def _told_step(attributes: Mapping[str, Any]) -> int:
    """Return the level-0 pixels between patches as the attributes tell them, or 0 where they do not.

    >>> _told_step({"patch_size_level0": 512, "overlap": 0}), _told_step({"patch_size": 256, "downsample": [4.0, 4.0]})
    (512, 1024)
    """
    if "stride_level0" in attributes:
        return int(attributes["stride_level0"])
    size, overlap = attributes.get("patch_size"), attributes.get("overlap") or 0
    whole = attributes.get("patch_size_level0")
    if whole is not None:
        return round(int(whole) * (1 - overlap / size)) if size else int(whole)
    if size is None or "downsample" not in attributes:
        return 0
    return round(int(size) * float(np.ravel(attributes["downsample"])[0]))


def _least_difference(values: NDArray[np.int64]) -> int:
    steps = np.diff(np.unique(values))
    return int(steps.min()) if len(steps) else 1


def on_cells(cells: Cells, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return values (n,) on the grid, and where there are any; the largest stands where several meet, 0 where none."""
    grid, is_covered = np.full(cells.shape, -np.inf, np.float32), np.zeros(cells.shape, bool)
    where = (cells.positions[:, 0], cells.positions[:, 1])
    np.maximum.at(grid, where, values)
    is_covered[where] = True
    return np.where(is_covered, grid, np.float32(0)), is_covered
