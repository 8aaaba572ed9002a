"""Typed atoms of a receptor or a ligand: gninatypes files, and molecules in PDB and SDF files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import EmptyError, IngestError, MissingError
from engine.items.molecule import read_molecule, types_of
from engine.models.atom_types import N_TYPES

RECORD = np.dtype([("place", "<f4", 3), ("type", "<i4")])
"""An atom in a gninatypes file: x, y, z in Angstrom and the number of its type, 16 bytes."""

GNINATYPES, MOLECULES = ".gninatypes", (".pdb", ".sdf", ".mol")


@dataclass(frozen=True, eq=False)
class Atoms:
    """Atoms in space."""

    place: NDArray[np.float32]
    """(atom, 3): x, y, z in Angstrom."""
    type: NDArray[np.int32]
    """(atom,): number of each atom's type in ``ATOM_TYPES``, [0, 28)."""

    def __len__(self) -> int:
        return len(self.type)


def read_atoms(path: str) -> Atoms:
    """Return the atoms of a .gninatypes, .pdb, .sdf or .mol file: of an SDF the first molecule.

    Raises:
        MissingError: If the file is not there.
        EmptyError: If it has no atom.
        IngestError: If it is of no known kind, cut short, or holds a type or a place that is none.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingError(f"atoms are read from a file, and '{path}' is none. Check the path.")
    suffix = file.suffix.lower()
    if suffix != GNINATYPES and suffix not in MOLECULES:
        known = ", ".join((GNINATYPES, *MOLECULES))
        raise IngestError(f"atoms come in files of {known}, and '{path}' is none of them. Convert it.")
    atoms = _read_gninatypes(file) if suffix == GNINATYPES else Atoms(*types_of(read_molecule(file)))
    if not len(atoms):
        raise EmptyError(f"a molecule needs at least one atom, and '{path}' has none. Fetch or make it again.")
    if not np.isfinite(atoms.place).all():
        raise IngestError(f"places of atoms must be finite numbers, and some of '{path}' are not. Make it again.")
    return atoms


def _read_gninatypes(file: Path) -> Atoms:
    data = file.read_bytes()
    if len(data) % RECORD.itemsize:
        raise IngestError(
            f"a gninatypes file has {RECORD.itemsize} bytes an atom, and '{file}' of {len(data):,} bytes ends within "
            "one. Copy or make it again."
        )
    records = np.frombuffer(data, RECORD)
    strangers = records["type"][(records["type"] < 0) | (records["type"] >= N_TYPES)]
    if len(strangers):
        raise IngestError(
            f"types of atoms must be in [0, {N_TYPES}), and '{file}' has {strangers[0]}: it is no gninatypes file, or "
            "damaged. Make it again."
        )
    return Atoms(records["place"].copy(), records["type"].astype(np.int32))


def write_gninatypes(path: Path, atoms: Atoms) -> None:
    """Write atoms as a gninatypes file."""
    records = np.empty(len(atoms), RECORD)
    records["place"], records["type"] = atoms.place, atoms.type
    path.write_bytes(records.tobytes())
