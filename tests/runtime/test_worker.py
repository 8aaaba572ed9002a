"""One worker, block by block: edges against numpy's own padding, memory that runs out, voxels that are no numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.geometry.edges import Edge, EdgeKind
from engine.models.forward import Forward
from engine.models.trace import trace
from engine.plan import Plan
from engine.runtime.worker import BlockWorker
from tests.oracle import ArrayVolume, Named, plan_for, run_in_memory, whole_run


def _network(n_channels: int = 1, *, width: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return (
        Named(
            nn.Sequential(
                nn.Conv2d(n_channels, width, 3, padding=1),
                nn.ELU(),
                nn.MaxPool2d(2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.Upsample(scale_factor=2, mode="bilinear"),
                nn.Conv2d(width, 2, 5, padding=2),
            )
        )
        .double()
        .eval()
    )


def _geometry(network: nn.Module, n_channels: int = 1):
    return trace(network, n_channels=n_channels, n_space=2, dtype=torch.float64)


def _cropped_whole(network: nn.Module, plan: Plan, extended: np.ndarray) -> np.ndarray:
    """Return the whole run over an extended array, cropped to the kept voxels."""
    whole = whole_run(network, extended, torch.float64)["output"]
    for axis, tiling in enumerate(plan.tilings, start=1):
        first = dict(tiling.extent.crops)["output"]
        whole = np.take(whole, range(first, first + tiling.kept["output"]), axis=axis)
    return whole


@pytest.mark.parametrize(
    ("edge", "pad"),
    [
        (Edge(EdgeKind.WRAP), {"mode": "wrap"}),
        (Edge(EdgeKind.REFLECT), {"mode": "reflect"}),
        (Edge(EdgeKind.CONSTANT, value=2.5), {"mode": "constant", "constant_values": 2.5}),
    ],
)
def test_a_run_under_an_edge_equals_the_model_over_the_padded_whole(edge: Edge, pad: dict) -> None:
    network = _network()
    array = np.random.default_rng(5).standard_normal((1, 44, 60))
    plan = plan_for(_geometry(network), array, tile=(28, 32), block=(16, 24), edges={"y": edge, "x": edge})
    before_after = [(t.extent.before, t.extent.far_extension) for t in plan.tilings]
    assert min(min(pair) for pair in before_after) > 0
    expected = _cropped_whole(network, plan, np.pad(array, [(0, 0), *before_after], **pad))
    found = run_in_memory(plan, network, array, torch.float64)["output"].levels[0]
    assert expected.std() > 0
    assert expected.shape == (2, 44, 60)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_run_across_the_pole_equals_the_model_over_rows_rolled_half_way_round() -> None:
    network = _network(2)
    array = np.random.default_rng(6).standard_normal((2, 24, 32))
    pole = Edge(EdgeKind.POLE, around="lon", odd_channels=(1,))
    edges = {"lat": pole, "lon": Edge(EdgeKind.WRAP)}
    plan = plan_for(
        _geometry(network, 2), array, tile=(28, 28), block=(8, 16), edges=edges, names=("channel", "lat", "lon")
    )
    (top, bottom), (left, right) = [(t.extent.before, t.extent.far_extension) for t in plan.tilings]
    across = np.roll(array, 16, axis=2) * np.array([1, -1])[:, None, None]
    rows = np.concatenate([across[:, :top][:, ::-1], array, across[:, ::-1][:, :bottom]], axis=1)
    expected = _cropped_whole(network, plan, np.pad(rows, [(0, 0), (0, 0), (left, right)], mode="wrap"))
    found = run_in_memory(plan, network, array, torch.float64)["output"].levels[0]
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


class Greedy(nn.Module):
    """Runs out of memory on tiles of more voxels than it likes."""

    def __init__(self, module: nn.Module, most: int) -> None:
        super().__init__()
        self.module, self.most = module, most

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if x[0, 0].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.module(x)


def _worker(plan: Plan, module: nn.Module, array: np.ndarray) -> BlockWorker:
    shapes = {output.name: (output.shape, output.dtype) for output in plan.outputs}
    outputs = {name: ArrayVolume([np.zeros(shape, dtype)]) for name, (shape, dtype) in shapes.items()}
    forward = Forward(module, torch.float64, torch.device("cpu"), "float32", plan.batch_size)
    return BlockWorker(plan, forward, ArrayVolume([array]), outputs)  # type: ignore[arg-type]


def test_a_tile_that_does_not_fit_shrinks_and_the_result_is_the_same() -> None:
    network = _network()
    array = np.random.default_rng(7).standard_normal((1, 96, 96))
    plan = plan_for(_geometry(network), array, tile=(96, 96), block=(48, 48), with_pyramid=False)
    worker = _worker(plan, Greedy(network, 50 * 50), array)
    receipts = [worker.run(task, 1) for task in range(plan.graph.n_tasks)]
    expected = whole_run(network, array, torch.float64)["output"]
    assert expected.std() > 0
    assert [receipt.error for receipt in receipts] == [None] * 4
    shrunk = receipts[-1].tile_shrunk_to
    assert shrunk is not None
    assert shrunk[0] * shrunk[1] <= 50 * 50
    np.testing.assert_allclose(worker.outputs["output"].levels[0], expected, rtol=0, atol=1e-12)  # type: ignore[attr-defined]


def test_a_tile_that_can_shrink_no_further_is_a_failure_of_its_block() -> None:
    network = _network()
    array = np.random.default_rng(7).standard_normal((1, 96, 96))
    plan = plan_for(_geometry(network), array, tile=(96, 96), block=(48, 48), with_pyramid=False)
    receipt = _worker(plan, Greedy(network, 4), array).run(0, 1)
    assert receipt.error is not None
    assert receipt.error.kind == "out_of_memory"
    assert "out of memory" in receipt.error.message


def test_a_voxel_that_is_no_number_fails_the_blocks_that_read_it_and_no_others() -> None:
    network = _network()
    array = np.random.default_rng(8).standard_normal((1, 96, 96))
    array[0, 5, 7] = np.nan
    plan = plan_for(_geometry(network), array, tile=(64, 64), block=(48, 48), with_pyramid=False)
    receipts = [_worker(plan, network, array).run(task, 1) for task in range(4)]
    assert [receipt.error is None for receipt in receipts] == [False, True, True, True]
    assert "y 5, x 7" in receipts[0].error.message  # type: ignore[union-attr]
