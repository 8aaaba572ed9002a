"""Boxes in array coordinates: the engine's only way to say where."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

from engine.errors import RegionError


@dataclass(frozen=True, slots=True)
class Region:
    """A half-open box, ``start[i] <= index[i] < stop[i]``, in one level's voxels.

    >>> Region((0, 64), (32, 128)).shape
    (32, 64)
    """

    start: tuple[int, ...]
    """First voxel inside, per axis, in storage order."""

    stop: tuple[int, ...]
    """First voxel outside, per axis."""

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise RegionError(f"a region needs one start and one stop per axis: {self.start=}, {self.stop=}")
        if any(b < a for a, b in zip(self.start, self.stop, strict=True)):
            raise RegionError(f"a region must not end before it starts: {self.start=}, {self.stop=}")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Self:
        """Return the box that covers an array of ``shape``."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def n_voxels(self) -> int:
        """Voxels inside; 1 for a region of no axes.

        >>> Region((1, 1), (3, 4)).n_voxels
        6
        """
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index into an array that starts at the volume's origin."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def shift(self, offset: Sequence[int]) -> Self:
        """Return this box moved by ``offset`` voxels per axis; it may leave the volume.

        >>> Region((4, 4), (8, 8)).shift((-4, 0))
        Region(start=(0, 4), stop=(4, 8))
        """
        start = tuple(a + o for a, o in zip(self.start, offset, strict=True))
        stop = tuple(b + o for b, o in zip(self.stop, offset, strict=True))
        return type(self)(start, stop)

    def grow(self, *, before: Sequence[int], after: Sequence[int]) -> Self:
        """Return this box widened by a halo; it may leave the volume.

            self            |cccccc|
            grown        |hhh|cccccc|hh|

        Raises:
            RegionError: If a halo is negative.
        """
        if min((*before, *after), default=0) < 0:
            raise RegionError(f"halo must not be negative: {before=}, {after=}")
        start = tuple(a - h for a, h in zip(self.start, before, strict=True))
        stop = tuple(b + h for b, h in zip(self.stop, after, strict=True))
        return type(self)(start, stop)

    def meet(self, other: Self) -> Self | None:
        """Return what both boxes share, or None where they share no voxel.

        >>> Region((0,), (8,)).meet(Region((6,), (10,)))
        Region(start=(6,), stop=(8,))
        >>> Region((0,), (8,)).meet(Region((8,), (10,))) is None
        True
        """
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            return None
        return type(self)(start, stop)

    def holds(self, other: Self) -> bool:
        """Say whether ``other`` lies wholly inside this box.

        >>> Region((0,), (8,)).holds(Region((2,), (8,)))
        True
        """
        starts_inside = all(a <= b for a, b in zip(self.start, other.start, strict=True))
        return starts_inside and all(a >= b for a, b in zip(self.stop, other.stop, strict=True))
