"""Runs over a canvas: the windowed contract, and a network on a grid of its own, beside the whole volume in memory."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from engine.errors import EngineError, PlanError
from engine.geometry.axes import Axis, Role
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.models.resampled import Resampled
from engine.models.windowed import Windowed
from engine.models.wrappers import ArgMax, Compose
from engine.plan_json import plan_from_json, plan_to_json
from engine.prepare import Options, prepare
from engine.reopen import resume, verify
from engine.run import check_complete, run
from engine.runtime.actors import RayRunner
from engine.storage.create import create_volume
from tests import canvas_models
from tests.stored import checksums, smooth, stored
from tests.test_same_bits import interrupted_after

SHAPE, SPACING = (37, 45, 52), (1.0, 1.0, 0.9)
BLOCKS = [(64, 64, 64), (16, 20, 64), (9, 64, 24)]


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> str:
    url = str(tmp_path_factory.mktemp("canvas") / "scan.zarr")
    axes = tuple(Axis(name, Role.SPACE, spacing=step, unit="millimeter") for name, step in zip("zyx", SPACING, strict=True))
    made = create_volume(url, axes=axes, dtype="float32", shape=SHAPE, chunk_shape=(16,) * 3, shard_shape=(16,) * 3)
    made.write(Region.whole(SHAPE), array())
    return url


def array() -> np.ndarray:
    return smooth(SHAPE, seed=3)


def at_once(module: nn.Module) -> dict[str, np.ndarray]:
    """The module over the whole volume in memory."""
    for part in module.modules():
        if isinstance(part, Resampled):
            part.source_spacing = SPACING
            if not any(isinstance(inner, Windowed) for inner in part.modules()):
                part.inner = Extended(part.inner)
    with torch.inference_mode():
        return {name: y[0].numpy() for name, y in module(torch.from_numpy(array())[None, None]).items()}


class Extended(nn.Module):
    """The rule of a plan: a grid that the network gives a voxel less of is extended by reflection, and cropped."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, y, w = x.shape[2:]
        return self.network(nn.functional.pad(x, (0, w % 2, 0, y % 2, 0, z % 2), mode="reflect"))[..., :z, :y, :w]


MODELS = {
    "windowed": canvas_models.windowed,
    "windowed by nnU-Net's rule": lambda: canvas_models.windowed(rule="nnunet", weights="constant"),
    "windowed, one length and overlap for all axes": lambda: canvas_models.windowed(window=14, overlap=0.3),
    "a window longer than the volume": lambda: canvas_models.windowed(window=(40, 20, 60)),
    "resampled": canvas_models.resampled,
    "resampled by cubic and nearest": lambda: canvas_models.resampled(order="cubic", back="nearest"),
    "resampled to a coarser grid": lambda: canvas_models.resampled(spacing=(2.5, 3.0, None)),
    "resampled and windowed": canvas_models.both,
}


MAIN = ("windowed", "resampled", "resampled and windowed")
CASES = [(name, block) for name in MODELS for block in (BLOCKS if name in MAIN else BLOCKS[1:2])]


@pytest.mark.parametrize(("name", "block"), CASES)
def test_a_run_equals_the_module_over_the_whole_volume(volume, tmp_path, name, block):
    module = MODELS[name]()
    wanted = at_once(MODELS[name]())
    assert len(np.unique(wanted["label"])) > 2
    tile = None if "window" in name else (24, 24, 24)
    report = run(volume, module, str(tmp_path / "out"), options=Options(block=block, tile=tile, memory=2**31))
    check_complete(report)
    found = stored(tmp_path / "out", "probability")
    assert np.abs(found - wanted["probability"]).max() <= 1e-6
    assert (stored(tmp_path / "out", "label") != wanted["label"]).sum() == 0
    assert report.plan.graph.n_blocks > 1 or block == BLOCKS[0]


@pytest.mark.parametrize("name", ["windowed", *(pytest.param(name, marks=pytest.mark.slow) for name in MAIN[1:])])
def test_the_bits_do_not_depend_on_blocks_or_workers(volume, tmp_path, name, local_ray):
    tile = None if "window" in name else (24, 24, 24)
    found = []
    for n, block in enumerate(BLOCKS):
        out = tmp_path / f"out{n}"
        options = Options(block=block, tile=tile, memory=2**31, batch=2, pyramid=False)
        check_complete(run(volume, MODELS[name](), str(out), options=options, n_certified=0))
        found.append((stored(out, "probability"), stored(out, "label")))
    for probability, label in found[1:]:
        assert np.array_equal(probability, found[0][0])
        assert np.array_equal(label, found[0][1])
    for n_workers in (1, 2):
        out = tmp_path / f"actors{n_workers}"

        def actors(factory, plan, n_workers=n_workers):
            return RayRunner(factory, n_workers=n_workers, n_cpus_per_worker=1, n_in_flight=2)

        options = Options(block=BLOCKS[1], tile=tile, memory=2**31, batch=2, pyramid=False, threads=2)
        check_complete(run(volume, MODELS[name](), str(out), options=options, runner=actors, n_certified=0))
        assert np.array_equal(stored(out, "probability"), found[0][0])


