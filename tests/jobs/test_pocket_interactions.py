"""The rules find what is there by construction and nothing beyond their distances and angles."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from engine.items.atoms import Atoms, read_atoms
from engine.models.atom_types import NUMBERS
from tests.real_models import real

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

from interactions import LABELS, groups, interactions
from jaccard import jaccard, majority, pocket_table
from made_pockets import AMMONIUM, BENZENE, CARBOXYLATE, HYDROXYL, METHYL, Fragment, joined
from pocket_examples import contacts, made_poses

STILL = Rotation.identity()
GUANIDINIUM = Fragment(
    np.array([(0, 0, 0), (1.33, 0, 0), (-0.665, 1.15, 0), (-0.665, -1.15, 0)]),
    ("AliphaticCarbonXSNonHydrophobe",) + ("NitrogenXSDonor",) * 3,
)
IMIDAZOLE = Fragment(
    np.array([(1.1 * np.cos(t), 1.1 * np.sin(t), 0) for t in 2 * np.pi * np.arange(5) / 5]),
    ("NitrogenXSAcceptor", "AromaticCarbonXSNonHydrophobe", "NitrogenXSDonor") + ("AromaticCarbonXSNonHydrophobe",) * 2,
)


def at(fragment, x=0.0, y=0.0, z=0.0, turn=STILL):
    return fragment.at(np.array([x, y, z]), turn)


def labels(receptor, ligand):
    return {found.label for found in interactions(receptor, ligand)}


def about(axis, degrees):
    return Rotation.from_euler(axis, degrees, degrees=True)


@pytest.mark.parametrize(
    ("receptor", "ligand", "wanted"),
    [
        # two benzenes: face to face, slipped too far, too far, edge to face, at a slant
        (at(BENZENE), at(BENZENE, z=3.8), {"pi_stacking", "hydrophobic"}),
        (at(BENZENE), at(BENZENE, z=4.4, x=2.5), set()),
        (at(BENZENE), at(BENZENE, z=5.6), set()),
        (at(BENZENE), at(BENZENE, z=4.9, turn=about("x", 90)), {"pi_stacking", "hydrophobic"}),
        (at(BENZENE), at(BENZENE, z=4.9, turn=about("x", 45)), set()),
        # a charge over a ring, on either side; beside it
        (at(BENZENE), at(AMMONIUM, z=4.5, turn=about("y", 90)), {"pi_cation"}),
        (at(AMMONIUM, z=4.5, turn=about("y", 90)), at(BENZENE), {"pi_cation"}),
        (at(BENZENE), at(AMMONIUM, z=4.5, x=3.0, turn=about("y", 90)), set()),
        # charges: near, too far; guanidinium; histidine is positive in a receptor only
        (at(CARBOXYLATE), at(AMMONIUM, x=4.4, turn=about("z", 180)), {"salt_bridge", "ligand_donates"}),
        (at(CARBOXYLATE), at(AMMONIUM, x=6.4, turn=about("z", 180)), set()),
        (at(GUANIDINIUM, z=3.8), at(CARBOXYLATE), {"salt_bridge", "receptor_donates"}),
        (at(IMIDAZOLE, z=5.0), at(CARBOXYLATE), {"salt_bridge"}),
        (at(CARBOXYLATE), at(IMIDAZOLE, z=5.0), set()),
        # carbons at 3.9 and 4.1 A
        (at(METHYL), at(METHYL, x=3.9, turn=about("z", 180)), {"hydrophobic"}),
        (at(METHYL), at(METHYL, x=4.1, turn=about("z", 180)), set()),
    ],
)
def test_an_interaction_is_found_where_its_geometry_is(receptor, ligand, wanted):
    assert labels(receptor, ligand) == wanted


@pytest.mark.parametrize(("degrees", "is_bond"), [(180.0, True), (110.0, True), (90.0, False)])
@pytest.mark.parametrize("distance", [2.9, 4.0, 4.2])
def test_a_hydrogen_bond_needs_its_distance_and_its_angle(degrees, is_bond, distance):
    hydrogen = np.array([0.97, 0, 0])
    turn = np.radians(degrees)  # donor, hydrogen, acceptor
    ray = -np.array([np.cos(turn), np.sin(turn), 0])
    step = np.roots([1, 2 * ray[0] * 0.97, 0.97**2 - distance**2]).max()
    donor = Atoms(
        np.array([(0, 0, 0), hydrogen, (-0.5, 1.3, 0)], np.float32),
        types("OxygenXSDonor", "PolarHydrogen", "AliphaticCarbonXSNonHydrophobe"),
    )
    acceptor = Atoms((hydrogen + step * ray)[None].astype(np.float32), types("OxygenXSAcceptor"))
    assert np.linalg.norm(acceptor.place) == pytest.approx(distance, abs=1e-5)
    wanted = is_bond and distance < 4.1
    assert ("receptor_donates" in labels(donor, acceptor)) == wanted
    assert ("ligand_donates" in labels(acceptor, donor)) == wanted
    bare = Atoms(donor.place[[0, 2]], donor.type[[0, 2]])  # no hydrogen: distance decides
    assert ("receptor_donates" in labels(bare, acceptor)) == (distance < 4.1)


def types(*names):
    return np.array([NUMBERS[name] for name in names], np.int32)


def test_contacts_turn_with_the_molecules_and_change_sides_with_them():
    pose = max(made_poses(range(12)), key=lambda pose: contacts(pose).has.sum())
    found = interactions(pose.receptor, pose.ligand)
    assert len({one.label for one in found}) >= 3
    turn = Rotation.random(random_state=2)
    turned = interactions(
        *(Atoms(turn.apply(a.place).astype(np.float32) + 9, a.type) for a in (pose.receptor, pose.ligand))
    )
    assert [one.label for one in turned] == [one.label for one in found]
    middles = np.array([one.middle for one in found])
    np.testing.assert_allclose(np.array([one.middle for one in turned]), turn.apply(middles) + 9, atol=1e-4)


def test_groups_of_a_molecule_are_counted():
    molecule = joined([at(BENZENE), at(CARBOXYLATE, x=12), at(AMMONIUM, x=24), at(HYDROXYL, x=36), at(IMIDAZOLE, x=48)])
    found = groups(molecule, is_receptor=True)
    assert (len(found.rings), len(found.positive), len(found.negative)) == (2, 2, 1)
    assert [len(hydrogens) for _, hydrogens in found.donors] == [3, 1, 0]
    assert len(found.acceptors) == 4


def test_a_real_complex_has_the_bridges_that_its_peptide_makes():
    """HIV protease with Glu-Asp-Leu (1a30): acids against Arg 8, and the amine against Asp (Louis et al. 1998)."""
    receptor, ligand = (read_atoms(str(real(f"pocket/{name}"))) for name in ("1a30_rec.pdb", "1a30_ligand.sdf"))
    found = [one.label for one in interactions(receptor, ligand)]
    assert found.count("salt_bridge") == 3
    assert found.count("receptor_donates") == 9


def test_the_table_has_the_constant_answer_beside_the_found():
    truth = np.zeros((4, len(LABELS)), bool)
    truth[:, 0] = True
    truth[0, 3] = True
    found = truth.copy()
    found[1, 3] = True
    always = truth.mean(axis=0) > 0.5
    table = pocket_table(found, truth, always)
    assert table.rows[3][:4] == ("pi_stacking", "25%", "0.500", "0.000")
    assert table.rows[0][2:4] == ("1.000", "1.000")
    assert table.rows[-1][:4] == ("**over samples**", "", "0.875", "0.875")
    assert jaccard(found, truth) == pytest.approx(5 / 6)
    assert majority([contacts(pose) for pose in made_poses(range(6))]).dtype == bool
