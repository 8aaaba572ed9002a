"""How much of the globe a row or a cell of a grid stands for: what a mean over it weighs with.

Rows of a latitude-longitude grid crowd at the poles: a plain mean over cells is none over the globe.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import AxisError

EARTH_RADIUS = 6_371_000.0
"""m, the mean one (IUGG R1 = 6371.0088 km, rounded as CF's examples have it)."""


def cosine_weights(latitudes: ArrayLike) -> NDArray[np.float64]:
    """Return the cosine of each latitude, which sums to 1: rows evenly spaced.

    >>> cosine_weights([-60, 0, 60]).round(3).tolist()
    [0.25, 0.5, 0.25]

    Raises:
        AxisError: If a latitude lies beyond a pole.
    """
    return _shares(np.cos(np.radians(_checked(latitudes))).clip(0))


def gaussian_weights(latitudes: ArrayLike) -> NDArray[np.float64]:
    """Return the weights of Gauss-Legendre quadrature, which sum to 1, for latitudes that are its nodes.

    >>> gaussian_weights(np.degrees(np.arcsin([-0.7745966692, 0, 0.7745966692]))).round(4).tolist()
    [0.2778, 0.4444, 0.2778]

    Raises:
        AxisError: If they are not these nodes, to a hundredth of a degree.
    """
    rows = _checked(latitudes)
    nodes, weights = np.polynomial.legendre.leggauss(len(rows))
    wanted = np.degrees(np.arcsin(nodes))
    if rows[0] > rows[-1]:
        wanted, weights = wanted[::-1], weights[::-1]
    if (far := np.abs(rows - wanted).max()) > 0.01:
        raise AxisError(
            f"Gaussian weights are of Gaussian latitudes, and row {int(np.abs(rows - wanted).argmax())} of 'lat' lies "
            f"{far:.3g} degrees from its one. Use cosine_weights, or the area of cells from their bounds."
        )
    return _shares(weights)


def area_weights(latitudes: ArrayLike) -> NDArray[np.float64]:
    """Return what rows weigh, which sums to 1: Gaussian where they are its nodes, else by the area of their cells.

    >>> area_weights([-45, 45]).tolist(), area_weights([90, 0, -90]).round(3).tolist()
    ([0.5, 0.5], [0.146, 0.707, 0.146])

    Raises:
        AxisError: If a latitude lies beyond a pole, or rows do not go one way.
    """
    rows = _checked(latitudes)
    try:
        return gaussian_weights(rows)
    except AxisError:
        steps = np.diff(rows)
        if len(steps) and not (np.all(steps > 0) or np.all(steps < 0)):
            raise AxisError(f"latitudes must all go north or all go south, not {rows.tolist()}. Sort them.") from None
        return _shares(cell_areas(rows, [0.0])[:, 0])


def cell_areas(
    latitudes: ArrayLike, longitudes: ArrayLike, *, bounds: tuple[ArrayLike, ArrayLike] | None = None
) -> NDArray[np.float64]:
    """Return the area of every cell (lat, lon) in m2, on a sphere: R2 (sin north - sin south) (east - west).

    >>> bool(np.isclose(cell_areas([-45, 45], [0, 120, 240]).sum(), 4 * np.pi * EARTH_RADIUS**2))
    True

    Args:
        latitudes: Degrees north.
        longitudes: Degrees east.
        bounds: Of latitude (n, 2) and of longitude (n, 2); by default half way between cells, and the ends half a step
            further, or at a pole that is nearer than a step.

    Raises:
        AxisError: If a latitude lies beyond a pole.
    """
    if bounds is None:
        bounds = _row_bounds(_checked(latitudes)), _column_bounds(np.asarray(longitudes, np.float64))
    south_north, west_east = (np.radians(np.asarray(b, np.float64)) for b in bounds)
    heights = np.abs(np.diff(np.sin(south_north), axis=1))
    widths = np.abs(np.diff(west_east, axis=1)).T
    return EARTH_RADIUS**2 * heights * widths


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(weights / weights.sum(), np.float64)


def _checked(latitudes: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(latitudes, np.float64)
    if rows.ndim != 1 or not len(rows) or not (np.abs(rows) <= 90 + 1e-6).all():
        raise AxisError(f"latitudes are degrees from -90 to 90, one per row, not {rows.tolist()}. Correct 'lat'.")
    return rows


def _row_bounds(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = (rows[1:] + rows[:-1]) / 2
    steps = np.diff(rows) if len(rows) > 1 else np.array([180.0])
    edges = np.concatenate([[_end(rows[0], -steps[0])], middle, [_end(rows[-1], steps[-1])]])
    return np.stack([edges[:-1], edges[1:]], 1)


def _end(row: float, step: float) -> float:
    """Return where the outermost row ends, ``step`` away from the next one."""
    pole = float(np.copysign(90.0, step))
    return pole if abs(pole - row) < abs(step) else row + step / 2


def _column_bounds(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(columns) < 2:
        return np.array([[0.0, 360.0]])
    half = np.diff(columns).mean() / 2
    return np.stack([columns - half, columns + half], 1)
