"""Polygons of a GeoJSON file, as QuPath writes them, as cells."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import is_valid_geom, rasterize

from engine.errors import TissueError

_AREAS = ("Polygon", "MultiPolygon")


def rasterised(
    path: str, *, shape: tuple[int, ...], cell: tuple[float, ...], offset: tuple[float, ...]
) -> NDArray[np.bool_]:
    """Return which cells the polygons of a file touch: (y, x).

    Args:
        path: A GeoJSON file, ``.gz`` or not: a FeatureCollection, a list of features, a feature, or a geometry, in
            level-0 pixels, x before y.
        shape: Cells along y and x.
        cell: Level-0 pixels of one cell, along y and x.
        offset: Level-0 pixels from the slide's corner to the first cell, along y and x.

    Raises:
        TissueError: If the file cannot be read, or holds no polygon.
    """
    polygons = list(_geometries(_loaded(path)))
    if not polygons:
        raise TissueError(
            f"polygons are wanted in '{path}', and it holds none. Export annotations as GeoJSON from QuPath."
        )
    for number, polygon in enumerate(polygons):
        if not is_valid_geom(polygon):
            raise TissueError(
                f"polygon {number} of '{path}' is not as GeoJSON has it: rings of at least 4 points are wanted, which "
                "end where they begin. Export it again."
            )
    to_pixels = Affine(cell[1], 0.0, offset[1], 0.0, cell[0], offset[0])
    filled = rasterize(polygons, out_shape=shape, transform=to_pixels, all_touched=True, dtype=np.uint8)
    return np.asarray(filled, np.bool_)


def _loaded(path: str) -> Any:  # noqa: ANN401 -- any JSON value
    file = Path(path)
    try:
        text = gzip.decompress(file.read_bytes()) if path.endswith(".gz") else file.read_bytes()
        return json.loads(text)
    except (OSError, ValueError, EOFError) as error:
        raise TissueError(
            f"a GeoJSON file is wanted, and '{path}' cannot be read as one ({type(error).__name__}: {error}). "
            "Check the path, or export it again."
        ) from error


def _geometries(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    if isinstance(value, list):
        for item in value:
            yield from _geometries(item)
    elif isinstance(value, dict):
        if value.get("type") in _AREAS:
            yield value
        for key in ("features", "geometry", "geometries"):
            yield from _geometries(value.get(key))
