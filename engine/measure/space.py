"""Labels over space alone: one item, one channel, and the millimetre of a step along each axis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.geometry.axes import Axis, Role
from engine.geometry.grid import Grid
from engine.geometry.region import Region
from engine.measure.confusion import block_shape
from engine.objects.layers import Layer
from engine.storage.volume import Readable

MILLIMETRES = {"nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0, "centimeter": 10.0, "meter": 1e3}
"""Millimetre per unit of length, as OME-Zarr spells it."""


@dataclass(frozen=True)
class Space:
    """A volume of labels without its axes of length 1 that are not space."""

    layer: Layer
    spacing_mm: tuple[float, ...]
    """Step per space axis."""

    @property
    def volume(self) -> Readable:
        """What is read."""
        return self.layer.volume

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per space axis."""
        return self.layer.shape

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The space axes."""
        return self.layer.axes

    @property
    def placed_axes(self) -> tuple[Axis, ...]:
        """The space axes, in millimetre where the volume did not say how long a step is."""
        pairs = zip(self.axes, self.spacing_mm, strict=True)
        return tuple(axis if _step(axis) == mm else replace(axis, spacing=mm, unit="millimeter") for axis, mm in pairs)

    @property
    def origin(self) -> tuple[float, ...]:
        """Physical place of the first voxel's centre, in the units of :attr:`placed_axes`."""
        pairs = zip(self.layer.translation, self.axes, self.placed_axes, strict=True)
        return tuple(place if new is old else place * new.spacing / old.spacing for place, old, new in pairs)

    def around(self, region: Region, *, margin: int) -> Region:
        """Return a box cut to the volume and so many voxels around it: farther out there is nothing to be found."""
        ends = (margin,) * len(self.shape)
        cut = region.meet(Region.whole(self.shape).grow(before=ends, after=ends))
        assert cut is not None
        return cut

    def read(self, region: Region) -> NDArray[Any]:
        """Return the labels of a box of space."""
        return self.layer.read(region)

    def where(self, region: Region, label: int) -> NDArray[np.bool_]:
        """Return where a label is in a box that may leave the volume: beyond it there is none."""
        found = np.zeros(region.shape, np.bool_)
        inside = region.meet(Region.whole(self.shape))
        if inside is not None:
            found[inside.shift([-a for a in region.start]).slices] = self.read(inside) == label
        return found

    def whole(self, region: Region) -> Region:
        """Return a box of space as a region of the volume, with all its axes."""
        start, stop = list(self.layer.before), [i + 1 for i in self.layer.before]
        for i, a, b in zip(self.layer.space, region.start, region.stop, strict=True):
            start[i], stop[i] = a, b
        return Region(tuple(start), tuple(stop))

    def blocks(self, n_voxels: int) -> Grid:
        """Return a grid of whole shards or chunks, of about so many voxels each."""
        cell = block_shape(self.volume.levels[0], n_voxels=n_voxels)
        return Grid(self.shape, tuple(cell[i] for i in self.layer.space))


def space_of(volume: Readable, *, spacing: Sequence[float] | None = None) -> Space:
    """Return the labels of a volume over its space axes.

    Args:
        volume: Labels; every axis that is not space has length 1.
        spacing: Millimetre per space axis, for a volume that does not say.

    Raises:
        UsageError: If it has several channels or items, or its steps are not known in millimetre.
    """
    space = tuple(i for i, axis in enumerate(volume.axes) if axis.role is Role.SPACE)
    for axis, n in zip(volume.axes, volume.shape, strict=True):
        if axis.role is not Role.SPACE and n > 1:
            raise UsageError(
                f"distances are measured in one volume of space, and '{volume.url}' has {n} along '{axis.name}'. Store "
                "one of them as a volume of its own."
            )
    axes = [volume.axes[i] for i in space]
    return Space(Layer(volume, (0,) * len(volume.axes), space), _millimetres(volume, axes, spacing))


def voxel_ml(volume: Readable, *, spacing: Sequence[float] | None = None) -> float | None:
    """Return the millilitre of a voxel; None where there are not 3 space axes, or their steps are not known."""
    axes = [axis for axis in volume.axes if axis.role is Role.SPACE]
    if len(axes) != 3 or (spacing is None and any(axis.unit not in MILLIMETRES for axis in axes)):
        return None
    return prod(_millimetres(volume, axes, spacing)) / 1000


def _millimetres(volume: Readable, axes: Sequence[Axis], spacing: Sequence[float] | None) -> tuple[float, ...]:
    if spacing is not None:
        if len(spacing) != len(axes) or not all(isfinite(step) and step > 0 for step in spacing):
            raise UsageError(
                f"a spacing is one positive millimetre per space axis {tuple(a.name for a in axes)} of '{volume.url}', "
                f"not {tuple(spacing)}. Give it as 3,0.7,0.7."
            )
        return tuple(float(step) for step in spacing)
    for axis in axes:
        if axis.unit not in MILLIMETRES:
            raise UsageError(
                f"distances are in millimetre, and the step along '{axis.name}' of '{volume.url}' is {axis.spacing:g} "
                f"{axis.unit or 'without a unit'}. Give the spacing in millimetre per axis, as --spacing 3,0.7,0.7."
            )
    return tuple(step for axis in axes if (step := _step(axis)) is not None)


def _step(axis: Axis) -> float | None:
    """Return the millimetre of a step, where the axis has a unit of length."""
    return axis.spacing * MILLIMETRES[axis.unit] if axis.unit in MILLIMETRES else None
