"""Which interactions there are between a receptor and a ligand, by the geometry that PLIP publishes.

PLIP (Salentin et al. 2015, Nucleic Acids Res. 43, W443; Adasme et al. 2021, Nucleic Acids Res. 49, W530) finds them by
distances and angles; the thresholds here are those of its version 2.4. Here they are found from typed atoms and their
places alone: all that a gninatypes file has, and what PDB and SDF files are turned into. So

- bonds are atoms closer than their covalent radii and 0.45 Angstrom (Open Babel's rule);
- rings are five or six atoms bonded in a circle and planar to 5 degrees, as PLIP has it: types of docked ligands often
  do not say that a ring is aromatic;
- charged groups are seen by their bonds: ammonium (a nitrogen of four bonds, or of three that lie in no plane),
  guanidinium (a carbon with three nitrogens), histidine (a receptor's ring of five with two nitrogens apart: PLIP calls
  all of them positive), carboxylate (a carbon with two oxygens that lead no further), phosphate and sulfonate. A
  hydrogen on them counts for nothing, as in PLIP: files have acids as they were before they met water;
- hydrogens are needed for the angle at a donor. Where a donor has none in the file, distance alone decides.

Left out: water bridges, halogen bonds and metals, and PLIP's choice of one among several contacts of one atom: each
contact counts, for the question is where there are any.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from engine.items.atoms import Atoms
from engine.models.atom_types import ATOM_TYPES

LABELS = ("receptor_donates", "ligand_donates", "hydrophobic", "pi_stacking", "pi_cation", "salt_bridge")
"""Hydrogen bonds by who has the hydrogen, and the others."""

CLOSEST = 0.5
"""Angstrom: closer than this is no contact but a fault (PLIP: MIN_DIST)."""
HYDROPHOBIC_DISTANCE = 4.0
"""Angstrom between two carbons that are bonded to carbon and hydrogen only (HYDROPH_DIST_MAX)."""
BOND_DISTANCE, BOND_ANGLE = 4.1, 100.0
"""Angstrom at most from donor to acceptor, degrees at least at the hydrogen (HBOND_DIST_MAX, HBOND_DON_ANGLE_MIN)."""
STACKING_DISTANCE, STACKING_ANGLE, STACKING_OFFSET = 5.5, 30.0, 2.0
"""Angstrom at most between the rings' middles; degrees from parallel or upright; Angstrom at most that one middle lies
beside the other's axis (PISTACK_DIST_MAX, PISTACK_ANG_DEV, PISTACK_OFFSET_MAX)."""
CATION_DISTANCE = 6.0
"""Angstrom from a ring's middle to a positive charge, with the same offset (PICATION_DIST_MAX)."""
BRIDGE_DISTANCE = 5.5
"""Angstrom between the middles of two charges (SALTBRIDGE_DIST_MAX)."""
PLANARITY = 5.0
"""Degrees between the planes at a ring's atoms (AROMATIC_PLANARITY)."""

SLACK = 0.45
"""Angstrom that a bond may be longer than the sum of covalent radii."""
NEARBY = 12.0
"""Angstrom from the ligand up to which a receptor is looked at: groups that reach in are whole."""
PLANAR_SUM = 345.0
"""Degrees that the angles at a nitrogen of three bonds add up to, at least, where they lie in a plane; 328 else."""

Point = NDArray[np.float64]
Places = NDArray[np.floating]

ELEMENT = np.array([kind.element for kind in ATOM_TYPES])
COVALENT = np.array([kind.covalent_radius for kind in ATOM_TYPES])
IS_ACCEPTOR = np.array([kind.is_acceptor and kind.element in (7, 8, 16) for kind in ATOM_TYPES])
IS_HYDROPHOBIC = np.array([kind.is_hydrophobic and kind.element == 6 for kind in ATOM_TYPES])
H, C, N, O, P, S = 1, 6, 7, 8, 15, 16  # noqa: E741 -- the elements' own names


@dataclass(frozen=True, slots=True)
class Interaction:
    """One contact."""

    label: str
    """One of :data:`LABELS`."""
    receptor: Point
    """Place of the receptor's part, in Angstrom: an atom, or the middle of a group."""
    ligand: Point

    @property
    def middle(self) -> Point:
        """The place between the two."""
        return (self.receptor + self.ligand) / 2


@dataclass(frozen=True, slots=True)
class Ring:
    """A planar ring."""

    middle: Point
    normal: Point
    """Of length 1; which way is chance."""


