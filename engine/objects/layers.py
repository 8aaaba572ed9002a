"""The volumes that objects are found in and measured on, seen as plain space: one channel, no batch axis."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.objects.recipe import Method, Recipe
from engine.storage import arrays, record
from engine.storage.volume import Readable, open_volume


@dataclass(frozen=True)
class Layer:
    """One channel of a volume, with its space axes only."""

    volume: Readable
    before: tuple[int, ...]
    """The index along each axis that is not space; 0 along those that are."""
    space: tuple[int, ...]
    """Where the space axes stand."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The space axes."""
        return tuple(self.volume.axes[i] for i in self.space)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per space axis."""
        return tuple(self.volume.shape[i] for i in self.space)

    @property
    def translation(self) -> tuple[float, ...]:
        """Physical place of the first voxel's centre per space axis."""
        return tuple(self.volume.levels[0].translation[i] for i in self.space)

    @property
    def object_shape(self) -> tuple[int, ...]:
        """Voxels of a stored object per space axis."""
        return tuple(self.volume.levels[0].object_shape[i] for i in self.space)

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of a box of space."""
        start, stop = list(self.before), [i + 1 for i in self.before]
        for i, a, b in zip(self.space, region.start, region.stop, strict=True):
            start[i], stop[i] = a, b
        return self.volume.read(Region(tuple(start), tuple(stop))).reshape(region.shape)

    def described(self) -> dict[str, Any]:
        """Return what must not change between two runs, as plain values."""
        return {
            "shape": list(self.shape),
            "dtype": str(self.volume.dtype),
            "spacing": [axis.spacing for axis in self.axes],
            "translation": list(self.translation),
        }


@dataclass(frozen=True)
class Sources:
    """What one recipe reads."""

    objects: Layer
    threshold: float | None
    measured: Mapping[str, Layer]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis of the grid that all share."""
        return self.objects.shape

    def classes(self, region: Region) -> NDArray[Any]:
        """Return the class at each voxel of a box, 0 for background; 0 or 1 where there is a threshold."""
        voxels = self.objects.read(region)
        if self.threshold is None:
            return voxels.view(np.uint8) if voxels.dtype == np.bool_ else voxels
        return (voxels >= self.threshold).astype(np.uint8)

    def layers(self, region: Region) -> dict[str, NDArray[Any]]:
        """Return the measured volumes on a box, by name."""
        return {name: layer.read(region) for name, layer in self.measured.items()}


def open_sources(output: str, recipe: Recipe) -> Sources:
    """Open what a recipe reads, and check that it can be done.

    Raises:
        VolumeError: If a volume does not open, is not finished, or lies on another grid.
        UsageError: If the recipe does not fit the volumes.
    """
    objects = _open_layer(output, recipe.volume, recipe.channel)
    if recipe.threshold is None and objects.volume.dtype.kind not in "biu":
        raise UsageError(
            f"a class map of whole numbers is wanted, and '{objects.volume.url}' is {objects.volume.dtype}. "
            "Give a threshold if it is a probability."
        )
    n_axes = len(objects.shape)
    if n_axes not in (2, 3) or (recipe.method is Method.WATERSHED and n_axes != 2):
        raise UsageError(
            f"objects are connected in 2 or 3 space axes, and parted by watershed in 2, not {n_axes} as in "
            f"'{objects.volume.url}'. Use method 'connected', or another volume."
        )
    if recipe.level0_spacing is not None and n_axes != 2:
        raise UsageError(f"level-0 pixels are of slides, with 2 space axes, not {n_axes}. Leave level0_spacing out.")
    measured = {name: _open_layer(output, one.volume, one.channel) for name, one in recipe.measured.items()}
    for name, layer in measured.items():
        if layer.shape != objects.shape:
            raise VolumeError(
                f"'{name}' must lie on the grid of the objects, {objects.shape}, not {layer.shape}, in "
                f"'{layer.volume.url}'. Compute it at the same level."
            )
    return Sources(objects, recipe.threshold, measured)


