"""Local thickness: at each voxel of a layer, the diameter of the largest ball inside the layer that contains it.

T. Hildebrand and P. Rueegsegger, A new method for the model-independent assessment of thickness in three-dimensional
images, J. Microscopy 185:67, 1997. What is inside, and where balls may stand, has to be said for voxels:

- A ball's centre is a voxel's centre, or the middle of a face, an edge or a corner: a grid of half steps.
- A background voxel that has layer on one axis only is a flat wall, and its face is the border: so a layer of k voxels
  is k steps thick, whether k is odd or even.
- A background voxel that has layer on several axes is a step of an oblique surface, which passes near its centre: it
  is taken as a point, and the border lies :data:`SHORT` of a (finest) step before it.
- Beyond the volume there is no layer.

Measured against slabs and caps of 3 to 6 voxels at any angle, the median is within half a voxel and the extremes within
one. A ball alone is found short, by 0.4 to 1.5 voxels of its diameter: the nearest of all its steps decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from engine.geometry.region import Region
from engine.measure.edt import FloatArray, squared_distance

SHORT = 1 / 3
"""Of the finest step: how far before a stepped background voxel's centre the border lies."""

ROUNDING = 1 + 1e-6

AT_ONCE = 2**20
"""Voxels that are painted at once, each as often as balls contain it."""


@dataclass(frozen=True, eq=False)
class Centres:
    """Where balls stand whose voxels may reach a box, and their radii."""

    places: NDArray[np.int64]
    """(n, axis), half steps; an odd one is a voxel's centre: voxel i is at ``2 i + 1``."""
    radii: FloatArray
    """(n,), in the unit of the spacing, rising. Each ball reaches the box."""


def radii_of(layer: NDArray[np.bool_], *, spacing: Sequence[float], reach: float) -> FloatArray:
    """Return the radius of the largest ball at each half step: shape ``2 n + 1`` per axis, 0 outside the layer.

    Args:
        layer: Where it is, and two voxels around: what the outermost touch is not known, and they are no border.
        spacing: Step per axis.
        reach: Radii beyond it may be too long, or infinite.
    """
    half = tuple(step / 2 for step in spacing)
    n_touching, inner = _axes_with_layer(layer), (slice(1, -1),) * layer.ndim
    flat, stepped = np.zeros((2, *layer.shape), np.bool_)
    flat[inner], stepped[inner] = (~layer[inner] & which[inner] for which in (n_touching == 1, n_touching > 1))
    radii = np.sqrt(squared_distance(_boxes(flat), spacing=half, reach=reach))
    points = np.sqrt(squared_distance(_points(stepped), spacing=half, reach=reach + SHORT * min(spacing)))
    np.minimum(radii, np.maximum(points - np.float32(SHORT * min(spacing)), 0), out=radii)
    radii[_boxes(~layer)] = 0
    return radii


def centred_in(radii: FloatArray) -> FloatArray:
    """Return the radius of the largest ball whose centre lies in each voxel, its faces, edges and corners included."""
    largest: FloatArray = maximum_filter(radii, 3)[(slice(1, None, 2),) * radii.ndim]
    return largest


def painted(centres: Centres, core: Region, *, spacing: Sequence[float]) -> FloatArray:
    """Return, at each voxel of a box, the diameter of the largest ball that contains its centre; 0 where none does.

    Args:
        centres: The balls.
        core: The box, in voxels of the array whose half steps the centres count.
        spacing: Step per axis.
    """
    if not len(centres.radii):
        return np.zeros(core.shape, np.float32)
    pad = [int(2 * centres.radii[-1] * ROUNDING / step) + 2 for step in spacing]
    shape = tuple(n + 2 * p for n, p in zip(core.shape, pad, strict=True))
    found = np.zeros(prod(shape), np.float32)
    halves = centres.places - 2 * np.array(core.start) - 1 + 2 * np.array(pad)  # from the first voxel of the padding
    parities = (halves % 2) @ (1 << np.arange(len(shape)))
    first = np.ravel_multi_index(tuple((halves // 2).T), shape)
    # Smaller balls first, so that larger ones paint over them; those of one form at once.
    order = np.lexsort((parities, centres.radii))
    forms = np.stack([centres.radii[order], parities[order]])
    for group in np.split(order, np.flatnonzero((forms[:, 1:] != forms[:, :-1]).any(0)) + 1):
        radius, odd = float(centres.radii[group[0]]), halves[group[0]] % 2
        ball = _ball(radius, odd.tolist(), spacing) @ np.array(_strides(shape))
        for part in np.array_split(group, len(group) * len(ball) // AT_ONCE + 1):
            found[first[part][:, None] + ball] = 2 * radius
    inner = tuple(slice(p, p + n) for p, n in zip(pad, core.shape, strict=True))
    return np.ascontiguousarray(found.reshape(shape)[inner])


def _ball(radius: float, odd: Sequence[int], spacing: Sequence[float]) -> NDArray[np.int64]:
    """Return the voxels of a ball, (n, axis), from the voxel at or before its centre.

    odd 0    |..o..|      its centre is a voxel's
    odd 1    |.o.|.o.|    it lies between two
    """
    numbers, squared = [], np.zeros((1,) * len(odd))
    for axis, (half, step) in enumerate(zip(odd, spacing, strict=True)):
        n = int(radius * ROUNDING / step + half / 2)
        numbers.append(np.arange(half - n, n + 1))
        way = ((numbers[-1] - half / 2) * step) ** 2
        squared = squared + way.reshape([-1 if i == axis else 1 for i in range(len(odd))])
    inside = np.nonzero(squared <= radius**2 * ROUNDING)
    return np.stack([own[place] for own, place in zip(numbers, inside, strict=True)], axis=-1)


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _axes_with_layer(layer: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return along how many axes each voxel has a neighbour of the layer."""
    found = np.zeros(layer.shape, np.uint8)
    for axis in range(layer.ndim):
        along = np.moveaxis(layer, axis, 0)
        touches = np.zeros_like(along)
        touches[1:] |= along[:-1]
        touches[:-1] |= along[1:]
        found += np.moveaxis(touches, 0, axis)
    return found


def _boxes(voxels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the half steps in the closed boxes of voxels: their centres, faces, edges and corners."""
    for axis in range(voxels.ndim):
        along = np.moveaxis(voxels, axis, 0)
        doubled = np.zeros((2 * along.shape[0] + 1, *along.shape[1:]), np.bool_)
        doubled[1::2] = along
        doubled[:-1:2] |= along
        doubled[2::2] |= along
        voxels = np.moveaxis(doubled, 0, axis)
    return voxels


def _points(voxels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the half steps at the centres of voxels."""
    found = np.zeros([2 * n + 1 for n in voxels.shape], np.bool_)
    found[(slice(1, None, 2),) * voxels.ndim] = voxels
    return found
