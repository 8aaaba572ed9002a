"""The integer shadow of one operation along one axis: its length, its demand, and what it does at a border.

The tables follow from the definitions of the operations in torch's documentation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

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
    know them: they are never trusted. ``around`` does so too, and what lies beyond the border of another
    axis comes from all along this one: no edge rule can give a tile that. ``reflect`` takes them from as
    far inside as it pads, ``replicate`` from the border voxel.
    """

    before: int
    after: int
    mode: str = "constant"
    """``constant``, ``replicate``, ``reflect``, ``circular`` or ``around``."""

    kind: ClassVar[str] = "pad"

    def size(self, n: int) -> int | None:
        uncropped = n + min(self.before, 0) + min(self.after, 0)
        widest = max(self.before, self.after)
        if self.mode == "constant" and uncropped < 0:
            return None
        if (self.mode == "reflect" and widest >= n) or (self.mode in ("circular", "around") and widest > uncropped):
            return None
        count = n + self.before + self.after
        return count if count > 0 else None

    def demand(self, first: int, last: int) -> Interval:
        return first - self.before, last - self.before

    def border(self, span: Span) -> Interval:
        left, right = max(self.before, 0), max(self.after, 0)
        if self.mode in ("circular", "around"):
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
