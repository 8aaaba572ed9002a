import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from scipy.ndimage import gaussian_filter
from torch import nn

from engine.geometry.windows import Windows
from engine.models.windowed import Mirrored, Windowed, window_weights


def network(n_space=3, n_out=3):
    torch.manual_seed(3)
    conv = (None, nn.Conv1d, nn.Conv2d, nn.Conv3d)[n_space]
    norm = (None, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[n_space]
    return nn.Sequential(conv(2, 4, 3, padding=1), norm(4, affine=True), nn.ReLU(), conv(4, n_out, 3, padding=1)).eval()


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("shape", [(19, 24, 30), (6, 24, 13), (8, 8, 8), (5, 6, 7)])
def test_the_module_equals_monai(mode, overlap, shape):
    net = network()
    x = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = sliding_window_inference(x, (8, 10, 9), 4, net, overlap=overlap, mode=mode)
        ours = Windowed(net, window=(8, 10, 9), overlap=overlap, weights=mode)(x)
    assert float(theirs.std()) > 0.05
    assert float((ours - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(8, 10, 9), (1, 5, 6), (32, 48, 40)])
def test_the_gaussian_is_monais(shape):
    theirs = compute_importance_map(shape, mode="gaussian", sigma_scale=0.125)
    ours = window_weights(Windows(shape, (0.5,) * 3, "gaussian"))
    assert float((ours - theirs).abs().max()) < 1e-7
    assert float(theirs.std()) > 0


def test_the_gaussian_is_nnunets():
    shape = (16, 20, 12)
    point = np.zeros(shape)
    point[8, 10, 6] = 1
    theirs = gaussian_filter(point, [n / 8 for n in shape], 0, mode="constant", cval=0)
    theirs = theirs / (theirs.max() / 10)
    theirs[theirs == 0] = theirs[theirs != 0].min()
    ours = window_weights(Windows(shape, (0.5,) * 3, "gaussian", rule="nnunet"))
    assert np.abs(ours.numpy() - theirs).max() < 1e-6
    assert float(ours.min()) > 0
    assert float(ours.max()) == 10


def test_mirroring_is_the_mean_over_all_flips():
    net = network(2)
    x = torch.randn(1, 2, 9, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = Mirrored(net, axes=(0, 1))(x)
        wanted = torch.zeros_like(ours)
        for flip in ((), (2,), (3,), (2, 3)):
            wanted += net(x.flip(flip)).flip(flip) / 4
        plain = net(x)
    assert float((ours - wanted).abs().max()) < 1e-6
    assert float((ours - plain).abs().max()) > 1e-3
