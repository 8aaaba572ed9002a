"""The plan: every item in one block, blocks of whole batches, batches that fit."""

import numpy as np
import pytest

from engine.errors import PlanError
from engine.items.manifest import Item
from engine.items.plan import Bucket, ItemPlan, batch_size_within, bucketed
from engine.items.reading import VOLUMES
from engine.items.weigh import Budget, shapes_of, weighed
from engine.models.forward import pick_device
from engine.models.item_pass import ItemPass
from engine.models.load import load_model
from tests.items.network import scores


@pytest.mark.parametrize(("per_block", "batch", "wanted"), [(64, 8, 64), (7, 2, 6), (3, 4, 4), (1, 1, 1)])
def test_a_block_is_whole_batches(tmp_path, monkeypatch, per_block, batch, wanted):
    monkeypatch.setattr("engine.items.weigh.ITEMS_PER_BLOCK", per_block)
    items = []
    for i, shape in enumerate([(6, 7, 8), (5, 7, 8)] * 4):
        np.save(tmp_path / f"{i}.npy", np.full(shape, i, np.float32))
        items.append(Item(str(i), {"path": str(tmp_path / f"{i}.npy")}))
    passes = ItemPass.of(load_model(scores()), pick_device("cpu"), "float32")
    plan, trial = weighed(items, VOLUMES, passes, Budget(None, 1, batch))
    assert [bucket.block_size for bucket in plan.buckets] == [wanted, wanted]
    assert trial.bytes_per_value > 0
    numbers = [n for task in range(plan.graph.n_tasks) for n in plan.block(task).numbers]
    assert sorted(numbers) == list(range(8))
    assert [shapes_of(items, VOLUMES)[n] for n in plan.buckets[1].numbers] == [(1, 5, 7, 8)] * 4


def test_every_item_of_many_buckets_is_in_one_block():
    random = np.random.default_rng(0)
    shapes = [(1, int(n)) for n in random.integers(1, 9, 500)]
    plan = ItemPlan(tuple(Bucket(shape, rows, 4, 12) for shape, rows in bucketed(shapes)))
    blocks = [plan.block(task) for task in range(plan.graph.n_tasks)]
    assert sorted(np.concatenate([block.numbers for block in blocks])) == list(range(500))
    assert max(len(block.numbers) for block in blocks) == 12
    for block in blocks:
        assert {shapes[n] for n in block.numbers} == {plan.buckets[block.bucket].shape}
        np.testing.assert_array_equal(
            plan.buckets[block.bucket].numbers[block.start :][: len(block.numbers)], block.numbers
        )


def test_a_batch_is_as_long_as_fits_and_no_longer():
    for n_bytes in range(100, 2000, 37):
        size = batch_size_within(n_bytes, per_item=100, most=8)
        assert size * 100 <= n_bytes
        assert size == 8 or 2 * size * 100 > n_bytes
    with pytest.raises(PlanError, match="one item needs 100 bytes"):
        batch_size_within(99, per_item=100, most=8)