@dataclass
class Groups:
    """What can interact in one molecule."""

    donors: list[tuple[Point, list[Point]]] = field(default_factory=list)
    """Heavy atoms that give hydrogens, and those."""
    acceptors: list[Point] = field(default_factory=list)
    hydrophobic: list[Point] = field(default_factory=list)
    rings: list[Ring] = field(default_factory=list)
    positive: list[Point] = field(default_factory=list)
    negative: list[Point] = field(default_factory=list)


def interactions(receptor: Atoms, ligand: Atoms) -> list[Interaction]:
    """Return the contacts between two molecules, whose places are in Angstrom."""
    is_near = np.isfinite(cKDTree(ligand.place).query(receptor.place, distance_upper_bound=NEARBY)[0])
    theirs = groups(Atoms(receptor.place[is_near], receptor.type[is_near]), is_receptor=True)
    ours = groups(ligand)
    found = [("receptor_donates", *pair) for pair in bonds_given(theirs, ours)]
    found += [("ligand_donates", acceptor, donor) for donor, acceptor in bonds_given(ours, theirs)]
    found += [("hydrophobic", *pair) for pair in within(theirs.hydrophobic, ours.hydrophobic, HYDROPHOBIC_DISTANCE)]
    found += [("pi_stacking", a.middle, b.middle) for a, b in product(theirs.rings, ours.rings) if is_stacked(a, b)]
    found += [("pi_cation", ring.middle, b) for ring, b in product(theirs.rings, ours.positive) if is_faced(ring, b)]
    found += [("pi_cation", a, ring.middle) for a, ring in product(theirs.positive, ours.rings) if is_faced(ring, a)]
    found += [("salt_bridge", *pair) for pair in within(theirs.positive, ours.negative, BRIDGE_DISTANCE)]
    found += [("salt_bridge", *pair) for pair in within(theirs.negative, ours.positive, BRIDGE_DISTANCE)]
    return [Interaction(*one) for one in found]


def within(ones: Sequence[Point], others: Sequence[Point], distance: float) -> Iterator[tuple[Point, Point]]:
    """Yield the pairs of points that are closer than ``distance``, and not on top of each other."""
    if ones and others:
        for i, near in enumerate(cKDTree(others).query_ball_point(ones, distance)):
            yield from ((ones[i], others[j]) for j in near if np.linalg.norm(ones[i] - others[j]) > CLOSEST)


def bonds_given(givers: Groups, takers: Groups) -> Iterator[tuple[Point, Point]]:
    """Yield donor and acceptor of each hydrogen bond."""
    hydrogens = {tuple(donor): found for donor, found in givers.donors}
    for donor, acceptor in within([donor for donor, _ in givers.donors], takers.acceptors, BOND_DISTANCE):
        found = hydrogens[tuple(donor)]
        if not found or any(angle(donor - h, acceptor - h) > BOND_ANGLE for h in found):
            yield donor, acceptor


def is_stacked(a: Ring, b: Ring) -> bool:
    """Say whether two rings lie face to face, or edge to face."""
    if not CLOSEST < np.linalg.norm(a.middle - b.middle) < STACKING_DISTANCE:
        return False
    tilt = angle(a.normal, b.normal)
    tilt = min(tilt, 180 - tilt)
    offset = min(beside(a, b.middle), beside(b, a.middle))
    return offset < STACKING_OFFSET and (tilt < STACKING_ANGLE or tilt > 90 - STACKING_ANGLE)


def is_faced(ring: Ring, charge: Point) -> bool:
    """Say whether a charge lies over or under a ring."""
    is_close = CLOSEST < np.linalg.norm(ring.middle - charge) < CATION_DISTANCE
    return bool(is_close and beside(ring, charge) < STACKING_OFFSET)


def beside(ring: Ring, point: Point) -> float:
    """Return how far a point lies from a ring's axis, in Angstrom."""
    away = point - ring.middle
    return float(np.linalg.norm(away - away.dot(ring.normal) * ring.normal))


