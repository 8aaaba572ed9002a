"""What the objects must equal: the whole array labelled at once, by scipy and scikit-image, and volumes to find them in."""

from math import fsum

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import regionprops
from skimage.segmentation import watershed

from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.storage.create import create_volume
from engine.storage.volume import open_volume

SPACING = 0.5


def store(url, voxels, *, spacing=SPACING, unit="micrometer", origin=None, chunk=64, names=None):
    names = names or "zyx"[-voxels.ndim :]
    axes = [Axis(n, Role.CHANNEL) if n == "c" else Axis(n, Role.SPACE, spacing, unit) for n in names]
    chunks = [min(chunk, n) for n in voxels.shape]
    volume = create_volume(url, axes=axes, dtype=voxels.dtype, shape=voxels.shape, chunk_shape=chunks, origin=origin)
    volume.write(Region.whole(voxels.shape), voxels)


def read(url):
    volume = open_volume(url)
    return volume.read(Region.whole(volume.shape))


def blobs(shape, *, sigma=3.0, seed=0, n_classes=2):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    field /= field.std()
    return sum((field > level).astype(np.uint8) for level in np.linspace(0.3, 1.3, n_classes))


def in_order(labels):
    """The same objects, numbered by their first voxels in raster order."""
    values, first = np.unique(labels, return_index=True)
    values = values[np.argsort(first)]
    values = values[values > 0]
    numbers = np.zeros(int(labels.max()) + 1, np.uint32)
    numbers[values] = np.arange(1, len(values) + 1)
    return numbers[labels]


def connected(classes, *, connectivity=1):
    structure = ndimage.generate_binary_structure(classes.ndim, connectivity)
    whole, n = np.zeros(classes.shape, np.int64), 0
    for value in np.unique(classes[classes > 0]):
        found, more = ndimage.label(classes == value, structure)
        whole[found > 0] = found[found > 0] + n
        n += more
    return in_order(whole)


def parted(classes, *, connectivity=1, min_distance=5):
    """Watershed with distances of the whole image, peaks and flooding component by component."""
    components = connected(classes, connectivity=connectivity)
    whole, n = np.zeros(classes.shape, np.int64), 0
    for value in np.unique(classes[classes > 0]):
        distance = ndimage.distance_transform_edt(classes == value)
        for number, box in enumerate(ndimage.find_objects(components.astype(np.int32)), start=1):
            mask = components[box] == number
            if classes[box][mask][0] != value:
                continue
            own = np.where(mask, distance[box], 0)
            peaks = peak_local_max(np.pad(own, 1), min_distance=min_distance, exclude_border=False) - 1
            markers = np.zeros(mask.shape, np.int32)
            markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
            parts = watershed(-own, markers, mask=mask, connectivity=connectivity)
            whole[box][mask] = parts[mask] + n
            n += len(peaks)
    return in_order(whole)


def plainly_parted(classes, *, min_distance=5):
    """The usual calls on the whole image; of one class."""
    mask = classes > 0
    components, _ = ndimage.label(mask)
    distance = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(distance, min_distance=min_distance, exclude_border=False, labels=components)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return in_order(watershed(-distance, markers, mask=mask))


def table(labels, classes, *, spacing=SPACING, **measured):
    """The rows that a table must have, from scikit-image's regionprops and math.fsum."""
    rows = []
    for props in regionprops(labels.astype(np.int64)):
        at = tuple(props.coords.T)
        names = "zyx"[-labels.ndim :]
        n, size_um = ("area_px", "area_um2") if labels.ndim == 2 else ("n_voxels", "volume_um3")
        row = {"id": props.label, "class": int(classes[at][0]), n: len(props.coords)}
        row[size_um] = len(props.coords) * spacing**labels.ndim
        for axis, name in enumerate(names):
            row[f"centroid_{name}_px"] = sum(at[axis].tolist()) / len(props.coords) + 0.5
            row[f"centroid_{name}_um"] = row[f"centroid_{name}_px"] * spacing
            row[f"{name}_start"], row[f"{name}_stop"] = props.bbox[axis], props.bbox[axis + labels.ndim]
        row["first_voxel"] = int(np.ravel_multi_index([i[0] for i in at], labels.shape))
        for name, voxels in measured.items():
            row[f"mean_{name}"] = fsum(voxels[at].tolist()) / len(props.coords)
        rows.append(row)
    return rows


def n_crossing(labels, block):
    """Objects that do not lie in one block."""
    crossing = set()
    for axis, length in enumerate(block):
        for cut in range(length, labels.shape[axis], length):
            near, far = np.take(labels, cut - 1, axis), np.take(labels, cut, axis)
            crossing |= set(near[(near == far) & (near > 0)].tolist())
    return len(crossing)
