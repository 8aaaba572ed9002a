"""A knee, made up: a femur with an outgrowth of bone, and on that a cap of cartilage whose thickness is known.

        femur      stalk   head  cap
    |  bone  |=============(    )))      thickness: how far the cap's outer face lies from the bone, along the bone's
    |        |=============(    )))      own normal; it falls smoothly from its thickest place to its rim

An osteochondroma, as a fat-suppressed proton-density series shows it: cartilage and fluid bright, marrow and fat dark,
cortex and perichondrium darkest. The head is a segment with a radius about it, so that distances to it are exact. All
is told in millimetres of the patient (RAS+: right, anterior and superior are positive) and can be looked at on any
grid. It is for testing measurements, not for teaching anatomy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BONE, CARTILAGE = 1, 2
"""Labels; 0 is all else."""

NAMES = {BONE: "bone", CARTILAGE: "cartilage cap"}

Points = NDArray[np.float32]
"""(3, ...) millimetre, RAS+."""
Values = NDArray[np.floating]
Labels = NDArray[np.uint8]

SAGITTAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0))
"""Where the axes z, y and x of a sagittal series point to: slices to the right, rows down, columns to the back."""


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: a box about a centre, along three axes at right angles."""

    shape: tuple[int, int, int]
    """Voxels along z, y and x."""
    spacing: tuple[float, float, float]
    """Millimetre per voxel."""
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Middle of the box, RAS+."""
    axes: tuple[tuple[float, float, float], ...] = SAGITTAL
    """Unit vectors along z, y and x."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """From voxel (x, y, z, 1) to millimetre, 4 x 4, as NIfTI has it."""
        matrix = np.eye(4)
        matrix[:3, :3] = (np.array(self.axes).T * self.spacing)[:, ::-1]
        matrix[:3, 3] = self.centre - matrix[:3, :3] @ ((np.array(self.shape[::-1]) - 1) / 2)
        return matrix

    @property
    def points(self) -> Points:
        """Return the centre of every voxel, (3, z, y, x)."""
        found = np.zeros((3, *self.shape), np.float32)
        found += np.reshape(np.float32(self.centre), (3, 1, 1, 1))
        for axis, (n, step, way) in enumerate(zip(self.shape, self.spacing, self.axes, strict=True)):
            along = (np.arange(n) - (n - 1) / 2) * step
            shape = [3, 1, 1, 1]
            shape[axis + 1] = n
            found += np.outer(way, along).reshape(shape).astype(np.float32)
        return found

    def at(self, shape: tuple[int, ...]) -> "Grid":
        """Return the same box cut into other voxels."""
        sizes = (n * step / m for n, step, m in zip(self.shape, self.spacing, shape, strict=True))
        return Grid(tuple(shape), tuple(sizes), self.centre, self.axes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Knee:
    """A femur with a capped outgrowth; its lengths are millimetres, its origin lies in the femur's axis."""

    axis: tuple[float, float, float]
    """Where the outgrowth points to, a unit vector: away from the joint and to the midline, of a right knee."""
    reach: float
    """From the origin to the middle of the head."""
    radius: float
    """Of the head."""
    long: tuple[float, float, float]
    """Where the head is long, a unit vector across the axis."""
    half_length: float
    """Of the segment within the head."""
    extent: float
    """Radians from the axis to which the cap goes down the head."""
    lobe: tuple[float, float, float]
    """The bone's normal where the cap is thickest, a unit vector."""
    thinnest: float
    """Thickness of the cap at its rim, farthest from the lobe: the least anywhere."""
    thickest: float
    seed: int = 0
    """Of all that only the image shows: intensities, texture, noise, bias."""

    @classmethod
    def of(cls, seed: int) -> "Knee":
        """Return a knee of its own for every seed."""
        chance = np.random.default_rng((seed, 1))
        axis = unit(np.array([-0.8, 0.15, 0.55]) + chance.normal(0, 0.12, 3))
        across = unit(np.cross(axis, chance.normal(size=3)))
        tilt = chance.uniform(0.25, 0.6)
        return cls(
            axis=tuple(axis.tolist()),
            reach=chance.uniform(28, 32),
            radius=chance.uniform(6.5, 8.5),
            long=tuple(unit(np.cross(axis, chance.normal(size=3))).tolist()),
            half_length=chance.uniform(1.0, 3.5),
            extent=chance.uniform(1.3, 1.6),
            lobe=tuple((np.cos(tilt) * axis + np.sin(tilt) * across).tolist()),
            thinnest=chance.uniform(1.4, 2.0),
            thickest=chance.uniform(3.2, 4.5),
            seed=seed,
        )

    def grid(self, shape: tuple[int, int, int], spacing: tuple[float, float, float], *, tilt: float = 0.0) -> Grid:
        """Return a sagittal grid about the cap that holds the femur's near side too, turned by ``tilt`` radians.

        The turn is about an oblique line, so that no axis of the grid is one of the patient's.
        """
        line = unit(np.array([1.0, 2.0, 3.0]))
        cross = np.cross(np.eye(3), line)
        turn = np.eye(3) + np.sin(tilt) * cross.T + (1 - np.cos(tilt)) * (cross.T @ cross.T)
        axes = tuple(tuple((turn @ way).tolist()) for way in SAGITTAL)
        return Grid(shape, spacing, tuple((0.75 * self.reach * np.array(self.axis)).tolist()), axes)

    # ---- where what lies ------------------------------------------------------------------------------------------

    def labels(self, grid: Grid) -> Labels:
        """Return the label of every voxel's centre, (z, y, x)."""
        bone, cap = self.distances(grid.points)
        return np.where(bone <= 0, BONE, np.where(cap < 0, CARTILAGE, 0)).astype(np.uint8)

    def distances(self, points: Points) -> tuple[Values, Values]:
        """Return the signed distances to the bone and to the cap, negative inside.

        That to the bone is exact outside it wherever the cap is near; that to the cap is taken along the bone's normal.
        """
        depth, normal = self.depth(points)
        rim = (np.cos(self.extent) - along(self.axis, normal)) * (depth + np.float32(self.radius))
        bone = _merged(_merged(self._femur(points), self._stalk(points), 4.0), depth, 1.5)
        cap = np.maximum(np.maximum(depth - self.thickness(normal), rim), -bone)
        return bone, cap

    def depth(self, points: Points) -> tuple[Values, Values]:
        """Return how far points lie outside the head, and the bone's normal there (3, ...)."""
        away = points - _column(np.array(self.axis) * self.reach, points)
        place = np.clip(along(self.long, away), -self.half_length, self.half_length)
        away -= place * _column(self.long, points)
        length = np.sqrt((away**2).sum(0))
        away /= np.maximum(length, np.float32(1e-6))
        return length - np.float32(self.radius), away

    def thickness(self, normal: Values) -> Values:
        """Return the cap's thickness where the bone has this normal (3, ...): linear in its cosine to the lobe."""
        return self.thickest - self._rise * (1 - along(self.lobe, normal))

    @property
    def _rise(self) -> float:
        """Millimetre that the cap gains per unit of that cosine, so that it ends where it is thinnest."""
        farthest = self.extent + np.arccos(np.clip(np.dot(self.lobe, self.axis), -1, 1))
        return float((self.thickest - self.thinnest) / (1 - np.cos(farthest)))

    def _femur(self, points: Points) -> Values:
        """Return the distance to a shaft that widens to condyles; the joint lies below what is looked at."""
        x, y, z = points
        shaft = np.sqrt(x**2 + y**2) - (14 - 0.06 * z)
        condyles = np.sqrt((x - np.clip(x, -12, 12)) ** 2 + (y + 3) ** 2 + (z + 32) ** 2) - 19
        return _merged(shaft, condyles, 10.0)

    def _stalk(self, points: Points) -> Values:
        place = np.clip(along(self.axis, points), 0, self.reach)
        away = points - place * _column(self.axis, points)
        return np.sqrt((away**2).sum(0)) - np.float32(0.7 * self.radius)

    # ---- what is true ---------------------------------------------------------------------------------------------

    def face(self, *, rim: float = 0.0, n: int = 100_000) -> tuple[Values, Values]:
        """Return the thickness at places all over the cap's outer face, and the mm2 that each stands for.

        About the ends of the head's segment the face is a sphere, between them a cylinder, of radius ``r + t``; its
        area is that of a surface ``r + t(direction)`` in polar coordinates.

        Args:
            rim: Millimetre along the bone, from where the cap ends, that are left out.
            n: Directions that are looked at, of each of the two.
        """
        lobe, axis, long = np.array(self.lobe), np.array(self.axis), np.array(self.long)
        reach = np.cos(self.extent - rim / self.radius)
        ball = _directions(n)
        ball = ball[:, axis @ ball >= reach]
        angle = 2 * np.pi * (np.arange(n) + 0.5) / n
        ring = np.outer(axis, np.cos(angle)) + np.outer(np.cross(long, axis), np.sin(angle))
        ring = ring[:, axis @ ring >= reach]
        thick = self.thickness(ball), self.thickness(ring)
        far = self.radius + thick[0], self.radius + thick[1]
        slope = self._rise**2 * (1 - (lobe @ ball) ** 2), (self._rise * (lobe @ np.cross(long, ring.T).T)) ** 2
        on_ball = far[0] * np.sqrt(far[0] ** 2 + slope[0]) * 4 * np.pi / n
        on_ring = np.sqrt(far[1] ** 2 + slope[1]) * 2 * np.pi / n * 2 * self.half_length
        return np.concatenate(thick), np.concatenate([on_ball, on_ring])


def _merged(a: Values, b: Values, width: float) -> Values:
    """Return the distance to two bodies, filleted where both are nearly as near (a polynomial smooth minimum)."""
    share = np.clip(width - np.abs(a - b), 0, None) / np.float32(width)
    return np.minimum(a, b) - share**2 * np.float32(width / 4)


def _directions(n: int) -> NDArray[np.float64]:
    """Return unit vectors (3, n) that share the sphere evenly: Fibonacci's."""
    up = 1 - (2 * np.arange(n) + 1) / n
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    flat = np.sqrt(1 - up**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), up])


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a vector of length 1."""
    return vector / np.sqrt((vector**2).sum())


def _column(vector: object, points: Points) -> Values:
    return np.asarray(vector, np.float32).reshape(3, *(1,) * (points.ndim - 1))


def along(way: object, points: Values) -> Values:
    """Return how far points (3, ...) lie along a unit vector; of unit vectors, the cosine of the angle to it."""
    return np.tensordot(np.asarray(way, points.dtype), points, 1)
