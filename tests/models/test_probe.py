"""Probing: reach, jump, scale and lengths against brute force; what cannot be tiled is named."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError
from engine.geometry.nodes import Window
from engine.geometry.receptive_field import AxisProgram
from engine.models.checks import check_dye, dependents
from engine.models.culprit import check_determinism
from engine.models.load import load_model
from engine.models.probe import Probed, probe
from engine.models.shadow import UnboundedError
from engine.models.shift import check_equivariance
from engine.models.trace import trace
from engine.models.wrappers import ArgMax, Compose, Named, Quantise, Softmax


@pytest.fixture(autouse=True)
def _one_thread():
    """Many tiny runs: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UP = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class UNet(nn.Module):
    """A small U-Net whose steps down may be uneven, with transposed or interpolated ways up."""

    def __init__(self, n: int = 2, *, depth: int = 2, step=2, way_up: str = "transposed", width: int = 3) -> None:
        super().__init__()
        self.way_up, self.step = way_up, step
        self.mode = LINEAR[n] if way_up == "linear" else "nearest"
        self.downs = nn.ModuleList(CONV[n](width if i else 1, width, 3, padding=1) for i in range(depth + 1))
        self.pool = POOL[n](step)
        transposed = way_up == "transposed"
        self.ups = nn.ModuleList(
            UP[n](width, width, step, stride=step) if transposed else CONV[n](width, width, 1) for _ in range(depth)
        )
        self.joins = nn.ModuleList(CONV[n](2 * width, width, 3, padding=1) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down in self.downs[:-1]:
            x = F.leaky_relu(down(x))
            skips.append(x)
            x = self.pool(x)
        x = F.leaky_relu(self.downs[-1](x))
        for up, join, skip in zip(self.ups, self.joins, reversed(skips), strict=True):
            if self.way_up != "transposed":
                x = F.interpolate(x, scale_factor=float(self.step), mode=self.mode)
            x = join(torch.cat([up(x), skip], 1))
        return x


class Apply(nn.Module):
    """A function as the last step after a convolution."""

    def __init__(self, function, n: int = 2, *, before: nn.Module | None = None) -> None:
        super().__init__()
        self.first = before or CONV[n](1, 4, 3, padding=1)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.first(x))


