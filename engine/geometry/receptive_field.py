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
from typing import Any, ClassVar, Self

from engine.errors import ModelError

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Span:
    """One tensor of a tile's run, along one axis, beside the same tensor of the whole run."""

    size: int
    """Voxels in the whole run."""

    offset: int
    """Index, in the whole run, of the tile's first voxel."""

    length: int
    """Voxels in the tile's run."""

    start: int
    """First index, in the whole run, at which both runs are provably equal."""

    stop: int
    """First index after that at which they may differ."""


@dataclass(frozen=True, slots=True)
class Node:
    """The shadow of one operation; the defaults are those of the identity."""

    sources: tuple[int, ...]
    """Earlier nodes that feed this one."""

    kind: ClassVar[str] = "input"

    @property
    def scale(self) -> Fraction:
        """Output voxels per input voxel."""
        return Fraction(1)

    def size(self, n: int) -> int | None:
        """Return the output length for input length ``n``, or None where the operation cannot take it."""
        return n

    def demand(self, first: int, last: int) -> Interval:
        """Return the first and last input index that outputs ``first..last`` need; it may leave the input."""
        return first, last

    def border(self, span: Span) -> Interval:
        """Return how many outputs next to each true border must not be trusted although the tile touches it."""
        return 0, 0


@dataclass(frozen=True, slots=True)
class Window(Node):
    """Convolution, max or average pool, nearest or linear shrinking: a window that moves by ``stride``.

    >>> Window((0,), kernel=3, stride=2, before=1, after=1).size(9)
    5
    """

    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    is_ceil: bool = False
    """Round the length up (``ceil_mode``), unless the last window would start in the far padding."""
    is_exact: bool = False
    """Take only lengths that ``stride`` divides."""
    smallest: int = 1
    """Shortest length taken: torch's ``avg_pool3d`` wants a whole kernel inside the input, padding aside."""

    kind: ClassVar[str] = "window"

    @property
    def scale(self) -> Fraction:
        return Fraction(1, self.stride)

    def size(self, n: int) -> int | None:
        room = n + self.before + self.after - self.dilation * (self.kernel - 1) - 1
        if n < self.smallest or (self.is_exact and n % self.stride):
            return None
        count = (-(-room // self.stride) if self.is_ceil else room // self.stride) + 1
        if self.is_ceil and (count - 1) * self.stride >= n + self.before:
            count -= 1
        return count if count > 0 else None

    def demand(self, first: int, last: int) -> Interval:
        reach = self.dilation * (self.kernel - 1)
        return first * self.stride - self.before, last * self.stride - self.before + reach


@dataclass(frozen=True, slots=True)
class Transposed(Node):
    """Transposed convolution.

    >>> Transposed((0,), kernel=3, stride=2, padding=1, output_padding=1).size(4)
    8
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    output_padding: int = 0

    kind: ClassVar[str] = "transposed"

    @property
    def scale(self) -> Fraction:
        return Fraction(self.stride)

    def size(self, n: int) -> int | None:
        reach = self.dilation * (self.kernel - 1)
        count = (n - 1) * self.stride - 2 * self.padding + reach + self.output_padding + 1
        return count if count > 0 else None

    def demand(self, first: int, last: int) -> Interval:
        reach = self.dilation * (self.kernel - 1)
        return -((reach - first - self.padding) // self.stride), (last + self.padding) // self.stride


@dataclass(frozen=True, slots=True)
class Upsample(Node):
    """Growing by a whole factor: nearest and pixel shuffle (reach 0), linear (1), cubic (2); half-voxel centres.

    >>> Upsample((0,), factor=2, reach=1).demand(4, 4)
    (1, 2)
    """

    factor: int
    reach: int = 0
    """Input voxels taken on either side of the sample point: 0 is the voxel that holds it."""

    kind: ClassVar[str] = "upsample"

    @property
    def scale(self) -> Fraction:
        return Fraction(self.factor)

    def size(self, n: int) -> int | None:
        return n * self.factor

    def demand(self, first: int, last: int) -> Interval:
        if self.reach == 0:
            return first // self.factor, last // self.factor
        low, high = (((2 * g + 1) - self.factor) // (2 * self.factor) for g in (first, last))
        return low - self.reach + 1, high + self.reach


@dataclass(frozen=True, slots=True)
class Pad(Node):
    """Explicit padding by constants or copies; negative amounts crop.

    ``circular`` padding takes its copies from the far side, so no tile short of the whole axis can
    know them: they are never trusted. ``reflect`` takes them from as far inside as it pads,
    ``replicate`` from the border voxel.
    """

    before: int
    after: int
    mode: str = "constant"
    """``constant``, ``replicate``, ``reflect`` or ``circular``."""

    kind: ClassVar[str] = "pad"

    def size(self, n: int) -> int | None:
        uncropped = n + min(self.before, 0) + min(self.after, 0)
        widest = max(self.before, self.after)
        if self.mode == "constant" and uncropped < 0:
            return None
        if (self.mode == "reflect" and widest >= n) or (self.mode == "circular" and widest > uncropped):
            return None
        count = n + self.before + self.after
        return count if count > 0 else None

    def demand(self, first: int, last: int) -> Interval:
        return first - self.before, last - self.before

    def border(self, span: Span) -> Interval:
        left, right = max(self.before, 0), max(self.after, 0)
        if self.mode == "circular":
            return left, right
        if self.mode == "reflect":
            is_left_known = span.stop > self.before or span.stop == span.size
            is_right_known = span.start < span.size - self.after or span.start == 0
            return (0 if is_left_known else left), (0 if is_right_known else right)
        if self.mode == "replicate" and span.start == span.stop:
            return left, right
        return 0, 0


@dataclass(frozen=True, slots=True)
class Join(Node):
    """Sum, product or concatenation of tensors that must lie on one grid."""

    kind: ClassVar[str] = "join"


@dataclass(frozen=True, slots=True)
class Opaque(Node):
    """A model known only by probing: its reach, its jump, and the lengths that it was seen to take."""

    before: int
    """Input voxels needed before the ones under an output voxel; negative where a model shrinks its input."""
    after: int
    jump: int
    """Step by which the model is shift-equivariant."""
    numerator: int
    denominator: int
    remainder: int
    """Legal lengths are those that leave this remainder when divided by ``modulus``."""
    modulus: int
    smallest: int
    """Smallest legal length seen."""
    surplus: int
    """Output length less ``length * scale``, rounded down."""
    only: int = 0
    """The one legal length of a program exported with static shapes; 0 where any will do."""

    kind: ClassVar[str] = "opaque"

    @property
    def scale(self) -> Fraction:
        return Fraction(self.numerator, self.denominator)

    def size(self, n: int) -> int | None:
        if n < self.smallest or n % self.modulus != self.remainder or (self.only and n != self.only):
            return None
        return n * self.numerator // self.denominator + self.surplus

    def demand(self, first: int, last: int) -> Interval:
        under_first = first * self.denominator // self.numerator
        under_last = -(-(last + 1) * self.denominator // self.numerator) - 1
        return under_first - self.before, under_last + self.after


NODE_KINDS: Mapping[str, type[Node]] = {
    node.kind: node for node in (Node, Window, Transposed, Upsample, Pad, Join, Opaque)
}


@dataclass(frozen=True)
class AxisProgram:
    """A model along one axis: nodes in the order of computation, the first being the input.

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
        smallest = max((node.smallest for node in self.nodes if isinstance(node, Opaque)), default=1)
        first = max(at_least, smallest)
        span = 4 * self.step + 512
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
        for fields in value["nodes"]:
            fields = {**fields, "sources": tuple(fields["sources"])}
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
    assert new_size is not None and new_length is not None
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
