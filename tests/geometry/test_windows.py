import pytest
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from engine.errors import PlanError
from engine.geometry.windows import Windows

SIZES = (5, 7, 8, 9, 15, 16, 17, 40, 41, 55, 96)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.625, 0.9])
@pytest.mark.parametrize("window", [1, 4, 7, 8, 16])
def test_windows_stand_where_monai_puts_them(window, overlap):
    windows = Windows((window,), (overlap,))
    for size in SIZES:
        padded = max(size, window)
        step = _get_scan_interval((padded,), (window,), 1, (overlap,))
        theirs = dense_patch_slices((padded,), (window,), step)
        assert windows.starts(0, size) == tuple(s[0].start for s in theirs)


def nnunet_steps(size, window, step_size):
    """Written down from nnunetv2.inference.sliding_window_prediction.compute_steps_for_sliding_window."""
    import numpy as np

    target = window * step_size
    n = int(np.ceil((size - window) / target)) + 1
    most = size - window
    actual = most / (n - 1) if n > 1 else 99999999999
    return tuple(int(np.round(actual * i)) for i in range(n))


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("window", [4, 8, 16])
def test_windows_stand_where_nnunet_puts_them(window, overlap):
    windows = Windows((window,), (overlap,), rule="nnunet")
    for size in SIZES:
        assert windows.starts(0, size) == nnunet_steps(max(size, window), window, 1 - overlap)


@pytest.mark.parametrize("rule", ["monai", "nnunet"])
def test_every_voxel_lies_in_a_window_and_no_window_leaves_the_axis(rule):
    windows = Windows((7,), (0.3,), rule=rule)
    for size in range(1, 60):
        starts = windows.starts(0, size)
        padded = sum(windows.padded(0, size)) + size
        covered = {v for a in starts for v in range(a, a + 7)}
        assert covered == set(range(padded))
        assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0,), "overlap": (0.5,)},
        {"shape": (4,), "overlap": (1.0,)},
        {"shape": (4, 4), "overlap": (0.5,)},
        {"shape": (4,), "overlap": (0.5,), "sigma_scale": 0.0},
        {"shape": (4,), "overlap": (0.5,), "rule": "other"},
        {"shape": (4,), "overlap": (0.5,), "weights": "other"},
    ],
)
def test_what_is_no_window_is_refused(wrong):
    with pytest.raises(PlanError, match="sliding window"):
        Windows(**wrong)
