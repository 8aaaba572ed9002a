"""What every scan says, whatever its format: its voxels, their grid in the patient, and how a region is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IngestError
from engine.geometry.axes import Axis
from engine.geometry.region import Region
from engine.storage.orientation import Orientation


@dataclass(frozen=True)
class ScanFile:
    """A scan open in its own format."""

    format: str
    """nifti, dicom, metaimage or nrrd."""
    files: tuple[Path, ...]
    """All that hold it; of a DICOM series in the order of z."""
    shape: tuple[int, ...]
    """Voxels along z, y and x, or t, z, y and x."""
    dtype: np.dtype[Any]
    """As :attr:`read` gives them, in native byte order."""
    orientation: Orientation
    spacing: tuple[float, float, float]
    """Millimetre per voxel along z, y and x, as the format says it: what the affine's columns are long, to rounding."""
    read: Callable[[Region], NDArray[Any]]
    """Returns the voxels of a region, C-contiguous; any thread may call it. Raises IngestError where it is damaged."""
    close: Callable[[], None]
    time: Axis | None = None
    """The first axis, where there are four."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """What its own format says beyond, as JSON values; kept in the volume's attributes."""
    notes: tuple[str, ...] = ()
    """What was changed on the way in, in plain sentences."""


def steps_of(said: Sequence[float], *, given: Sequence[float] | None, path: Path) -> tuple[float, float, float]:
    """Return millimetre per voxel along z, y and x: what was given by hand, else what the file says.

    Args:
        said: By the file, along z, y and x.
        given: By hand, along z, y and x; one number, or twice the same, serves all.
        path: The file.

    Raises:
        IngestError: If neither is three positive numbers.
    """
    steps = list(said) if given is None else list(given)
    if given is not None and len(set(steps)) == 1:
        steps = steps[:1] * 3
    if len(steps) != 3 or not all(isfinite(step) and step > 0 for step in steps):
        raise IngestError(
            f"a scan must say its spacing along z, y and x in millimetre, and {steps} is "
            f"{'said of' if given is None else 'given for'} '{path}'. Find it in the scan's record and give --spacing "
            f"Z,Y,X to engine ingest, or run '{path}#spacing=Z,Y,X'."
        )
    z, y, x = steps
    return z, y, x


def oriented(affine: NDArray[Any], *, path: Path) -> Orientation:
    """Return an affine as the orientation of a volume, which can be turned round.

    Raises:
        IngestError: If it has values that are no numbers, or maps all voxels into a plane.
    """
    matrix = np.asarray(affine, np.float64)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    is_solid = bool(np.isfinite(matrix).all()) and lengths.min() > 0
    if not (is_solid and abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-6):
        raise IngestError(
            f"a scan's affine must be numbers, with three axes that span the patient, not {matrix[:3].tolist()}, as in "
            f"'{path}'. Correct its header (of NIfTI: sform, or qform where the sform code is 0)."
        )
    right, front, up = ((a, b, c, d) for a, b, c, d in matrix[:3].tolist())
    return Orientation((right, front, up))


def check_voxels(shape: Sequence[int], dtype: np.dtype[Any], *, path: Path) -> None:
    """Refuse voxels that no scan has.

    Raises:
        IngestError: If there are other than 3 or 4 axes, an axis is empty, or voxels are no whole or real numbers.
    """
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise IngestError(
            f"a scan must have 3 or 4 axes of at least one voxel, not {tuple(shape)} (slowest first), as '{path}' has. "
            "Split or squeeze it first."
        )
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise IngestError(
            f"voxels must be whole or real numbers of 64 bits at most, not {dtype}, as in '{path}'. Split colours, or "
            "real and imaginary parts, into several files."
        )
