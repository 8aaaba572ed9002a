"""A pocket as an array of atoms: receptor and ligand about a centre, turned if wanted, and cropped."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from engine.errors import EmptyError, IngestError, PlanError
from engine.items.atoms import Atoms, read_atoms
from engine.items.manifest import Item
from engine.models.atom_types import N_TYPES

N_ATOMS = 4096
"""Places for atoms in an array: a cube of 30 Angstrom of protein has about 2,500, hydrogens included."""

KEPT = 15.4
"""Angstrom from the centre along each axis up to which atoms are kept: half a grid of 48 voxels of 0.5 A, 11.75, and
the reach of the largest atom, an iodine's 3.3."""


def pocket_shape(_: Item) -> tuple[int, ...]:
    """Return the shape of every pocket's array: (x, y, z and type; atom). Opens nothing."""
    return 4, N_ATOMS


def read_pocket(item: Item) -> NDArray[np.float32]:
    """Return the atoms (4, 4096) of an item: x, y and z in Angstrom from the centre, and the type, -1 past the last.

    A ligand's types follow a receptor's: 28 is its first. The item's columns:

    - ``receptor``, ``ligand``: files of atoms; one may be left empty.
    - ``center``: "x y z" in Angstrom; by default the mean place of the ligand's atoms, as in libmolgrid.
    - ``turn``: a whole number; the pocket is turned about the centre by the rotation that it seeds. None by default.

    Raises:
        IngestError: If a file or a column cannot be read.
        EmptyError: If no atom is near the centre.
        PlanError: If there are more atoms near it than places.
    """
    parts = [read_atoms(item.row[name]) if item.row.get(name) else None for name in ("receptor", "ligand")]
    return pocket_array(*parts, centre=_centre(item), turn=_turn(item), owner=f"item '{item.id}'")


def pocket_array(
    receptor: Atoms | None,
    ligand: Atoms | None,
    *,
    centre: NDArray[np.floating] | None = None,
    turn: Rotation | None = None,
    owner: str = "the pocket",
) -> NDArray[np.float32]:
    """Return the array of :func:`read_pocket` for atoms at hand.

    Raises:
        EmptyError: If there is no atom near the centre, or nothing says where it is.
        PlanError: If there are more atoms near it than places.
    """
    parts = [(part, first) for part, first in ((receptor, 0), (ligand, N_TYPES)) if part is not None]
    if centre is None and ligand is None:
        raise EmptyError(f"{owner} has neither a ligand nor a column 'center': where is its middle? Give one of them.")
    if centre is None and ligand is not None:
        centre = ligand.place.mean(axis=0, dtype=np.float64)
    place = np.concatenate([part.place.astype(np.float64) for part, _ in parts] or [np.empty((0, 3))]) - centre
    kind = np.concatenate([part.type + first for part, first in parts] or [np.empty(0, np.int32)])
    if turn is not None and len(place):
        place = turn.apply(place)
    is_near = (np.abs(place) < KEPT).all(axis=1)
    if not 0 < (n := int(is_near.sum())) <= N_ATOMS:
        if n:
            raise PlanError(f"{owner} has {n:,} atoms near its centre, and {N_ATOMS:,} have a place. Check its files.")
        raise EmptyError(f"{owner} has no atom within {KEPT} A of its centre. Check the column 'center'.")
    array = np.zeros((4, N_ATOMS), np.float32)
    array[3] = -1
    array[:3, :n], array[3, :n] = place[is_near].T, kind[is_near]
    return array


def _centre(item: Item) -> NDArray[np.floating] | None:
    text = item.row.get("center")
    if not text:
        return None
    try:
        x, y, z = map(float, text.replace(";", " ").split())
    except ValueError as error:
        wanted = f"the center of item '{item.id}' must be 'x y z' in Angstrom"
        raise IngestError(f"{wanted}, not '{text}'. Mend it.") from error
    return np.array([x, y, z])


def _turn(item: Item) -> Rotation | None:
    text = item.row.get("turn")
    if not text:
        return None
    if not text.isdecimal():
        raise IngestError(f"the turn of item '{item.id}' must be a whole number, not '{text}'. Mend it.")
    rotation: Rotation = Rotation.random(random_state=int(text))
    return rotation
