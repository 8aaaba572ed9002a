"""Waves hold every task once, after what it needs, in a depth-first order, and are bounded."""

import resource
import time
from itertools import islice

import dask
import numpy as np
import pytest

from engine.geometry.block_graph import BlockGraph
from engine.runtime.graph import waves


def none_done(tasks):
    return np.zeros(len(tasks), bool)


@pytest.mark.parametrize("limit", [1, 7, 50, 10_000])
@pytest.mark.parametrize("graph", [BlockGraph((9,)), BlockGraph((6, 9), ((2, 2), (2, 1), (1, 2), (2, 2)))])
def test_waves_hold_every_task_once_and_after_what_it_needs(graph, limit):
    seen = []
    for wave in waves(graph, none_done, limit=limit):
        n_blocks = sum(task < graph.n_blocks for task in wave.tasks)
        assert len(wave.tasks) <= limit or n_blocks == 1
        for task in wave.tasks:
            assert set(graph.dependencies(task)) <= set(seen)
            seen.append(task)
    assert sorted(seen) == list(range(graph.n_tasks))


def test_a_coarser_block_comes_right_after_the_blocks_it_needs():
    (wave,) = waves(BlockGraph((8, 8), ((2, 2), (2, 2), (2, 2))), none_done)
    assert wave.tasks[:10] == (0, 1, 8, 9, 64, 2, 3, 10, 11, 65)
    graph = BlockGraph((8, 8), ((2, 2), (2, 2), (2, 2)))
    place = {task: i for i, task in enumerate(wave.tasks)}
    spans = [place[t] - min(place[f] for f in graph.dependencies(t)) for t in wave.tasks if graph.level_of(t) == 1]
    assert max(spans) == 4


def test_independent_blocks_come_in_storage_order():
    (wave,) = waves(BlockGraph((50, 3)), none_done)
    assert wave.tasks == tuple(range(150))


def test_what_is_done_and_what_is_not_chosen_is_culled():
    graph = BlockGraph((6, 6), ((2, 2),))
    tasks = [
        task for wave in waves(graph, lambda t: t % 5 == 0, chosen=lambda t: t < 30, limit=10) for task in wave.tasks
    ]
    assert sorted(tasks) == [t for t in range(graph.n_tasks) if t % 5 and not 30 <= t < 36]


def test_a_wave_is_a_graph_that_dask_itself_can_run():
    graph = BlockGraph((4, 4), ((2, 2), (2, 2)))
    (wave,) = waves(graph, none_done)
    assert sorted(dask.get(wave.nodes, list(wave.nodes))) == list(range(graph.n_tasks))
    assert sum(len(node.dependencies) for node in wave.nodes.values()) == 16 + 4


def test_the_first_waves_of_a_thousand_million_blocks_take_bounded_time_and_memory():
    graph = BlockGraph((1000, 1000, 1000), ((2, 2, 2),) * 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    first = list(islice(waves(graph, none_done, limit=20_000), 3))
    assert time.perf_counter() - began < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200 * 2**20
    assert [wave.tasks[0] for wave in first] == [0, 20_000, 40_000]


def test_a_long_stretch_that_is_done_is_passed_quickly():
    graph = BlockGraph((1000, 1000, 10), ((2, 2, 2),) * 3)
    began = time.perf_counter()
    (wave,) = waves(graph, lambda tasks: tasks != 9_999_999)
    assert wave.tasks == (9_999_999,)
    assert time.perf_counter() - began < 20
