"""How high the outer face of a layer stands over what lies beneath: the thickness of a cap over its bone.

From the centre of a voxel on the outer face to the centre of the nearest voxel beneath: over a flat face a layer of k
voxels is k steps high, and over an oblique one what each end misses about cancels. A voxel is on the outer face where
a step along an axis leads out of the layer and upward, and none to any of its neighbours leads upward within the
layer. So the walls of a rim do not count, which stand beside the layer and not on top of it.

    outside   . . . . . . . .
    layer     . f f f f f f .     f: on the face
    layer     . w c c c c w .     w: a wall, with more of the layer above it
    beneath   b b b b b b b b
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.geometry.region import Region
from engine.measure.balls import ROUNDING
from engine.measure.edt import FloatArray, squared_distance
from engine.measure.local import halos
from engine.measure.space import Space

UP_OUT, UP_IN = 0.5, 0.65
"""Height that a step gains at least, as a share of its length, where it leads upward: out of the layer, and within it.

Whichever way is up, a step along some axis gains 0.58 of its length or more, and a step to some neighbour 0.85 or more;
less at a wall, where half of the neighbours are outside."""


def layer_height(
    space: Space, core: Region, *, layer: int, beneath: int, max_mm: float
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the height at each voxel of a box that is on the outer face in millimetre, 0 elsewhere; and which are.

    Args:
        space: The labels.
        core: The box; the layer is in it somewhere.
        layer: Label of the layer.
        beneath: Label of what it lies on.
        max_mm: A layer that is higher is refused.

    Raises:
        UsageError: If the layer is higher, or nothing is beneath it.
        VolumeError: If a block cannot be read.
    """
    steps, ones = space.spacing_mm, (1,) * len(space.shape)
    near = core.grow(before=ones, after=ones)
    inside = space.where(near, layer)
    outside = ~inside & ~space.where(near, beneath)
    centre = (slice(1, -1),) * len(ones)
    borders = inside[centre] & np.logical_or.reduce([there for _, there in _neighbours(outside)])
    for halo in halos(max_mm, steps):
        around = _height(space, near, beneath=beneath, reach=halo + 2 * max(steps))
        if (around[centre][borders] <= halo * ROUNDING).all():
            return _on_face(around, np.where(borders, around[centre], np.float32(0)), inside, outside, steps)
    far = np.where(borders, around[centre], np.float32(0))
    place = np.argwhere(far == far.max())[0] + core.start
    raise UsageError(
        f"a layer within {max_mm:g} mm of label {beneath} is looked for, and label {layer} of '{space.volume.url}' is "
        f"farther from it at voxel {tuple(place.tolist())}. Give a larger --max-mm, or check the labels there."
    )


def _on_face(
    around: FloatArray,
    height: FloatArray,
    inside: NDArray[np.bool_],
    outside: NDArray[np.bool_],
    steps: Sequence[float],
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the height at the voxels on the outer face, and which are.

    Args:
        around: Height of each voxel, of the layer or not, with a margin of one.
        height: Of the layer's voxels that have a neighbour outside, without the margin; else 0.
        inside: Where the layer is, with the margin.
        outside: Where neither it nor what lies beneath is, with the margin.
        steps: Spacing.
    """
    leads_out, leads_on = np.zeros((2, *height.shape), np.bool_)
    for (way, there), (_, is_out), (_, is_in) in zip(
        _neighbours(around), _neighbours(outside), _neighbours(inside), strict=True
    ):
        step = hypot(*(n * step for n, step in zip(way, steps, strict=True)))
        if sum(map(abs, way)) == 1:
            leads_out |= is_out & (there - height >= UP_OUT * step)
        leads_on |= is_in & (there - height >= UP_IN * step)
    on_face = (height > 0) & leads_out & ~leads_on
    return height * on_face, on_face


def _height(space: Space, region: Region, *, beneath: int, reach: float) -> FloatArray:
    """Return how far each voxel of a box is from the nearest one beneath; infinite where that is out of reach."""
    ends = [ceil(reach / step) for step in space.spacing_mm]
    around = space.around(region.grow(before=ends, after=ends), margin=1)
    squared = squared_distance(space.where(around, beneath), spacing=space.spacing_mm, reach=reach)
    found: FloatArray = np.sqrt(squared[region.shift([-a for a in around.start]).slices])
    return found


def _neighbours(values: NDArray[Any]) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Yield each way to a neighbour, and what stands there for each voxel of an array without its margin of one."""
    for way in product((-1, 0, 1), repeat=values.ndim):
        if any(way):
            yield way, values[tuple(slice(1 + a, n - 1 + a) for a, n in zip(way, values.shape, strict=True))]
