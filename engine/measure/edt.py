"""Squared Euclidean distance to the nearest site, by minima over shifts, one axis after the other.

The square of a distance is a sum over axes, so its minimum over all sites is a minimum along one axis of minima along
the others (T. Saito and J. Toriwaki, Pattern Recognition 27:1551, 1994). Taken in this order every value is the least,
over all sites, of one formula of the whole offsets to it: the same bits wherever an array is cut, which a transform
that picks one of several equally near sites does not give. The cost grows with the distances found, which are short
inside a layer.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

AT_ONCE = 2**15
"""Points that are shifted together: so few that they stay near the processor."""


def squared_distance(sites: NDArray[np.bool_], *, spacing: Sequence[float], reach: float) -> FloatArray:
    """Return the squared distance of each point to the nearest site, exact up to ``reach`` along each axis.

    >>> squared_distance(np.array([[True, False, False]]), spacing=(1.0, 0.5), reach=9.0)
    array([[0.  , 0.25, 1.  ]], dtype=float32)

    Args:
        sites: Which points are sites.
        spacing: Step per axis.
        reach: What is farther along an axis may be missed: the distance is then too long, or infinite.
    """
    found = np.where(sites, np.float32(0), np.float32(np.inf))
    for axis, step in enumerate(spacing):
        found = _along(found, axis, step=step, n_most=min(int(reach / step), sites.shape[axis] - 1))
    return np.ascontiguousarray(found)


def _along(squared: FloatArray, axis: int, *, step: float, n_most: int) -> FloatArray:
    """Return the least of each value and of those up to ``n_most`` points away, each with its own way added."""
    turned = np.moveaxis(squared, axis, 0)
    lines = np.ascontiguousarray(turned).reshape(len(turned), -1)
    found = lines.copy()
    width = max(1, AT_ONCE // len(turned))
    for start in range(0, lines.shape[1], width):
        part = slice(start, start + width)
        _shift(lines[:, part], found[:, part], step=step, n_most=n_most)
    return np.moveaxis(found.reshape(turned.shape), 0, axis)


def _shift(lines: FloatArray, found: FloatArray, *, step: float, n_most: int) -> None:
    if np.isinf(lines.min()):
        return
    scratch = np.empty_like(lines)
    for n in range(1, n_most + 1):
        way = np.float32((n * step) ** 2)
        if n % 4 == 1 and way >= found.max():  # looking costs a fifth of a shift
            break
        before = np.add(lines[:-n], way, out=scratch[:-n])
        np.minimum(found[n:], before, out=found[n:])
        after = np.add(lines[n:], way, out=scratch[:-n])
        np.minimum(found[:-n], after, out=found[:-n])
