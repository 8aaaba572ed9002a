"""Plans: arithmetic that survives JSON, hashes what decides the bits, weighs shapes well, and refuses before the first byte."""

from dataclasses import replace
from importlib import import_module
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import engine
from engine.errors import EngineError
from engine.geometry.edges import MODEL_EDGE, Edge, EdgeKind
from engine.geometry.extent import extend
from engine.geometry.model_geometry import ModelGeometry
from engine.models.trace import trace
from engine.plan import Plan
from engine.plan_json import plan_from_json, plan_hash, plan_to_json
from engine.search import AxisFacts, Budget, cuts, search
from tests.oracle import Named, plan_for, run_in_memory, whole_run
from tests.pipelines import seeded
from tests.stored import smooth, store

WRAP = Edge(EdgeKind.WRAP)


class Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 5, padding=2)

    def forward(self, x):
        y = F.elu(self.conv(x))
        return {
            "quarter": F.avg_pool2d(y, 4),
            "label": y.argmax(dim=1).to(torch.uint8),
            "twice": F.interpolate(y, scale_factor=2.0),
        }


class Skip(nn.Module):
    """Takes lengths that its stride divides, and no others: what comes up must meet what went down."""

    def __init__(self, n_in: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, 2, 3, padding=1)
        self.pool, self.up = nn.MaxPool2d(stride), nn.ConvTranspose2d(2, 2, stride, stride=stride)

    def forward(self, x):
        y = self.conv(x)
        return y + self.up(self.pool(y))


def _geometry(network: nn.Module, *, n_channels: int = 2, n_space: int = 2) -> tuple[nn.Module, ModelGeometry]:
    module = Named(seeded(network).double())
    return module, trace(module, n_channels=n_channels, n_space=n_space, dtype=torch.float64)


def _plans() -> dict[str, Plan]:
    _, scales = _geometry(Scales())
    _, strided = _geometry(Skip(2, 2))
    _, solid = _geometry(nn.Conv3d(1, 1, 3, padding=1), n_channels=1, n_space=3)
    return {
        "several scales": plan_for(scales, np.zeros((2, 88, 72), "uint8"), tile=(32, 32), block=(16, 24)),
        "periodic": plan_for(strided, np.zeros((2, 64, 96)), edges={"y": WRAP, "x": Edge(EdgeKind.CONSTANT, value=-3.5)}),
        "pole": plan_for(strided, np.zeros((2, 64, 96)), edges={"y": Edge(EdgeKind.POLE, around="x", odd_channels=(1,)), "x": WRAP}),
        "odd size, extended": plan_for(strided, np.zeros((2, 65, 97), "float32"), tile=(20, 20), block=(16, 16)),
        "batch": plan_for(scales, np.zeros((5, 2, 64, 64), "float32"), names="tcyx", batch_size=2),
        "pyramid": plan_for(solid, np.broadcast_to(np.float32(0), (1, 300, 400, 500))),
    }  # fmt: skip


PLANS = _plans()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_survives_json(plan):
    value = plan_to_json(plan)
    back = plan_from_json(value)
    assert back == plan
    assert plan_to_json(back) == value
    assert plan_hash(value) == plan_hash(plan_to_json(back))
    last = tuple(n - 1 for n in plan.graph.counts)
    assert back.tiles(last) == plan.tiles(last)
    assert back.graph.n_tasks == plan.graph.n_tasks


def test_the_hash_holds_what_decides_the_bits_and_nothing_else():
    plan = PLANS["several scales"]
    own = plan_hash(plan_to_json(plan))
    same = [
        replace(plan, memory_limit=1),
        replace(plan, n_workers=7),
        replace(plan, n_in_flight=9),
        replace(plan, source=replace(plan.source, url="s3://elsewhere/in.zarr")),
        replace(plan, model=replace(plan.model, spec="/elsewhere/net.py:make")),
        replace(plan, cost=replace(plan.cost, bytes_per_voxel=99.0)),
    ]
    other = [
        replace(plan, batch_size=3),
        replace(plan, nan="keep"),
        replace(plan, tilings=(replace(plan.tilings[0], tile=40), plan.tilings[1])),
        replace(plan, tilings=(replace(plan.tilings[0], block=32), plan.tilings[1])),
        replace(plan, source=replace(plan.source, fingerprint="other")),
        replace(plan, model=replace(plan.model, fingerprint="other")),
        replace(plan, model=replace(plan.model, precision="bfloat16")),
        replace(plan, tilings=(replace(plan.tilings[0], edge=WRAP), plan.tilings[1])),
    ]
    assert {plan_hash(plan_to_json(one)) for one in same} == {own}
    hashes = {plan_hash(plan_to_json(one)) for one in other}
    assert own not in hashes
    assert len(hashes) == len(other)


