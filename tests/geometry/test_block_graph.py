"""A graph of blocks by arithmetic says the same as one that is written out block by block."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RegionError
from engine.geometry.block_graph import BlockGraph


@st.composite
def graphs(draw):
    n_axes = draw(st.integers(1, 3))
    counts = tuple(draw(st.integers(1, 7)) for _ in range(n_axes))
    factors = draw(st.lists(st.tuples(*[st.sampled_from([1, 2])] * n_axes), max_size=3))
    return BlockGraph(counts, tuple(factors))


def written_out(graph):
    """Every task with its level, index and dependencies, by enumeration of the cells that a block covers."""
    tasks, counts = [], graph.counts
    previous = {}
    for level in range(graph.n_levels):
        if level:
            factor = graph.factors[level - 1]
            groups = {}
            for index, task in previous.items():
                groups.setdefault(tuple(i // f for i, f in zip(index, factor, strict=True)), []).append(task)
            here = {index: len(tasks) + i for i, index in enumerate(sorted(groups))}
            tasks += [(level, index, tuple(sorted(groups[index]))) for index in here]
        else:
            here = {index: i for i, index in enumerate(itertools.product(*map(range, counts)))}
            tasks += [(0, index, ()) for index in here]
        previous = here
    return tasks


@given(graph=graphs())
def test_levels_indices_and_dependencies_are_those_of_the_written_out_graph(graph):
    tasks = written_out(graph)
    assert graph.n_tasks == len(tasks)
    for task, (level, index, finer) in enumerate(tasks):
        assert (graph.level_of(task), graph.index(task), graph.dependencies(task)) == (level, index, finer)
        assert graph.task(level, index) == task
        assert graph.dependents(task) == tuple(t for t, (_, _, needs) in enumerate(tasks) if task in needs)


@given(graph=graphs(), data=st.data())
def test_stretches_complete_each_coarser_task_once_and_not_before_its_last_block(graph, data):
    tasks = written_out(graph)
    last = {}
    for task, (level, _, finer) in enumerate(tasks):
        last[task] = task if level == 0 else max(last[f] for f in finer)
    cuts = sorted({0, graph.n_blocks, *data.draw(st.lists(st.integers(0, graph.n_blocks), max_size=4))})
    for start, stop in itertools.pairwise(cuts):
        expected = [task for task, end in last.items() if start <= end < stop and task >= graph.n_blocks]
        assert graph.completed_within(start, stop).tolist() == expected


def test_a_thousand_million_blocks_cost_nothing():
    graph = BlockGraph((1000, 1000, 1000), ((2, 2, 2),) * 9)
    last = graph.n_tasks - 1
    assert graph.n_tasks > 10**9
    assert graph.level_of(last) == 9
    assert len(graph.dependencies(last)) == 8
    assert graph.completed_within(10**9 - 1, 10**9)[-1] == last
    assert np.all(np.diff(graph.completed_within(0, 10**5)) > 0)


@pytest.mark.parametrize(
    ("counts", "factors"),
    [
        ((0, 4), ()),  # an axis without blocks
        ((4, 4), ((2,),)),  # a factor short
        ((4, 4), ((2, 0),)),  # a factor of nothing
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(counts, factors):
    with pytest.raises(RegionError, match="positive counts and factors"):
        BlockGraph(counts, factors)


def test_a_task_that_is_not_there_is_refused():
    with pytest.raises(RegionError, match=r"in \[0, 4\), not 4"):
        BlockGraph((4,)).dependents(4)
