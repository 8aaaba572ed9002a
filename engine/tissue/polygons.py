"""Polygons of a GeoJSON file, as QuPath writes them, as cells."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from engine.errors import TissueError

_AREAS = ("Polygon", "MultiPolygon")


def rasterised(path: str, *, shape: tuple[int, ...], cell: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return which cells the polygons of a file touch: (y, x).

    Args:
        path: A GeoJSON file, ``.gz`` or not: a FeatureCollection, a list of features, a feature, or a geometry, in
            level-0 pixels, x before y.
        shape: Cells along y and x.
        cell: Level-0 pixels of one cell, along y and x.

    Raises:
        TissueError: If the file cannot be read, or holds no polygon.
    """
    polygons = list(_geometries(_loaded(path)))
    if not polygons:
        raise TissueError(
            f"polygons are wanted in '{path}', and it holds none. Export annotations as GeoJSON from QuPath."
        )
    try:
        filled = rasterize(
            polygons, out_shape=shape, transform=Affine.scale(cell[1], cell[0]), all_touched=True, dtype=np.uint8
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise TissueError(
            f"a polygon of '{path}' is not as GeoJSON has it: {type(error).__name__} {error}. Export it again."
        ) from error
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
