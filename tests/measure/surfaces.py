"""Two volumes of labels to be compared, and what MONAI and SciPy say of the whole arrays."""

import warnings

import nibabel
import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_erosion, distance_transform_edt

from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage.create import create_volume
from tests.real_models import CT, real
from tests.stored import smooth


def ct_pair():
    """Bone and air of the real CT, by two pairs of thresholds: labels touch the border of the volume."""
    scan = np.asarray(nibabel.load(real(CT)).dataobj).T
    return tuple(np.where(scan > bone, 2, np.where(scan < air, 1, 0)).astype("uint8") for bone, air in ((200, -300), (250, -350)))


def blobs(shape=(40, 44, 36), *, seed=0):
    """The same of smooth noise: blobs of two labels, some cut by the border, and a result that is moved and noisy."""
    field = smooth(shape, seed=seed, n_passes=8)
    other = 0.85 * np.roll(field, 1, axis=-1) + 0.4 * smooth(shape, seed=seed + 1, n_passes=8)
    return tuple(np.where(a > 0.8, 2, np.where(a < -0.9, 1, 0)).astype("uint8") for a in (field, other))


def stored(path, array, *, spacing=(1.0, 1.0, 1.0), chunk=16, unit="millimeter", names="zyx"):
    axes = [Axis(name, Role.SPACE, spacing=step, unit=unit) for name, step in zip(names, spacing, strict=True)]
    volume = create_volume(str(path), axes=axes, dtype=array.dtype, shape=array.shape, chunk_shape=(chunk,) * array.ndim)
    volume.write(Region.whole(array.shape), np.ascontiguousarray(array))
    return volume


def edge(mask):
    return mask ^ binary_erosion(mask)


def by_scipy(reference, result, label, *, spacing, tolerance, counts=True):
    """Every distance of both directions from whole Euclidean distance transforms, in float64."""
    true, found = (edge(array == label) & counts for array in (reference, result))
    there = distance_transform_edt(~found, sampling=spacing)[true]
    back = distance_transform_edt(~true, sampling=spacing)[found]
    both = np.concatenate([there, back])
    return {
        "n_reference": int(true.sum()),
        "n_result": int(found.sum()),
        "hausdorff_mm": both.max(),
        "hd95_mm": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd_mm": both.mean(),
        "mean_to_reference_mm": back.mean(),
        "mean_to_result_mm": there.mean(),
        "surface_dice": (both.astype("float32") <= np.float32(tolerance)).mean(),
        "tolerance_mm": tolerance,
    }


def by_monai(reference, result, label, *, spacing, tolerance):
    """The scores that MONAI gives for the masks of one label; the result is its prediction."""
    mine, true = (torch.from_numpy((array == label).astype("float32"))[None, None] for array in (result, reference))
    steps = {"include_background": True, "spacing": list(map(float, spacing))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that are not there
        return {
            "hausdorff_mm": float(compute_hausdorff_distance(mine, true, **steps)),
            "hd95_mm": float(compute_hausdorff_distance(mine, true, percentile=95, **steps)),
            "assd_mm": float(compute_average_surface_distance(mine, true, symmetric=True, **steps)),
            "mean_to_reference_mm": float(compute_average_surface_distance(mine, true, **steps)),
            "mean_to_result_mm": float(compute_average_surface_distance(true, mine, **steps)),
            "surface_dice": float(compute_surface_dice(mine, true, [tolerance], **steps)),
        }
