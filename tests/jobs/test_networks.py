"""The networks of the jobs: uneven kernels and strides are proved, and tiles equal the whole pass."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import ModelError
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.trace import trace
from jobs.networks import MeshNet, UNet
from tests.oracle import Named, plan_for, run_in_memory, whole_run
from tests.real_models import with_statistics

ANISOTROPIC = {"n_space": 3, "kernels": ((1, 3, 3), (3, 3, 3), 3), "strides": ((1, 2, 2), 2)}
UNETS = {  # what it is made of; halo and step of each axis
    "3x3x1 first, 3x3x3 later": (ANISOTROPIC, (9, 23, 23), (2, 4, 4)),
    "the same by interpolation": ({**ANISOTROPIC, "up": "nearest"}, (9, 23, 23), (2, 4, 4)),
    "linear": ({**ANISOTROPIC, "up": "linear"}, (10, 26, 26), (2, 4, 4)),
    "without norm": ({**ANISOTROPIC, "norm": "none"}, (9, 23, 23), (2, 4, 4)),
    "of slices": ({"n_space": 2}, (23, 23), (4, 4)),
    "of slices by interpolation": ({"n_space": 2, "norm": "none", "up": "nearest"}, (23, 23), (4, 4)),
    "large kernels": ({"n_space": 2, "kernels": (5, (1, 3), 3), "strides": ((3, 1), (1, 2))}, (16, 17), (3, 2)),
}
# Counted by hand, on each axis: k // 2 for each of two convolutions of a stage, at its scale, down and, but for the
# coarsest, up; and step - 1, as a voxel may lie anywhere in a coarsest one. Linear interpolation sees a voxel more.


def unet(**settings) -> nn.Module:
    torch.manual_seed(0)
    network = UNet(n_in=2, n_out=3, widths=(3, 4, 5), **settings)
    with_statistics(network)
    return network.eval()


def mesh(**settings) -> nn.Module:
    torch.manual_seed(0)
    network = MeshNet(**{"n_in": 2, "n_classes": 3, "width": 4, "dilations": (1, 2, 4, 1), **settings})
    with_statistics(network)
    return network.eval()


@pytest.mark.parametrize("case", UNETS)
def test_the_geometry_of_a_unet_is_proved_and_is_that_of_its_kernels_and_strides(case):
    settings, halo, steps = UNETS[case]
    geometry = learn(load_model(unet(**settings)), n_channels=2, n_space=settings["n_space"])
    assert geometry.evidence == "proved"
    assert geometry.steps == steps
    assert tuple(max(program.halo("output")) for program in geometry.programs) == halo


@pytest.mark.parametrize("case", UNETS)
@pytest.mark.parametrize("axis", [0, -1])
def test_tiles_of_a_unet_equal_its_whole_pass(case, axis):
    settings, halo, steps = UNETS[case]
    module = Named(unet(**settings).double())
    geometry = trace(module, n_channels=2, n_space=settings["n_space"], dtype=torch.float64)
    lengths, tile, block = ([2 * step for step in steps] for _ in range(3))
    tile[axis] = -(-2 * halo[axis] // steps[axis]) * steps[axis] + 2 * steps[axis]
    lengths[axis] = tile[axis] + 7 * steps[axis]
    array = np.random.default_rng(0).standard_normal((2, *lengths))
    plan = plan_for(geometry, array, tile=tuple(tile), block=tuple(block), with_pyramid=False)
    assert plan.n_tiles > 3
    assert tiled(plan, module, array) <= 1e-12


def tiled(plan, module, array) -> float:
    """The largest difference between the tiles' output and the whole pass, as a share of the largest magnitude."""
    found = run_in_memory(plan, module, array, torch.float64)["output"].levels[0]
    oracle = whole_run(module, array, torch.float64)["output"]
    assert oracle.std() > 0
    return float(np.abs(found - oracle).max() / np.abs(oracle).max())


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_tiles_of_a_meshnet_equal_its_whole_pass_with_the_sum_of_its_dilations_for_a_halo(norm):
    module = Named(mesh(norm=norm, activation=nn.ELU, full=2.0).double())
    geometry = trace(module, n_channels=2, n_space=3, dtype=torch.float64)
    assert geometry.evidence == "proved"
    assert [program.halo("output") for program in geometry.programs] == [(8, 8)] * 3
    array = np.random.default_rng(0).standard_normal((2, 6, 7, 36))
    plan = plan_for(geometry, array, tile=(6, 7, 20), block=(6, 7, 8), with_pyramid=False)
    assert plan.n_tiles > 3
    assert tiled(plan, module, array) <= 1e-12


def test_a_unet_with_instance_norm_sees_the_whole_and_is_refused_by_its_layer():
    with pytest.raises(ModelError, match=r"'down.0.1' \(InstanceNorm3d\) .*windowed contract"):
        learn(load_model(unet(norm="instance", **ANISOTROPIC)), n_channels=2, n_space=3)