def resolved(output: str, name: str) -> str:
    """Return where a volume is that is named within an output, or by a path or URL of its own.

    >>> resolved("out.zarr", "label"), resolved("out.zarr", "/data/a.zarr"), resolved("out.zarr", "s3://b/a.zarr")
    ('out.zarr/label', '/data/a.zarr', 's3://b/a.zarr')
    """
    return name if name.startswith("/") or "://" in name else f"{arrays.local_path(output)}/{name}"


def _open_layer(output: str, name: str, channel: int | None) -> Layer:
    volume = open_volume(resolved(output, name))
    is_of_run = arrays.exists(f"{arrays.local_path(volume.url).rpartition('/')[0]}/ledger")
    if is_of_run and not record.is_finished(volume.attributes):
        raise VolumeError(
            f"a finished run is wanted, and blocks of '{volume.url}' are missing. First give: engine resume "
            f"{volume.url.rpartition('/')[0]}"
        )
    before, space = [0] * len(volume.axes), []
    for i, (axis, n) in enumerate(zip(volume.axes, volume.shape, strict=True)):
        if axis.role is Role.SPACE:
            space.append(i)
        elif axis.role is Role.CHANNEL and channel is not None:
            if not 0 <= channel < n:
                raise UsageError(f"a channel of 0 to {n - 1} is wanted, not {channel}, of '{volume.url}'. Correct it.")
            before[i] = channel
        elif n != 1:
            raise UsageError(
                f"one channel and no series is wanted, and '{volume.url}' has {n} along '{axis.name}'. "
                + ("Name its channel." if axis.role is Role.CHANNEL else "Store one of them as a volume of its own.")
            )
    return Layer(volume, tuple(before), tuple(space))


def place_of(layer: Layer, recipe: Recipe) -> "Place":
    """Return where the voxels of a layer lie: in micrometre and in level-0 pixels of the slide."""
    spacing = tuple(axis.spacing for axis in layer.axes)
    level0 = recipe.level0_spacing or spacing
    shifts = recipe.offset if len(spacing) == 2 else (0.0,) * len(spacing)
    scale = tuple(s / z for s, z in zip(spacing, level0, strict=True))
    # The centre of voxel j lies at t + j s, and pixel i of the slide covers z (i - 1/2) to z (i + 1/2).
    moved = zip(layer.translation, spacing, level0, shifts, strict=True)
    shift = tuple((t - s / 2) / z + 0.5 + o for t, s, z, o in moved)
    microns = [MICROMETRES.get(axis.unit or "") for axis in layer.axes]
    known = [m for m in microns if m is not None]
    return Place(
        tuple(axis.name for axis in layer.axes),
        scale,
        shift,
        tuple(s * m for s, m in zip(spacing, known, strict=True)) if len(known) == len(spacing) else None,
    )


MICROMETRES = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
"""Micrometre per unit of length, as OME-Zarr spells it."""


@dataclass(frozen=True, slots=True)
class Place:
    """From voxel corners to level-0 pixels and micrometre: corner j of voxel j lies at ``j * scale + shift``."""

    names: tuple[str, ...]
    """Of the space axes."""
    scale: tuple[float, ...]
    """Level-0 pixels per voxel."""
    shift: tuple[float, ...]
    """Level-0 pixels from the slide's corner to the corner of the first voxel."""
    spacing_um: tuple[float, ...] | None
    """Micrometre per voxel; None where the volume does not say."""

    def rounded(self) -> "Place":
        """Return the same without the dust of floating point, so that whole pixels stay whole."""
        return replace(self, scale=tuple(round(a, 9) for a in self.scale), shift=tuple(round(a, 9) for a in self.shift))

    @property
    def voxel_um(self) -> float | None:
        """Square or cubic micrometre of a voxel; None where unknown."""
        return None if self.spacing_um is None else float(np.prod(self.spacing_um))
