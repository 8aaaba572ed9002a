"""What lies beyond a volume's border: which source voxels fill a read that leaves the volume.

asked    [-3 ................. 11)         of an axis of 8
wrap      5 6 7 | 0 1 2 3 4 5 6 7 | 0 1 2
reflect   3 2 1 | 0 1 2 3 4 5 6 7 | 6 5 4
pole      2 1 0 | 0 1 2 3 4 5 6 7 | 7 6 5   rolled half way round the other axis
fold      . . . | 0 1 2 3 4 5 6 7 | 7 6 5   the other axis mirrored; a constant before the first row
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise, product

from engine.errors import EdgeError
from engine.geometry.region import Region


class EdgeKind(StrEnum):
    """The rule at both ends of one axis."""

    MODEL = "model"
    """Nothing is added: each layer's own padding acts at the true border."""

    WRAP = "wrap"
    """The axis is periodic; columns come from index modulo size, any number of times round."""

    REFLECT = "reflect"
    """The volume is mirrored about its border voxel, which is not repeated."""

    CONSTANT = "constant"
    """The volume is surrounded by one value."""

    POLE = "pole"
    """Rows beyond a pole are the rows before it, seen from half way round the ``around`` axis."""

    FOLD = "fold"
    """Rows beyond the last are the rows before it, the ``around`` axis mirrored: a tripolar ocean grid's north."""


FOLDS: Mapping[str, tuple[int, int]] = {
    "T-T": (1, 0), "T-U": (1, -1), "T-V": (2, 0), "T-F": (2, -1),
    "F-T": (0, -1), "F-U": (0, -2), "F-V": (1, -1), "F-F": (1, -2),
}  # fmt: skip
"""By the pivot of a fold, and the points of its cells where the values lie: how many of the last rows have no image
beyond, and s, where the image of column i is column s - i. As in NEMO's ``lbcnfd`` (T: jperio 4, F: jperio 6)."""


@dataclass(frozen=True, slots=True)
class Edge:
    """The edge rule of one space axis."""

    kind: EdgeKind = EdgeKind.MODEL
    value: float = 0.0
    """What surrounds the volume where ``kind`` is constant, and lies before the first row of a fold."""
    around: str | None = None
    """The periodic axis that a pole rolls half way and a fold mirrors; wanted by these only."""
    has_pole_rows: tuple[bool, bool] = (False, False)
    """Whether the first and last row lie on the pole itself, and so must not be repeated."""
    odd_channels: tuple[int, ...] = ()
    """Channels that change sign across a pole or a fold: the components of vectors."""
    fold: str | None = None
    """Which of :data:`FOLDS`; wanted by ``fold`` only."""


MODEL_EDGE = Edge()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a read along one axis that comes from one stretch of the source."""

    target: int
    """Where it lands, counted from the start of the read."""
    source: tuple[int, int]
    """Half-open source interval; for a constant, a stretch of as many voxels and no meaning."""
    is_reversed: bool = False
    is_crossed: bool = False
    """Seen across a pole or a fold: roll or mirror the ``around`` axis, and turn the sign of odd channels."""
    is_constant: bool = False

    @property
    def length(self) -> int:
        """Voxels along the axis."""
        return self.source[1] - self.source[0]


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a read that is filled from one box of the source."""

    target: Region
    """Where it lands, counted from the start of the read."""
    source: Region | None
    """What fills it, or None for the constant."""
    flips: tuple[bool, ...]
    """Axes along which the source is reversed."""
    is_odd: bool
    """Whether odd channels change sign."""


def segments(edge: Edge, *, size: int, start: int, stop: int) -> list[Segment]:
    """Cut the read ``[start, stop)`` of an axis of ``size`` into stretches of the source.

    A ``model`` edge is extended by reflection: it is asked for beyond the far border only, where
    the network cannot take the true size, and the plan records it.

    >>> [(s.target, s.source) for s in segments(Edge(EdgeKind.WRAP), size=8, start=-3, stop=9)]
    [(0, (5, 8)), (3, (0, 8)), (11, (0, 1))]

    Raises:
        EdgeError: If the axis is too short to be reflected.
    """
    if edge.kind is EdgeKind.CONSTANT:
        return list(_constant_segments(size, start, stop))
    if edge.kind is EdgeKind.FOLD:
        return list(_fold_segments(edge, size, start, stop))
    found: list[Segment] = []
    position = start
    while position < stop:
        source, is_reversed, is_crossed, room = _locate(edge, size=size, position=position)
        length = min(room, stop - position)
        interval = (source - length + 1, source + 1) if is_reversed else (source, source + length)
        found.append(Segment(position - start, interval, is_reversed, is_crossed))
        position += length
    return found


def _constant_segments(size: int, start: int, stop: int) -> Iterator[Segment]:
    for low, high in _cut(start, stop, (0, size)):
        yield Segment(low - start, (low, high), is_constant=high <= 0 or low >= size)


def _fold_segments(edge: Edge, size: int, start: int, stop: int) -> Iterator[Segment]:
    seam = 2 * size - FOLDS[edge.fold or ""][0]
    for low, high in _cut(start, stop, (0, size, seam)):
        if size <= low < seam:
            yield Segment(low - start, (seam - high, seam - low), is_reversed=True, is_crossed=True)
        else:
            yield Segment(low - start, (low, high), is_constant=not 0 <= low < size)


