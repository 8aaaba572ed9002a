"""Where the tissue is on a stained slide, by colour alone: saturation, Otsu's threshold, and morphology.

Pen is not tissue: its hue or its depth is none that a stain has. A fold is tissue, and darker than the
rest: it may not raise the threshold that pale tissue must pass. So saturation is clipped before the
threshold is sought, and the threshold is kept within bounds that hold for bright-field stains.

Otsu: IEEE Transactions on Systems, Man, and Cybernetics 9 (1979) 62.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_dilation, label, median_filter
from skimage.filters import threshold_otsu

Picture = NDArray[np.uint8]
"""(3, y, x), RGB."""

Pixels = NDArray[np.bool_]

CLIPPED_SATURATION = 0.25
"""What is more saturated than this is a fold, blood or pen, and counts as this when the threshold is sought."""

THRESHOLDS = (0.04, 0.07)
"""Saturation between which the threshold lies: glass is below the first, stained tissue above the second."""

SMALLEST_MM2 = 0.01
"""Area of the smallest island that is tissue, and of the largest hole that is filled ten times over."""

CLOSING_UM = 32.0
"""Gaps narrower than about twice this are closed."""


def find_tissue(picture: Picture, *, mpp: float) -> Pixels:
    """Return which pixels of a thumbnail are tissue: (y, x).

    Args:
        picture: The slide at about 8 micrometre a pixel, white where it was not scanned.
        mpp: Its micrometre per pixel.
    """
    smooth = median_filter(picture, size=(1, 3, 3))
    hue, saturation, value = _hsv(_balanced(smooth))
    pen = binary_dilation(_is_pen(hue, saturation, value), iterations=2)
    is_stained = (saturation > _threshold(saturation[~pen])) & ~pen
    radius = max(1, round(CLOSING_UM / mpp))
    closed = binary_closing(np.pad(is_stained, radius), structure=_disk(radius))
    tissue = closed[radius:-radius, radius:-radius] & ~pen
    smallest = SMALLEST_MM2 * 1e6 / mpp**2
    tissue = _without_small(tissue, smallest)
    holes = _small(~np.pad(tissue, 1), 10 * smallest)[1:-1, 1:-1]  # what goes on beyond the picture is no hole
    return (tissue | holes) & ~_without_small(pen, smallest)


def _balanced(picture: Picture) -> NDArray[np.float32]:
    """Return the picture, 0 to 1, with the glass made white: its colour is that of the brightest pixels."""
    glass = np.percentile(picture.reshape(3, -1), 95, axis=1).clip(180.0, 255.0)
    return np.asarray((picture / glass[:, None, None]).clip(0.0, 1.0), np.float32)


def _hsv(rgb: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return hue in degrees, saturation and value."""
    red, green, blue = rgb
    value, least = rgb.max(axis=0), rgb.min(axis=0)
    span = np.maximum(value - least, 1e-6)
    hue = np.select(
        [value == red, value == green],
        [(green - blue) / span % 6, (blue - red) / span + 2],
        (red - green) / span + 4,
    )
    return np.asarray(60 * hue, np.float32), np.asarray(span / np.maximum(value, 1e-6), np.float32), value


def _is_pen(hue: NDArray[np.float32], saturation: NDArray[np.float32], value: NDArray[np.float32]) -> Pixels:
    """Return what no stain looks like: green and cyan, deep blue, glaring red, and black."""
    green = (hue > 75) & (hue < 200) & (saturation > 0.15)
    blue = (hue >= 200) & (hue < 245) & (saturation > 0.5)
    red = ((hue < 12) | (hue > 348)) & (saturation > 0.75) & (value > 0.6)
    black = (value < 0.2) | ((value < 0.35) & (saturation < 0.15))
    return np.asarray(green | blue | red | black)


def _threshold(saturation: NDArray[np.float32]) -> float:
    clipped = np.minimum(saturation, CLIPPED_SATURATION)
    if not clipped.size or np.ptp(clipped) == 0:
        return THRESHOLDS[1]
    return float(np.clip(threshold_otsu(clipped), *THRESHOLDS))


def _disk(radius: int) -> Pixels:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(y**2 + x**2 <= radius**2)


def _without_small(pixels: Pixels, smallest: float) -> Pixels:
    """Return the islands of at least this many pixels."""
    return pixels & ~_small(pixels, smallest)


def _small(pixels: Pixels, smallest: float) -> Pixels:
    """Return the islands of fewer pixels."""
    labels, _ = label(pixels)
    sizes = np.bincount(labels.ravel())
    return np.asarray(pixels & (sizes[labels] < smallest))