def layers(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


def dilated() -> nn.Module:
    return layers(*(nn.Conv2d(1 if d == 1 else 2, 2, 3, dilation=d, padding=d) for d in (1, 2, 4)))


class Hide(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(x)


class Wide(nn.Module):
    """Its dye has step 1, hidden by the wide kernel; its values have step 2."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 2, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(x) + F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)


BOUNDED = {
    "a single convolution": lambda: nn.Conv2d(1, 2, (3, 5), padding=(1, 2)),
    "an even kernel, padded on one side": lambda: layers(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, 2, 2)),
    "a dilated net": dilated,
    "a net without padding": lambda: layers(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 5)),
    "a coarse output: stride 3": lambda: layers(nn.Conv2d(1, 2, 3, stride=3), nn.Conv2d(2, 2, 3, padding=1)),
    "a coarse output of odd lengths": lambda: nn.Conv2d(1, 2, 3, stride=2, padding=1),
    "a fine output: pixel shuffle": lambda: layers(nn.Conv2d(1, 8, 3, padding=1), nn.PixelShuffle(2)),
    "a fine output: transposed": lambda: nn.ConvTranspose2d(1, 2, 3, stride=2, padding=1, output_padding=1),
    "a U-Net, transposed": UNet,
    "a U-Net, bilinear": lambda: UNet(way_up="linear"),
    "a U-Net, nearest": lambda: UNet(way_up="nearest"),
    "a U-Net of step 3": lambda: UNet(step=3, depth=1),
    "a 1-d U-Net": lambda: UNet(1),
    "a 3-d U-Net": lambda: UNet(3, depth=1),
    "pooling and back, no skip: odd lengths shrink": lambda: layers(nn.AvgPool2d(2), nn.Upsample(scale_factor=2)),
    "a wide kernel beside a pooled path": Wide,
    "channel norm, fixed": lambda: layers(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)),
    "reflected": lambda: nn.Conv2d(1, 2, 5, padding=2, padding_mode="reflect"),
    "NaN hidden at the front": lambda: Apply(lambda x: x, before=layers(Hide(), nn.Conv2d(1, 2, 3, padding=1))),
}


def loaded(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return load_model(module).module


def probed(module: nn.Module, n_space: int | None = None) -> Probed:
    return probe(module, dtype=torch.float32, n_space=n_space, n_channels=1 if n_space else None)


def brute_force(module: nn.Module, shape: tuple[int, ...], axis: int) -> dict[int, tuple[int, int]]:
    """Return the first and last output that each input position changes, in float64, over several draws."""
    chance = torch.Generator().manual_seed(1)
    double, found = module.double(), {}
    for position in range(shape[axis + 2]):
        reached = set()
        for _ in range(6):
            x = torch.randn(shape, generator=chance, dtype=torch.float64)
            before = double(x)["output"]
            x.select(axis + 2, position).add_(torch.randn(x.select(axis + 2, 0).shape, generator=chance) * 50)
            changed = (before != double(x)["output"]).movedim(axis + 2, 0).flatten(1).any(1)
            reached.update(changed.nonzero().flatten().tolist())
        found[position] = (min(reached), max(reached)) if reached else (-1, -1)
    module.float()
    return found


@pytest.mark.parametrize("name", BOUNDED)
def test_probing_finds_what_brute_force_finds(name: str) -> None:
    module = loaded(BOUNDED[name]())
    n_space = {"a 1-d U-Net": 1, "a 3-d U-Net": 3}.get(name, 2)
    found = probed(module, n_space)
    assert found.methods == ("dye",) * n_space
    assert found.geometry.evidence == "probed"
    program = found.geometry.programs[0]
    short = [p.legal_size(3) for p in found.geometry.programs]
    length = program.legal_size(2 * sum(program.halo("output")) + 3 * program.step)
    with torch.no_grad():
        sizes = module(torch.zeros(1, 1, length, *short[1:]))["output"].shape
        assert program.sizes(length) == {"output": sizes[2]}
        support = brute_force(module, (1, 1, length, *short[1:]), 0)
    for position, (first, last) in support.items():
        low, high = dependents(program, "output", position=position, size=sizes[2])
        assert first == -1 or low <= first <= last <= high
    inside = range(length // 2 - program.step, length // 2 + program.step)
    scale = program.scale("output")
    befores = [support[p][1] * scale.denominator // scale.numerator - p for p in inside]
    assert max(befores) == program.halo("output")[0]


@pytest.mark.parametrize("name", [name for name in BOUNDED if name not in ("a 1-d U-Net",)])
def test_the_trace_of_a_bounded_model_holds_its_dye(name: str) -> None:
    module = loaded(BOUNDED[name]())
    n_space = 3 if name == "a 3-d U-Net" else 2
    geometry = trace(module, n_channels=1, n_space=n_space, dtype=torch.float32)
    report = check_dye(module, geometry, dtype=torch.float32)
    assert report.is_tight
    check_equivariance(module, geometry, dtype=torch.float32)
    ours = probed(module, n_space).geometry
    for traced, found in zip(geometry.programs, ours.programs, strict=True):
        assert traced.step % found.step == 0
        assert traced.scale("output") == found.scale("output")
        assert found.halo("output") == traced.halo("output") or found.step < traced.step


def test_jump_and_lengths_of_known_models() -> None:
    table = [
        (UNet(), 4, "multiples of 4", 4),
        (UNet(step=3, depth=1), 3, "multiples of 3", 3),
        (dilated(), 1, "any", 1),
        (Wide(), 2, "multiples of 2", 2),
        (nn.Conv2d(1, 2, 3), 1, "any", 1),
    ]
    for module, step, _, modulus in table:
        program = probed(loaded(module)).geometry.programs[0]
        assert program.step == step
        assert program.nodes[1].modulus == modulus


def test_channels_space_axes_and_outputs_are_found() -> None:
    both = Compose(nn.Conv3d(2, 5, 3, padding=1), Named(p=Softmax(), label=ArgMax(), stored=Quantise(0, 1)))
    geometry = probe(loaded(both), dtype=torch.float32).geometry
    assert (geometry.n_channels, geometry.n_space) == (2, 3)
    given = [(o.name, o.n_channels, o.dtype) for o in geometry.outputs]
    assert given == [("p", 5, "float32"), ("label", None, "uint8"), ("stored", 5, "uint8")]
    assert all(program.halo(o.name) == (1, 1) for program in geometry.programs for o in geometry.outputs)


def test_outputs_of_several_scales_have_each_their_own_reach() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 4, stride=4)

        def forward(self, x):
            return {"fine": self.a(x), "coarse": self.b(x)}

    program = probed(loaded(Heads())).geometry.programs[1]
    assert (program.halo("fine"), program.halo("coarse")) == ((1, 1), (0, 0))
    assert (str(program.scale("fine")), str(program.scale("coarse"))) == ("1", "1/4")
    assert program.step == 4


def test_labels_of_a_pooled_network_keep_its_reach_and_step() -> None:
    net = loaded(Compose(UNet(), ArgMax()))
    found = probed(net)
    assert found.methods == ("dye", "dye")
    assert found.geometry.programs == probed(loaded(UNet())).geometry.programs


def test_what_hides_dye_from_every_witness_is_disturbed_instead() -> None:
    class Masked(nn.Module):
        """Writes where a mask of the input says, so dye is cut off and no stand-in fits."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[torch.isnan(x)] = 0
            return x

    module = loaded(layers(Masked(), nn.Conv2d(1, 2, 5, padding=2)))
    found = probed(module)
    assert set(found.methods) == {"perturbation"}
    assert found.geometry.programs[0].halo("output") == (2, 2)


class Excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.gate(self.squeeze(x)))


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=(2, 3), keepdim=True)


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.heads(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)


