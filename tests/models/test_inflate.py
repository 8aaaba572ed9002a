"""Networks of two dimensions made three: on a volume constant along the new axis they give what they gave."""

import textwrap

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter1d
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import engine
from engine.errors import ModelError
from engine.models.inflate import inflate
from engine.models.learn import learn
from engine.models.load import load_model
from engine.models.slicewise import Neighbours
from engine.models.trace import trace
from engine.models.wrappers import Compose
from engine.prepare import Options
from jobs.networks import UNet
from tests.oracle import Named, plan_for, run_in_memory, whole_run
from tests.real_models import with_statistics
from tests.stored import smooth, store, stored


def seeded(network: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with_statistics(network)
    return network.eval()


class Squeezed(nn.Module):
    """Channels weighed by the mean of each (squeeze and excitation), beside a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, x):
        y = self.first(x)
        return y + F.relu(y) * self.weigh(y)


class Twice(nn.Module):
    """One layer in two places, a plane of labels beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.once_more = self.again

    def forward(self, x):
        y = self.once_more(F.elu(self.again(F.elu(self.first(x)))))
        return {"scores": y, "label": y.argmax(1)}


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers)


NETWORKS = {  # what makes it; how many of its layers along a path look along the new axis
    "U-Net": (lambda: UNet(n_space=2, n_in=1, n_out=2, widths=(3, 4)), 7),
    "U-Net of nearest upsampling": (lambda: UNet(n_space=2, n_in=1, n_out=2, widths=(3, 4), kernels=(5, (1, 3)), up="nearest"), 6),
    "U-Net of linear upsampling": (lambda: UNet(n_space=2, n_in=1, n_out=2, widths=(3, 4), strides=((3, 2),), up="linear"), 6),
    "U-Net of instance norm": (lambda: UNet(n_space=2, n_in=1, n_out=2, widths=(3, 4), norm="instance"), None),
    "group norm": (lambda: chain(nn.GroupNorm(2, 4), nn.ELU(), nn.Conv2d(4, 2, 3, padding=1)), None),
    "squeeze and excitation": (Squeezed, None),
    "one layer twice": (Twice, 3),
    "kernels": (lambda: chain(nn.Conv2d(4, 4, (5, 2), stride=(2, 1), padding=(2, 1)), nn.Conv2d(4, 4, 3, padding="valid", dilation=2)), 3),
    "the same size": (lambda: chain(nn.Conv2d(4, 4, (3, 5), padding="same", dilation=(3, 1)), nn.Conv2d(4, 2, (1, 3), padding="same")), 3),
    "unequal sides": (lambda: chain(nn.Conv2d(4, 4, 4, padding="same")), 2),
    "groups without bias": (lambda: chain(nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.ConvTranspose2d(8, 4, 3, groups=4, bias=False)), 3),
    "reflected": (lambda: chain(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReflectionPad2d((1, 2, 3, 0)), nn.Conv2d(4, 2, 3)), 3),
    "repeated": (lambda: chain(nn.ReplicationPad2d(2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate")), 2),
    "padded": (lambda: chain(nn.ZeroPad2d((0, 1, 2, 0)), nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 2, 3)), 2),
    "transposed": (lambda: chain(nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1), nn.ConvTranspose2d(4, 2, 4, stride=(1, 2))), 3),
    "pools": (lambda: chain(nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)), 2),
    "a wide pool": (lambda: chain(nn.MaxPool2d((3, 1), stride=1, dilation=(2, 1)), nn.AvgPool2d(2, divisor_override=3)), 1),
    "the rest": (lambda: chain(nn.Dropout2d(), nn.Upsample(scale_factor=2), nn.BatchNorm2d(4, affine=False), nn.Softmax2d()), 1),
    "running instance norm": (lambda: chain(nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.PReLU()), 1),
    "circular": (lambda: chain(nn.CircularPad2d(1), nn.Conv2d(4, 4, 3)), 2),
}  # fmt: skip


MODES = {case: ((0, 3), (1, 5), (2, 3))[i % 3] for i, case in enumerate(NETWORKS)}
"""An axis and a length for each."""
SOME = ["U-Net", "U-Net of instance norm", "squeeze and excitation", "kernels", "the same size", "reflected", "transposed", "pools"]


def values(found):
    return found if isinstance(found, dict) else {"output": found}


