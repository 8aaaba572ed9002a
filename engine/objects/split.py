"""Parts of one component: the watershed of its distance map, from the peaks of that map.

The distance of a voxel is to the nearest voxel outside its component; beyond the volume there is nothing. It needs no
more than the component's box, one voxel wider where the volume goes on. Let p be inside and q the nearest voxel of the
volume outside the component. Were q outside the wider box, then clamped to it q would be nearer, and still outside. So
the crop gives the distances of the whole volume. They are also those to the background of the class, as the usual call
on the whole image has it: from p to a voxel q of another component of the class leads a path of steps along axes that
stay within the box of p and q; it leaves the class on the way, at a voxel that is nearer than q.

Peaks and flooding look at the component's box alone, so that a part is the same whichever block asks for it. Calls of
scikit-image on a whole image agree, but where two fronts meet in a tie: its heap leaves the order of the markers open,
and it then depends on how many there are in all.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, maximum_filter
from skimage.segmentation import watershed

from engine.geometry.region import Region

Mask = NDArray[np.bool_]


def parts_of(
    mask: Mask, *, box: Region, shape: tuple[int, ...], min_distance: int, connectivity: int
) -> NDArray[np.int32]:
    """Return the part, 1 to n, at each voxel of a component's own box; 0 outside the component.

    Args:
        mask: The component, in its tight box.
        box: Where that is.
        shape: Of the volume.
        min_distance: Least distance of two peaks along the longer axis, in voxels.
        connectivity: Axes along which neighbours may differ.
    """
    is_whole_volume = mask.shape == shape and mask.all()  # nothing is outside it, so it has no distances
    if is_whole_volume or max(mask.shape) <= min_distance:  # or two peaks would lie too near to each other
        return mask.astype(np.int32)
    distance = distances(mask, box=box, shape=shape)
    markers = peaks(distance, mask, min_distance=min_distance)
    if len(markers) < 2:
        return mask.astype(np.int32)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(markers.T)] = np.arange(1, len(markers) + 1)
    return np.asarray(watershed(-distance, seeds, mask=mask, connectivity=connectivity), np.int32)


def distances(mask: Mask, *, box: Region, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return, in voxels, how far the component's voxels are from the nearest one outside it; 0 outside."""
    pads = [(int(a > 0), int(b < n)) for a, b, n in zip(box.start, box.stop, shape, strict=True)]
    padded = np.pad(mask, pads)
    inside = tuple(slice(a, a + n) for (a, _), n in zip(pads, mask.shape, strict=True))
    return np.ascontiguousarray(distance_transform_edt(padded)[inside])


def peaks(distance: NDArray[np.float64], mask: Mask, *, min_distance: int) -> NDArray[np.int64]:
    """Return the voxels that are farthest within ``min_distance`` along each axis, at least that far from each other.

    The farthest come first, and of equal ones the first in raster order; each drops those nearer to it than
    ``min_distance``: ``skimage.feature.peak_local_max`` of the component alone. One row per peak.
    """
    highest = maximum_filter(distance, size=2 * min_distance + 1, mode="constant")
    at = np.argwhere(mask & (distance == highest))
    waiting = at[np.argsort(-distance[tuple(at.T)], kind="stable")]
    found = []
    while len(waiting):
        found.append(waiting[0])
        waiting = waiting[1:][np.abs(waiting[1:] - waiting[0]).max(axis=1, initial=0) >= min_distance]
    return np.array(found, np.int64).reshape(-1, mask.ndim)
