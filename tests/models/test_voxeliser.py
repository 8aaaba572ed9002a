"""The voxeliser equals libmolgrid's formula, voxel by voxel in float64, and moves and turns with its atoms."""

import numpy as np
import pytest
import torch

from engine.errors import ModelError
from engine.items.atoms import read_atoms
from engine.items.pocket import pocket_array
from engine.models.atom_types import ATOM_TYPES, EACH_TYPE, GNINA_LIGAND, GNINA_RECEPTOR, N_TYPES
from engine.models.voxeliser import Voxeliser, gnina_grid
from tests.real_models import real

RADII = np.array([kind.radius for kind in ATOM_TYPES] * 2)


def oracle(atoms, channel, *, n, spacing, multiple=1.0, scale=1.0):
    """Every voxel of every atom, float64, in the order (channel, x, y, z) and with the coefficients of libmolgrid."""
    g = multiple
    a, b, c = 4 * g * g, -(4 * g + 8 * g**3), 4 * g**4 + 4 * g * g + 1
    axis = (np.arange(n) - (n - 1) / 2) * spacing
    grid = np.zeros((max(channel) + 1, n, n, n))
    for x, y, z, kind in atoms.T.astype(np.float64):
        if kind < 0 or channel[int(kind)] < 0:
            continue
        r = RADII[int(kind)] * scale
        d = np.sqrt((axis - x)[:, None, None] ** 2 + (axis - y)[None, :, None] ** 2 + (axis - z)[None, None, :] ** 2)
        tail = np.maximum(np.exp(-2 * g * g) * (a * (d / r) ** 2 + b * d / r + c), 0)
        density = np.where(d <= g * r, np.exp(-2 * (d / r) ** 2), np.where(d < (1 + 2 * g * g) / (2 * g) * r, tail, 0))
        grid[channel[int(kind)]] += density
    return grid


def channels_of(receptor, ligand):
    names = [kind.name for kind in ATOM_TYPES]
    found = [-1] * (2 * N_TYPES)
    for i, group in enumerate([*receptor, *ligand]):
        for name in group:
            found[names.index(name) + (N_TYPES if i >= len(receptor) else 0)] = i
    return found


def cloud(n_atoms, *, side, seed=0, padded=5):
    """Atoms of all types, some outside the grid, and places without an atom among them."""
    random = np.random.default_rng(seed)
    atoms = np.empty((4, n_atoms + padded), np.float32)
    atoms[:3] = random.uniform(-0.7 * side, 0.7 * side, (3, n_atoms + padded))
    atoms[3] = random.integers(0, 2 * N_TYPES, n_atoms + padded)
    atoms[3, random.permutation(n_atoms + padded)[:padded]] = -1
    return atoms


@pytest.mark.parametrize(
    ("receptor", "ligand", "settings"),
    [
        (EACH_TYPE, EACH_TYPE, {"n": 13, "spacing": 0.5}),  # a channel a type, hydrogens too
        (GNINA_RECEPTOR, GNINA_LIGAND, {"n": 14, "spacing": 0.5}),  # an even size: the centre lies between voxels
        (GNINA_RECEPTOR, (), {"n": 12, "spacing": 0.7, "gaussian_radius_multiple": 1.5}),
        ((), GNINA_LIGAND, {"n": 12, "spacing": 0.4, "gaussian_radius_multiple": 0.7, "radius_scale": 1.2}),
    ],
)
def test_densities_equal_the_formula_in_float64(receptor, ligand, settings):
    atoms = cloud(90, side=settings["n"] * settings["spacing"])
    sizes = {"gaussian_radius_multiple": "multiple", "radius_scale": "scale"}
    named = {sizes.get(name, name): value for name, value in settings.items()}
    wanted = oracle(atoms, channels_of(receptor, ligand), **named)
    found = Voxeliser(receptor, ligand, **settings)(torch.from_numpy(atoms)[None])[0]
    assert wanted.std() > 0.01
    assert found.shape == (len(receptor) + len(ligand), *[settings["n"]] * 3)
    np.testing.assert_allclose(found.numpy().transpose(0, 3, 2, 1), wanted, atol=1e-5)


def test_a_real_pocket_equals_the_formula():
    receptor = read_atoms(str(real("pocket/gninatypes/4kqp/4kqp_rec_0.gninatypes")))
    ligand = read_atoms(str(real("pocket/gninatypes/4kqp/4kqp_min_0.gninatypes")))
    atoms = pocket_array(receptor, ligand)
    found = gnina_grid()(torch.from_numpy(atoms)[None])[0]
    wanted = oracle(atoms, channels_of(GNINA_RECEPTOR, GNINA_LIGAND), n=48, spacing=0.5)
    assert found.shape == (28, 48, 48, 48)
    assert wanted.max() > 1
    np.testing.assert_allclose(found.numpy().transpose(0, 3, 2, 1), wanted, atol=1e-5)


def test_a_quarter_turn_of_the_atoms_turns_the_grid():
    atoms = cloud(60, side=6)
    turned = atoms.copy()
    turned[0], turned[1] = -atoms[1], atoms[0]  # about z, from x to y
    grids = Voxeliser(n=12)(torch.from_numpy(np.stack([atoms, turned])))
    assert not torch.allclose(grids[0], grids[1], atol=1e-2)
    torch.testing.assert_close(torch.rot90(grids[0], 1, dims=(3, 2)), grids[1], atol=1e-6, rtol=0)


def test_a_step_of_a_voxel_moves_the_grid_by_a_voxel():
    atoms = cloud(60, side=6)
    moved = atoms.copy()
    moved[0] += 0.5
    grids = Voxeliser(n=12)(torch.from_numpy(np.stack([atoms, moved])))
    assert grids.std() > 0.01
    torch.testing.assert_close(grids[0, ..., :-1], grids[1, ..., 1:], atol=2e-6, rtol=0)


def test_the_sum_over_channels_is_that_of_one_channel_of_all_types():
    atoms = torch.from_numpy(cloud(60, side=6))[None]
    one = (tuple(kind.name for kind in ATOM_TYPES),)
    together = Voxeliser(one, one, n=12)(atoms)
    apart = Voxeliser(EACH_TYPE, EACH_TYPE, n=12)(atoms)
    assert together.std() > 0.01
    torch.testing.assert_close(together[:, 0], apart[:, :N_TYPES].sum(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(together[:, 1], apart[:, N_TYPES:].sum(1), atol=1e-5, rtol=0)


def test_bits_of_an_item_do_not_depend_on_its_place_in_the_batch_nor_on_padding():
    a, b, c = (torch.from_numpy(cloud(n, side=6, seed=n, padded=150 - n)) for n in (90, 50, 130))
    module = Voxeliser(n=12)
    first, last = module(torch.stack([a, b, c])), module(torch.stack([c, b, b, a]))
    assert torch.equal(first[0], last[3])
    assert torch.equal(first[1], last[2])
    assert torch.equal(first[2], last[0])
    wider = torch.cat([a, torch.full((4, 40), -1.0)], 1)
    assert torch.equal(module(wider[None])[0], first[0])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Voxeliser((("Carbon",),)), "'Carbon' is no atom type"),
        (lambda: Voxeliser((("Zinc",), ("Zinc",))), "'Zinc' is in two"),
        (lambda: Voxeliser(spacing=0), "sizes above 0"),
        (lambda: Voxeliser()(torch.zeros(1, 3, 5)), r"must be \(batch, 4, atom\)"),
        (lambda: Voxeliser(n=4)(torch.full((1, 4, 2), 56.0)), "not 56"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(make, line):
    with pytest.raises(ModelError, match=line):
        make()