def test_a_batch_axis_is_run_item_by_item():
    module, geometry = _geometry(Scales())
    items = smooth((5, 2, 48, 40), dtype="float64")
    plan = plan_for(geometry, items, names="tcyx", tile=(24, 24), block=(16, 16), batch_size=2)
    assert [(axis.name, axis.size) for axis in plan.batches] == [("t", 5)]
    assert plan.graph.n_blocks >= 2 * 9
    found = run_in_memory(plan, module, items, torch.float64)
    for i, item in enumerate(items):
        for name, wanted in whole_run(module, item, torch.float64).items():
            assert wanted.std() > 0
            np.testing.assert_allclose(found[name].levels[0][i], wanted, rtol=0, atol=1e-12)
    assert all((volume.n_written[0] == 1).all() for volume in found.values())


@pytest.mark.parametrize("name", ["several scales", "odd size, extended", "periodic"])
def test_every_voxel_of_every_output_is_decided_by_one_core_of_one_block(name):
    plan = PLANS[name]
    for output in plan.outputs:
        times = np.zeros(output.shape, int)
        for task in range(plan.graph.n_blocks):
            index = plan.graph.index(task)
            region = plan.block_region(output, index)
            spans = [[tile.cores[output.name] for tile in tiles] for tiles in plan.tiles(index)]
            for cores in product(*spans):
                lead = [slice(None)] * (len(output.shape) - len(cores))
                times[(*lead, *(slice(a, b) for a, b in cores))] += 1
            assert all(
                a % n == 0 or a == size
                for a, n, size in zip(region.start, output.shard_shape, output.shape, strict=True)
            )
            assert all(
                b % n == 0 or b == size
                for b, n, size in zip(region.stop, output.shard_shape, output.shape, strict=True)
            )
        assert (times == 1).all()
    assert plan.n_tiles == sum(prod(map(len, plan.tiles(plan.graph.index(t)))) for t in range(plan.graph.n_blocks))


def test_outputs_of_several_scales_share_blocks_and_have_their_own_shapes():
    plan = PLANS["several scales"]
    found = {
        output.name: (output.shape, output.dtype, output.shard_shape, output.has_channels) for output in plan.outputs
    }
    assert found == {
        "quarter": ((3, 22, 18), "float64", (3, 4, 6), True),
        "label": ((88, 72), "uint8", (16, 24), False),
        "twice": ((3, 176, 144), "float64", (3, 32, 48), True),
    }


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_projection_is_the_sum_of_what_a_worker_holds(plan):
    items = prod(axis.block for axis in plan.batches)
    reads = [plan.read_region(plan.graph.index(task)).n_voxels for task in range(plan.graph.n_blocks)]
    source = np.dtype(plan.source.dtype).itemsize * plan.geometry.n_channels
    out = sum(prod(output.shard_shape) * np.dtype(output.dtype).itemsize for output in plan.outputs)
    projection = plan.projection
    assert projection.block_in == max(reads) * items * source
    assert projection.block_out == out
    assert projection.tile == prod(plan.tile_shape) * plan.batch_size  # at the test's one byte per voxel
    held = projection.n_in_flight * (projection.block_in + projection.block_out)
    assert projection.n_bytes == projection.base + projection.tile + held + projection.storing
    assert projection.n_bytes * plan.n_workers <= plan.memory_limit


def _budget(speed: float, memory: int) -> Budget:
    return Budget(
        tile_bytes=memory,
        block_bytes=memory,
        bytes_per_tile_voxel=100.0,
        bytes_per_read_voxel=4,
        bytes_per_core_voxel=8.0,
        speeds=((1, speed),),
        batch_size=1,
        n_workers=1,
        n_items=1,
    )


def _axis(network: nn.Module, size: int) -> AxisFacts:
    program = trace(Named(seeded(network)), n_channels=1, n_space=1, dtype=torch.float32).programs[0]
    return AxisFacts("x", program, MODEL_EDGE, extend(program, MODEL_EDGE, size=size, name="x"), 8)


