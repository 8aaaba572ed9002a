"""Layers of known thickness, and their local thickness by whole arrays and plain loops."""

import numpy as np
from scipy.ndimage import distance_transform_edt, generate_binary_structure, grey_dilation, maximum_filter


def places(shape, spacing):
    """The millimetre of each voxel's centre from the middle of the volume, (axis, *shape)."""
    steps = np.array(spacing).reshape(-1, *[1] * len(shape))
    return (np.indices(shape) - (np.array(shape).reshape(steps.shape) - 1) / 2) * steps


def cap(shape, spacing, *, radius, thickness, towards, opening=0.5):
    """Bone (1), a ball, under a cap (2) of one thickness over a part of it: its rim stands straight on the bone."""
    towards = np.array(towards, float) / np.linalg.norm(towards)
    from_middle = places(shape, spacing) + (0.8 * radius * towards).reshape(-1, *[1] * len(shape))
    far = np.sqrt((from_middle**2).sum(0))
    angle = np.arccos(np.clip(np.tensordot(towards, from_middle, 1) / np.maximum(far, 1e-6), -1, 1))
    return np.where(far <= radius, 1, np.where((far <= radius + thickness) & (angle < opening), 2, 0)).astype("uint8")


def halves(mask):
    """A mask on the grid of half steps, whose voxels are closed boxes."""
    around = np.zeros([2 * n + 1 for n in mask.shape], bool)
    around[(slice(1, None, 2),) * mask.ndim] = mask
    return maximum_filter(around, 3)


def local_by_loops(layer, spacing):
    """Local thickness and ridge as engine/measure/balls.py and local.py define them, the slow way: every ball is painted."""
    layer = np.pad(layer, 2)
    half = [step / 2 for step in spacing]
    touching = sum(grey_dilation(layer, footprint=_line(layer.ndim, axis)) for axis in range(layer.ndim)) * ~layer
    flat = distance_transform_edt(~halves(touching == 1), sampling=half)
    points = np.zeros(flat.shape, bool)
    points[(slice(1, None, 2),) * layer.ndim] = touching > 1
    stepped = distance_transform_edt(~points, sampling=half) - min(spacing) / 3 if points.any() else np.inf
    radii = np.where(halves(~layer), 0, np.minimum(flat, np.maximum(stepped, 0)))
    found = np.zeros(layer.shape)
    grid = np.indices(layer.shape).reshape(layer.ndim, -1).T * np.array(spacing)
    for place in np.argwhere(radii > 0):
        radius = radii[tuple(place)]
        inside = ((grid - (place - 1) / 2 * spacing) ** 2).sum(1) <= radius**2 * (1 + 1e-6)
        np.maximum(found.reshape(-1), 2 * radius, out=found.reshape(-1), where=inside)
    found *= layer
    own = 2 * maximum_filter(radii, 3)[(slice(1, None, 2),) * layer.ndim]
    ridge = layer & (own >= 0.75 * maximum_filter(found, 3) - 1e-6)
    inner = (slice(2, -2),) * layer.ndim
    return found[inner], ridge[inner]


def _line(n_axes, axis):
    return generate_binary_structure(n_axes, 1) & np.indices((3,) * n_axes)[[i for i in range(n_axes) if i != axis]].__eq__(1).all(0)
