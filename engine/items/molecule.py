"""Molecules of PDB and SDF files, and smina's type of each of their atoms, by RDKit.

RDKit reads both kinds, and knows the bonds, aromatic rings and hybridisation that types are made of; gemmi, which reads
PDB more strictly, knows of none. The rules are those of libmolgrid's ``GninaIndexTyper``, with RDKit's chemistry for
Open Babel's: the two call a few atoms of unusual rings aromatic or not as they see it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from engine.errors import IngestError
from engine.models.atom_types import ATOM_TYPES, NUMBERS

HYDROGEN, CARBON, NITROGEN, OXYGEN, SULFUR, SELENIUM = 1, 6, 7, 8, 16, 34
SEVERAL = {HYDROGEN, CARBON, NITROGEN, OXYGEN, SULFUR, 0}
SIMPLE = {kind.element: number for number, kind in enumerate(ATOM_TYPES) if kind.element not in SEVERAL}
"""The type of elements that have one only."""

Molecule: TypeAlias = Any
"""RDKit's own."""
Atom: TypeAlias = Any
"""RDKit's own."""

rdBase.DisableLog("rdApp.*")  # what it has to say of a file is told as the reason of a failure


def read_molecule(file: Path) -> Molecule:
    """Return the first molecule of a file with hydrogens, bonds and one conformer.

    Bonds of a PDB file are those of known residues, of CONECT, and of atoms that are close. Chemistry that RDKit cannot
    make sense of is kept as it was written, without aromatic rings.

    Raises:
        IngestError: If there is no molecule that can be read.
    """
    try:
        if file.suffix.lower() == ".pdb":
            molecule: Molecule = Chem.MolFromPDBFile(str(file), sanitize=False, removeHs=False)
        else:
            molecule = next(iter(Chem.SDMolSupplier(str(file), sanitize=False, removeHs=False)), None)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(file, " ".join(str(error).split())[:200]) from error
    if molecule is None or (molecule.GetNumAtoms() and not molecule.GetNumConformers()):
        raise _unreadable(file, "RDKit finds no molecule in it")
    Chem.SanitizeMol(molecule, catchErrors=True)
    molecule.UpdatePropertyCache(strict=False)
    return molecule


def _unreadable(file: Path, why: str) -> IngestError:
    return IngestError(f"a molecule is wanted of '{file}', and cannot be read: {why}. Fetch or make it again.")


def types_of(molecule: Molecule) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the places (atom, 3), in Angstrom, and the types (atom,) of a molecule's atoms, its hydrogens included."""
    n = molecule.GetNumAtoms()
    place = molecule.GetConformer().GetPositions() if n else np.empty((0, 3))
    types = [atom_type(atom) for atom in molecule.GetAtoms()]
    return place.astype(np.float32), np.array(types, np.int32)


def atom_type(atom: Atom) -> int:
    """Return the number of an atom's type; any other element is a GenericMetal, selenium is sulfur, as in smina.

    >>> water = Chem.AddHs(Chem.MolFromSmiles("O"))
    >>> [ATOM_TYPES[atom_type(atom)].name for atom in water.GetAtoms()]
    ['OxygenXSDonorAcceptor', 'PolarHydrogen', 'PolarHydrogen']
    """
    element = atom.GetAtomicNum()
    name = NAMES[element](atom) if element in NAMES else None
    return NUMBERS[name] if name else SIMPLE.get(element, NUMBERS["GenericMetal"])


def _hydrogen(atom: Atom) -> str:
    is_polar = any(other.GetAtomicNum() != CARBON for other in atom.GetNeighbors())
    return "PolarHydrogen" if is_polar else "Hydrogen"


def _carbon(atom: Atom) -> str:
    is_polar = any(other.GetAtomicNum() not in (HYDROGEN, CARBON) for other in atom.GetNeighbors())
    kind = "Aromatic" if atom.GetIsAromatic() else "Aliphatic"
    return f"{kind}CarbonXS{'NonHydrophobe' if is_polar else 'Hydrophobe'}"


def _nitrogen(atom: Atom) -> str:
    """Accept where there is a lone pair: not with four bonds, nor with three in a plane."""
    n_bonds = atom.GetTotalDegree()
    is_planar = atom.GetHybridization() == Chem.HybridizationType.SP2
    return "Nitrogen" + _bonding(atom, is_acceptor=n_bonds < 3 or (n_bonds == 3 and not is_planar))


def _oxygen(atom: Atom) -> str:
    return "Oxygen" + _bonding(atom, is_acceptor=True)


def _bonding(atom: Atom, *, is_acceptor: bool) -> str:
    """Return what follows the element's name; a donor has a hydrogen, written out or not."""
    is_donor = atom.GetTotalNumHs(includeNeighbors=True) > 0
    roles = ("Donor" if is_donor else "") + ("Acceptor" if is_acceptor else "")
    return f"XS{roles}" if roles else ""


def _sulfur(atom: Atom) -> str:
    return "SulfurAcceptor" if atom.GetFormalCharge() == -1 else "Sulfur"


NAMES: Mapping[int, Callable[[Atom], str]] = {
    HYDROGEN: _hydrogen,
    CARBON: _carbon,
    NITROGEN: _nitrogen,
    OXYGEN: _oxygen,
    SULFUR: _sulfur,
    SELENIUM: lambda _: "Sulfur",
}
"""What names the type of elements that have several."""
