"""Tasks that are parts of one chunk stay with one worker, and nothing is lost by it."""

import random

import pytest

import engine
from engine.prepare import prepare
from engine.runtime.ready import Ready, chunk_of
from tests.stored import smooth, store
from tests.test_place import globe, network


def worked(ready: Ready, *, n_workers: int, seed: int) -> list[tuple[int, int]]:
    """Let workers of random speed take all there is, and return (worker, task) in order."""
    chance, last, found = random.Random(seed), dict.fromkeys(range(n_workers)), []
    while ready:
        worker = chance.choices(range(n_workers), weights=[2**i for i in range(n_workers)])[0]
        last[worker] = ready.take(last[worker])
        found.append((worker, last[worker]))
    return found


@pytest.mark.parametrize("n_workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_chunk_is_begun_by_one_worker_and_others_help_only_when_none_is_left(n_workers, seed):
    n_chunks, n_parts = 40, 6
    ready = Ready(lambda task: task // n_parts)
    for task in range(n_chunks * n_parts):
        ready.add(task, task)
    assert len(ready) == n_chunks * n_parts
    found = worked(ready, n_workers=n_workers, seed=seed)
    without = worked(without_chunks(n_chunks * n_parts), n_workers=n_workers, seed=seed)
    n_begun, n_begun_without = (len({(w, task // n_parts) for w, task in one}) for one in (found, without))
    assert sorted(task for _, task in found) == list(range(n_chunks * n_parts))
    assert [task for _, task in without] == list(range(n_chunks * n_parts))
    assert n_begun <= n_chunks + n_workers * (n_workers - 1)
    assert n_workers == 1 or n_begun_without > 1.3 * n_begun


def without_chunks(n_tasks: int) -> Ready:
    ready = Ready(lambda _: None)
    for task in range(n_tasks):
        ready.add(task, task)
    return ready


def test_a_task_of_no_chunk_comes_in_its_turn_and_a_chunk_may_come_again():
    ready = Ready(lambda task: None if task >= 100 else task // 3)
    for rank, task in enumerate([0, 1, 100, 2, 3, 101, 4]):
        ready.add(rank, task)
    assert [ready.take(None), ready.take(0), ready.take(1), ready.take(None)] == [0, 1, 100, 3]
    ready.add(9, 5)
    assert [ready.take(3), ready.take(1), ready.take(2)] == [101, 2, 4]
    assert ready.take(None) == 5
    assert not ready
    ready.add(10, 0)
    assert ready.take(5) == 0


def test_the_chunk_of_a_block_is_where_it_begins(tmp_path):
    source = globe(tmp_path / "in.zarr", smooth((3, 2, 24, 32)))
    plan = prepare(source, network(2), engine.Options(tile=(12, 16), block=(8, 8), threads=2)).plan
    find = chunk_of(plan, (2, 2, 24, 16))
    numbers = {}
    for task in range(plan.graph.n_blocks):
        (time,), (row, column) = plan.items(plan.graph.index(task)).start, plan.graph.index(task)[1:]
        numbers.setdefault(find(task), set()).add((time // 2, row * 8 // 24, column * 8 // 16))
    assert len(numbers) == 2 * 1 * 2
    assert all(len(places) == 1 for places in numbers.values())


def test_blocks_of_whole_chunks_are_of_none(tmp_path):
    plan = prepare(
        store(tmp_path / "in.zarr", smooth((64, 64)), "yx"), network(1),
        engine.Options(tile=(32, 32), block=(32, 32), threads=2),
    ).plan  # fmt: skip
    assert {chunk_of(plan, (32, 32))(task) for task in range(plan.graph.n_tasks)} == {None}
    assert {chunk_of(plan, (64, 64))(task) for task in range(plan.graph.n_blocks)} == {0}
