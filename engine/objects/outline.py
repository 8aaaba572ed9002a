"""The outlines of objects as GeoJSON features that QuPath reads: polygons along pixel edges, in level-0 pixels.

RFC 7946 wants closed rings, the outer one counter-clockwise as numbers go (with y down that looks clockwise), holes the
other way. An object whose pixels touch only at a corner, as 8 neighbours allow, is a MultiPolygon of parts that touch
in a point. QuPath's keys: https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray
from rasterio.features import shapes

from engine.geometry.region import Region
from engine.objects import parts
from engine.objects.block import Block, check_size
from engine.objects.layers import Place
from engine.objects.recipe import Method
from engine.objects.sums import FIRST, Columns, IntArray
from engine.objects.table import derived
from engine.objects.tasks import ids_of
from engine.objects.window import Window
from engine.storage.volume import Volume

Ring = NDArray[np.float64]
"""Corners (x, y); the last is the first again."""
Polygon = list[Ring]
N_DIGITS = 4
"""Decimals of a level-0 pixel that are kept."""


def outline(block: Block, painted: Volume, place: Place) -> int:
    """Leave the features of the objects that a block owns, one a line, in the order of ids; return how many."""
    rows = _owned_rows(block)
    ids = ids_of(parts.open_sorted(block.catalogue.ids_url), rows[:, FIRST])
    order = np.argsort(ids, kind="stable")[np.count_nonzero(ids == 0) :]
    rows, ids = rows[order], ids[order]
    polygons = _polygons(block, painted, rows, ids)
    table = derived(rows, first_id=0, place=place, measured=tuple(block.sources.measured))
    lines = []
    for i, number in enumerate(ids.tolist()):
        facts = {name: column[i].item() for name, column in table.items()}
        shape = [[_placed(ring, place) for ring in polygon] for polygon in polygons[number]]
        lines.append(json.dumps(feature(shape, facts | {"id": number}, block), separators=(",", ":")).encode())
    stops = np.cumsum([len(line) for line in lines], dtype=np.int64)
    text = np.frombuffer(b"".join(lines), np.uint8)
    parts.write_archive(block.catalogue.part("outlines", block.number), ids=ids, stops=stops, text=text)
    return len(lines)


def lines_of(archive: Mapping[str, NDArray[Any]]) -> Iterator[tuple[int, bytes]]:
    """Yield the id and the feature of each object of a file that :func:`outline` left."""
    text, start = archive["text"].tobytes(), 0
    for number, stop in zip(archive["ids"].tolist(), archive["stops"].tolist(), strict=True):
        yield number, text[start:stop]
        start = stop


def feature(shape: Sequence[Sequence[list[list[float]]]], facts: Mapping[str, Any], block: Block) -> dict[str, Any]:
    """Return one object as QuPath reads it; the UUID is the same whenever it is found again."""
    recipe = block.catalogue.recipe
    kind = recipe.class_of(facts["class"])
    measurements = {"ID": facts["id"], "Area px": facts["area_px"], "Area µm^2": facts["area_um2"]}
    measurements |= {f"Mean {name}": facts[f"mean_{name}"] for name in block.sources.measured}
    geometry = {"type": "Polygon", "coordinates": shape[0]}
    if len(shape) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": list(shape)}
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, f"{recipe.name}/{recipe.volume}/{facts['class']}/{facts['first_voxel']}")),
        "geometry": geometry,
        "properties": {
            "objectType": "detection",
            "classification": {"name": kind.name, "color": list(kind.colour)},
            "measurements": {name: value for name, value in measurements.items() if np.isfinite(value)},
        },
    }


def traced(numbers: NDArray[np.int32], start: tuple[int, ...]) -> dict[int, list[Polygon]]:
    """Return the polygons of each number but 0, in pixel corners (x, y); ``start`` is the place of the first pixel."""
    found: dict[int, list[Polygon]] = {}
    for geometry, value in shapes(numbers, mask=numbers > 0, connectivity=4):
        rings = [np.array(ring) + np.array(start)[::-1] for ring in geometry["coordinates"]]
        turned = [_turned(ring, is_outer=i == 0) for i, ring in enumerate(rings)]
        found.setdefault(int(value), []).append(turned)
    return found


def _owned_rows(block: Block) -> IntArray:
    """Return the rows of the objects that a block outlines: its own, and those added up over blocks that start here."""
    columns = Columns(block.catalogue.n_axes, len(block.sources.measured))
    tables = [parts.read_rows(block.catalogue.part("objects", block.number), n_columns=columns.n)]
    if block.catalogue.recipe.method is Method.CONNECTED:
        for group in block.owned.group.tolist():
            merged = block.catalogue.merged_url
            tables.append(parts.read_rows(merged, n_columns=columns.n, start=group, stop=group + 1))
    return np.concatenate(tables)


def _polygons(block: Block, painted: Volume, rows: IntArray, ids: NDArray[np.uint32]) -> dict[int, list[Polygon]]:
    """Return the polygons of each object: all that lie in the block at once, the others one by one."""
    columns = Columns(block.catalogue.n_axes, len(block.sources.measured))
    if not len(ids):
        return {}
    low, high = rows[:, columns.start], rows[:, columns.stop]
    is_inner = ((low >= block.region.start) & (high <= block.region.stop)).all(axis=1)
    voxels = painted.read(block.region)
    numbers = ids_of(ids[is_inner].astype(np.int64), voxels.ravel()).reshape(voxels.shape).astype(np.int32)
    found = {int(ids[is_inner][n - 1]): shape for n, shape in traced(numbers, block.region.start).items()}
    outer = np.flatnonzero(~is_inner).tolist()
    boxes = [Region(tuple(low[i].tolist()), tuple(high[i].tolist())) for i in outer]
    window = Window.around(block.region, boxes, painted.read, voxels)
    for i, box in zip(outer, boxes, strict=True):
        check_size(box, block.catalogue, first=int(rows[i, FIRST]))
        found[int(ids[i])] = traced((window.read(box) == ids[i]).astype(np.int32), box.start)[1]
    return found


def _turned(ring: NDArray[np.float64], *, is_outer: bool) -> NDArray[np.float64]:
    """Return a closed ring in the direction that RFC 7946 wants."""
    x, y = ring[:, 0], ring[:, 1]
    is_counter_clockwise = np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0
    return ring if is_counter_clockwise == is_outer else ring[::-1]


def _placed(ring: Ring, place: Place) -> list[list[float]]:
    """Return a ring of pixel corners in level-0 pixels, x before y; without decimals where all are whole."""
    placed = np.round(ring * place.scale[::-1] + place.shift[::-1], N_DIGITS)
    whole = placed.astype(np.int64)
    corners: list[list[float]] = (whole if np.array_equal(whole, placed) else placed).tolist()
    return corners
