"""Local thickness of one block of a layer, equal to that of the whole volume: its halo grows until nothing can change.

    core              |cccccccc|              the voxels that are wanted
    ball        (---o---)      |              that contains one: its centre lies a radius away, its far end two
    halo     |hhhhhhhh|cccccccc|hhhhhhhh|     so radii up to half of it are known

A radius that comes out longer makes the halo double. What is read in the end is about as far around the core as the
layer is thick there.
"""

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from engine.errors import UsageError
from engine.geometry.region import Region
from engine.measure.balls import ROUNDING, Centres, centred_in, painted, radii_of
from engine.measure.edt import FloatArray
from engine.measure.space import Space

FIRST_HALO = 10
"""Steps of the halo that is tried first, of the longest axis; it is doubled until it is enough."""

RIDGE = 3 / 4
"""Of the largest ball around: how large a ball in the middle of the layer is at least."""


def local_thickness(space: Space, core: Region, *, layer: int, max_mm: float) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the thickness at each voxel of a box in millimetre, 0 outside the layer; and which are on its ridge.

    On the ridge are the voxels in which a ball is centred that is almost as large (:data:`RIDGE`) as the largest that
    contains them or a neighbour: the middle of the layer, as long as its sides open by less than 29 degrees. Corners,
    rims and rough spots, which only small balls reach, are not.

    Args:
        space: The labels.
        core: The box; the layer is in it somewhere.
        layer: Label of the layer.
        max_mm: What is thicker is refused.

    Raises:
        UsageError: If the layer is thicker.
        VolumeError: If a block cannot be read.
    """
    steps, ones = space.spacing_mm, (1,) * len(space.shape)
    near = core.grow(before=ones, after=ones)
    around, mask, radii, reaching = _looked_at(space, near, layer=layer, max_mm=max_mm)
    places, found = np.argwhere(reaching), radii[reaching]
    order = np.argsort(found, kind="stable")
    inner, inside = (box.shift([-a for a in around.start]) for box in (near, core))
    thickness = painted(Centres(places[order], found[order]), inner, spacing=steps) * mask[inner.slices]
    own, centre = 2 * centred_in(radii)[inside.slices], (slice(1, -1),) * len(ones)
    on_ridge = mask[inside.slices] & (own >= RIDGE * maximum_filter(thickness, 3)[centre])
    return np.ascontiguousarray(thickness[centre]), on_ridge


def _looked_at(
    space: Space, near: Region, *, layer: int, max_mm: float
) -> tuple[Region, NDArray[np.bool_], FloatArray, NDArray[np.bool_]]:
    """Return a box around another, the layer in it, the radius at its half steps, and where balls reach the other."""
    steps = space.spacing_mm
    for halo in halos(max_mm, steps):
        ends = [ceil(halo / step) + 1 for step in steps]
        around = space.around(near.grow(before=ends, after=ends), margin=2)
        mask = space.where(around, layer)
        radii = radii_of(mask, spacing=steps, reach=halo / 2)
        way = _way(around, near, steps)
        reaching = (radii > 0) & (way <= radii * ROUNDING) & (way <= max_mm / 2 * ROUNDING)
        if (radii[reaching] <= halo / 2 * ROUNDING).all():
            return around, mask, radii, reaching
    places = np.argwhere(reaching)
    place = (places[radii[reaching].argmax()] - 1) // 2 + around.start
    raise UsageError(
        f"a layer of at most {max_mm:g} mm is looked for, and label {layer} of '{space.volume.url}' is thicker near "
        f"voxel {tuple(place.tolist())}. Give a larger --max-mm, or check the labels there."
    )


def halos(max_mm: float, spacing: Sequence[float]) -> Iterator[float]:
    """Yield the halos to be tried in millimetre, rising to ``max_mm``.

    >>> list(halos(20.0, (1.0, 0.5, 0.5)))
    [10.0, 20.0]
    """
    halo = FIRST_HALO * max(spacing)
    while halo < max_mm:
        yield halo
        halo *= 2
    yield max_mm


def _way(around: Region, core: Region, steps: Sequence[float]) -> FloatArray:
    """Return how far each half step of a box is from the nearest voxel's centre of the core."""
    squared = np.zeros((1,) * len(steps), np.float32)
    for axis, step in enumerate(steps):
        place = np.arange(2 * around.shape[axis] + 1) / 2 - 0.5 + around.start[axis]
        gap = np.maximum(np.maximum(core.start[axis] - place, place - (core.stop[axis] - 1)), 0) * step
        squared = squared + (gap**2).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(len(steps))])
    found: FloatArray = np.sqrt(squared)
    return found