def angle(a: Point, b: Point) -> float:
    """Return the angle between two vectors, in degrees."""
    return float(np.degrees(np.arccos(np.clip(a.dot(b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def groups(atoms: Atoms, *, is_receptor: bool = False) -> Groups:
    """Return what can interact in a molecule."""
    place, element = atoms.place.astype(np.float64), ELEMENT[atoms.type]
    near = neighbours(place, COVALENT[atoms.type], element)
    found = Groups(
        acceptors=list(place[IS_ACCEPTOR[atoms.type]]),
        hydrophobic=list(place[IS_HYDROPHOBIC[atoms.type]]),
    )
    for i in np.flatnonzero(np.isin(element, (N, O, S))):
        hydrogens = [place[j] for j in near[i] if element[j] == H]
        if hydrogens or ATOM_TYPES[atoms.type[i]].is_donor:
            found.donors.append((place[i], hydrogens))
    circles = list(rings(near, element))
    for circle in circles:
        ring = planar(place[list(circle)])
        found.rings += [ring] if ring is not None else []
    found.positive = [*positive(place, element, near), *(histidines(place, element, circles) if is_receptor else ())]
    found.negative = list(negative(place, element, near))
    return found


Neighbours = list[list[int]]
"""Per atom, those that it is bonded to."""


def neighbours(place: Places, radius: Places, element: NDArray[np.integer]) -> Neighbours:
    """Return the bonds of atoms; a hydrogen has one, to the nearest."""
    near: Neighbours = [[] for _ in place]
    for i, j in cKDTree(place).query_pairs(2 * float(radius.max(initial=0)) + SLACK):
        length = np.linalg.norm(place[i] - place[j])
        if CLOSEST < length < radius[i] + radius[j] + SLACK and not (element[i] == H and element[j] == H):
            near[i].append(j)
            near[j].append(i)
    for i in np.flatnonzero(element == H):
        nearest = min(near[i], key=lambda j: float(np.linalg.norm(place[i] - place[j])), default=None)
        for j in near[i]:
            if j != nearest:
                near[j].remove(i)
        near[i] = [] if nearest is None else [nearest]
    return near


def rings(near: Neighbours, element: NDArray[np.integer]) -> Iterator[tuple[int, ...]]:
    """Yield the circles of five and six atoms, each once, in the order of their bonds; no bond leads across one."""
    heavy = [[j for j in found if element[j] != H] for found in near]
    seen: set[frozenset[int]] = set()
    for first in range(len(heavy)):
        paths = [(first, j) for j in heavy[first] if j > first]
        for n in range(2, 7):
            circles = [path for path in paths if n >= 5 and first in heavy[path[-1]] and len(path) == n]
            for path in circles:
                chords = sum(b in heavy[a] for a, b in combinations(path, 2))
                if chords == n and frozenset(path) not in seen:
                    seen.add(frozenset(path))
                    yield path
            paths = [(*path, j) for path in paths for j in heavy[path[-1]] if j > first and j not in path]


def planar(corners: Places) -> Ring | None:
    """Return the ring of corners (atom, 3), if the planes at all of them are one."""
    before, after = np.roll(corners, 1, 0) - corners, np.roll(corners, -1, 0) - corners
    normals = np.cross(before, after)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    if np.abs(normals @ normals.T).min() < np.cos(np.radians(PLANARITY)):
        return None
    return Ring(corners.mean(axis=0), normals[0])


def positive(place: Places, element: NDArray[np.integer], near: Neighbours) -> Iterator[Point]:
    """Yield the middles of ammonium and guanidinium groups."""
    for i in np.flatnonzero(np.isin(element, (C, N))):
        kinds = [element[j] for j in near[i]]
        if element[i] == C and kinds.count(N) == 3:
            yield place[near[i]].mean(axis=0)
        if element[i] == N and not {S, P} & {*kinds}:
            arms = place[near[i]] - place[i]
            if len(arms) == 4 or (len(arms) == 3 and sum(angle(a, b) for a, b in combinations(arms, 2)) < PLANAR_SUM):
                yield place[i]


def histidines(place: Places, element: NDArray[np.integer], circles: Sequence[tuple[int, ...]]) -> Iterator[Point]:
    """Yield the middles between the two nitrogens of rings of five."""
    for circle in circles:
        where = [k for k, i in enumerate(circle) if element[i] == N]
        if len(circle) == 5 and len(where) == 2 and where[1] - where[0] in (2, 3):
            yield place[[circle[k] for k in where]].mean(axis=0)


def negative(place: Places, element: NDArray[np.integer], near: Neighbours) -> Iterator[Point]:
    """Yield the middles of carboxylates, phosphates and sulfonates."""
    for i in np.flatnonzero(np.isin(element, (C, P, S))):
        ends = [j for j in near[i] if element[j] == O and sum(element[k] != H for k in near[j]) == 1]
        if element[i] == C and len(ends) == 2 and len(near[i]) == 3:
            yield place[ends].mean(axis=0)
        if element[i] != C and len(ends) >= (2 if element[i] == P else 3):
            yield place[i]
