"""Columns as sequences: the plain loop over cells is the oracle, and the neighbours are never seen."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.check import check
from engine.errors import ModelError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.models.column_beside import Beside
from engine.models.column_interpolated import HybridInterpolated, Interpolated
from engine.models.column_zscore import VariableZScore
from engine.models.columns import AlongLevels, Columns
from engine.models.fingerprint import fingerprint
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.shadow import UnboundedError
from engine.models.wrappers import Compose
from engine.prepare import Options
from engine.run import run
from engine.storage.create import create_volume
from engine.storage.volume import open_volume

N_LEVELS, N_VARIABLES = 5, 2


class Lasting(nn.Module):
    """One number for each column: the last of a recurrent layer's."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(N_VARIABLES, 4, batch_first=True)

    def forward(self, columns):
        return self.layer(columns)[0][:, -1]


class Drawing(nn.Module):
    """A recurrent layer whose first state is drawn at random, as a published one does it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(N_VARIABLES, 4, batch_first=True)

    def forward(self, columns):
        return self.layer(columns, torch.randn(1, len(columns), 4))[0]


class Whitening(nn.Module):
    """Takes the mean over cells off."""

    def forward(self, columns):
        return columns - columns.mean(0)


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(N_VARIABLES, 1, 8, dropout=0.0, batch_first=True)


def perceptron() -> nn.Module:
    n = N_LEVELS * N_VARIABLES
    return nn.Sequential(nn.Flatten(), nn.Linear(n, 9), nn.ReLU(), nn.Linear(9, 15), nn.Unflatten(1, (N_LEVELS, 3)))


NETWORKS = {
    "convolution": lambda: AlongLevels(nn.Conv1d(N_VARIABLES, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 1)),
    "gru": lambda: nn.GRU(N_VARIABLES, 3, batch_first=True, bidirectional=True),  # gives a tuple
    "lstm": lambda: nn.LSTM(N_VARIABLES, 3, batch_first=True),
    "one number": Lasting,
    "attention": attention,
    "perceptron": perceptron,
}


def columns(name, **settings) -> Columns:
    torch.manual_seed(0)
    asked = {"variables": N_VARIABLES, "levels": N_LEVELS, "order": "top_first", "batch_size": 16} | settings
    return Columns(NETWORKS[name](), **asked).eval()


def grid(n_channels=N_LEVELS * N_VARIABLES, shape=(9, 7)) -> torch.Tensor:
    return torch.randn((2, n_channels, *shape), generator=torch.Generator().manual_seed(1))


def loop(module, x):
    """The network on one cell after the other, levels and variables picked by hand."""
    n_batch, _, n_lat, n_lon = x.shape
    found = []
    for b, i, j in np.ndindex(n_batch, n_lat, n_lon):
        cell = x[b, :, i, j]
        rows = [[*(cell[v * N_LEVELS + k] for v in range(N_VARIABLES)), *cell[N_VARIABLES * N_LEVELS :]] for k in range(N_LEVELS)]
        if module.order != module.network_order:
            rows = rows[::-1]
        y = module.network(torch.tensor(rows)[None])
        y = (y[0] if isinstance(y, tuple) else y)[0]
        if y.dim() == 2:
            y = torch.cat([(y.flip(0) if module.order != module.network_order else y)[:, v] for v in range(y.shape[1])])
        found.append(y)
    return torch.stack(found).reshape(n_batch, n_lat, n_lon, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_grid_equals_a_loop_over_cells(name):
    with torch.inference_mode():
        for settings in ({}, {"network_order": "surface_first"}):
            module = columns(name, **settings)
            x = grid(shape=(5, 3))
            wanted = loop(module, x)
            torch.testing.assert_close(module(x), wanted, rtol=1e-5, atol=1e-6)
            assert wanted.std() > 0.01


@pytest.mark.parametrize("name", ["convolution", "gru", "perceptron"])
def test_the_order_of_the_levels_is_the_one_that_the_network_wants(name):
    with torch.inference_mode():
        turned = grid().unflatten(1, (N_VARIABLES, N_LEVELS)).flip(2).flatten(1, 2)
        found = columns(name, network_order="surface_first")(turned)
        wanted = columns(name)(grid())
        torch.testing.assert_close(found.unflatten(1, (-1, N_LEVELS)).flip(2).flatten(1, 2), wanted)
        assert (columns(name)(turned) - wanted).abs().max() > 0.01


def test_scalars_are_variables_that_are_the_same_at_all_levels():
    torch.manual_seed(0)
    module = Columns(nn.GRU(N_VARIABLES + 1, 3, batch_first=True), variables=N_VARIABLES, levels=N_LEVELS, scalars=1, order="top_first", batch_size=16)
    x = grid(N_VARIABLES * N_LEVELS + 1, (5, 3))
    with torch.inference_mode():
        torch.testing.assert_close(module(x), loop(module, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halo_is_zero_whatever_the_network_over_levels_is(name):
    geometry = learn(load_model(columns(name)), n_channels=N_LEVELS * N_VARIABLES, n_space=2)
    assert geometry.evidence == "proved"
    assert [program.widest_halo for program in geometry.programs] == [(0, 0)] * 2
    assert geometry.steps == (1, 1)
    assert geometry.outputs[0].n_channels == columns(name)(grid()).shape[1]


def test_behind_a_convolution_the_halo_is_the_convolutions_alone():
    model = load_model(Compose(nn.Conv2d(3, N_LEVELS * N_VARIABLES, 5, padding=2), columns("gru")))
    geometry = learn(model, n_channels=3, n_space=2)
    assert (geometry.evidence, [program.widest_halo for program in geometry.programs]) == ("proved", [(2, 2)] * 2)


def test_the_check_sees_no_neighbour_by_dye_and_no_difference_between_tiles_and_the_whole():
    found = check(columns("gru"))
    assert found.outputs[0].std > 0.01
    assert found.outputs[0].max_difference < 1e-6


def test_what_a_cell_gets_does_not_hang_on_how_many_there_are():
    with torch.inference_mode():
        for name in NETWORKS:
            whole = columns(name)(grid())
            part = columns(name)(grid()[:, :, 3:7, 2:5])
            torch.testing.assert_close(part, whole[:, :, 3:7, 2:5], rtol=0, atol=5e-7)
            assert part.std() > 0.01


def test_a_run_over_a_globe_equals_the_whole(tmp_path):
    axes = [Axis("channel", Role.CHANNEL), Axis("lat", Role.SPACE), Axis("lon", Role.SPACE)]
    x = grid()[0].numpy()
    volume = create_volume(str(tmp_path / "in.zarr"), axes=axes, dtype="float32", shape=x.shape, chunk_shape=x.shape, flavour="cf")
    volume.write(Region.whole(x.shape), x)
    module = Compose(nn.Conv2d(10, 10, 3, padding=1), columns("gru")).eval()
    report = run(volume.url, module, str(tmp_path / "out.zarr"), options=Options(workers=1, tile=(5, 4), block=(5, 4)))
    found = open_volume(f"{tmp_path}/out.zarr/output")
    with torch.inference_mode():
        wanted = module(torch.from_numpy(x)[None])[0].numpy()
    assert report.is_complete
    np.testing.assert_allclose(found.read(Region.whole(found.shape)), wanted, atol=1e-6)
    assert wanted.std() > 0.01


def test_variables_are_normalised_by_what_one_pass_over_all_their_levels_finds(tmp_path):
    axes = [Axis("time", Role.BATCH), Axis("channel", Role.CHANNEL), Axis("lat", Role.SPACE), Axis("lon", Role.SPACE)]
    x = 7 * grid(5, (6, 8)).numpy() + np.array([100.0, 90.0, -3.0, 2.0, 40.0], np.float32)[:, None, None]
    volume = create_volume(str(tmp_path / "in.zarr"), axes=axes, dtype="float32", shape=x.shape, chunk_shape=(1, 5, 4, 4), flavour="cf")
    volume.write(Region.whole(x.shape), x)
    run(volume.url, VariableZScore(variables=2, levels=2, scalars=1), str(tmp_path / "out.zarr"), options=Options(workers=1))
    found = open_volume(f"{tmp_path}/out.zarr/output")
    pools = [x[:, :2], x[:, 2:4], x[:, 4:]]
    wanted = np.concatenate([(pool - pool.mean(dtype=float)) / pool.std(dtype=float) for pool in pools], 1)
    np.testing.assert_allclose(found.read(Region.whole(found.shape)), wanted, atol=1e-5)
    assert abs(wanted[:, 0].mean()) > 0.3  # a level alone is not centred: the profile is kept


@pytest.mark.parametrize("network", [nn.GRU(N_VARIABLES, 3), nn.GRU(N_VARIABLES, 3, bidirectional=True), Whitening(), nn.Sequential(AlongLevels(nn.BatchNorm1d(N_VARIABLES, track_running_stats=False)))])
def test_a_network_in_which_cells_meet_is_refused(network):
    module = Columns(network, variables=N_VARIABLES, levels=N_LEVELS, order="top_first")
    with pytest.raises(ModelError, match=r"every column must be seen alone, but the network '\w+' of Columns .*batch_first=True"):
        learn(load_model(module), n_channels=10, n_space=2)


def test_a_network_that_draws_at_random_is_refused_by_name():
    module = Columns(Drawing(), variables=N_VARIABLES, levels=N_LEVELS, order="top_first", batch_size=16)
    with pytest.raises(ModelError, match=r"two runs on one input must agree, but 'network.layer' \(GRU\)"):
        check(module, n_channels=10, n_space=2)


class Sown(nn.Module):
    """Draws in forward, outside of columns."""

    def forward(self, x):
        return x + torch.randn(x.shape)


def test_a_draw_in_the_graph_itself_is_refused_too():
    with pytest.raises(UnboundedError, match="draws random numbers in forward"):
        learn(load_model(Sown()), n_channels=1, n_space=2)


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (lambda: columns("gru", order="upwards"), "'top_first' or 'surface_first', not 'upwards'"),
        (lambda: columns("gru", levels=0), "whole number of levels from 1 on, not 0"),
        (lambda: columns("gru")(grid(7)), "needs 10 channels, not 7"),
        (lambda: Columns(nn.Flatten(0), variables=1, levels=2, order="top_first")(grid(2)), "must give (cell, level, variable)"),
        (lambda: Beside(nn.Identity(), last=0), "at least 1 channel"),
        (lambda: VariableZScore(variables=0, levels=2), "from 1 on, not 0 and 2"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(deed, message):
    with pytest.raises(ModelError) as caught:
        deed()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_knows_the_order_of_levels():
    prints = {fingerprint(columns("gru", **s)) for s in ({}, {"order": "surface_first"}, {"network_order": "surface_first"})}
    assert len(prints) == 3


SOURCE = np.array([1.0, 50.0, 200.0, 500.0, 850.0, 1000.0])
TARGET = np.array([1100.0, 1000.0, 900.0, 500.0, 321.0, 0.5])


@pytest.mark.parametrize("turn", [1, -1])
def test_interpolation_to_fixed_levels_equals_numpys(turn):
    x = grid(2 * len(SOURCE)).double()
    module = Interpolated(variables=2, source=SOURCE[::turn].tolist(), target=TARGET.tolist())
    found = module(x).unflatten(1, (2, len(TARGET)))
    for b, v, i, j in np.ndindex(2, 2, 9, 7):
        column = x[b, v * 6 : v * 6 + 6, i, j].numpy()[::turn]
        np.testing.assert_allclose(found[b, v, :, i, j], np.interp(TARGET, SOURCE, column), atol=1e-12)
    assert found.std() > 0.1


def test_a_level_that_is_there_is_taken_as_it_is_beside_a_missing_one():
    x = torch.tensor([1.0, 2.0, torch.nan]).reshape(1, 3, 1)
    assert Interpolated(variables=1, source=[1.0, 2.0, 3.0], target=[2.0, 1.5])(x).flatten().tolist() == [2.0, 1.5]


@pytest.mark.parametrize("turn", [1, -1])
def test_interpolation_from_hybrid_levels_takes_each_cells_own_pressures(turn):
    a, b = np.array([2000.0, 9000.0, 12000.0, 4000.0, 0.0])[::turn], np.array([0.0, 0.05, 0.3, 0.8, 1.0])[::turn]
    to = (np.array([5000.0, 40000.0, 0.0, 70000.0, 97000.0]), np.array([0.0, 0.0, 0.5, 0.0, 0.0]))
    x = torch.cat([grid(10).double(), 700 + 300 * torch.rand(2, 1, 9, 7, dtype=torch.float64)], 1)
    module = HybridInterpolated(variables=2, source=(a, b), target=to, surface_units="hPa")
    found = module(x).unflatten(1, (2, 5))
    for n, v, i, j in np.ndindex(2, 2, 9, 7):
        surface = 100 * float(x[n, -1, i, j])
        levels, column = (a + b * surface)[::turn], x[n, v * 5 : v * 5 + 5, i, j].numpy()[::turn]
        np.testing.assert_allclose(found[n, v, :, i, j], np.interp(to[0] + to[1] * surface, levels, column), atol=1e-12)
    assert found.std() > 0.1


@pytest.mark.parametrize(
    ("module", "n_channels"),
    [
        (Interpolated(variables=2, source=SOURCE, target=TARGET), 12),
        (Beside(Interpolated(variables=2, source=SOURCE, target=TARGET), last=1), 13),
        (Beside(HybridInterpolated(variables=2, source=(SOURCE, 0 * SOURCE), target=(TARGET, 0 * TARGET), surface_units="Pa"), last=1, is_shared=True), 13),
    ],
)
def test_interpolation_is_proved_to_look_at_single_cells(module, n_channels):
    found = check(module, n_channels=n_channels, n_space=2)
    assert found.geometry.evidence == "proved"
    assert all(one.halo == (0, 0) for one in found.axes)
    assert found.outputs[0].max_difference == 0 < found.outputs[0].std


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (lambda: Interpolated(variables=1, source=[1.0, 3.0, 2.0], target=[1.0]), "must rise or fall"),
        (lambda: Interpolated(variables=1, source=[1.0, 2.0], target=[1.0])(grid(3)), "needs 2 channels, not 3"),
        (lambda: HybridInterpolated(variables=1, source=([0.0, 0.0], [0.1, 1.0]), target=([0.0], [0.5]), surface_units=None), "units of the surface pressure are needed"),
    ],
)
def test_levels_that_make_no_sense_are_refused_in_a_line(deed, message):
    with pytest.raises(ModelError, match=message):
        deed()
