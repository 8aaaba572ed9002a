"""The 28 atom types of smina and gnina, by which pockets are written down, and the channels that they share.

Names, order and radii are those of libmolgrid's ``GninaIndexTyper`` (Sunseri and Koes 2020, J. Chem. Inf. Model. 60,
1079, https://doi.org/10.1021/acs.jcim.9b01145; radii of X-Score, Wang et al. 2002): a file of gninatypes holds the
numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ModelError


@dataclass(frozen=True, slots=True)
class AtomType:
    """What all atoms of one type have in common."""

    name: str
    element: int
    """Atomic number; 0 for any other metal."""
    radius: float
    """Angstrom: X-Score's, made for models of heavy atoms only."""
    covalent_radius: float
    """Angstrom."""
    is_hydrophobic: bool = False
    """A carbon bonded to carbon and hydrogen only, a halogen or a boron."""
    is_donor: bool = False
    is_acceptor: bool = False
    is_aromatic: bool = False


ATOM_TYPES = (
    AtomType("Hydrogen", 1, 0.37, 0.37),
    AtomType("PolarHydrogen", 1, 0.37, 0.37),
    AtomType("AliphaticCarbonXSHydrophobe", 6, 1.9, 0.77, is_hydrophobic=True),
    AtomType("AliphaticCarbonXSNonHydrophobe", 6, 1.9, 0.77),
    AtomType("AromaticCarbonXSHydrophobe", 6, 1.9, 0.77, is_hydrophobic=True, is_aromatic=True),
    AtomType("AromaticCarbonXSNonHydrophobe", 6, 1.9, 0.77, is_aromatic=True),
    AtomType("Nitrogen", 7, 1.8, 0.75),
    AtomType("NitrogenXSDonor", 7, 1.8, 0.75, is_donor=True),
    AtomType("NitrogenXSDonorAcceptor", 7, 1.8, 0.75, is_donor=True, is_acceptor=True),
    AtomType("NitrogenXSAcceptor", 7, 1.8, 0.75, is_acceptor=True),
    AtomType("Oxygen", 8, 1.7, 0.73),
    AtomType("OxygenXSDonor", 8, 1.7, 0.73, is_donor=True),
    AtomType("OxygenXSDonorAcceptor", 8, 1.7, 0.73, is_donor=True, is_acceptor=True),
    AtomType("OxygenXSAcceptor", 8, 1.7, 0.73, is_acceptor=True),
    AtomType("Sulfur", 16, 2.0, 1.02),
    AtomType("SulfurAcceptor", 16, 2.0, 1.02),
    AtomType("Phosphorus", 15, 2.1, 1.06),
    AtomType("Fluorine", 9, 1.5, 0.71, is_hydrophobic=True),
    AtomType("Chlorine", 17, 1.8, 0.99, is_hydrophobic=True),
    AtomType("Bromine", 35, 2.0, 1.14, is_hydrophobic=True),
    AtomType("Iodine", 53, 2.2, 1.33, is_hydrophobic=True),
    AtomType("Magnesium", 12, 1.2, 1.30, is_donor=True),
    AtomType("Manganese", 25, 1.2, 1.39, is_donor=True),
    AtomType("Zinc", 30, 1.2, 1.31, is_donor=True),
    AtomType("Calcium", 20, 1.2, 1.74, is_donor=True),
    AtomType("Iron", 26, 1.2, 1.25, is_donor=True),
    AtomType("GenericMetal", 0, 1.2, 1.75, is_donor=True),
    AtomType("Boron", 5, 1.92, 0.90, is_hydrophobic=True),
)
"""By number, as in a gninatypes file."""

N_TYPES = len(ATOM_TYPES)
"""A receptor's atom has a type in [0, 28), a ligand's in [28, 56), and a place without an atom -1."""

NUMBERS = {kind.name: number for number, kind in enumerate(ATOM_TYPES)}
"""The number of each type, by name."""

Channels = tuple[tuple[str, ...], ...]
"""Per channel the names of its types."""

EACH_TYPE: Channels = tuple((kind.name,) for kind in ATOM_TYPES)
"""A channel per type."""

_ORGANIC: Channels = (
    ("NitrogenXSAcceptor", "Nitrogen"),
    ("NitrogenXSDonor", "NitrogenXSDonorAcceptor"),
    ("OxygenXSAcceptor", "Oxygen"),
    ("OxygenXSDonor", "OxygenXSDonorAcceptor"),
    ("Sulfur", "SulfurAcceptor"),
    ("Phosphorus",),
)
GNINA_RECEPTOR: Channels = (
    *EACH_TYPE[2:6],
    ("Fluorine", "Chlorine", "Bromine", "Iodine"),
    *_ORGANIC,
    ("Calcium",),
    ("Zinc",),
    ("Magnesium", "Manganese", "Iron", "GenericMetal", "Boron"),
)
"""The 14 channels that gnina's networks have for a receptor; hydrogens are left out."""

GNINA_LIGAND: Channels = (
    *EACH_TYPE[2:6],
    ("Bromine", "Iodine"),
    ("Chlorine",),
    ("Fluorine",),
    *_ORGANIC,
    ("Magnesium", "Manganese", "Zinc", "Calcium", "Iron", "GenericMetal", "Boron"),
)
"""The 14 for a ligand."""


def channel_numbers(channels: Sequence[Sequence[str]]) -> list[int]:
    """Return the channel of each type, by its number; -1 for a type that is in none.

    >>> channel_numbers(GNINA_RECEPTOR)[:5]
    [-1, -1, 0, 1, 2]

    Raises:
        ModelError: If a name is no type's, or is in two channels.
    """
    found = [-1] * N_TYPES
    for channel, names in enumerate(channels):
        for name in names:
            number = NUMBERS.get(name)
            if number is None or found[number] >= 0:
                why = "is no atom type" if number is None else "is in two of them"
                raise ModelError(f"channels must name atom types once each, and '{name}' {why}. Correct it.")
            found[number] = channel
    return found