def net_with(module: nn.Module) -> nn.Module:
    body = nn.Sequential()
    body.add_module("first", nn.Conv2d(1, 4, 3, padding=1))
    body.add_module("middle", module)
    body.add_module("last", nn.Conv2d(4, 2, 3, padding=1))
    return body


UNBOUNDED = [
    (nn.InstanceNorm2d(4), "'middle' (InstanceNorm2d)", "fixed statistics"),
    (nn.GroupNorm(2, 4), "'middle' (GroupNorm)", "fixed statistics"),
    (Excite(), "'middle.squeeze' (AdaptiveAvgPool2d)", "pool of a fixed window"),
    (Mean(), "'middle' (Mean)", "in its operation 'mean'"),
    (Attend(), "'middle.heads' (MultiheadAttention)", "windowed contract"),
    (nn.BatchNorm2d(4, track_running_stats=False), "'middle' (BatchNorm2d)", "track_running_stats=True"),
]


@pytest.mark.parametrize(("module", "who", "cure"), UNBOUNDED, ids=[who for _, who, _ in UNBOUNDED])
def test_what_sees_the_whole_input_is_refused_by_name(module: nn.Module, who: str, cure: str) -> None:
    attends = isinstance(module, Attend)
    with pytest.raises(UnboundedError) as caught:
        probed(loaded(net_with(module)) if not attends else load_model(net_with(module)).module)
    assert f"receptive field is unbounded: {who} sees the whole input" in str(caught.value)
    assert cure in str(caught.value)


def test_a_script_that_sees_the_whole_input_is_refused_by_its_likeliest_part(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net_with(nn.InstanceNorm2d(4)).eval()), tmp_path / "net.pt")
        torch.jit.save(torch.jit.trace(UNet(depth=1).eval(), torch.zeros(1, 1, 8, 8)), tmp_path / "unet.pt")
    with pytest.raises(UnboundedError, match=r"'middle' \(InstanceNorm2d\) sees the whole input"):
        probed(load_model(f"{tmp_path}/net.pt").module)
    found = probed(load_model(f"{tmp_path}/unet.pt").module)
    assert found.geometry.programs == probed(load_model(UNet(depth=1)).module).geometry.programs


