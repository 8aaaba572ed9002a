"""Made-up pockets: a ligand of a few fragments, and a receptor whose fragments face them or do not.

Their chemistry is no molecule's, but bonds, rings, charges and hydrogens are where the rules of ``interactions.py``
look for them, so that jobs and tests run where there is no real pocket.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from engine.items.atoms import Atoms
from engine.models.atom_types import NUMBERS

Places = NDArray[np.floating]


def _circle(n: int, radius: float) -> Places:
    """Return corners (n, 3) about the z axis."""
    turn = 2 * np.pi * np.arange(n) / n
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), np.zeros(n)], 1)


@dataclass(frozen=True, eq=False)
class Fragment:
    """A piece of a molecule about its own origin."""

    place: Places
    """(atom, 3), Angstrom."""
    names: tuple[str, ...]
    """Of the atoms' types."""

    def at(self, where: Places, turn: Rotation) -> Atoms:
        """Return its atoms, turned and moved."""
        types = np.array([NUMBERS[name] for name in self.names], np.int32)
        return Atoms((turn.apply(self.place) + where).astype(np.float32), types)


BENZENE = Fragment(
    np.concatenate([_circle(6, 1.39), _circle(6, 2.48)]), ("AromaticCarbonXSHydrophobe",) * 6 + ("Hydrogen",) * 6
)
CARBOXYLATE = Fragment(
    np.array([(0, 0, 0), (0.62, 1.08, 0), (0.62, -1.08, 0), (-1.5, 0, 0)]),
    ("AliphaticCarbonXSNonHydrophobe", "OxygenXSAcceptor", "OxygenXSAcceptor", "AliphaticCarbonXSHydrophobe"),
)
AMMONIUM = Fragment(
    np.array([(0, 0, 0), (0.34, 0.95, 0), (0.34, -0.48, 0.82), (0.34, -0.48, -0.82), (-1.49, 0, 0)]),
    ("NitrogenXSDonor", *("PolarHydrogen",) * 3, "AliphaticCarbonXSNonHydrophobe"),
)
HYDROXYL = Fragment(
    np.array([(0, 0, 0), (0.32, 0.91, 0), (-1.42, 0, 0)]),
    ("OxygenXSDonorAcceptor", "PolarHydrogen", "AliphaticCarbonXSNonHydrophobe"),
)
METHYL = Fragment(np.array([(0, 0, 0), (-1.53, 0, 0)]), ("AliphaticCarbonXSHydrophobe", "AliphaticCarbonXSHydrophobe"))
FRAGMENTS = (BENZENE, CARBOXYLATE, AMMONIUM, HYDROXYL, METHYL)

APART = 6.5
"""Angstrom from one fragment of a ligand to the next."""

FACING = (2.7, 5.0)
"""Angstrom from a fragment of the ligand to one of the receptor that may touch it."""

N_FILLING = 40
"""Fragments of a receptor that stand about, farther out."""


def joined(parts: Sequence[Atoms]) -> Atoms:
    """Return the atoms of all parts as one molecule."""
    return Atoms(np.concatenate([part.place for part in parts]), np.concatenate([part.type for part in parts]))


def made_pocket(seed: int) -> tuple[Atoms, Atoms]:
    """Return a receptor and a ligand about the origin."""
    chance = np.random.default_rng(seed)
    corners = APART * np.array([(-1, 0, 0), (0, 0.3, 0.2), (1, 0, 0)])
    ligand = [_drawn(chance, corner) for corner in corners]
    receptor = []
    for corner in corners:
        for _ in range(2):
            receptor.append(_drawn(chance, corner + chance.uniform(*FACING) * _direction(chance, sideways=True)))
    for _ in range(N_FILLING):
        receptor.append(_drawn(chance, chance.uniform(11, 16) * _direction(chance)))
    return joined(receptor), joined(ligand)


def _drawn(chance: np.random.Generator, where: Places) -> Atoms:
    return FRAGMENTS[int(chance.integers(len(FRAGMENTS)))].at(where, Rotation.random(random_state=chance))


def _direction(chance: np.random.Generator, *, sideways: bool = False) -> Places:
    """Return a direction; sideways it points away from the ligand's neighbours along x."""
    direction = chance.normal(size=3) * ((0.2, 1, 1) if sideways else (1, 1, 1))
    return direction / np.linalg.norm(direction)
