import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError, PlanError
from engine.geometry.resampling import Resampling
from engine.models.resampled import Resampled, resample, resample_axis

SIZES = [(5, 3), (3, 5), (20, 33), (33, 20), (7, 7), (64, 17), (1, 4), (4, 1)]


@pytest.mark.parametrize("sizes", SIZES)
def test_linear_and_nearest_equal_torchs_interpolate(sizes):
    n, m = sizes
    x = torch.randn(1, 2, n, 6, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for order, mode in (("linear", "trilinear"), ("nearest", "nearest-exact")):
        options = {"align_corners": False} if mode == "trilinear" else {}
        theirs = F.interpolate(x, size=(m, 6, m), mode=mode, **options)
        ours = resample(x, [Resampling(n, m, order), Resampling(6, 6, order), Resampling(n, m, order)])
        assert float((ours - theirs).abs().max()) < 1e-12
    assert float(x.std()) > 0.5


@pytest.mark.parametrize("sizes", SIZES)
def test_cubic_equals_torchs_bicubic(sizes):
    n, m = sizes
    x = torch.randn(1, 2, n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = F.interpolate(x, size=(m, m), mode="bicubic", align_corners=False)
    ours = resample(x, [Resampling(n, m, "cubic")] * 2)
    assert float((ours - theirs).abs().max()) < 1e-12


@pytest.mark.parametrize("order", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_part_has_the_same_bits_as_the_whole(sizes, order):
    n, m = sizes
    one = Resampling(n, m, order)
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    whole = resample_axis(x, 1, one, indices=np.arange(m))
    for a in range(m):
        for b in range(a + 1, m + 1):
            low, high = one.demand(a, b - 1)
            part = resample_axis(x[:, low : high + 1], 1, one, indices=np.arange(a, b), first=low)
            assert torch.equal(part, whole[:, a:b])


@pytest.mark.parametrize("order", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", SIZES)
def test_as_many_voxels_are_ready_as_need_no_later_one(sizes, order):
    n, m = sizes
    one = Resampling(n, m, order)
    for k in range(n + 1):
        wanted = sum(one.demand(i, i)[1] < k for i in range(m))
        assert one.n_ready(k) == wanted


def test_the_module_goes_there_and_back():
    torch.manual_seed(0)
    net = nn.Conv2d(1, 3, 3, padding=1).eval()
    module = Resampled(net, spacing=(2.0, 1.5))
    module.source_spacing = (0.8, 1.5)
    x = torch.randn(1, 1, 25, 30)
    with torch.no_grad():
        there = F.interpolate(x, size=(10, 30), mode="bilinear", align_corners=False)
        wanted = F.interpolate(net(there), size=(25, 30), mode="bilinear", align_corners=False)
        assert float((module(x) - wanted).abs().max()) < 1e-6
    assert float(wanted.std()) > 0.1


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ModelError, match="positive spacing"):
        Resampled(nn.Identity(), spacing=(1.0, 0.0))
    with pytest.raises(ModelError, match="knows nearest"):
        Resampled(nn.Identity(), spacing=1.0, order="spline")
    with pytest.raises(ModelError, match="must know the spacing"):
        Resampled(nn.Identity(), spacing=1.0)(torch.zeros(1, 1, 4))
    with pytest.raises(PlanError, match="two grids"):
        Resampling(0, 4, "linear")
    module = Resampled(nn.AvgPool1d(2), spacing=1.0)
    module.source_spacing = (1.0,)
    with pytest.raises(ModelError, match="on its own grid"):
        module(torch.zeros(1, 1, 4))