def test_one_answer_for_the_whole_input_and_a_fixed_grid_are_refused() -> None:
    whole = layers(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="single answer for the whole input"):
        probed(loaded(whole))
    with pytest.raises(ModelError, match=r"sees the whole input|must grow with axis"):
        probed(loaded(layers(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(7))))


class Placed(nn.Module):
    """Adds a position encoding, learned for one length or made for any."""

    def __init__(self, length: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.length = length
        self.table = nn.Parameter(torch.randn(1, 2, max(length, 1), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.length:
            return y + self.table
        return y + torch.arange(x.shape[2], dtype=x.dtype).reshape(1, 1, -1, 1)


@pytest.mark.parametrize("length", [0, 32])
def test_a_model_that_knows_its_position_is_refused(length: int) -> None:
    with pytest.raises(ModelError, match="depends on position"):
        probed(loaded(Placed(length)))


def test_align_corners_and_circular_padding_are_refused() -> None:
    class Corners(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)

    with pytest.raises(ModelError, match="depends on position"):
        probed(loaded(layers(nn.Conv2d(1, 2, 3, padding=1), Corners())))
    with pytest.raises(ModelError, match="pads circularly"):
        probed(loaded(nn.Conv2d(1, 2, 5, padding=2, padding_mode="circular")))


class Drop(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, training=True)


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(x.shape)


@pytest.mark.parametrize(("module", "who"), [(Drop(), r"'middle' \(Drop\)"), (Noise(), r"'middle' \(Noise\)")])
def test_a_model_that_draws_at_random_is_refused_by_name(module: nn.Module, who: str) -> None:
    x = torch.randn(1, 1, 8, 8)
    with pytest.raises(ModelError, match=who):
        check_determinism(loaded(net_with(module)), x)


def test_active_dropout_layers_are_named_and_a_still_model_passes() -> None:
    x = torch.randn(1, 1, 8, 8)
    check_determinism(loaded(net_with(nn.Dropout2d(0.5))), x)
    awake = loaded(net_with(nn.Dropout2d(0.5)))
    awake.model.middle.training = True
    state = torch.get_rng_state()
    with pytest.raises(ModelError, match=r"'middle' \(Dropout2d\) gives other values .* call eval\(\)"):
        check_determinism(awake, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrong_geometry_is_caught_by_dye_and_by_shifts() -> None:
    module = loaded(nn.Conv2d(1, 2, 5, padding=2))
    geometry = trace(module, n_channels=1, n_space=2, dtype=torch.float32)
    nodes = geometry.programs[0].nodes

    def with_window(**changes: int) -> AxisProgram:
        return AxisProgram((nodes[0], replace(nodes[1], **changes)), geometry.programs[0].outputs)

    assert isinstance(nodes[1], Window)
    short = replace(geometry, programs=(with_window(kernel=3, before=1, after=1), geometry.programs[1]))
    with pytest.raises(ModelError, match="the geometry is wrong"):
        check_dye(module, short, dtype=torch.float32)
    loose = replace(geometry, programs=(with_window(kernel=7, before=3, after=3), geometry.programs[1]))
    report = check_dye(module, loose, dtype=torch.float32)
    assert not report.is_tight
    assert [(f.loose_before, f.loose_after) for f in report.fits] == [(1, 1), (0, 0)]
    pooled = loaded(UNet(depth=1))
    with pytest.raises(ModelError, match="the step is wrong"):
        check_equivariance(pooled, replace(geometry, programs=_evens(geometry.programs)), dtype=torch.float32)


def _evens(programs: tuple[AxisProgram, ...]) -> tuple[AxisProgram, ...]:
    """Return programs of step 1 that take only what a pooled network takes."""
    from engine.geometry.nodes import Node, Opaque

    node = Opaque((0,), 5, 5, 1, 1, 1, 0, 2, 2, 0)
    return tuple(AxisProgram((Node(()), node), p.outputs) for p in programs)
