"""Blocks and tiles of one axis, against brute force: real tiles, stitched, beside the whole run."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import PlanError
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.extent import extend
from engine.geometry.nodes import Node, Pad, Upsample, Window
from engine.geometry.receptive_field import AxisProgram
from engine.geometry.tiling import AxisTiling, legal_tile, shortest_tile

from .networks import axis_of, networks, run

many = settings(max_examples=100, deadline=None)
some = settings(max_examples=60, deadline=None)
MODES = {EdgeKind.MODEL: "reflect", EdgeKind.WRAP: "wrap", EdgeKind.REFLECT: "reflect", EdgeKind.CONSTANT: "constant"}


def net(*nodes):
    return AxisProgram((Node(()), *nodes), (("out", len(nodes)),))


def surrounded(voxels, extent, kind):
    """Return the volume's axis as its edge extends it, by numpy."""
    return np.pad(voxels, ((0, 0), (0, 0), (extent.before, extent.far_extension)), mode=MODES[kind])


@st.composite
def axes(draw, *, longest=40, **options):
    """Return a network, an axis's size and its edge, with the extent that follows."""
    network = draw(networks(**options))
    program = network.program
    kind = draw(st.sampled_from(list(MODES)))
    size = draw(st.integers(2, longest))
    if kind is EdgeKind.WRAP:
        size = -(-size // program.step) * program.step
    try:
        extent = extend(program, Edge(kind), size=size, name="x")
    except PlanError:
        assume(False)
    assume(extent.extended < 120)
    return network, Edge(kind), extent


@st.composite
def tilings(draw, *, any_tile=False, **options):
    """Return a network and the tiling of an axis by a tile that gets ahead."""
    network, edge, extent = draw(axes(**options))
    program = network.program
    least = 1 if any_tile else shortest_tile(program, extent)
    tile = legal_tile(program, extent, draw(st.integers(least, max(extent.extended, least))))
    block = program.step * draw(st.integers(1, max(1, extent.extended // program.step)))
    return network, AxisTiling("x", program, edge, extent, tile, block)


def each_block(axis):
    return [(block, axis.tiles(block)) for block in range(axis.n_blocks)]


@some
@given(tilings())
def test_stitched_tiles_equal_the_whole_run_over_the_extended_axis(pair):
    network, axis = pair
    extent = axis.extent
    voxels = surrounded(axis_of(extent.size), extent, axis.edge.kind)
    assert voxels.shape[-1] == extent.extended
    whole = run(network, voxels)
    stitched = {name: np.full((1, 2, kept), np.nan) for name, kept in extent.kept}
    for _, tiles in each_block(axis):
        for tile in tiles:
            outputs = run(network, voxels[..., tile.start : tile.start + axis.tile])
            for name, (low, high) in tile.cores.items():
                if low == high:
                    continue
                local = tile.locals[name]
                assert local >= 0
                stitched[name][..., low:high] = outputs[name][..., local : local + high - low]
    for name, kept in extent.kept:
        crop = dict(extent.crops)[name]
        assert crop >= 0
        np.testing.assert_allclose(stitched[name], whole[name][..., crop : crop + kept], rtol=0, atol=1e-12)


@many
@given(tilings())
def test_invariant_2_a_read_starts_on_a_multiple_of_the_step(pair):
    _, axis = pair
    for _, tiles in each_block(axis):
        for tile in tiles:
            assert tile.start % axis.program.step == 0


@many
@given(tilings())
def test_invariant_3_cores_cover_every_kept_voxel_exactly_once(pair):
    _, axis = pair
    covered = {name: Counter() for name, _ in axis.extent.kept}
    for block, tiles in each_block(axis):
        for name in covered:
            cores = [tile.cores[name] for tile in tiles]
            first, last = axis.block_interval(name, block)
            assert sorted(g for low, high in cores for g in range(low, high)) == list(range(first, last))
        for tile in tiles:
            for name, (low, high) in tile.cores.items():
                covered[name].update(range(low, high))
                reach = axis.valid_at(tile.start)[name]
                assert low == high or reach[0] <= low < high <= reach[1]
            assert any(low < high for low, high in tile.cores.values())
    for name, kept in axis.extent.kept:
        assert covered[name] == Counter(range(kept))


@many
@given(tilings())
def test_invariant_4_every_tile_has_one_length_and_lies_inside_the_axis(pair):
    _, axis = pair
    for block, tiles in each_block(axis):
        starts = [tile.start for tile in tiles]
        assert all(0 <= start <= axis.extent.extended - axis.tile for start in starts)
        assert axis.read(block) == (min(starts), max(starts) + axis.tile)
        assert starts == sorted(set(starts))
    assert axis.program.sizes(axis.tile) is not None


@many
@given(axes())
def test_invariant_5_a_size_that_the_model_cannot_take_is_extended_at_the_far_edge(setting):
    network, edge, extent = setting
    program = network.program
    assert program.sizes(extent.extended) is not None
    assert extent.before % program.step == 0
    assert extent.far_extension >= 0
    if edge.kind is EdgeKind.MODEL:
        assert extent.before == 0
        assert extent.extended == next(n for n in range(extent.size, 999) if program.sizes(n) is not None)
        if extent.extended == extent.size:
            assert dict(extent.kept) == program.sizes(extent.size)
    else:
        assert dict(extent.kept) == {o: -(-extent.size * program.scale(o) // 1) for o, _ in program.outputs}
    for name, kept in extent.kept:
        assert dict(extent.crops)[name] >= 0
        assert dict(extent.crops)[name] + kept <= program.sizes(extent.extended)[name]


@some
@given(axes(), st.integers(0, 30))
def test_invariant_5_a_volume_no_longer_than_a_tile_is_run_whole(setting, more):
    network, edge, extent = setting
    tile = legal_tile(network.program, extent, extent.extended + more)
    axis = AxisTiling("x", network.program, edge, extent, tile, network.program.step * 1000)
    assert (axis.tile, axis.n_blocks, axis.totals) == (extent.extended, 1, (1, extent.extended))
    (only,) = axis.tiles(0)
    assert dict(only.cores) == {name: (0, kept) for name, kept in extent.kept}


@many
@given(axes(), st.integers(1, 60))
def test_a_legal_tile_is_the_shortest_that_the_model_takes_and_the_step_reaches(setting, at_least):
    network, _, extent = setting
    program, whole = network.program, extent.extended
    oracle = [n for n in range(at_least, whole) if (whole - n) % program.step == 0 and program.sizes(n) is not None]
    assert legal_tile(program, extent, at_least) == min(oracle, default=whole)


@many
@given(axes(), st.integers(1, 20))
def test_the_shortest_tile_is_enough_for_every_block_and_no_shorter_one_is_sure_to_be(setting, n_steps):
    network, edge, extent = setting
    program = network.program
    shortest = shortest_tile(program, extent)
    axis = AxisTiling("x", program, edge, extent, shortest, n_steps * program.step)
    each_block(axis)
    shorter = shortest - program.step
    if shorter < 1 or program.sizes(shorter) is None:
        return
    far = extent.extended + 60 * program.step  # an axis on which no border helps
    middle = (far - shorter) // program.step // 2 * program.step
    spans = program.valid(size=far, start=middle, stop=middle + shorter)
    if all(span.stop - span.start >= program.step * program.scale(o) for o, span in spans.items()):
        with pytest.raises(PlanError, match=rf"Use at least {shortest}\.|no tile short of all {shortest} voxels"):
            each_block(AxisTiling("x", program, edge, extent, shorter, n_steps * program.step))


@some
@given(tilings(any_tile=True))
def test_a_tile_of_any_length_covers_its_block_or_is_refused_with_one_that_does(pair):
    _, axis = pair
    for block in range(axis.n_blocks):
        try:
            tiles = axis.tiles(block)
        except PlanError:
            assert axis.tile < axis.shortest_tile
            least = axis.shortest_tile
            with pytest.raises(PlanError, match=rf"Use at least {least}\.|no tile short of all {least} voxels"):
                axis.tiles(block)
            continue
        for name, _ in axis.extent.kept:
            found = [g for tile in tiles for g in range(*tile.cores[name])]
            assert found == list(range(*axis.block_interval(name, block)))


def fewest(axis, block):
    """Return the fewest tiles that decide a whole block, by trying all sets of starts."""
    starts = range(0, axis.extent.extended - axis.tile + 1, axis.program.step)
    wanted = {(o, g) for o, _ in axis.extent.kept for g in range(*axis.block_interval(o, block))}
    decided = [wanted & {(o, g) for o, span in axis.valid_at(start).items() for g in range(*span)} for start in starts]
    for n_tiles in range(1, len(starts) + 1):
        if any(set().union(*chosen) == wanted for chosen in combinations(decided, n_tiles)):
            return n_tiles
    return None


@many
@given(tilings(longest=16, max_kinds=3))
def test_no_fewer_tiles_would_cover_a_block(pair):
    _, axis = pair
    assume(axis.extent.extended - axis.tile <= 9 * axis.program.step)
    for block, tiles in each_block(axis):
        assert len(tiles) == fewest(axis, block)


@many
@given(tilings(longest=100, max_kinds=3), st.integers(1, 4))
def test_totals_are_the_sums_over_all_blocks(pair, n_steps):
    _, axis = pair
    axis = AxisTiling("x", axis.program, axis.edge, axis.extent, axis.tile, n_steps * axis.program.step)
    reads = [axis.read(block) for block in range(axis.n_blocks)]
    n_tiles = sum(len(tiles) for _, tiles in each_block(axis))
    assert axis.totals == (n_tiles, sum(stop - start for start, stop in reads))


def test_totals_count_the_blocks_near_a_border_for_themselves():
    """A tile of 13 decides 8 voxels at the border and 3 elsewhere: block 1 needs one, block 2 needs two."""
    program = net(Window((0,), kernel=11, before=5, after=5))
    axis = AxisTiling("x", program, Edge(), extend(program, Edge(), size=101, name="x"), 13, 4)
    counts = [len(tiles) for _, tiles in each_block(axis)]
    reads = [axis.read(block) for block in range(axis.n_blocks)]
    assert (counts[1], counts[2], counts[8]) == (1, 2, 2)
    assert axis.totals == (sum(counts), sum(stop - start for start, stop in reads))


@pytest.mark.parametrize("size", [8, 12, 40])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_wrapped_axis_equals_the_circularly_padded_model_on_it(size, factor):
    """The circular twin sees the periodic axis whole; no tile ever does."""
    nodes = [Node(()), Pad((0,), 2, 2, "circular"), Window((1,), kernel=5)]
    if factor == 2:
        nodes += [Window((2,), kernel=2, stride=2), Pad((3,), 1, 1, "circular"), Window((4,), kernel=3)]
        nodes += [Upsample((5,), factor=2)]
    program = AxisProgram(tuple(nodes), (("out", len(nodes) - 1),))
    kernel, inner = np.array([0.1, -0.4, 0.9, 0.3, -0.2]), np.array([0.5, 0.7, -0.3])

    def model(x):
        x = np.convolve(np.pad(x, 2, mode="wrap"), kernel[::-1], mode="valid")
        if factor == 2:
            pooled = np.tanh(np.maximum(x[0::2], x[1::2]))
            x = np.repeat(np.convolve(np.pad(pooled, 1, mode="wrap"), inner[::-1], mode="valid"), 2)
        return x

    x = axis_of(size)[0, 0]
    extent = extend(program, Edge(EdgeKind.WRAP), size=size, name="x")
    ring = np.pad(x, (extent.before, extent.far_extension), mode="wrap")
    tile = legal_tile(program, extent, shortest_tile(program, extent) + 2)
    axis = AxisTiling("x", program, Edge(EdgeKind.WRAP), extent, tile, 4)
    found = np.full(size, np.nan)
    for _, tiles in each_block(axis):
        for part in tiles:
            low, high = part.cores["out"]
            local = part.locals["out"]
            found[low:high] = model(ring[part.start : part.start + tile])[local : local + high - low]
    np.testing.assert_allclose(found, model(x), rtol=0, atol=1e-12)
    assert np.ptp(found) > 0.1


@pytest.mark.parametrize("kind", [EdgeKind.WRAP, EdgeKind.REFLECT, EdgeKind.CONSTANT])
@pytest.mark.parametrize(("kernel", "dilation", "factor"), [(3, 1, 1), (5, 2, 1), (4, 1, 1), (3, 1, 2)])
def test_an_unpadded_model_gives_as_many_voxels_as_it_gets(kind, kernel, dilation, factor):
    """Its output is the model over the volume padded by the halo, half before and half after."""
    reach = dilation * (kernel - 1)
    nodes = (Node(()), Window((0,), kernel=kernel, dilation=dilation), Upsample((1,), factor=factor))
    program = AxisProgram(nodes, (("out", 2),))
    size, before = 11, reach // 2
    extent = extend(program, Edge(kind), size=size, name="x")
    assert dict(extent.kept) == {"out": size * factor}

    def model(x):
        taps = np.arange(kernel) * dilation
        return np.repeat([np.tanh(x[i + taps] @ np.arange(1, 1 + kernel)) for i in range(len(x) - reach)], factor)

    x = axis_of(size)[0, 0]
    oracle = model(np.pad(x, (before, reach - before), mode=MODES[kind]))
    crop = dict(extent.crops)["out"]
    found = model(np.pad(x, (extent.before, extent.far_extension), mode=MODES[kind]))[crop : crop + size * factor]
    np.testing.assert_array_equal(found, oracle)
    assert np.ptp(found) > 0.1


def test_a_crop_on_one_side_still_leaves_every_kept_voxel_inside_the_extended_run():
    program = net(Pad((0,), -3, 0))
    extent = extend(program, Edge(EdgeKind.REFLECT), size=10, name="x")
    (crop,), (kept,) = (n for _, n in extent.crops), (n for _, n in extent.kept)
    assert crop >= 0
    assert crop + kept <= program.sizes(extent.extended)["out"]


def test_a_model_that_must_see_round_the_whole_axis_has_no_tile_shorter_than_it():
    """Circular padding under a model edge: no tile short of the axis knows the far side."""
    program = net(Pad((0,), 1, 1, "circular"), Window((1,), kernel=3))
    extent = extend(program, Edge(), size=64, name="x")
    assert shortest_tile(program, extent) == 64
    with pytest.raises(PlanError, match=r"circular padding.*all 64 voxels.*--edge x=wrap"):
        AxisTiling("x", program, Edge(), extent, 16, 64).tiles(0)


def test_a_pooled_map_needs_no_tile_beyond_one_pooling_window():
    """Neither phase needs more than the window that holds it, though each side's halo is seven."""
    program = net(Window((0,), kernel=8, stride=8), Upsample((1,), factor=8))
    assert program.halo("out") == (7, 7)
    assert shortest_tile(program, extend(program, Edge(), size=64, name="x")) == 8


@pytest.mark.parametrize(
    ("make", "text"),
    [
        # one voxel round is no symmetry of a pooling network
        (lambda p: extend(p, Edge(EdgeKind.WRAP), size=9, name="lon"), "'lon' is periodic.*multiple of.*step 2"),
        (lambda p: extend(p, Edge(), size=0, name="x"), "at least one voxel, not 0"),  # nothing to run
        (lambda p: AxisTiling("x", p, Edge(), extend(p, Edge(), size=16, name="x"), 5, 4), "Use 6"),  # off the step
        (lambda p: AxisTiling("x", p, Edge(), extend(p, Edge(), size=16, name="x"), 18, 4), "Use 16"),  # beyond it
        (lambda p: AxisTiling("x", p, Edge(), extend(p, Edge(), size=16, name="x"), 8, 5), "block length 5"),
    ],
)
def test_an_axis_that_would_break_an_invariant_is_refused(make, text):
    program = net(Window((0,), kernel=2, stride=2), Upsample((1,), factor=2))
    with pytest.raises(PlanError, match=text):
        make(program)


def test_a_model_that_takes_one_length_only_near_no_other_is_refused():
    program = net(Pad((0,), -1000, -1000))
    with pytest.raises(PlanError, match="axis 'x' needs a length that the model can take, and none comes after 4"):
        extend(program, Edge(), size=4, name="x")
