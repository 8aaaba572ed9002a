"""A volume at a wanted micrometre per pixel: one of its levels, as it is or made coarser by area."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ResolutionError, VolumeError
from engine.geometry.region import Region
from engine.storage.readable import Level, Readable, View
from engine.storage.resample import Shrink, area_mean, snapped
from engine.storage.source_url import SourceUrl

MICROMETRES = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
"""Micrometre in one unit, by its name."""

_SLAB_VOXELS = 1 << 24


@dataclass(frozen=True)
class Scaled(View):
    """One level of another volume, shrunk by area."""

    base_level: int
    """Which of its levels."""
    shrinks: tuple[Shrink | None, ...]
    """Per axis; None where it stays as it is."""
    described: Mapping[str, Any]
    """What the base says that holds at this resolution too."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """As in the base, where that holds at this resolution too."""
        return self.described

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``: the same bits whatever the region; memory is bounded beside the result.

        Raises:
            VolumeError: If the region leaves the volume, or the base is damaged there.
        """
        if level or len(region.start) != len(self.shape) or not Region.whole(self.shape).holds(region):
            raise VolumeError(
                f"a region must lie inside {self.shape} of level 0, not {region.start} to {region.stop} of level "
                f"{level}, in '{self.url}'. Clip it, or fill the rest by an edge rule."
            )
        if all(shrink is None for shrink in self.shrinks):
            return self.base.read(region, level=self.base_level)
        voxels = np.empty(region.shape, self.dtype)
        for slab in self._slabs(region):
            fine = self.base.read(self._covered(slab), level=self.base_level)
            inside = slab.shift([-a for a in region.start])
            voxels[inside.slices] = area_mean(fine, self.shrinks, starts=slab.start, stops=slab.stop)
        return voxels

    def _covered(self, region: Region) -> Region:
        spans = [
            (a, b) if shrink is None else shrink.covered(a, b)
            for shrink, a, b in zip(self.shrinks, region.start, region.stop, strict=True)
        ]
        return Region(tuple(a for a, _ in spans), tuple(b for _, b in spans))

    def _slabs(self, region: Region) -> Iterator[Region]:
        """Cut a region along y so that each part reads about 16 million voxels at most, and at least one row."""
        if region.n_voxels == 0:
            return
        axis = [one.name for one in self.axes].index("y")
        n_read = self._covered(region).n_voxels
        n_rows = max(1, region.shape[axis] * _SLAB_VOXELS // max(n_read, 1))
        for low in range(region.start[axis], region.stop[axis], n_rows):
            start, stop = list(region.start), list(region.stop)
            start[axis], stop[axis] = low, min(low + n_rows, region.stop[axis])
            yield Region(tuple(start), tuple(stop))


def scaled(base: Readable, wanted: SourceUrl) -> Scaled:
    """Return ``base`` as its source URL wants it.

    A level whose steps along y and x are within tolerance of the wanted ones is read as it is and keeps its
    own steps; of several, the nearest. Else the coarsest level that is finer is read, and each axis that is
    not within tolerance shrinks to exactly the wanted step. Steps and places along y and x are in micrometre.

    Raises:
        VolumeError: If the volume has no y and x, does not say its micrometre per pixel, or has no level fine enough.
    """
    plane = _plane(base, wanted)
    steps = _steps(base, wanted, plane=plane)
    number, ratios = (0, (1.0, 1.0)) if wanted.mpp is None else _picked(steps, wanted, mpp=wanted.mpp)
    axes, level = list(base.axes), base.levels[number]
    shrinks: list[Shrink | None] = [None] * len(axes)
    for i, own, ratio, wish in zip(plane, steps[number], ratios, wanted.mpp or steps[number], strict=True):
        shrinks[i] = Shrink(ratio, level.shape[i]) if ratio > 1 else None
        level = _coarser(level, axis=i, own=own, ratio=ratio, step=wish if ratio > 1 else own)
        axes[i] = replace(axes[i], unit="micrometer")
    axes = [replace(axis, spacing=step) for axis, step in zip(axes, level.spacing, strict=True)]
    method = "mean over area" if any(shrinks) else "as it is"
    view = {"level": number, "ratio": list(ratios), "method": method}
    attributes = {**base.attributes, "view": view}
    return Scaled(str(wanted), base, tuple(axes), (level,), number, tuple(shrinks), attributes)


def _coarser(level: Level, *, axis: int, own: float, ratio: float, step: float) -> Level:
    """Return a level after one axis, whose step is ``own`` micrometre, shrank by ``ratio`` to ``step``."""

    def put(values: Sequence[Any], value: Any) -> tuple[Any, ...]:  # noqa: ANN401
        return (*values[:axis], value, *values[axis + 1 :])

    n, chunk = level.shape[axis], level.chunk_shape[axis]
    first = level.translation[axis] * own / level.spacing[axis]
    return replace(
        level,
        shape=put(level.shape, Shrink(ratio, n).size if ratio > 1 else n),
        chunk_shape=put(level.chunk_shape, max(1, int(chunk / ratio))),
        shard_shape=None,
        spacing=put(level.spacing, step),
        translation=put(level.translation, first + (step - own) / 2),
    )


def _plane(base: Readable, wanted: SourceUrl) -> tuple[int, int]:
    names = [axis.name for axis in base.axes]
    if not {"y", "x"} <= set(names):
        raise VolumeError(
            f"'#{wanted.options}' is about axes y and x, and '{wanted.place}' has {', '.join(names)}. Leave it out."
        )
    return names.index("y"), names.index("x")


def _steps(base: Readable, wanted: SourceUrl, *, plane: tuple[int, int]) -> list[tuple[float, float]]:
    """Return the micrometre per pixel along y and x of every level."""
    finest = wanted.spacing
    if finest is None:
        units = [base.axes[i].unit or "" for i in plane]
        if unknown := [unit for unit in units if unit not in MICROMETRES]:
            raise ResolutionError(
                f"'{wanted.place}' must say its micrometre per pixel along y and x, and its unit is "
                f"'{unknown[0] or 'none'}'. Give the true step: {wanted.place}#spacing=0.5&{wanted.options}"
            )
        finest = (
            base.levels[0].spacing[plane[0]] * MICROMETRES[units[0]],
            base.levels[0].spacing[plane[1]] * MICROMETRES[units[1]],
        )
    found = []
    for level in base.levels:
        y, x = (step * level.spacing[i] / base.levels[0].spacing[i] for step, i in zip(finest, plane, strict=True))
        found.append((y, x))
    return found


def _picked(
    steps: Sequence[tuple[float, float]], wanted: SourceUrl, *, mpp: tuple[float, float]
) -> tuple[int, tuple[float, float]]:
    """Return which level is read, and by how much each axis of it shrinks."""
    pairs = [tuple(zip(pair, mpp, strict=True)) for pair in steps]
    near = [n for n, pair in enumerate(pairs) if all(_is_near(a, b, wanted) for a, b in pair)]
    if near:
        return min(near, key=lambda n: sum(abs(log(a / b)) for a, b in pairs[n])), (1.0, 1.0)
    fine = [n for n, pair in enumerate(pairs) if all(a < b or _is_near(a, b, wanted) for a, b in pair)]
    if not fine:
        there = ", ".join(f"{y:g} x {x:g}" for y, x in steps)
        raise ResolutionError(
            f"{mpp[0]:g} x {mpp[1]:g} micrometre per pixel (y, x) is wanted, to {wanted.tolerance:.0%}, and the levels "
            f"of '{wanted.place}' have {there}: none is fine enough. Use a slide scanned finer, a model made for this "
            "resolution, or allow more by tolerance."
        )
    number = max(fine, key=lambda n: prod(steps[n]))
    y, x = (1.0 if _is_near(a, b, wanted) else snapped(b / a) for a, b in pairs[number])
    return number, (y, x)


def _is_near(step: float, wanted_step: float, wanted: SourceUrl) -> bool:
    return abs(step / wanted_step - 1) <= wanted.tolerance + 1e-9
