"""Colours by number: sRGB to CIE L*a*b* and back, voxel by voxel, and the 3 x 3 matrix that such things are made of."""

from collections.abc import Sequence

import torch

XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Linear sRGB to CIE XYZ (ITU-R BT.709 primaries)."""

WHITE = (0.95047, 1.0, 1.08883)
"""XYZ of the illuminant D65, 2 degrees."""

Matrix = torch.Tensor | Sequence[Sequence[float]]
"""(3, 3)."""

_WHITES = torch.tensor(WHITE, dtype=torch.float64)
_RELATIVE_FROM_RGB = (torch.tensor(XYZ_FROM_RGB, dtype=torch.float64) / _WHITES[:, None]).tolist()
_RGB_FROM_RELATIVE = (torch.linalg.inv(torch.tensor(XYZ_FROM_RGB, dtype=torch.float64)) * _WHITES).tolist()


def channels(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the three channels (batch, *space) of ``x`` (batch, 3, *space).

    Raises:
        ValueError: If there are not three. Not ours: the engine finds a model's channels by trial, and this one would
            end the trial.
    """
    if x.shape[1] != 3:
        raise ValueError(f"colours have 3 channels, red, green and blue, not {x.shape[1]}. Leave the others out.")
    first, second, third = x.unbind(1)
    return first, second, third


def mixed(matrix: Matrix, x: torch.Tensor) -> torch.Tensor:
    """Return ``matrix`` (3, 3) times each voxel of ``x`` (batch, 3, *space).

    Written as sums: they round the same wherever a voxel lies in a tile, which a matrix product does not promise.
    """
    first, second, third = channels(x)
    rows = matrix.to(x.dtype) if isinstance(matrix, torch.Tensor) else matrix
    return torch.stack([rows[k][0] * first + rows[k][1] * second + rows[k][2] * third for k in range(3)], 1)


def lab_of(rgb: torch.Tensor) -> torch.Tensor:
    """Return L*, a*, b* (batch, 3, *space) of sRGB 0 to 255; CIE 15:2004, constants of ``skimage.color.rgb2lab``.

    >>> lab_of(torch.full((1, 3, 1), 255.0)).flatten().round().abs().tolist()
    [100.0, 0.0, 0.0]
    """
    share = rgb.clamp(0.0, 255.0) / 255.0
    linear = torch.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    relative = mixed(_RELATIVE_FROM_RGB, linear)
    root = torch.where(relative > 0.008856, relative.clamp(min=1e-6) ** (1 / 3), 7.787 * relative + 16 / 116)
    x, y, z = channels(root)
    return torch.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], 1)


def rgb_of(lab: torch.Tensor) -> torch.Tensor:
    """Return sRGB 0 to 255 (batch, 3, *space) of L*, a*, b*; colours that no screen has are clipped.

    >>> rgb_of(lab_of(torch.tensor([[[200.0], [30.0], [90.0]]]))).flatten().round().tolist()
    [200.0, 30.0, 90.0]
    """
    lightness, a, b = channels(lab)
    y = (lightness + 16.0) / 116.0
    root = torch.stack([y + a / 500.0, y, (y - b / 200.0).clamp(min=0.0)], 1)
    relative = torch.where(root > 0.2068966, root**3, (root - 16 / 116) / 7.787)
    linear = mixed(_RGB_FROM_RELATIVE, relative)
    bright = 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    return 255.0 * torch.where(linear > 0.0031308, bright, 12.92 * linear).clamp(0.0, 1.0)
