"""What a model needs of its input along one axis, as integer arithmetic over a small graph.

A :class:`AxisProgram` is the model seen along one space axis: a list of nodes, each the integer
shadow of one operation. Two passes over it answer every question of geometry:

*demand* (backward): which input interval an output interval needs;
*validity* (forward): which outputs of a tile provably equal those of the whole run.

    input   |..........[A=======tile=======B)..........|   0 .. N
    output  |..........  [v0====valid====v1)  .........|   0 .. size(N)

A tile that touches the volume's true border is valid up to it, since each operation's own padding
then acts where it acts in the whole run. The tables follow from the definitions of the operations
(torch documentation of each); Araujo et al. 2019, "Computing Receptive Fields of Convolutional
Neural Networks", treats the case without phases, borders and transposed convolutions.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, Self

from engine.errors import ModelError
from engine.geometry.nodes import NODE_KINDS, Interval, Node, Opaque, Pad, Span


@dataclass(frozen=True)
class AxisProgram:
    """A model along one axis: nodes in the order of computation, the first being the input.

    >>> from engine.geometry.nodes import Upsample, Window
    >>> conv = Window((0,), kernel=3, before=1, after=1)
    >>> pool = Window((1,), kernel=2, stride=2)
    >>> up = Upsample((2,), factor=2)
    >>> net = AxisProgram((Node(()), conv, pool, up), (("out", 3),))
    >>> net.step, net.scale("out"), net.halo("out"), net.legal_size(7)
    (2, Fraction(1, 1), (2, 2), 7)
    >>> net.sizes(7)["out"], net.valid(size=64, start=16, stop=32)["out"]
    (6, Span(size=64, offset=16, length=16, start=18, stop=30))
    """

    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]
    """Name of each output and the node that gives it."""

    @cached_property
    def _needed(self) -> frozenset[int]:
        needed = {index for _, index in self.outputs}
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in needed:
                needed.update(self.nodes[index].sources)
        return frozenset(needed)

    @cached_property
    def _scales(self) -> tuple[Fraction, ...]:
        scales = [Fraction(1)]
        for node in self.nodes[1:]:
            came = {scales[source] for source in node.sources}
            if len(came) != 1:
                raise ModelError(f"branches that meet must have one scale, not {sorted(map(str, came))}")
            scales.append(came.pop() * node.scale)
        return tuple(scales)

    @cached_property
    def step(self) -> int:
        """Input voxels that a tile's start must be a multiple of (the jump J, over all branches and phases)."""
        jumps = [self._scales[i].denominator for i in self._needed]
        probed = [node for i, node in enumerate(self.nodes) if i in self._needed and isinstance(node, Opaque)]
        jumps += [(node.jump / self._scales[node.sources[0]]).numerator for node in probed]
        return lcm(*jumps)

    @property
    def is_circular(self) -> bool:
        """Whether a layer pads from the far side: only a tile of the whole axis can know its own padding."""
        return any(pad.mode == "circular" for pad in self._pads) or self.is_around

    @property
    def is_around(self) -> bool:
        """Whether a layer takes what lies beyond another axis from all along this one: tiles are as long as it is."""
        return any(pad.mode == "around" for pad in self._pads)

    @property
    def _pads(self) -> list[Pad]:
        pads = [node for i, node in enumerate(self.nodes) if i in self._needed and isinstance(node, Pad)]
        return [pad for pad in pads if max(pad.before, pad.after) > 0]

    def scale(self, output: str) -> Fraction:
        """Return the output voxels per input voxel."""
        return self._scales[dict(self.outputs)[output]]

    def jump(self, output: str) -> int:
        """Return the step by which this output is shift-equivariant."""
        alone = AxisProgram(self.nodes, ((output, dict(self.outputs)[output]),))
        return alone.step

    def sizes(self, n: int) -> dict[str, int] | None:
        """Return each output's length for input length ``n``, or None where the model cannot take it."""
        sizes: list[int | None] = [n]
        for index, node in enumerate(self.nodes[1:], start=1):
            if index not in self._needed:
                sizes.append(None)
                continue
            came = {sizes[source] for source in node.sources}
            if len(came) != 1 or None in came:
                return None
            (source_size,) = came
            assert source_size is not None
            size = node.size(source_size)
            if size is None or size < 1:
                return None
            sizes.append(size)
        found = {name: sizes[index] for name, index in self.outputs}
        return {name: size for name, size in found.items() if size is not None} if n > 0 else None

    def legal_size(self, at_least: int) -> int | None:
        """Return the smallest legal input length from ``at_least`` on, or None where none comes."""
        probed = (node for node in self.nodes if isinstance(node, Opaque) and node.sources == (0,))
        smallest = max((node.smallest for node in probed), default=1)
        first = max(at_least, smallest)
        reach = max((high - low for low, high in (self.demand(name, 0, 0) for name, _ in self.outputs)), default=0)
        span = 4 * self.step + 512 + reach
        return next((n for n in range(first, first + span) if self.sizes(n) is not None), None)

    def demand(self, output: str, first: int, last: int) -> Interval:
        """Return the input interval that outputs ``first..last`` (inclusive) need; it may leave the volume."""
        wanted: dict[int, Interval] = {dict(self.outputs)[output]: (first, last)}
        for index in range(len(self.nodes) - 1, 0, -1):
            if index not in wanted:
                continue
            low, high = self.nodes[index].demand(*wanted[index])
            for source in self.nodes[index].sources:
                had = wanted.get(source, (low, high))
                wanted[source] = min(low, had[0]), max(high, had[1])
        return wanted[0]

    @property
    def widest_halo(self) -> Interval:
        """Largest halo of any output, before and after."""
        halos = [self.halo(output) for output, _ in self.outputs]
        return max(before for before, _ in halos), max(after for _, after in halos)

    def halo(self, output: str) -> Interval:
        """Return the input voxels that an output voxel needs before and after the ones under it, at most."""
        scale = self.scale(output)
        phases = int(self.jump(output) * scale)
        befores, afters = [], []
        for g in range(phases):
            low, high = self.demand(output, g, g)
            befores.append(g * scale.denominator // scale.numerator - low)
            afters.append(high + 1 - -(-(g + 1) * scale.denominator // scale.numerator))
        return max(befores), max(afters)

    def valid(self, *, size: int, start: int, stop: int) -> dict[str, Span]:
        """Return, per output, where a tile that reads ``[start, stop)`` of an axis of ``size`` equals the whole run.

        Raises:
            ModelError: If the tile's start is not a multiple of the step, or a length is not legal.
        """
        if self.sizes(size) is None or self.sizes(stop - start) is None:
            raise ModelError(f"the model cannot take an axis of {size} in tiles of {stop - start} voxels")
        if start % self.step:
            raise ModelError(f"a tile must start on a multiple of {self.step}, not at {start}")
        spans: list[Span | None] = [Span(size, start, stop - start, start, stop)]
        for index, node in enumerate(self.nodes[1:], start=1):
            came = [spans[source] for source in node.sources]
            spans.append(_through(node, [span for span in came if span]) if index in self._needed else None)
        found = {name: spans[index] for name, index in self.outputs}
        return {name: span for name, span in found.items() if span is not None}

    def to_json(self) -> dict[str, Any]:
        """Return this program as JSON values."""
        return {
            "nodes": [{"kind": node.kind, **asdict(node)} for node in self.nodes],
            "outputs": [list(pair) for pair in self.outputs],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the program that :meth:`to_json` wrote."""
        nodes = []
        for item in value["nodes"]:
            fields = {**item, "sources": tuple(item["sources"])}
            nodes.append(NODE_KINDS[fields.pop("kind")](**fields))
        return cls(tuple(nodes), tuple((name, index) for name, index in value["outputs"]))


def _through(node: Node, sources: Sequence[Span]) -> Span:
    """Carry the valid interval of a node's sources through the node."""
    grids = {(span.size, span.offset, span.length) for span in sources}
    if len(grids) != 1:
        raise ModelError(f"branches that meet lie on different grids: {sorted(grids)}")
    ((size, offset, length),) = grids
    source = Span(size, offset, length, max(s.start for s in sources), min(s.stop for s in sources))
    new_size, new_length = node.size(size), node.size(length)
    assert new_size is not None
    assert new_length is not None
    new_offset = offset * node.scale
    assert new_offset.denominator == 1
    first, last = int(new_offset), min(int(new_offset) + new_length, new_size)
    at_left = source.offset == 0 and source.start == 0
    at_right = source.offset + source.length == source.size and source.stop == source.size
    is_whole = at_left and at_right and length == size
    distrust_left, distrust_right = (0, 0) if is_whole else node.border(source)
    outputs = range(first, last)
    start, stop = first + distrust_left * at_left, last - distrust_right * at_right
    if not at_left:
        start = first + bisect_left(outputs, source.start, key=lambda g: node.demand(g, g)[0])
    if not at_right:
        stop = first + bisect_left(outputs, source.stop, key=lambda g: node.demand(g, g)[1])
    return Span(new_size, first, new_length, start, max(start, stop))
