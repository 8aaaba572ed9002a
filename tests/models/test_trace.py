"""The trace, operation by operation: each small network tiled in float64 equals its whole run."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import PlanError
from engine.geometry.edges import MODEL_EDGE
from engine.geometry.extent import extend
from engine.geometry.model_geometry import ModelGeometry
from engine.geometry.tiling import legal_tile, shortest_tile
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.shadow import UnboundedError, UnknownError
from engine.models.trace import trace
from tests.oracle import Named, plan_for, run_in_memory, whole_run


class Fn(nn.Module):
    """A network from a function of its layers and its input."""

    def __init__(self, function, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleDict(layers)

    def forward(self, x):
        return self.function(self.layers, x)


def _conv(c_in, c_out, k=3, **more):
    return nn.Conv2d(c_in, c_out, k, **{"padding": k // 2, **more})


def _space_to_depth(m, x):
    b, c, h, w = x.shape
    y = x.reshape(b, c, h // 2, 2, w // 3, 3).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 6, h // 2, w // 3)
    return m["conv"](y)


def _depth_to_space(m, x):
    y = m["conv"](x)
    b, _, h, w = y.shape
    return y.view(b, 2, 2, 3, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, 2, h * 2, w * 3)


def _valid_unet(m, x):
    """The first U-Net: no padding, skips cropped to what comes up."""
    skip = m["first"](x)
    up = m["up"](m["middle"](F.max_pool2d(skip, 2)))
    skip = skip[:, :, 2:-2, 2:-2]
    return m["last"](torch.cat([skip, up], dim=1))


def _in_place(m, x):
    y = m["conv"](x)
    y += x
    y *= 0.5
    y.relu_()
    y.clamp_(max=2.0)
    return m["conv"](y)


def _joins(m, x):
    a, b = m["conv"](x).chunk(2, dim=1)
    c, d = torch.split(m["other"](x), [1, 3], dim=1)
    stacked = torch.stack([a, b, d[:, :2]], dim=2).flatten(1, 2)
    return torch.cat([stacked, c, F.glu(torch.cat([a, b], dim=1), dim=1)], dim=1)


def _sized_up(m, x):
    skip = m["conv"](x)
    y = m["down"](skip)
    return skip + F.interpolate(y, size=skip.shape[-2:], mode="bilinear")


def _layer_norm(m, x):
    y = m["conv"](x).permute(0, 2, 3, 1)
    y = m["dense"](F.gelu(m["norm"](y)))
    return y.permute(0, 3, 1, 2)


def _several_scales(m, x):
    y = m["conv"](x)
    return {
        "quarter": m["quarter"](y),
        "one": y,
        "two": F.interpolate(y, scale_factor=2.0, mode="nearest"),
        "labels": y.argmax(dim=1).to(torch.uint8),
    }


def _shrunk(mode, by, **more):
    return lambda m, x: m["conv"](F.interpolate(m["conv"](x), scale_factor=1 / by, mode=mode, **more))


def _channels(m, x):
    y = m["conv"](x)
    y = y * torch.sigmoid(y.mean(dim=1, keepdim=True)) + y.amax(dim=1, keepdim=True)
    return torch.where(y > 0, y, m["other"](x)).softmax(dim=1)


def _strided_slices(m, x):
    y = m["conv"](x)
    return torch.cat([y[:, :, 0::2, 0::2], y[:, :, 1::2, 1::2]], dim=1)


NETWORKS = [
    # name, network, number of space axes; every network takes one channel unless it says otherwise
    ("space-to-depth by reshape", Fn(_space_to_depth, conv=_conv(6, 2)), 2),
    ("depth-to-space by reshape", Fn(_depth_to_space, conv=_conv(1, 12)), 2),
    ("pixel unshuffle and shuffle", nn.Sequential(nn.PixelUnshuffle(3), _conv(9, 8), nn.ELU(), nn.PixelShuffle(2)), 2),
    ("a weight per channel for what is below zero", nn.Sequential(_conv(1, 4), nn.PReLU(4), _conv(4, 2)), 2),
    ("slices with a step", Fn(_strided_slices, conv=_conv(1, 2)), 2),
    (
        "valid convolutions with cropped skips",
        Fn(
            _valid_unet,
            first=nn.Conv2d(1, 3, 3),
            middle=nn.Conv2d(3, 3, 3),
            up=nn.ConvTranspose2d(3, 2, 2, stride=2),
            last=nn.Conv2d(5, 2, 3),
        ),
        2,
    ),
    ("operations in place", Fn(_in_place, conv=_conv(1, 1, 5)), 2),
    ("chunk, split, stack, cat and glu", Fn(_joins, conv=_conv(1, 4), other=_conv(1, 4, 5)), 2),
    ("interpolation to a skip's size", Fn(_sized_up, conv=_conv(1, 2), down=_conv(2, 2, 3, stride=2)), 2),
    ("nearest-exact up", nn.Sequential(_conv(1, 2), nn.Upsample(scale_factor=3, mode="nearest-exact"), _conv(2, 1)), 2),
    ("bicubic up", nn.Sequential(_conv(1, 2), nn.Upsample(scale_factor=2, mode="bicubic")), 2),
    ("nearest down by 2", Fn(_shrunk("nearest", 2), conv=_conv(1, 1)), 2),
    ("nearest-exact down by 3", Fn(_shrunk("nearest-exact", 3), conv=_conv(1, 1)), 2),
    ("bilinear down by 2", Fn(_shrunk("bilinear", 2, align_corners=False), conv=_conv(1, 1)), 2),
    ("bilinear down by 4", Fn(_shrunk("bilinear", 4, align_corners=False), conv=_conv(1, 1)), 2),
    ("reflect padding", nn.Sequential(*(_conv(1, 1, 5, padding_mode="reflect") for _ in range(3))), 2),
    ("replicate padding", nn.Sequential(*(_conv(1, 1, 5, padding_mode="replicate") for _ in range(3))), 2),
    (
        "explicit uneven padding",
        nn.Sequential(
            nn.ZeroPad2d((3, 0, 1, 2)), nn.Conv2d(1, 2, 4), nn.ConstantPad2d((0, 1, 2, 0), 3.0), nn.Conv2d(2, 1, 2)
        ),
        2,
    ),
    (
        "layer norm over channels by permute",
        Fn(_layer_norm, conv=_conv(1, 4, 7), norm=nn.LayerNorm(4), dense=nn.Linear(4, 3)),
        2,
    ),
    ("reductions and softmax over channels", Fn(_channels, conv=_conv(1, 3), other=_conv(1, 3)), 2),
    ("outputs at 1/4, 1 and 2", Fn(_several_scales, conv=_conv(1, 3), quarter=nn.Conv2d(3, 2, 4, stride=4)), 2),
    (
        "one axis",
        nn.Sequential(nn.Conv1d(1, 3, 9, padding=8, dilation=2), nn.AvgPool1d(3, 2, 1), nn.ELU(), nn.Conv1d(3, 1, 2)),
        1,
    ),
    ("Lp pool", nn.Sequential(_conv(1, 2), nn.LPPool2d(2, 3, stride=2)), 2),
    (
        "three axes of uneven strides",
        nn.Sequential(
            nn.Conv3d(1, 2, (1, 3, 3), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 2, 2)),
            nn.ConvTranspose3d(2, 1, (2, 2, 2), stride=(1, 2, 2)),
        ),
        3,
    ),
    (
        "grouped and depthwise convolutions",
        nn.Sequential(_conv(1, 4), _conv(4, 4, 5, groups=4), _conv(4, 6, 1, groups=2)),
        2,
    ),
]
CASES = [pytest.param(network, n_space, id=name) for name, network, n_space in NETWORKS]


def _ready(network: nn.Module) -> nn.Module:
    chance = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=chance) / max(1, parameter[0].numel()) ** 0.5
    return network.double().eval()


def _cuts(geometry: ModelGeometry) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return lengths, tiles and blocks: three tiles or so along every axis, at lengths with odd parts where legal."""
    chance, lengths, tiles, blocks = random.Random(1), [], [], []
    for program in geometry.programs:
        reach = max(sum(program.halo(output.name)) for output in geometry.outputs)
        length = program.legal_size(max(5 * program.step, 12) + reach + chance.randrange(4)) or 0
        extent = extend(program, MODEL_EDGE, size=length, name="x")
        lengths.append(length)
        tiles.append(legal_tile(program, extent, shortest_tile(program, extent)))
        blocks.append(-(-length // (2 * program.step)) * program.step)
    return tuple(lengths), tuple(tiles), tuple(blocks)


def _assert_tiles_equal_the_whole(module: nn.Module, geometry: ModelGeometry, *, lengths, tiles, blocks) -> None:
    array = np.random.default_rng(0).standard_normal((geometry.n_channels, *lengths))
    plan = plan_for(geometry, array, tile=tiles, block=blocks, with_pyramid=False)
    assert plan.n_tiles > 1
    found = run_in_memory(plan, module, array, torch.float64)
    wanted = whole_run(module, array, torch.float64)
    assert found.keys() == wanted.keys()
    for name, reference in wanted.items():
        assert reference.std() > 0
        assert (found[name].n_written[0] == 1).all()
        np.testing.assert_allclose(
            found[name].levels[0], reference, rtol=0, atol=1e-12 * max(1.0, np.abs(reference).max())
        )


@pytest.mark.parametrize(("network", "n_space"), CASES)
def test_an_operation_is_proved_and_its_tiles_equal_the_whole(network, n_space):
    module = Named(_ready(network))
    geometry = trace(module, n_channels=1, n_space=n_space, dtype=torch.float64)
    assert geometry.evidence == "proved"
    lengths, tiles, blocks = _cuts(geometry)
    _assert_tiles_equal_the_whole(module, geometry, lengths=lengths, tiles=tiles, blocks=blocks)


def test_outputs_of_several_scales_have_their_own_sizes_and_dtypes():
    network = _ready(Fn(_several_scales, conv=_conv(1, 3), quarter=nn.Conv2d(3, 2, 4, stride=4)))
    geometry = trace(Named(network), n_channels=1, n_space=2, dtype=torch.float64)
    program = geometry.programs[0]
    assert {output.name: (output.n_channels, output.dtype) for output in geometry.outputs} == {
        "quarter": (2, "float64"),
        "one": (3, "float64"),
        "two": (3, "float64"),
        "labels": (None, "uint8"),
    }
    assert program.sizes(24) == {"quarter": 6, "one": 24, "two": 48, "labels": 24}
    assert program.step == 4
    assert [program.jump(name) for name in ("quarter", "one", "two")] == [4, 1, 1]


def _small() -> nn.Module:
    return _ready(nn.Sequential(_conv(1, 3, 5), nn.ELU(), nn.MaxPool2d(2), _conv(3, 2), nn.Upsample(scale_factor=2)))


def _exported(path, *, batch: int | None = None, space: str = "static") -> str:
    """Save an exported program: its batch free or fixed, its space free, promised to be even, or fixed at 32 x 48."""
    h, w = torch.export.Dim("h", min=1, max=512), torch.export.Dim("w", min=1, max=512)
    dims = {
        "free": {2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)},
        "even": {2: h * 2, 3: w * 2},
        "static": {},
    }
    dynamic = dims[space] | ({} if batch else {0: torch.export.Dim("n")})
    network = _small() if space != "free" else _ready(nn.Sequential(_conv(1, 3, 5), nn.ELU(), _conv(3, 2)))
    program = torch.export.export(
        network, (torch.zeros(batch or 2, 1, 32, 48, dtype=torch.float64),), dynamic_shapes=(dynamic,)
    )
    torch.export.save(program, path)
    return str(path)


def _scripted(path, *, is_traced: bool) -> str:
    module = (
        torch.jit.trace(_small(), torch.zeros(1, 1, 32, 48, dtype=torch.float64))
        if is_traced
        else torch.jit.script(_small())
    )
    module.save(str(path))
    return str(path)


PROGRAMS = [
    # how it was saved, file, what is known of it
    pytest.param(lambda folder: _exported(folder / "net.pt2", space="free"), "proved", id="exported with free shapes"),
    pytest.param(lambda folder: _exported(folder / "net.pt2", space="even"), "probed", id="exported for even sizes"),
    pytest.param(
        lambda folder: _exported(folder / "net.pt2", batch=1, space="even"), "probed", id="exported for batch 1"
    ),
    pytest.param(lambda folder: _scripted(folder / "net.pt", is_traced=False), "probed", id="TorchScript, scripted"),
    pytest.param(lambda folder: _scripted(folder / "net.pt", is_traced=True), "probed", id="TorchScript, traced"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("save", "evidence"), PROGRAMS)
def test_a_saved_program_is_learnt_and_its_tiles_equal_the_whole(tmp_path, save, evidence):
    model = load_model(save(tmp_path))
    geometry = learn(model, n_channels=1, n_space=2)
    assert geometry.evidence == evidence
    assert geometry.steps == ((1, 1) if evidence == "proved" else (2, 2))
    lengths, tiles, blocks = _cuts(geometry)
    _assert_tiles_equal_the_whole(model.module, geometry, lengths=lengths, tiles=tiles, blocks=blocks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_static_shapes_runs_at_its_one_shape_and_is_refused_at_others(tmp_path):
    model = load_model(_exported(tmp_path / "net.pt2", batch=2))
    geometry = learn(model, n_channels=1, n_space=2)
    assert geometry.n_batch == 2
    assert [program.legal_size(1) for program in geometry.programs] == [32, 48]
    array = np.random.default_rng(0).standard_normal((1, 32, 48))
    plan = plan_for(geometry, array, batch_size=2, with_pyramid=False)
    found = run_in_memory(plan, model.module, array, torch.float64)["output"]
    wanted = whole_run(Named(_small()), array, torch.float64)["output"]
    assert wanted.std() > 0
    np.testing.assert_allclose(found.levels[0], wanted, rtol=0, atol=1e-12)
    with pytest.raises(PlanError, match=r"'y'.*takes 32 voxels only.*dynamic shapes"):
        plan_for(geometry, np.zeros((1, 84, 132)), batch_size=2)
    with pytest.raises(PlanError, match="batch of 2 only, not 3"):
        plan_for(geometry, array, batch_size=3)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_by_copies_is_trusted_only_where_the_copied_voxels_are_known(mode):
    network = _ready(nn.Sequential(_conv(1, 1, 5, padding_mode=mode), _conv(1, 1, 5, padding_mode=mode)))
    program = trace(Named(network), n_channels=1, n_space=2, dtype=torch.float64).programs[0]
    first = program.valid(size=64, start=0, stop=32)["output"]
    assert (first.start, first.stop) == ((4, 28) if mode == "circular" else (0, 28))
    assert program.is_circular == (mode == "circular")


def test_an_operation_outside_the_table_is_unknown_and_not_guessed():
    with pytest.raises(UnknownError, match=r"'special_i0'.*not in the table"):
        trace(Named(Fn(lambda m, x: torch.special.i0(x))), n_channels=1, n_space=2, dtype=torch.float64)


def test_a_model_whose_geometry_changes_with_its_input_is_refused():
    def forward(_, x):
        return F.max_pool2d(x, 2) if x.shape[-1] > 300 else F.avg_pool2d(x, 4)

    with pytest.raises(UnboundedError, match="with the input's size"):
        trace(Named(Fn(forward)), n_channels=1, n_space=2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda m, x: x[:, :, 3], "absolute position"),  # one row of space
        (lambda m, x: torch.cat([x, x], dim=2), "space or batch"),  # space beside itself
        (lambda m, x: x.flatten(2), "flattens axes of space"),
        (lambda m, x: x + x.mean(), "mean"),  # over everything
        (lambda m, x: x.cumsum(-1), "cumsum"),
        (lambda m, x: x - x.mean(dim=0, keepdim=True), "batch"),  # items see each other
        (lambda m, x: torch.zeros(1, 1, 4, 4, dtype=x.dtype), "does not depend on the input"),
        (lambda m, x: F.interpolate(x, scale_factor=1.5, mode="nearest"), "not a whole factor"),
    ],
)
def test_what_no_tile_can_know_is_refused(function, why):
    with pytest.raises(UnboundedError, match=why):
        trace(Named(Fn(function)), n_channels=1, n_space=2, dtype=torch.float64)
