"""What the passes do with one block: find, split, paint. Each leaves whole files or shards, and may be repeated."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from engine.geometry.region import Region
from engine.objects import parts
from engine.objects.block import Block, Whole
from engine.objects.components import face, inner_faces
from engine.objects.recipe import Method
from engine.objects.sums import Columns, IntArray, firsts, measure
from engine.objects.window import Window, local
from engine.runtime.coarsen import coarse_pieces
from engine.storage.pyramid import finer_region, reduce_mode
from engine.storage.volume import Volume


def find(block: Block) -> int:
    """Leave the components of a block: faces and border rows, and the rows of those that end inside; return voxels."""
    found, n = block.labelled
    catalogue, border = block.catalogue, block.border
    is_measured = catalogue.recipe.method is Method.CONNECTED
    rows = measure(
        found,
        n=n,
        classes=block.classes,
        region=block.region,
        shape=catalogue.grid.shape,
        layers=_layers(block, is_empty=n == 0) if is_measured else {},
    )
    place = np.zeros(n + 1, np.int32)
    place[border] = np.arange(1, len(border) + 1)
    if is_measured:
        parts.write_rows(catalogue.part("objects", block.number), rows[place[1:] == 0])
    faces = {
        f"face_{axis}_{end}": place[face(found, axis, end)]
        for axis, end in inner_faces(block.region, catalogue.grid.shape)
    }
    parts.write_archive(catalogue.part("found", block.number), border=rows[place[1:] > 0], **faces)
    return found.size


def read_faces(archive: Mapping[str, NDArray[np.int32]]) -> dict[tuple[int, int], NDArray[np.int32]]:
    """Return the faces that :func:`find` left, by axis and end."""
    names = (name for name in archive if name.startswith("face_"))
    return {(int(name.split("_")[1]), int(name.split("_")[2])): archive[name] for name in names}


def split(block: Block) -> int:
    """Leave the rows of all parts of the components that a block owns, and how many parts each has; return voxels."""
    found, n = block.labelled
    n_parts = np.zeros(n + 1, np.int32)
    objects = np.zeros(found.shape, np.int32)
    n_objects = 0
    for label, whole in _inner(block, range(1, n + 1)):
        n_parts[label] = whole.n_parts
        here = objects[local(whole.box, block.region)]
        here[whole.parts > 0] = whole.parts[whole.parts > 0] + n_objects
        n_objects += whole.n_parts
    layers = _windows(block, is_empty=n == 0)
    tables = [_rows(block, objects, n_objects, block.region, layers)]
    tables += [_rows(block, whole.parts, whole.n_parts, whole.box, layers) for _, whole in block.wholes(block.owned)]
    parts.write_rows(catalogue_part(block, "objects"), np.concatenate(tables))
    parts.write_archive(catalogue_part(block, "split"), n_parts=n_parts)
    return found.size


def paint(block: Block, target: Volume) -> int:
    """Write the ids of a block of the finest level; return voxels."""
    found, n = block.labelled
    is_parted = block.catalogue.recipe.method is Method.WATERSHED
    sorted_firsts = parts.open_sorted(block.catalogue.ids_url)
    shape = block.catalogue.grid.shape
    first = firsts(found, n=n, region=block.region, shape=shape)
    first[block.border - 1] = block.crossing.first
    ids = np.concatenate([[np.uint32(0)], ids_of(sorted_firsts, first)]).astype(np.uint32)
    painted = ids[found]
    if is_parted:
        several = parts.read_archive(catalogue_part(block, "split"))["n_parts"] > 1
        for _, whole in _inner(block, np.flatnonzero(several).tolist()):
            _paint_parts(painted, whole, block.region, sorted_firsts, shape)
        for _, whole in block.wholes(block.crossing.once()):
            _paint_parts(painted, whole, block.region, sorted_firsts, shape)
    target.write(block.region, painted)
    return painted.size


def coarsen(target: Volume, number: int, *, level: int) -> int:
    """Write block ``number`` of a coarser level: the most frequent id of each group of voxels; return voxels."""
    grid = target.levels[level].grid
    region = grid.region(number)
    factors = (2,) * len(grid.shape)
    coarse = np.empty(region.shape, target.dtype)
    for piece in coarse_pieces(region, factors=factors, chunk_shape=target.levels[level].chunk_shape):
        source = finer_region(piece, factors=factors, finer_shape=target.levels[level - 1].shape)
        coarse[local(piece, region)] = reduce_mode(target.read(source, level=level - 1), factors)
    target.write(region, coarse, level=level)
    return coarse.size


def ids_of(sorted_firsts: IntArray, first: IntArray) -> NDArray[np.uint32]:
    """Return the ids of objects by their first voxels; 0 for those that are not kept.

    >>> ids_of(np.array([3, 7, 20]), np.array([20, 4, 3]))
    array([3, 0, 1], dtype=uint32)
    """
    if not len(sorted_firsts):
        return np.zeros(len(first), np.uint32)
    at = np.searchsorted(sorted_firsts, first)
    is_kept = sorted_firsts[np.minimum(at, len(sorted_firsts) - 1)] == first
    return np.where(is_kept, at + 1, 0).astype(np.uint32)


def catalogue_part(block: Block, kind: str) -> str:
    """Return the file that a pass leaves for a block."""
    return block.catalogue.part(kind, block.number)


def _layers(block: Block, *, is_empty: bool) -> dict[str, NDArray[Any]]:
    """Return the measured volumes of a block; nothing is read of a block without objects."""
    if is_empty:
        return dict.fromkeys(block.sources.measured, block.labelled[0])
    return block.sources.layers(block.region)


def _windows(block: Block, *, is_empty: bool) -> dict[str, Window]:
    """Return the measured volumes of a block and around it; nothing is read of a block without objects."""
    if is_empty:
        return {}
    boxes, region = block.owned.boxes(), block.region
    return {name: Window.around(region, boxes, layer.read) for name, layer in block.sources.measured.items()}


def _inner(block: Block, labels: Iterable[int]) -> Iterator[tuple[int, Whole]]:
    """Yield those of some components that end inside the block, and their parts."""
    found, _ = block.labelled
    boxes = find_objects(found)
    border = set(block.border.tolist())
    for label in labels:
        if label in border:
            continue
        box = boxes[label - 1]
        start = tuple(s.start + a for s, a in zip(box, block.region.start, strict=True))
        stop = tuple(s.stop + a for s, a in zip(box, block.region.start, strict=True))
        yield label, block.parted(found[box] == label, Region(start, stop))


def _rows(block: Block, objects: NDArray[np.int32], n: int, box: Region, layers: Mapping[str, Window]) -> IntArray:
    if n == 0:
        return Columns(objects.ndim, len(block.sources.measured)).empty()
    return measure(
        objects,
        n=n,
        classes=block.classes if box == block.region else block.sources.classes(box),
        region=box,
        shape=block.catalogue.grid.shape,
        layers={name: window.read(box) for name, window in layers.items()},
    )


def _paint_parts(
    painted: NDArray[np.uint32], whole: Whole, region: Region, sorted_firsts: IntArray, shape: tuple[int, ...]
) -> None:
    """Set the ids of a component's parts where its box meets the block."""
    first = firsts(whole.parts, n=whole.n_parts, region=whole.box, shape=shape)
    ids = np.concatenate([[np.uint32(0)], ids_of(sorted_firsts, first)]).astype(np.uint32)
    here = whole.box.meet(region)
    if here is None:
        return
    piece = whole.parts[local(here, whole.box)]
    inside = painted[local(here, region)]
    inside[piece > 0] = ids[piece[piece > 0]]
