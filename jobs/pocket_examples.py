"""Poses as the interaction network learns and is judged on them: atoms, and where their contacts are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from interaction_net import COARSE, SPACING
from interactions import LABELS, NEARBY, interactions
from made_pockets import made_pocket
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from engine.items.atoms import Atoms, read_atoms
from engine.items.pocket import pocket_array

CONTACT = 1.5
"""Angstrom around the middle between two partners that count as their contact."""

KEPT = 2 * NEARBY
"""Angstrom from the ligand up to which a receptor is kept."""

HELD_OUT = ("4iwz", "2ydt", "1mh5")
"""Receptors that nothing is learnt from, chosen before any was, so that most labels are there both ways. The four
neuraminidases (2qwb, 2qwc, 2qwd, 2qwf) are one protein, so all four are learnt from."""


@dataclass(frozen=True, eq=False)
class Pose:
    """A ligand in its receptor."""

    name: str
    group: str
    """Whose it is: poses of one receptor are all learnt from, or all held out."""
    receptor: Atoms
    ligand: Atoms

    def jittered(self, chance: np.random.Generator) -> "Pose":
        """Return the pose with the ligand moved about an Angstrom and turned up to half a radian."""
        middle = self.ligand.place.mean(axis=0)
        turn = Rotation.from_rotvec(chance.uniform(-0.5, 0.5, 3))
        place = turn.apply(self.ligand.place - middle) + middle + chance.normal(0, 0.7, 3)
        return Pose(self.name, self.group, self.receptor, Atoms(place.astype(np.float32), self.ligand.type))


@dataclass(frozen=True, eq=False)
class Contacts:
    """The contacts of a pose, found once however it is turned."""

    pose: Pose
    label: NDArray[np.int64]
    """(contact,), the number of each in ``LABELS``."""
    middle: NDArray[np.float64]
    """(contact, 3): x, y, z in Angstrom, where the receptor is."""

    @property
    def has(self) -> NDArray[np.bool_]:
        """(label,): which interactions the pocket has."""
        return np.bincount(self.label, minlength=len(LABELS)) > 0

    def seen(
        self, n: int, *, centre: NDArray[np.floating] | None = None, turn: Rotation | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the atoms (4, atom) and the map of contacts (label, z, y, x) on the coarse grid of ``n`` voxels."""
        centre = self.pose.ligand.place.mean(axis=0, dtype=np.float64) if centre is None else centre
        atoms = pocket_array(self.pose.receptor, self.pose.ligand, centre=centre, turn=turn)
        middle = self.middle - centre
        middle = turn.apply(middle) if turn is not None and len(middle) else middle
        axis = (np.arange(n // COARSE) - (n // COARSE - 1) / 2) * COARSE * SPACING
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        voxels = np.stack([x, y, z], -1)
        found = np.zeros((len(LABELS), *x.shape), bool)
        for label, place in zip(self.label, middle, strict=True):
            found[label] |= ((voxels - place) ** 2).sum(-1) < CONTACT**2
        return atoms, found


def contacts(pose: Pose) -> Contacts:
    """Return the contacts of a pose."""
    found = interactions(pose.receptor, pose.ligand)
    label = np.array([LABELS.index(one.label) for one in found], np.int64)
    return Contacts(pose, label, np.array([one.middle for one in found]).reshape(-1, 3))


def real_poses(folder: Path) -> list[Pose]:
    """Return the poses that ``subset.types`` of a folder of gninatypes lists: its last columns name the files."""
    rows = [line.split() for line in (folder / "subset.types").read_text().splitlines() if line.strip()]
    receptors = {row[-2]: read_atoms(str(folder / row[-2])) for row in rows}
    return [
        _pose(Path(row[-1]).stem, Path(row[-2]).parent.name, receptors[row[-2]], read_atoms(str(folder / row[-1])))
        for row in rows
    ]


def made_poses(seeds: Sequence[int]) -> list[Pose]:
    """Return made-up poses, each with a receptor of its own."""
    return [_pose(f"made-{seed}", str(seed), *made_pocket(seed)) for seed in seeds]


def _pose(name: str, group: str, receptor: Atoms, ligand: Atoms) -> Pose:
    is_near = np.isfinite(cKDTree(ligand.place).query(receptor.place, distance_upper_bound=KEPT)[0])
    return Pose(name, group, Atoms(receptor.place[is_near], receptor.type[is_near]), ligand)