def _cost(chosen, budget: Budget) -> float:
    """Return what the search thinks that one combination costs: the search of a list of one."""
    seconds = import_module("engine.search")._seconds
    fields = ("tile", "block", "n_tiles", "n_blocks", "n_read", "block_read", "tiles_per_block")
    outer = {name: np.array([float(prod(getattr(cut, name) for cut in chosen))]) for name in fields}
    return float(seconds(outer, budget)[0])


@pytest.mark.parametrize("memory", [2**13, 2**15, 2**18])
@pytest.mark.parametrize("speed", [1e-8, 1e-5])
def test_the_search_returns_the_cheapest_combination_that_fits(memory, speed):
    wide = _axis(nn.Conv1d(1, 1, 9, padding=4), 88)
    deep = _axis(
        nn.Sequential(nn.Conv1d(1, 1, 5, padding=2), nn.MaxPool1d(2), nn.ConvTranspose1d(1, 1, 2, stride=2)), 64
    )
    budget = _budget(speed, memory)
    options = [cuts(wide, tile=None, block=None), cuts(deep, tile=None, block=None)]
    fitting = [
        pair
        for pair in product(*options)
        if prod(cut.tile for cut in pair) * 100 <= memory
        and prod(cut.block_read for cut in pair) * 4 + prod(cut.block for cut in pair) * 8 <= memory
    ]
    if not fitting:
        with pytest.raises(EngineError, match="Raise --memory"):
            search(options, budget)
        return
    assert _cost(search(options, budget), budget) == min(_cost(pair, budget) for pair in fitting)


@pytest.mark.parametrize("memory", [2**13, 2**15])
def test_the_short_list_of_the_search_is_near_the_best_of_all_shapes(memory):
    axis = _axis(nn.Conv1d(1, 1, 17, padding=8), 300)
    budget = _budget(1e-5, memory)
    everything = []
    for block in range(8, 304, 8):
        for tile in range(20, min(300, memory // 100) + 1, 3):
            try:
                everything += cuts(axis, tile=tile, block=block)
            except EngineError:
                continue
    best = _cost(search([everything], budget), budget)
    chosen = search([cuts(axis, tile=None, block=None)], budget)
    assert len(everything) > 500
    assert _cost(chosen, budget) <= 1.25 * best


def test_what_a_cut_costs_is_what_its_tiles_add_up_to():
    axis = _axis(nn.Conv1d(1, 1, 9, padding=4), 200)
    for tile, block in ((24, 16), (40, 64), (57, 200)):
        (cut,) = cuts(axis, tile=tile, block=block)
        tiling = axis.tiling(tile=tile, block=block)
        reads = [tiling.read(i) for i in range(tiling.n_blocks)]
        assert cut.n_tiles == sum(len(tiling.tiles(i)) for i in range(tiling.n_blocks))
        assert cut.n_read == sum(b - a for a, b in reads)


REFUSED = [
    # what is asked, what the message must say
    ({"tile": (6, 6)}, "too short|Use"),
    ({"tile": (40, 40, 40)}, "one positive length per space axis"),
    ({"block": (33, 32)}, "multiple of 4"),
    ({"edges": {"z": WRAP}}, "edges are given for z"),
    ({"edges": {"y": WRAP}}, "multiple of the model's step 4"),
    ({"edges": {"y": Edge(EdgeKind.POLE, around="q")}}, "pole"),
    ({"memory": 1000}, "Raise --memory"),
    ({"extend": False}, "cannot take 90 voxels along 'y'.*--no-extend"),
    ({"nan": "maybe"}, "refuse"),
    ({"precision": "float8"}, "--precision"),
    ({"workers": 0}, "--workers must be at least 1"),
    ({"threads": 1}, "--threads must be at least 2"),
    ({"axes": "czyx"}, "axes"),
    ({"weights": "missing.safetensors"}, "missing"),
    pytest.param(
        {"device": "cuda"}, "sees no GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
    ),
]


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_every_refusal_comes_before_the_first_byte(tmp_path, monkeypatch, asked, message):
    def created(*_: object, **__: object) -> None:
        raise AssertionError("something was written")

    monkeypatch.setattr(import_module("engine.describe"), "create_output", created)
    source = store(tmp_path / "in.zarr", smooth((1, 90, 72)), "cyx")
    with pytest.raises(EngineError, match=message):
        engine.run(source, seeded(Skip(1, 4)), str(tmp_path / "out.zarr"), options=engine.Options(**asked))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.zarr"]