def pair(network, solid, *, axis, n_slices):
    """Each output of the network, and of the inflated one on as many of that slice, the slices first."""
    x = torch.randn(1, 1, 24, 36, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        flat, volume = values(network(x)), values(solid(x.unsqueeze(2 + axis).repeat_interleave(n_slices, 2 + axis)))
    for name, plane in flat.items():
        assert plane.float().std() > 0
        yield plane.float(), volume[name].float().movedim(volume[name].dim() - 3 + axis, 0)


@pytest.mark.parametrize("case", NETWORKS)
def test_away_from_its_ends_a_constant_volume_gives_what_the_slice_gave(case):
    network, (axis, length) = seeded(NETWORKS[case][0]()), MODES[case]
    halo = (NETWORKS[case][1] or 12) * (length // 2)
    solid = inflate(network, axis=axis, length=length)
    n_ends = 0
    for plane, volume in pair(network, solid, axis=axis, n_slices=2 * halo + 3):
        inner = volume[halo:-halo]
        assert inner[0].shape == plane.shape
        assert (inner - plane).abs().max() <= 1e-5 * plane.abs().max()
        n_ends += int((volume[0] - plane).abs().max() > 1e-3 * plane.abs().max())
    assert n_ends  # zeros lie beyond


@pytest.mark.parametrize("case", SOME)
def test_with_its_end_slices_repeated_a_constant_volume_gives_it_everywhere(case):
    network = seeded(NETWORKS[case][0]())
    solid = inflate(network, axis=1, length=5, padding="replicate")
    for plane, volume in pair(network, solid, axis=1, n_slices=4):
        assert volume[0].shape == plane.shape
        assert (volume - plane).abs().max() <= 1e-5 * plane.abs().max()


@pytest.mark.parametrize("case", [*SOME, "group norm", "one layer twice"])
def test_of_length_one_it_is_the_network_slice_by_slice(case):
    network, (axis, _) = seeded(NETWORKS[case][0]()), MODES[case]
    slices = torch.randn(5, 1, 24, 36, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        flat = values(network(slices))
        volume = values(inflate(network, axis=axis, length=1)(slices.movedim(0, 1)[None].movedim(2, 2 + axis)))
    for name, wanted in flat.items():
        found = volume[name].movedim(volume[name].dim() - 3 + axis, 1)[0]
        assert wanted.float().std() > 0
        assert (found - wanted).float().abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("mode", ["constant", "nearest"])
@pytest.mark.parametrize("length", [1, 3, 7])
def test_a_layer_gives_on_any_volume_what_it_gave_for_the_mean_of_its_slices(mode, length):
    """A layer is linear, so that a repeated kernel is the plain one after a mean along z: scipy takes it."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 5, padding=2).double()
    array = np.random.default_rng(0).standard_normal((2, 9, 20, 22))
    means = torch.from_numpy(uniform_filter1d(array, length, axis=1, mode=mode))
    with torch.inference_mode():
        oracle = torch.stack([conv(means[:, z]) for z in range(9)], dim=1)
        found = inflate(conv, length=length, padding="model" if mode == "constant" else "replicate")(torch.from_numpy(array))
    assert oracle.std() > 0
    np.testing.assert_allclose(found, oracle, atol=1e-12)


@pytest.mark.parametrize("case", [name for name, (_, n) in NETWORKS.items() if n and name not in ("circular", "unequal sides")])
def test_the_geometry_is_proved_and_the_halo_is_half_a_kernel_of_each_layer(case):
    (make, n_layers), padding = NETWORKS[case], "replicate" if case in SOME[3:6] else "model"
    network = seeded(make())
    flat = learn(load_model(network), n_channels=1, n_space=2)
    solid = learn(load_model(inflate(network, axis=0, length=5, padding=padding)), n_channels=1, n_space=3)
    assert solid.evidence == "proved"
    assert {program.halo(o.name) for o in solid.outputs for program in solid.programs[:1]} == {(2 * n_layers,) * 2}
    assert solid.steps == (1, *flat.steps)
    for here, there in zip(solid.programs[1:], flat.programs, strict=True):
        assert [here.halo(o.name) for o in solid.outputs] == [there.halo(o.name) for o in flat.outputs]


@pytest.mark.parametrize("padding", ["model", "replicate"])
def test_tiles_of_an_inflated_unet_equal_its_whole_pass(padding):
    network = seeded(UNet(n_space=2, n_in=1, n_out=2, widths=(2, 3)))
    module = Named(inflate(network, padding=padding).double())
    geometry = trace(module, n_channels=1, n_space=3, dtype=torch.float64)
    array = np.random.default_rng(0).standard_normal((1, 40, 16, 24))
    plan = plan_for(geometry, array, tile=(20, 16, 24), block=(8, 16, 24), with_pyramid=False)
    assert plan.n_tiles > 3
    found = run_in_memory(plan, module, array, torch.float64)["output"].levels[0]
    oracle = whole_run(module, array, torch.float64)["output"]
    assert oracle.std() > 0
    assert np.abs(found - oracle).max() <= 1e-12 * np.abs(oracle).max()


def test_the_network_given_is_left_as_it_is_and_its_settings_are_kept():
    network = seeded(UNet(n_space=2, n_in=1, n_out=2, widths=(3, 4), norm="batch")).double().train()
    network.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for padding in ("model", "replicate"):
        solid = inflate(network, length=3, padding=padding)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert isinstance(network.down[0][0], nn.Conv2d)
        assert all(module.training for module in solid.modules())
        assert list(solid.state_dict()) == list(before)
        assert {value.dtype for value in solid.parameters()} == {torch.float64}
        assert [p.requires_grad for p in solid.parameters()] == [p.requires_grad for p in network.parameters()]
        for name, value in solid.state_dict().items():
            wanted = before[name]
            if wanted.dim() == 4:
                n = 3 if wanted.shape[-1] > 1 else 1
                assert torch.equal(value, torch.stack([wanted / n] * n, 2)), name
            else:
                assert torch.equal(value, wanted), name
        state = {name: value + 1 for name, value in solid.state_dict().items()}
        solid.load_state_dict(state)
        assert torch.equal(solid.head.bias, before["head.bias"] + 1)


class Functional(nn.Module):
    """A layer, and what its forward calls by itself."""

    def __init__(self, call) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(1, 4, 3, padding=1), Calls(call)

    def forward(self, x):
        return self.inner(self.first(x))


class Calls(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call
        self.kernel = nn.Parameter(torch.ones(4, 1, 3, 3))

    def forward(self, x):
        return self.call(self, x)


class Own(nn.Conv2d):
    def forward(self, x):
        return super().forward(x - x.mean())


REFUSED = {
    "F.max_pool2d": (lambda s, x: F.max_pool2d(x, 2), "'inner' .Calls. calls 'max_pool2d' in its forward.*Use torch.nn.MaxPool2d as a layer"),
    "F.interpolate": (lambda s, x: F.interpolate(x, scale_factor=2.0), "calls 'interpolate'.*Use torch.nn.Upsample.*#slices=1"),
    "F.interpolate to a size": (lambda s, x: F.interpolate(x, size=(40, 40)), "'inner' .Calls. calls 'interpolate'"),
    "F.conv2d": (lambda s, x: F.conv2d(x, s.kernel, groups=4), "calls 'conv2d'"),
    "F.group_norm": (lambda s, x: F.group_norm(x, 2), "calls 'group_norm'.*Use torch.nn.GroupNorm"),
    "F.instance_norm": (lambda s, x: F.instance_norm(x), "calls 'instance_norm'"),
    "F.pad on channels": (lambda s, x: F.pad(x, (0, 0, 0, 0, 1, 1)), "calls 'pad'"),
    "a mean over all of space": (lambda s, x: x - x.mean((2, 3), keepdim=True), r"'inner' .Calls. does not \(it calls mean, sub\)"),
    "every other row": (lambda s, x: x[:, :, ::2], "'inner' .Calls. does not"),
    "a turned image": (lambda s, x: x.flip(2), r"does not \(it calls flip\)"),
    "a view of four dimensions": (lambda s, x: x.permute(0, 2, 3, 1), r"does not \(it calls permute\) \(.*\). Write its forward so that it names no"),
    "pixel shuffle by itself": (lambda s, x: F.pixel_shuffle(x, 2), r"it calls pixel_shuffle"),
    "PixelShuffle": (chain(nn.PixelShuffle(2)), r"'1' \(PixelShuffle\) has none. Run the network slice by slice instead"),
    "Unfold": (chain(nn.Unfold(3)), r"'1' \(Unfold\) has none"),
    "a convolution of one's own": (chain(Own(4, 4, 3)), r"'1' \(Own\) has a forward of its own. Put a plain Conv2d"),
    "spectral norm": (chain(spectral_norm(nn.Conv2d(4, 4, 3))), "hooks or parametrisations.*Remove them first"),
    "a fixed size": (chain(nn.Upsample(size=(40, 40))), r"'1' \(Upsample\) upsamples to a fixed size of \(40, 40\)"),
    "cubes": (chain(nn.Upsample(scale_factor=2, mode="bicubic")), "interpolates by cubes"),
    "indices": (chain(nn.MaxPool2d(2, return_indices=True)), "returns indices"),
    "a lazy layer": (chain(nn.LazyConv2d(3, 3)), r"'1' \(LazyConv2d\) has none"),
    "a dense layer": (chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), r"'2' \(Flatten\) does not .*slice by slice"),
    "no convolution": (nn.Sequential(nn.ReLU()), r"the model itself \(Sequential\) has no Conv2d in its tree"),
    "a network of volumes": (nn.Conv3d(1, 1, 3), r"the model itself \(Conv3d\) has no Conv2d in its tree"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_over_is_refused_by_name_with_the_way_out(case):
    made, words = REFUSED[case]
    network = made if isinstance(made, nn.Module) else seeded(Functional(made))
    with pytest.raises(ModelError, match=words) as caught:
        inflate(network.eval())
    assert "\n" not in str(caught.value)


ARGUMENTS = {
    "an even length": ({"length": 4}, "odd length.*not 4. Use 5, or 1"),
    "no length": ({"length": 0}, "not 0. Use 3"),
    "a fourth axis": ({"axis": 3}, "0, 1 or 2 of the three of space, not 3"),
    "an unknown padding": ({"padding": "wrap"}, "must be model or replicate, not 'wrap'"),
    "unequal sides": ({"padding": "replicate"}, r"pads the two sides unequally \(kernel \(4, 4\), 'same'\). Use padding='model'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_make_no_sense_are_refused(case):
    arguments, words = ARGUMENTS[case]
    with pytest.raises(ModelError, match=words):
        inflate(NETWORKS["unequal sides"][0](), **arguments)


def test_calls_that_name_no_dimension_of_space_are_let_through():
    network = seeded(Functional(lambda s, x: F.relu(x + F.interpolate(x, size=x.shape[2:])).softmax(1)))
    for plane, volume in pair(network, inflate(network, padding="replicate"), axis=0, n_slices=3):
        assert (volume - plane).abs().max() <= 1e-5


def test_a_file_of_the_users_makes_it_and_the_engine_runs_it(tmp_path):
    (tmp_path / "model.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn
            from engine.models.inflate import inflate

            def model():
                torch.manual_seed(0)
                return inflate(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ELU(), nn.MaxPool2d(2)), length=3)
        """)
    )
    array = smooth((14, 30, 32))
    source = store(tmp_path / "scan.zarr", array, "zyx")
    report = engine.run(source, f"{tmp_path / 'model.py'}:model", str(tmp_path / "out.zarr"), options=Options(tile=(10, 16, 16), block=(8, 8, 8), threads=2))
    assert report.is_complete
    with torch.inference_mode():
        oracle = load_model(f"{tmp_path / 'model.py'}:model").module(torch.from_numpy(array)[None, None])["output"][0].numpy()
    assert oracle.std() > 0
    assert oracle.shape == (4, 14, 15, 16)
    np.testing.assert_allclose(stored(tmp_path / "out.zarr"), oracle, atol=1e-6)


def test_neighbours_before_a_network_of_slices_give_what_a_source_in_slices_gives(tmp_path):
    network = seeded(nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ELU(), nn.Conv2d(4, 2, 3, padding=1)))
    array = smooth((2, 12, 30, 32))
    source = store(tmp_path / "scan.zarr", array, "czyx")
    pipeline = Compose(Neighbours(3), inflate(network, length=1)).eval()
    geometry = learn(load_model(pipeline), n_channels=2, n_space=3)
    assert geometry.evidence == "proved"
    assert [program.halo("output") for program in geometry.programs] == [(1, 1), (2, 2), (2, 2)]
    engine.run(source, pipeline, str(tmp_path / "volume.zarr"), options=Options(tile=(8, 16, 16), block=(8, 16, 16), threads=2))
    engine.run(f"{source}#slices=3", network, str(tmp_path / "slices.zarr"), options=Options(threads=2))
    found, oracle = stored(tmp_path / "volume.zarr"), stored(tmp_path / "slices.zarr")
    assert oracle.std() > 0
    assert oracle.shape == found.shape == (2, 12, 30, 32)
    assert np.abs(found - oracle).max() <= 1e-6 * np.abs(oracle).max()
    with pytest.raises(ModelError, match="odd number of slices.*not 2. Use 3"):
        Neighbours(2)
