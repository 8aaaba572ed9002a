"""Sizes, demand and validity against torch itself, by brute force along one axis."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.geometry.nodes import Join, Node, Opaque, Pad, Transposed, Upsample, Window
from engine.geometry.receptive_field import AxisProgram

from .networks import CHANNELS, KINDS, axis_of, is_tight, networks, run

single = st.sampled_from(KINDS[:7]).flatmap(lambda kind: networks(kinds=(kind,), max_kinds=1))
many = settings(max_examples=100, deadline=None)
few = settings(max_examples=30, deadline=None)


def legal_lengths(program, *, longest):
    return [n for n in range(1, longest + 1) if program.sizes(n) is not None]


def tiles_of(program, size):
    """Yield every legal tile of an axis."""
    for start in range(0, size, program.step):
        for stop in range(start + 1, size + 1):
            if program.sizes(stop - start) is not None:
                yield start, stop


def assert_tiles_equal_the_whole(network, size):
    """Compare every tile with the whole run wherever it claims to be valid; return how many voxels were compared."""
    program, voxels = network.program, axis_of(size)
    whole = run(network, voxels)
    n_compared = 0
    for start, stop in tiles_of(program, size):
        tile = run(network, voxels[..., start:stop])
        for name, span in program.valid(size=size, start=start, stop=stop).items():
            assert (span.size, span.length) == (whole[name].shape[-1], tile[name].shape[-1])
            assert span.offset == start * program.scale(name)
            assert max(span.offset, 0) <= span.start <= span.stop <= min(span.offset + span.length, span.size) or (
                span.start == span.stop
            )
            inside = tile[name][..., span.start - span.offset : span.stop - span.offset]
            np.testing.assert_allclose(inside, whole[name][..., span.start : span.stop], rtol=0, atol=1e-12)
            n_compared += inside.size
            if (start, stop) == (0, size):
                assert (span.start, span.stop) == (0, span.size)
    return n_compared


@few
@given(networks(max_kinds=3))
def test_sizes_are_those_of_torch_and_none_where_torch_refuses(network):
    for n in range(1, 17):
        outputs = run(network, axis_of(n))
        found = {name: output.shape[-1] for name, output in outputs.items()} if outputs else None
        assert network.program.sizes(n) == found, n
    assert network.program.sizes(0) is None


@many
@given(single, st.integers(1, 12))
def test_every_tile_of_one_operation_equals_the_whole_run_where_it_is_valid(network, at_least):
    size = network.program.legal_size(at_least)
    assume(size is not None and size < 26)
    assert assert_tiles_equal_the_whole(network, size) > 0


@few
@given(networks(), st.integers(1, 20))
def test_every_tile_of_a_network_equals_the_whole_run_where_it_is_valid(network, at_least):
    size = network.program.legal_size(at_least)
    assume(size is not None and size < 30)
    assert assert_tiles_equal_the_whole(network, size) > 0


@many
@given(networks(), st.integers(1, 30))
def test_validity_gives_away_no_voxel_whose_demand_lies_in_the_tile(network, at_least):
    program = network.program
    assume(all(is_tight(program.nodes[i]) for i in program._needed if i))
    assume(all(getattr(node, "mode", "constant") == "constant" for node in program.nodes))  # no copies
    size = program.legal_size(at_least)
    assume(size is not None and size < 40)
    for start, stop in tiles_of(program, size):
        for name, span in program.valid(size=size, start=start, stop=stop).items():
            demands = [(g, program.demand(name, g, g)) for g in range(span.offset, span.offset + span.length)]
            wanted = [g for g, (a, b) in demands if (a >= start or start == 0) and (b < stop or stop == size)]
            assert set(wanted) <= set(range(span.start, span.stop)), (start, stop)


def supports(network, size):
    """Return, per output, the array (output voxel, input voxel) of which input reaches which output, by dye."""
    dyed = np.repeat(axis_of(size), size, axis=0)
    dyed[np.arange(size), :, np.arange(size)] = np.nan
    return {name: np.isnan(output).any(axis=1).T for name, output in run(network, dyed).items()}


@few
@given(networks(kinds=("conv", "pool", "unshuffle", "transposed", "upsample", "unet", "residual", "opaque")), st.data())
def test_demand_is_the_reach_of_dye_in_the_input(network, data):
    program = network.program
    odd = [node for node in program.nodes if isinstance(node, Upsample) and node.reach and node.factor % 2]
    assume(not odd)  # a sample point on a voxel gives its neighbours the weight 0 or 1e-17, by rounding
    size = program.legal_size(data.draw(st.integers(20, 40)))
    assume(size is not None and size < 60)
    reads_beside = any(
        isinstance(node, Upsample) and node.reach for node in program.nodes
    )  # with weight 0, at a border
    is_exact = all(is_tight(program.nodes[i]) for i in program._needed if i)
    is_exact &= not any(isinstance(node, Opaque) or getattr(node, "dilation", 1) > 1 for node in program.nodes)
    for name, support in supports(network, size).items():
        for g, row in enumerate(support):
            low, high = program.demand(name, g, g)
            reached = np.flatnonzero(row)
            if len(reached) and (not reads_beside or (low >= 0 and high < size)):
                assert max(low, 0) <= reached[0] <= reached[-1] <= min(high, size - 1)
            if is_exact and low >= 0 and high < size:
                assert (low, high) == (reached[0], reached[-1])


@many
@given(networks(kinds=("transposed",), max_kinds=1))
def test_demand_of_a_transposed_convolution_is_the_reach_of_dye(network):
    node = network.program.nodes[-1]
    assume(isinstance(node, Transposed) and node.dilation == 1)
    assume(network.program.sizes(12) is not None)
    for g, row in enumerate(supports(network, 12)["out"]):
        low, high = node.demand(g, g)
        assert np.flatnonzero(row).tolist() == list(range(max(low, 0), min(high, 11) + 1))


@many
@given(networks(), st.integers(0, 12), st.integers(0, 6))
def test_demand_of_an_interval_holds_the_demand_of_each_of_its_voxels(network, first, length):
    program = network.program
    low, high = program.demand("out", first, first + length)
    each = [program.demand("out", g, g) for g in range(first, first + length + 1)]
    assert (low, high) == (min(a for a, _ in each), max(b for _, b in each))


@many
@given(networks())
def test_the_halo_is_the_most_that_any_output_voxel_needs_beside_its_own(network):
    program = network.program
    for name, _ in program.outputs:
        scale, (before, after) = program.scale(name), program.halo(name)
        befores, afters = set(), set()
        for g in range(3 * int(program.step * scale) + 1):
            low, high = program.demand(name, g, g)
            own = [i for i in range(200) if i < (g + 1) / scale and i + 1 > g / scale]
            befores.add(own[0] - low)
            afters.add(high - own[-1])
        assert (before, after) == (max(befores), max(afters))


@many
@given(networks(), st.integers(1, 30))
def test_one_step_more_of_input_gives_one_step_more_of_every_output(network, at_least):
    program = network.program
    size = program.legal_size(at_least)
    assume(size is not None)
    longer = program.sizes(size + program.step)
    assert longer is not None
    for name, n in program.sizes(size).items():
        assert longer[name] - n == program.step * program.scale(name)
        assert program.step % program.jump(name) == 0


@many
@given(networks(max_kinds=3, kinds=("conv", "pool", "unshuffle", "upsample", "unet")), st.data())
def test_a_tile_that_starts_off_the_step_is_refused(network, data):
    program = network.program
    assume(program.step > 1)
    size = program.legal_size(20)
    assume(size is not None)
    start = data.draw(st.integers(1, size - 1).filter(lambda a: a % program.step))
    lengths = [n for n in legal_lengths(program, longest=size) if start + n <= size]
    assume(lengths)
    with pytest.raises(ModelError, match=f"multiple of {program.step}, not at {start}"):
        program.valid(size=size, start=start, stop=start + lengths[0])


@many
@given(networks())
def test_a_program_survives_json(network):
    program = network.program
    assert AxisProgram.from_json(json.loads(json.dumps(program.to_json()))) == program


@pytest.mark.parametrize(
    ("pad", "tile", "valid"),
    [
        (Pad((0,), 3, 3, "circular"), (0, 10), (3, 13)),  # touches the left border only
        (Pad((0,), 3, 3, "circular"), (10, 20), (13, 23)),  # touches the right border only
        (Pad((0,), 3, 3, "circular"), (0, 20), (0, 26)),  # the whole axis knows its far side
        (Pad((0,), 3, 3, "reflect"), (0, 10), (0, 13)),  # voxels 1 to 3 are in the tile
        (Pad((0,), 3, 3, "reflect"), (10, 20), (13, 26)),  # voxels 16 to 18 are in the tile
        (Pad((0,), 3, 3, "replicate"), (0, 10), (0, 13)),  # voxel 0 is in the tile
        (Pad((0,), 3, 3, "constant"), (5, 15), (8, 18)),  # touches nothing
        (Pad((0,), -3, -3), (5, 15), (5, 9)),  # a crop shifts what it keeps
    ],
)
def test_padding_is_trusted_only_where_its_copies_are_known(pad, tile, valid):
    program = AxisProgram((Node(()), pad), (("out", 1),))
    span = program.valid(size=20, start=tile[0], stop=tile[1])["out"]
    assert (span.start, span.stop) == valid


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_copies_of_a_voxel_that_is_not_valid_are_not_trusted(mode):
    """A circular pad spoils the border; what the next pad copies from there is spoilt too."""
    nodes = (Node(()), Pad((0,), 4, 4, "circular"), Window((1,), kernel=9), Pad((2,), 2, 2, mode))
    program = AxisProgram(nodes, (("out", 3),))
    for size, start, stop in [(20, 0, 10), (20, 10, 20), (20, 0, 5), (20, 15, 20)]:
        span = program.valid(size=size, start=start, stop=stop)["out"]
        inner = range(4 + 2, 16 + 2)  # outputs of voxels that no circular copy reaches
        assert set(range(span.start, span.stop)) <= set(inner)


def test_a_tile_with_no_valid_voxel_has_no_valid_copy_of_one():
    """Voxel 0 of the convolution needs five inputs; a tile of three knows none of its replicas."""
    nodes = (Node(()), Window((0,), kernel=5, before=0, after=4), Pad((1,), 3, 0, "replicate"))
    span = AxisProgram(nodes, (("out", 2),)).valid(size=20, start=0, stop=3)["out"]
    assert span.start == span.stop


def test_a_probed_model_behind_a_shrinking_one_lengthens_the_step():
    """Three voxels of the opaque model's input are six of the volume's."""
    probe = {"before": 2, "after": 2, "numerator": 1, "denominator": 1, "remainder": 0, "smallest": 3, "surplus": 0}
    nodes = (Node(()), Window((0,), kernel=2, stride=2), Opaque((1,), **probe, jump=3, modulus=3))
    program = AxisProgram(nodes, (("out", 2), ("side", 1)))
    assert (program.step, program.jump("side")) == (6, 2)


def test_branches_on_different_grids_are_refused():
    nodes = (Node(()), Window((0,), kernel=2, stride=2), Join((0, 1)))
    program = AxisProgram(nodes, (("out", 2),))
    with pytest.raises(ModelError, match="must have one scale"):
        _ = program.step


def test_a_program_of_one_length_takes_no_other():
    probe = {"before": 1, "after": 1, "jump": 1, "numerator": 1, "denominator": 1, "remainder": 0, "modulus": 1}
    program = AxisProgram((Node(()), Opaque((0,), **probe, smallest=1, surplus=0, only=8)), (("out", 1),))
    assert legal_lengths(program, longest=20) == [8]
    assert program.legal_size(3) == 8
    assert program.legal_size(9) is None


@few
@given(networks())
def test_the_oracle_varies(network):
    """A network that gives one value everywhere would pass every comparison."""
    size = network.program.legal_size(24)
    assume(size is not None and size < 60)
    output = run(network, axis_of(size))["out"]
    other = run(network, axis_of(size, seed=1))["out"]
    assert output.shape[1] == CHANNELS
    assert (output != other).any()
