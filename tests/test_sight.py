"""What a run sees of a slide: its resolution, and how long its tiles had best be."""

from math import prod

import numpy as np
import pytest
import torch

from engine.errors import ModelError, ResolutionError
from engine.models.load import load_model
from engine.sight import CORES, Sight, at_resolution, sight
from engine.storage.volume import open_volume
from tests.slides import picture, write_slide


class Declares(torch.nn.Module):
    def __init__(self, mpp=None):
        super().__init__()
        if mpp is not None:
            self.mpp = mpp

    def forward(self, x):
        return x.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return str(write_slide(tmp_path_factory.mktemp("slides") / "slide.tiff", picture(600, 800)))


@pytest.mark.parametrize(
    ("declared", "asked", "shape"),
    [
        (None, None, (3, 600, 800)),  # nobody says: as the slide is
        (1.0, None, (3, 300, 400)),  # the model says
        (1.0, 0.5, (3, 600, 800)),  # the user's word goes first
        (0.51, None, (3, 600, 800)),  # near enough: nothing is resampled
        (None, 2.0, (3, 150, 200)),
    ],
)
def test_the_model_says_at_which_resolution_a_slide_is_read_unless_the_user_does(slide, declared, asked, shape):
    url = at_resolution(slide, load_model(Declares(declared)), mpp=asked)
    assert open_volume(url).shape == shape


def test_a_slide_that_is_too_coarse_is_refused_and_so_are_parts_that_want_different_resolutions(slide):
    with pytest.raises(ResolutionError, match="none is fine enough"):
        at_resolution(slide, load_model(Declares(0.25)), mpp=None)
    with pytest.raises(ModelError, match="made for one resolution"):
        at_resolution(slide, load_model(torch.nn.Sequential(Declares(1.0), Declares(0.5))), mpp=None)


def brute_force(cells, cell, core, lost):
    """Voxels computed per voxel of the source, counted square by square."""
    step = core // cell
    squares = [
        cells[y : y + step, x : x + step] for y in range(0, cells.shape[0], step) for x in range(0, cells.shape[1], step)
    ]
    touched = sum(square.size for square in squares if square.any())
    return touched / cells.size * prod((core + n) / core for n in lost)


@pytest.mark.parametrize("seed", range(6))
def test_tiles_are_as_long_as_background_and_halo_together_make_cheapest(seed):
    chance = np.random.default_rng(seed)
    cells = np.zeros((200, 260), bool)
    for _ in range(int(chance.integers(1, 40))):
        y, x, size = chance.integers(0, 200), chance.integers(0, 260), chance.integers(2, 60)
        cells[y : y + size, x : x + size] = True
    lost = (int(chance.integers(2, 300)),) * 2
    found = Sight("a", "auto", (32, 32), cells, {}).best_core(lost)
    costs = {core: brute_force(cells, 32, core, lost) for core in CORES}
    assert len({round(cost, 6) for cost in costs.values()}) > 1
    assert costs[found] == pytest.approx(min(costs.values()))


def test_all_of_a_slide_has_no_best_core(slide):
    assert sight(slide, load_model(Declares())).best_core((10, 10)) is None
