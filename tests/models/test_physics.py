"""Mass of columns and what is integrated over it: brute force, formulas, and NCEP's archived water are the oracles."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.check import check
from engine.errors import ModelError
from engine.models.column_beside import Beside
from engine.models.column_channels import column_integral
from engine.models.column_mass import GRAVITY, HybridMass, LayerMass, PressureMass
from engine.models.column_units import SUMMED, spelled
from engine.models.fingerprint import fingerprint
from engine.models.physics import HEAT_CAPACITY, ColumnIntegral
from engine.models.wrappers import Compose
from tests.columns_of_water import NCEP, errors, integrated, made_up, masked, mean_times_depth, ncep
from tests.real_models import real

LEVELS = [50.0, 250.0, 500.0, 850.0, 925.0, 1000.0]


def surfaces(shape=(2, 1, 4, 5)) -> torch.Tensor:
    """Surface pressures in hPa, from above the highest interface but one to below the lowest level."""
    return 300 + 760 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def layer_by_layer(levels, surface):
    """Mass of each layer, kg m-2: hPa by hPa, each belongs to the nearest level and counts above the surface only."""
    steps = np.arange(0, 1200, 0.5) + 0.25
    top = max(levels[0] - (levels[1] - levels[0]) / 2, 0)
    nearest = np.abs(steps[:, None] - np.array(levels)).argmin(1)
    counts = (steps > top) & (steps < surface)
    return np.array([50 * (counts & (nearest == k)).sum() / GRAVITY for k in range(len(levels))])


@pytest.mark.parametrize("turn", [1, -1])
def test_mass_of_pressure_levels_is_that_of_slices_down_to_the_surface(turn):
    found = PressureMass(LEVELS[::turn], units="hPa", surface_units="hPa")(surfaces())
    for b, i, j in np.ndindex(2, 4, 5):
        wanted = layer_by_layer(LEVELS, float(surfaces()[b, 0, i, j]))[::turn]
        np.testing.assert_allclose(found[b, :, i, j], wanted, atol=50 / GRAVITY)
    assert (found == 0).any()  # some layers lie wholly below the surface
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.sum(1), 100 * (surfaces()[:, 0] - 0) / GRAVITY)  # the top layer reaches 0 Pa


def test_mass_without_the_clip_ends_half_a_layer_below_the_lowest_level():
    found = PressureMass(LEVELS, units="hPa", surface_units=None, is_clipped=False)(surfaces()[:, :0])
    assert found.sum().item() == pytest.approx(103750 / GRAVITY)
    assert found[0, -1].item() == pytest.approx(7500 / GRAVITY)


def test_mass_of_hybrid_levels_is_the_difference_of_half_levels_and_sums_to_the_columns():
    a, b = [0.0, 5000.0, 3000.0, 0.0], [0.0, 0.1, 0.6, 1.0]
    found = HybridMass(a, b, surface_units="hPa")(surfaces())
    half = [100 * surfaces()[:, 0] * y + x for x, y in zip(a, b, strict=True)]
    for k in range(3):
        torch.testing.assert_close(found[:, k], (half[k + 1] - half[k]) / GRAVITY)
    turned = HybridMass(a[::-1], b[::-1], surface_units="hPa")(surfaces())
    torch.testing.assert_close(turned.flip(1), found)
    assert found.std() > 1


def test_mass_of_layers_is_density_times_thickness_given_or_read_from_channels():
    x = torch.rand(2, 3, 4, 5)
    sounding = LayerMass([10.0, 20.0, 30.0], density=[1.2, 1.0, 0.5])
    assert sounding(x[:, :0]).flatten().tolist() == pytest.approx([12.0, 20.0, 15.0])
    read = LayerMass([10.0, 20.0, 30.0], density=None)
    torch.testing.assert_close(read(x), x.double() * torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)[:, None, None])


def test_the_integral_is_the_sum_in_float64_with_units_of_its_own():
    torch.manual_seed(0)
    x = torch.rand(2, 3 * 3, 4, 5)
    units = {"water": "kg/kg", "warming": "K day-1", "energy": "J kg**-1"}
    module = ColumnIntegral(LayerMass([1e3, 2e3, 3e3], density=[1.2, 1.0, 0.5]), units)
    mass = np.array([1200.0, 2000.0, 1500.0])
    sums = np.einsum("bvkij,k->bvij", x.double().numpy().reshape(2, 3, 3, 4, 5), mass)
    wanted = sums * np.array([1.0, HEAT_CAPACITY / 86400, 1.0])[:, None, None]
    assert module.units == {"water": "kg m-2", "warming": "W m-2", "energy": "J m-2"}
    np.testing.assert_allclose(module(x.double()), wanted, rtol=1e-14)
    assert module(x).dtype == torch.float32
    np.testing.assert_allclose(module(x), wanted, rtol=1e-6)
    assert not list(module.parameters())  # nothing to train


def test_sums_of_float32_lose_nothing_on_the_way():
    levels = np.linspace(1, 1000, 500).tolist()
    module = ColumnIntegral(PressureMass(levels, units="hPa", surface_units=None, is_clipped=False), {"q": "1"})
    x = torch.full((1, 500, 1), 0.1)
    wanted = 0.1 * module.mass(x[:, :0]).sum().item()
    assert module(x).item() == pytest.approx(wanted, rel=1e-7)


def test_below_the_surface_nothing_counts_be_it_missing_and_a_missing_surface_is_not_zero():
    module = ColumnIntegral(PressureMass([500.0, 1000.0], units="hPa", surface_units="hPa"), {"q": "1"})
    x = torch.tensor([[1.0, torch.nan, 700.0], [1.0, 2.0, torch.nan], [1.0, torch.nan, 900.0]])[..., None]
    found = module(x).flatten()
    assert found[0].item() == pytest.approx(100 * 450 / GRAVITY)
    assert found[1:].isnan().all()


def head(is_hybrid=False) -> nn.Module:
    torch.manual_seed(0)
    mass = HybridMass([0.0, 9e3, 0.0], [0.0, 0.2, 1.0], surface_units="hPa") if is_hybrid else PressureMass([1.0, 20.0], units="Pa", surface_units="Pa")
    return Compose(Beside(nn.Conv2d(3, 2, 3, padding=1), last=1, is_shared=True), ColumnIntegral(mass, {"warming": "K s-1"}))


@pytest.mark.parametrize("is_hybrid", [False, True])
def test_behind_a_network_the_integral_adds_no_halo_and_tiles_equal_the_whole(is_hybrid):
    found = check(head(is_hybrid), n_channels=3, n_space=2)
    assert found.geometry.evidence == "proved"
    assert [one.halo for one in found.axes] == [(1, 1), (1, 1)]
    assert found.outputs[0].max_difference <= 1e-6 * found.outputs[0].largest
    assert found.outputs[0].std > 0


def test_the_fingerprint_knows_the_mass_and_the_units():
    modules = [ColumnIntegral(LayerMass([1.0, t], density=1.0), {"q": u}) for t, u in ((1.0, "1"), (2.0, "1"), (1.0, "K"))]
    assert len({fingerprint(module) for module in modules}) == 3


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (lambda: ColumnIntegral(LayerMass([1.0], density=1.0), {"shum": None}), "the units of 'shum' are needed to sum its mass, and are missing"),
        (lambda: ColumnIntegral(LayerMass([1.0], density=1.0), {"shum": "percent"}), "'percent' is not"),
        (lambda: ColumnIntegral(LayerMass([1.0], density=1.0), {}), "was given none"),
        (lambda: ColumnIntegral(LayerMass([1.0], density=1.0), {"q": "1"})(torch.zeros(1, 2, 3)), "needs 1 channels, not 2"),
        (lambda: PressureMass([500.0, 1000.0], units=None, surface_units="Pa"), "the units of pressure levels are needed to weigh columns, and they are missing"),
        (lambda: PressureMass([500.0, 1000.0], units="hPa", surface_units="K"), "they are 'K'"),
        (lambda: PressureMass([500.0, 100.0, 300.0], units="hPa", surface_units="Pa"), "must rise or fall"),
        (lambda: HybridMass([0.0, 0.0], [0.0, 1.0], surface_units=None), "no surface pressure ps is given"),
        (lambda: HybridMass([0.0, 0.0], [0.0], surface_units="Pa"), "not 2 and 1"),
        (lambda: LayerMass([1.0, -1.0], density=1.0), "positive thickness"),
    ],
)
def test_what_the_physics_needs_and_does_not_get_is_refused_in_a_line(deed, message):
    with pytest.raises(ModelError) as caught:
        deed()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def channels(kind="pressure", units="hPa", surface_units="hPa", humidity_units="g/kg"):
    """What a grid says of its channels: humidity at two levels, then surface pressure."""
    levels = [{"kind": kind, "value": value, "units": units} for value in (500.0, 1000.0)]
    surface = {"name": "PS", "variable": "PS", "units": surface_units}
    return [{"name": "Q", "variable": "Q", "units": humidity_units, "level": level} for level in levels] + [surface]


def test_an_integral_is_made_from_what_a_grid_says_of_its_channels():
    x = 300 * torch.rand(1, 3, 4, 5) + 600
    wanted = ColumnIntegral(PressureMass([500.0, 1000.0], units="hPa", surface_units="hPa"), {"Q": "g/kg"})
    assert torch.equal(column_integral(channels(), surface="PS")(x), wanted(x))
    hybrid = column_integral(channels("hybrid"), surface="PS", half_levels=([0.0, 1e3, 0.0], [0.0, 0.3, 1.0]))
    assert hybrid(x).std() > 0


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (lambda: column_integral(channels(humidity_units=None), surface="PS"), "the units of 'Q' are needed"),
        (lambda: column_integral(channels(units=None), surface="PS"), "the units of pressure levels are needed"),
        (lambda: column_integral(channels(surface_units=None), surface="PS"), "the units of the surface pressure are needed"),
        (lambda: column_integral(channels("hybrid")[:2]), "columns on hybrid levels end at the surface pressure ps, and none is named"),
        (lambda: column_integral(channels("hybrid"), surface="PS"), "Give half_levels=(a, b)"),
        (lambda: column_integral(channels("height"), surface="PS"), "not from height levels alone"),
        (lambda: column_integral(channels()), "then nothing, and the grid has Q, PS"),
        (lambda: column_integral(channels()[::-1], surface="PS"), "in this order"),
        (lambda: column_integral([*channels()[:2], *[{**c, "variable": "T"} for c in channels()[:1]]]), "the same levels, not Q 2, T 1"),
    ],
)
def test_a_grid_that_does_not_say_what_the_physics_needs_is_refused_in_a_line(deed, message):
    with pytest.raises(ModelError) as caught:
        deed()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_units_are_known_however_they_are_spelled():
    for spellings in (("kg kg-1", "kg/kg", "kg kg**-1", "kg kg^-1"), ("K s-1", "K/s", "K s**-1"), ("m2 s-2", "m**2 s**-2", "m^2/s^2")):
        assert len({spelled(one) for one in spellings} & set(SUMMED)) == 1


@pytest.mark.real
def test_the_water_of_ncep_is_its_archived_one_and_without_the_clip_it_is_not():
    water = ncep(real(NCEP))
    clipped, bare = errors(integrated(water), water), errors(integrated(water, is_clipped=False), water)
    assert water.truth.std() > 10
    assert clipped.rmse <= 0.6
    assert clipped.r >= 0.999
    assert bare.rmse == pytest.approx(8.6, abs=0.1)
    assert bare.worst > 90


def test_water_over_mountains_is_its_formula_and_without_the_clip_it_is_not():
    water = made_up()
    clipped, *others = (errors(f, water) for f in (integrated(water), integrated(water, is_clipped=False), masked(water), mean_times_depth(water)))
    assert water.truth.std() > 3
    assert clipped.rmse < 0.3
    assert clipped.r > 0.999
    assert min(other.rmse for other in others) > 2 * clipped.rmse
