"""Where the voxels of an output lie in the patient: the source's affine, fitted to the output's own grid."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.storage.orientation import KEY, Orientation
from engine.storage.readable import Readable

Affine = NDArray[np.float64]

MILLIMETRES = {"meter": 1e3, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3, "nanometer": 1e-6}
"""Of one unit of length; a unit that is not known counts as a millimetre."""

_SAME = 1e-3
"""Spacings are rounded in headers: nearer to the source's than this share, or voxel, and the grid is the source's."""


@dataclass(frozen=True, slots=True)
class GridAffine:
    """A volume's place in the patient."""

    matrix: Affine
    """4 x 4, from voxel (x, y, z, 1) to millimetre, RAS+."""
    is_oriented: bool
    """Whether the volume says where it lies; if not, the matrix is its spacing and offset alone."""
    notes: tuple[str, ...] = ()
    """What was assumed or adapted, for people."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetre per voxel along z, y and x."""
        x, y, z = np.sqrt((self.matrix[:3, :3] ** 2).sum(axis=0))
        return float(z), float(y), float(x)

    @property
    def voxel_ml(self) -> float:
        """Millilitre of one voxel."""
        return float(abs(np.linalg.det(self.matrix[:3, :3]))) / 1000

    def points(self, voxels: NDArray[Any]) -> Affine:
        """Return the millimetres of voxels (n, 3), each x, y, z."""
        return voxels @ self.matrix[:3, :3].T + self.matrix[:3, 3]


def grid_affine(volume: Readable) -> GridAffine:
    """Return the affine of a volume's level 0.

    An output has the attributes of its source, and so the source's affine A; its own grid is told by its axes'
    spacing s' and by the place t' of its first voxel's centre, which a source has at 0. Where the source's spacing
    is s, voxel v of the output is voxel ``v * s' / s + t' / s`` of the source, so that its affine is

        A' = A [ diag(s' / s)  t' / s ]
               [      0           1   ]

    A grid within a thousandth of the source's is the source's grid, and its affine is A, bit by bit. A volume
    without orientation has the affine of its spacing and offset alone, and a note.

    Raises:
        VolumeError: If the last three axes are not z, y and x, or its affine has no inverse.
    """
    check_scan(volume)
    level = volume.levels[0]
    units = [MILLIMETRES.get(axis.unit or "", 1.0) for axis in volume.axes[-3:]]
    steps = np.array([axis.spacing * unit for axis, unit in zip(volume.axes[-3:], units, strict=True)])[::-1]
    first = np.array([at * unit for at, unit in zip(level.translation[-3:], units, strict=True)])[::-1]
    orientation = Orientation.of(volume.attributes)
    if orientation is None:
        matrix = np.diag([*steps, 1.0])
        matrix[:3, 3] = first
        is_known = all(axis.unit in MILLIMETRES for axis in volume.axes[-3:])
        note = "no orientation is known: the affine is the spacing alone"
        return GridAffine(matrix, is_oriented=False, notes=(note + ("" if is_known else ", taken as millimetre"),))
    source = np.array([*orientation.affine, (0.0, 0.0, 0.0, 1.0)])
    if not np.isfinite(source).all() or abs(np.linalg.det(source)) < 1e-12:
        raise VolumeError(
            f"the affine of '{volume.url}' must have an inverse, and it is {source[:3].tolist()}. Correct attribute "
            f"'{KEY}', or ingest the scan again."
        )
    return _adapted(source, steps=steps, first=first)


def _adapted(source: Affine, *, steps: Affine, first: Affine) -> GridAffine:
    """Return a source's affine on a grid of other steps (millimetre along x, y, z) that begins elsewhere."""
    own = np.sqrt((source[:3, :3] ** 2).sum(axis=0))
    scale, offset = steps / own, first / own
    scale[abs(scale - 1) < _SAME] = 1.0
    offset[abs(offset) < _SAME] = 0.0
    if (scale == 1).all() and not offset.any():
        return GridAffine(source, is_oriented=True)
    change = np.diag([*scale, 1.0])
    change[:3, 3] = offset
    told = " x ".join(f"{step:.4g}" for step in steps[::-1])
    note = f"its grid is not the source's: the affine is adapted to {told} mm (z, y, x)"
    return GridAffine(source @ change, is_oriented=True, notes=(note,))


def check_scan(volume: Readable) -> None:
    """Refuse a volume that is no scan.

    Raises:
        VolumeError: If its last three axes are not z, y and x.
    """
    names = tuple(axis.name for axis in volume.axes)
    if names[-3:] != ("z", "y", "x"):
        raise VolumeError(
            f"a scan has axes that end in z, y, x, and '{volume.url}' has {', '.join(names)}. Name a volume of a scan."
        )