def test_a_windowed_run_equals_monai(volume, tmp_path):
    module = canvas_models.windowed()
    network = module.get_submodule("1.network")
    x = (torch.from_numpy(array())[None, None] - 0.1) / 0.9
    with torch.no_grad():
        theirs = sliding_window_inference(x, (12, 14, 16), 3, network, overlap=0.5, mode="gaussian").softmax(1)[0].numpy()
    assert theirs.std() > 0.05
    run(volume, module, str(tmp_path / "out"), options=Options(block=(16, 20, 64), memory=2**31))
    assert np.abs(stored(tmp_path / "out", "probability") - theirs).max() <= 1e-6


def test_the_output_says_which_contract_it_kept(volume, tmp_path):
    for name, contract in (("windowed", "windowed"), ("resampled", "exact")):
        report = run(volume, MODELS[name](), str(tmp_path / name), options=Options(memory=2**31))
        assert report.plan.geometry.contract == contract
        assert report.certificate.holds
        assert report.certificate.outputs["probability"].std > 0


@pytest.mark.parametrize("name", MAIN)
def test_a_plan_over_a_canvas_comes_back_from_json(volume, name):
    plan = prepare(volume, MODELS[name](), Options(block=BLOCKS[1], memory=2**31)).plan
    again = plan_from_json(plan_to_json(plan))
    assert again == plan
    index = tuple(n - 1 for n in plan.graph.counts)
    assert again.tiles(index) == plan.tiles(index)
    assert again.read_region(index) == plan.read_region(index)


def test_a_windowed_run_that_was_broken_off_resumes_to_the_same_bits(volume, tmp_path):
    spec = f"{canvas_models.__file__}:windowed"
    options = Options(block=BLOCKS[1], memory=2**31)
    check_complete(run(volume, spec, str(tmp_path / "whole.zarr"), options=options))
    with pytest.raises(KeyboardInterrupt):
        run(volume, spec, str(tmp_path / "broken.zarr"), options=options, listener=interrupted_after(3))
    check_complete(resume(str(tmp_path / "broken.zarr")))
    assert checksums(tmp_path / "broken.zarr") == checksums(tmp_path / "whole.zarr")
    certificate = verify(str(tmp_path / "broken.zarr"), n_tiles=2)
    assert certificate.holds


def test_an_edge_that_a_canvas_cannot_keep_is_refused(volume):
    options = Options(memory=2**31, edges={"z": Edge(EdgeKind.WRAP)})
    with pytest.raises(PlanError, match="edge of 'z' must be the model's own"):
        prepare(volume, MODELS["windowed"](), options)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (lambda: Compose(nn.Conv3d(1, 1, 3, padding=1), Windowed(nn.Identity(), window=8), nn.Identity()), "single voxels"),
        (lambda: Compose(Windowed(nn.Identity(), window=8), nn.Conv3d(1, 1, 3, padding=1)), "single voxels"),
        (lambda: Compose(Windowed(Windowed(nn.Identity(), window=8), window=8)), "one Windowed"),
        (lambda: Compose(Windowed(nn.MaxPool3d(2), window=8)), "as large as the window"),
        (lambda: Compose(Windowed(nn.Conv3d(2, 1, 1), window=8)), "cannot be shown a window"),
        (lambda: Windowed(nn.Identity(), window=(8, 8)), "per space axis"),
        (lambda: Resampled(nn.AvgPool3d(2), spacing=2.0), "on its own grid"),
        (lambda: Resampled(nn.Identity(), spacing=(2.0, 1.0)), "one for each"),
        (lambda: Resampled(Compose(nn.Conv3d(1, 2, 1), ArgMax()), spacing=2.0), "tensor with channels"),
        (lambda: Resampled(nn.InstanceNorm3d(1), spacing=2.0), "windowed contract"),
    ],
)
def test_what_is_no_canvas_is_refused_by_name(volume, module, told):
    with pytest.raises(EngineError, match=told):
        prepare(volume, module().eval(), Options(memory=2**31))