def _cut(start: int, stop: int, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of ``[start, stop)`` between these places."""
    cuts = [start, *sorted({min(max(cut, start), stop) for cut in places} - {start, stop}), stop]
    return ((low, high) for low, high in pairwise(cuts) if high > low)


def _locate(edge: Edge, *, size: int, position: int) -> tuple[int, bool, bool, int]:
    """Return the source index of ``position``, whether the source runs backward and crosses there, and for how long."""
    if 0 <= position < size:
        return position, False, False, size - position
    if edge.kind is EdgeKind.WRAP:
        source = position % size
        return source, False, False, size - source
    skips = edge.has_pole_rows if edge.kind is EdgeKind.POLE else (True, True)
    backward = size - skips[0] - skips[1]
    period = size + backward
    shortest = 1 + sum(skips) if edge.kind is EdgeKind.POLE else 2
    if size < shortest:
        raise EdgeError(
            f"an axis of {size} voxels is too short to be mirrored: it needs at least {shortest}. Use constant."
        )
    phase = position % period
    if phase < size:
        return phase, False, False, size - phase
    along = phase - size
    return size - 1 - skips[1] - along, True, edge.kind is EdgeKind.POLE, backward - along


def pieces(edges: Sequence[Edge], *, names: Sequence[str], shape: Sequence[int], read: Region) -> Iterator[Piece]:
    """Cut a read into boxes, each filled from one box of the source.

    Args:
        edges: The rule of each space axis.
        names: The name of each space axis; a pole names the axis it rolls.
        shape: The source's voxels per space axis.
        read: What is asked for; it may leave the volume on any side.

    Raises:
        EdgeError: If the ``around`` axis of a pole or a fold is missing, or a pole's has an odd number of columns.
    """
    spans = [
        segments(edge, size=n, start=a, stop=b)
        for edge, n, a, b in zip(edges, shape, read.start, read.stop, strict=True)
    ]
    arounds = {axis: _around(edges, names, shape, axis=axis) for axis in _crossed_axes(edges)}
    for combination in product(*spans):
        crossed = [axis for axis in arounds if combination[axis].is_crossed]
        if not crossed:
            yield _piece(combination, is_odd=False)
            continue
        around = arounds[crossed[0]]
        for segment in _seen_across(edges[crossed[0]], combination[around], n_columns=shape[around]):
            parts = (*combination[:around], segment, *combination[around + 1 :])
            yield _piece(parts, is_odd=True)


def check_edges(edges: Sequence[Edge], *, names: Sequence[str], shape: Sequence[int]) -> None:
    """Refuse edges that no read beyond the border could keep.

    Args:
        edges: The rule of each space axis.
        names: The name of each space axis.
        shape: The source's voxels per space axis.

    Raises:
        EdgeError: If the ``around`` axis of a pole or a fold is missing or its own, that of a pole has an odd number of
            columns, a fold is unknown, or an axis is too short to be mirrored.
    """
    for axis in _crossed_axes(edges):
        _around(edges, names, shape, axis=axis)
        if edges[axis].kind is EdgeKind.FOLD and edges[axis].fold not in FOLDS:
            raise EdgeError(
                f"the fold on axis '{names[axis]}' must be one of {', '.join(FOLDS)} (its pivot, and the points where "
                f"the values lie), not {edges[axis].fold}. Write {names[axis]}=fold:{edges[axis].around}:T-T."
            )
    for edge, name, size in zip(edges, names, shape, strict=True):
        if edge.kind in (EdgeKind.REFLECT, EdgeKind.POLE):
            try:
                _locate(edge, size=size, position=-1)
            except EdgeError as error:
                raise EdgeError(f"axis '{name}' cannot keep edge '{edge.kind}': {error}") from error


def _crossed_axes(edges: Sequence[Edge]) -> list[int]:
    return [i for i, edge in enumerate(edges) if edge.kind in (EdgeKind.POLE, EdgeKind.FOLD)]


def _around(edges: Sequence[Edge], names: Sequence[str], shape: Sequence[int], *, axis: int) -> int:
    """Return which axis the pole or fold on ``axis`` rolls or mirrors."""
    edge = edges[axis]
    if edge.around not in names or edge.around == names[axis]:
        others = [name for name in names if name != names[axis]]
        raise EdgeError(
            f"the {edge.kind} on axis '{names[axis]}' must name the axis it goes round, not {edge.around}: one of "
            f"{others}. Write {names[axis]}={edge.kind}:{others[0] if others else 'lon'}."
        )
    around = names.index(edge.around)
    if edge.kind is EdgeKind.POLE and shape[around] % 2:
        raise EdgeError(
            f"axis '{edge.around}' must have an even number of columns to cross a pole on '{names[axis]}', "
            f"not {shape[around]}. Regrid it, or use another edge."
        )
    return around


def _seen_across(edge: Edge, plain: Segment, *, n_columns: int) -> Iterator[Segment]:
    """Yield what lands where ``plain`` lands, seen across a pole or a fold."""
    if plain.is_constant:
        yield plain
        return
    start, stop = plain.source
    is_reversed = plain.is_reversed
    if edge.kind is EdgeKind.POLE:
        start, stop = start + n_columns // 2, stop + n_columns // 2
    else:
        mirror = FOLDS[edge.fold or ""][1]
        start, stop, is_reversed = mirror - stop + 1, mirror - start + 1, not is_reversed
    for part in segments(Edge(EdgeKind.WRAP), size=n_columns, start=start, stop=stop):
        along = plain.length - part.target - part.length if is_reversed else part.target
        yield Segment(plain.target + along, part.source, is_reversed)


def _piece(parts: Sequence[Segment], *, is_odd: bool) -> Piece:
    target = Region(tuple(p.target for p in parts), tuple(p.target + p.length for p in parts))
    source = Region(tuple(p.source[0] for p in parts), tuple(p.source[1] for p in parts))
    is_constant = any(p.is_constant for p in parts)
    return Piece(target, None if is_constant else source, tuple(p.is_reversed for p in parts), is_odd)
