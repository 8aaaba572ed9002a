"""Atoms of every kind of file, smina's types by the rules, and pockets centred, turned, cropped; each fault in one line."""

import numpy as np
import pytest
from rdkit import Chem

from engine.errors import EngineError
from engine.items.atoms import Atoms, read_atoms, write_gninatypes
from engine.items.manifest import Item
from engine.items.molecule import types_of
from engine.items.pocket import KEPT, N_ATOMS, pocket_array, read_pocket
from engine.models.atom_types import ATOM_TYPES, N_TYPES, NUMBERS
from tests.real_models import real

PDB = """\
ATOM      1  N   GLY A   1       0.000   0.000   0.000  1.00  0.00           N
ATOM      2  CA  GLY A   1       1.458   0.000   0.000  1.00  0.00           C
ATOM      3  C   GLY A   1       2.009   1.420   0.000  1.00  0.00           C
ATOM      4  O   GLY A   1       1.251   2.390   0.000  1.00  0.00           O
HETATM    5 ZN    ZN A   2       8.000   1.000   0.000  1.00  0.00          ZN
END
"""


def names(smiles):
    """The types of a molecule's heavy atoms, all hydrogens written out."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    molecule.AddConformer(Chem.Conformer(molecule.GetNumAtoms()))
    _, types = types_of(molecule)
    return [ATOM_TYPES[i].name for i, atom in zip(types, molecule.GetAtoms(), strict=True) if atom.GetAtomicNum() > 1]


@pytest.mark.parametrize(
    ("smiles", "wanted"),
    [
        ("CCO", ["AliphaticCarbonXSHydrophobe", "AliphaticCarbonXSNonHydrophobe", "OxygenXSDonorAcceptor"]),
        (
            "CC(=O)[O-]",
            ["AliphaticCarbonXSHydrophobe", "AliphaticCarbonXSNonHydrophobe", "OxygenXSAcceptor", "OxygenXSAcceptor"],
        ),
        ("C[NH3+]", ["AliphaticCarbonXSNonHydrophobe", "NitrogenXSDonor"]),  # four bonds: no lone pair
        ("CN", ["AliphaticCarbonXSNonHydrophobe", "NitrogenXSDonorAcceptor"]),
        (
            "CN(C)C=O",
            [
                "AliphaticCarbonXSNonHydrophobe",
                "Nitrogen",
                "AliphaticCarbonXSNonHydrophobe",
                "AliphaticCarbonXSNonHydrophobe",
                "OxygenXSAcceptor",
            ],
        ),  # an amide is planar
        (
            "c1ccncc1",
            ["AromaticCarbonXSHydrophobe"] * 2
            + [
                "AromaticCarbonXSNonHydrophobe",
                "NitrogenXSAcceptor",
                "AromaticCarbonXSNonHydrophobe",
                "AromaticCarbonXSHydrophobe",
            ],
        ),
        ("CSC", ["AliphaticCarbonXSNonHydrophobe", "Sulfur", "AliphaticCarbonXSNonHydrophobe"]),
        ("FC(Cl)(Br)I", ["Fluorine", "AliphaticCarbonXSNonHydrophobe", "Chlorine", "Bromine", "Iodine"]),
        ("[Na+].[Zn+2]", ["GenericMetal", "Zinc"]),
    ],
)
def test_types_follow_the_bonds(smiles, wanted):
    assert names(smiles) == wanted


def test_gninatypes_come_back_as_they_were_written(tmp_path):
    random = np.random.default_rng(3)
    atoms = Atoms(random.normal(size=(20, 3)).astype(np.float32), random.integers(0, N_TYPES, 20).astype(np.int32))
    write_gninatypes(tmp_path / "a.gninatypes", atoms)
    assert (tmp_path / "a.gninatypes").stat().st_size == 16 * 20
    found = read_atoms(str(tmp_path / "a.gninatypes"))
    np.testing.assert_array_equal(found.place, atoms.place)
    np.testing.assert_array_equal(found.type, atoms.type)


def test_a_pdb_and_an_sdf_file_are_read_with_their_bonds(tmp_path):
    (tmp_path / "r.pdb").write_text(PDB)
    receptor = read_atoms(str(tmp_path / "r.pdb"))
    assert [ATOM_TYPES[i].name for i in receptor.type][1:] == [
        "AliphaticCarbonXSNonHydrophobe",
        "AliphaticCarbonXSNonHydrophobe",
        "OxygenXSAcceptor",
        "Zinc",
    ]
    np.testing.assert_allclose(receptor.place[3], (1.251, 2.39, 0), atol=1e-6)
    (tmp_path / "l.sdf").write_text(Chem.MolToMolBlock(Chem.MolFromSmiles("c1ccccc1O")) + "$$$$\n")
    ligand = read_atoms(str(tmp_path / "l.sdf"))
    assert [ATOM_TYPES[i].name for i in ligand.type][-2:] == ["AromaticCarbonXSNonHydrophobe", "OxygenXSDonorAcceptor"]


@pytest.mark.parametrize(
    ("name", "n", "share"), [("10gs_rec.pdb", 6526, 0.5), ("10gs_lig.sdf", 33, 0.0), ("1a30_ligand.sdf", 49, 0.46)]
)
def test_real_complexes_are_read_whole(name, n, share):
    atoms = read_atoms(str(real(f"pocket/{name}")))
    assert len(atoms) == n
    assert (atoms.type < 2).mean() == pytest.approx(share, abs=0.01)  # hydrogens
    assert (ATOM_TYPES[25].name, NUMBERS["GenericMetal"]) == ("Iron", 26)
    assert not (atoms.type == NUMBERS["GenericMetal"]).any()


def some_atoms(n=30, seed=0, spread=5.0):
    random = np.random.default_rng(seed)
    return Atoms(
        random.normal(scale=spread, size=(n, 3)).astype(np.float32) + 40,
        random.integers(0, N_TYPES, n).astype(np.int32),
    )


def test_a_pocket_is_centred_on_its_ligand_and_cropped():
    receptor, ligand = some_atoms(200, spread=12), some_atoms(9, seed=1)
    array = pocket_array(receptor, ligand)
    assert array.shape == (4, N_ATOMS)
    n = int((array[3] >= 0).sum())
    assert 9 < n < 209
    np.testing.assert_allclose(array[:3, n - 9 : n].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_array_equal(array[3, n - 9 : n], ligand.type + N_TYPES)
    assert np.abs(array[:3, :n]).max() < KEPT
    assert (array[3, n:] == -1).all()


def test_a_turn_keeps_distances_and_is_the_same_each_time(tmp_path):
    write_gninatypes(tmp_path / "r.gninatypes", some_atoms(40))
    write_gninatypes(tmp_path / "l.gninatypes", some_atoms(9, seed=1))
    row = {"receptor": str(tmp_path / "r.gninatypes"), "ligand": str(tmp_path / "l.gninatypes")}
    still, one, again, other = (read_pocket(Item("a", {**row, "turn": turn})) for turn in ("", "7", "7", "8"))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one[:3] - still[:3]).max() > 1
    assert np.abs(one[:3] - other[:3]).max() > 1
    np.testing.assert_allclose(np.linalg.norm(one[:3], axis=0), np.linalg.norm(still[:3], axis=0), atol=1e-4)
    centred = read_pocket(Item("a", {"receptor": row["receptor"], "center": "40 40 40"}))
    np.testing.assert_allclose(centred[:3, :40].T, some_atoms(40).place - 40, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"ligand": "missing.sdf"}, "Check the path"),
        ({"ligand": "cut.gninatypes"}, "ends within one"),
        ({"ligand": "wild.gninatypes"}, r"types of atoms must be in \[0, 28\)"),
        ({"ligand": "nan.gninatypes"}, "finite numbers"),
        ({"ligand": "empty.gninatypes"}, "has none"),
        ({"ligand": "letter.sdf"}, "cannot be read"),
        ({"ligand": "letter.pdb"}, "has none|cannot be read"),
        ({"ligand": "letter.txt"}, "is none of them"),
        ({"receptor": "good.gninatypes"}, "where is its middle"),
        ({"receptor": "good.gninatypes", "center": "1 2"}, "must be 'x y z'"),
        ({"receptor": "good.gninatypes", "center": "900 0 0"}, "no atom within"),
        ({"ligand": "good.gninatypes", "turn": "left"}, "must be a whole number"),
        ({"ligand": "crowd.gninatypes"}, "4,100 atoms near its centre"),
    ],
)
def test_a_pocket_that_cannot_be_is_refused_in_one_line(tmp_path, row, line):
    good = some_atoms()
    write_gninatypes(tmp_path / "good.gninatypes", good)
    whole = (tmp_path / "good.gninatypes").read_bytes()
    (tmp_path / "cut.gninatypes").write_bytes(whole[:-5])
    (tmp_path / "empty.gninatypes").write_bytes(b"")
    write_gninatypes(tmp_path / "wild.gninatypes", Atoms(good.place, good.type + 40))
    write_gninatypes(tmp_path / "nan.gninatypes", Atoms(good.place * np.nan, good.type))
    write_gninatypes(tmp_path / "crowd.gninatypes", some_atoms(4100, spread=1.0))
    for suffix in ("sdf", "pdb", "txt"):
        (tmp_path / f"letter.{suffix}").write_text("this is a letter and no molecule\n")
    named = {key: str(tmp_path / text) if key in ("ligand", "receptor") else text for key, text in row.items()}
    with pytest.raises(EngineError, match=line) as refused:
        read_pocket(Item("a", named))
    assert "\n" not in str(refused.value)
