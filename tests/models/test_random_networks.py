"""Two hundred random networks in float64: tiles equal the whole run, and a shorter halo does not."""

import random
from functools import cache

import numpy as np
import pytest
import torch

from engine.geometry.edges import MODEL_EDGE
from engine.geometry.extent import extend
from engine.geometry.model_geometry import ModelGeometry
from engine.geometry.receptive_field import AxisProgram
from engine.geometry.tiling import legal_tile, shortest_tile
from engine.models.trace import trace
from tests.networks import random_network
from tests.oracle import Named, plan_for, run_in_memory, whole_run

N_NETWORKS = 120


@cache
def _traced(seed: int) -> tuple[torch.nn.Module, ModelGeometry]:
    network, n_space = random_network(seed)
    module = Named(network)
    return module, trace(module, n_channels=1, n_space=n_space, dtype=torch.float64)


def _cut(chance: random.Random, program: AxisProgram) -> tuple[int, int]:
    """Return a legal length that makes several tiles, and a tile near the shortest."""
    reach = sum(program.halo("output"))
    length = program.legal_size(max(3 * program.step, 8) + reach + chance.randrange(7)) or 0
    extent = extend(program, MODEL_EDGE, size=length, name="x")
    tile = legal_tile(program, extent, shortest_tile(program, extent) + program.step * chance.randrange(2))
    return length, tile


def _whole(program: AxisProgram) -> tuple[int, int]:
    length = program.legal_size(1) or 0
    return length, length


def _cuts(chance: random.Random, geometry: ModelGeometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return lengths and tiles: in three dimensions one axis is tiled and the others are as short as can be."""
    tiled = range(geometry.n_space) if geometry.n_space < 3 else [chance.randrange(3)]
    cuts = [_cut(chance, p) if axis in tiled else _whole(p) for axis, p in enumerate(geometry.programs)]
    lengths, tiles = zip(*cuts, strict=True)
    return lengths, tiles


@pytest.mark.parametrize("seed", range(N_NETWORKS))
def test_a_random_network_tiled_equals_its_whole_run(seed: int) -> None:
    module, geometry = _traced(seed)
    lengths, tiles = _cuts(random.Random(seed + 10_000), geometry)
    array = np.random.default_rng(seed).standard_normal((1, *lengths))
    block = tuple(-(-n // (2 * p.step)) * p.step for n, p in zip(lengths, geometry.programs, strict=True))
    plan = plan_for(geometry, array, tile=tiles, block=block, with_pyramid=False)
    assert plan.n_tiles > 1
    found = run_in_memory(plan, module, array, torch.float64)["output"]
    whole = whole_run(module, array, torch.float64)["output"]
    assert whole.std() > 0
    assert found.levels[0].shape == whole.shape
    assert (found.n_written[0] == 1).all()
    np.testing.assert_allclose(found.levels[0], whole, rtol=0, atol=1e-12 * max(1.0, float(np.abs(whole).max())))


def _differs_beyond_the_halo(seed: int) -> bool | None:
    """Say whether a tile fails within one jump outside its valid interval: it differs there, or gives nothing there.

    None where the model has no halo.
    """
    module, geometry = _traced(seed)
    axis = max(range(geometry.n_space), key=lambda a: sum(geometry.programs[a].halo("output")))
    program = geometry.programs[axis]
    if sum(program.halo("output")) == 0:
        return None
    lengths = [program_.legal_size(1) or 0 for program_ in geometry.programs]
    tile = program.legal_size(sum(program.halo("output")) + 4 * program.step) or 0
    lengths[axis] = program.legal_size(tile + 4 * program.step) or 0
    start = (lengths[axis] - tile) // program.step // 2 * program.step
    span = program.valid(size=lengths[axis], start=start, stop=start + tile)["output"]
    array = np.random.default_rng(seed).standard_normal((1, *lengths))
    whole = whole_run(module, array, torch.float64)["output"]
    inside = np.take(array, range(start, start + tile), axis=axis + 1)
    alone = whole_run(module, inside, torch.float64)["output"]
    jump = max(1, int(program.step * program.scale("output")))
    before, after = program.halo("output")
    if (before > 0 and span.start - jump < span.offset) or (after > 0 and span.stop + jump > span.offset + span.length):
        return True
    low, high = max(span.offset, span.start - jump), min(span.offset + span.length, span.stop + jump)
    there = np.take(whole, range(low, high), axis=axis + 1)
    here = np.take(alone, range(low - span.offset, high - span.offset), axis=axis + 1)
    return bool(np.abs(there - here).max() > 1e-12 * np.abs(whole).max())


def test_a_halo_shorter_by_one_jump_changes_the_result_of_nearly_every_network() -> None:
    verdicts = [verdict for seed in range(N_NETWORKS) if (verdict := _differs_beyond_the_halo(seed)) is not None]
    assert len(verdicts) > 0.9 * N_NETWORKS
    assert sum(verdicts) >= 0.95 * len(verdicts)
