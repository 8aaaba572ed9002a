"""Where the voxels of a scan lie in the patient: the affine, kept from input to output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

KEY = "scan"
"""In the attributes of a volume: what :meth:`Orientation.to_json` gives, beside what the file's own format says."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """The place of a scan's voxels.

    >>> Orientation(((-1.0, 0.0, 0.0, 9.0), (0.0, 2.0, 0.0, 0.0), (0.0, 0.0, 3.0, 0.0))).spacing
    (3.0, 2.0, 1.0)
    """

    affine: tuple[tuple[float, float, float, float], ...]
    """First three rows of the matrix from voxel (x, y, z, 1), file order reversed to x first, to millimetre in the
    patient: right to left, posterior to anterior, inferior to superior positive (RAS+, as NIfTI has it)."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetre per voxel along z, y and x."""
        columns = list(zip(*self.affine, strict=True))
        x, y, z = (sum(value * value for value in column) ** 0.5 for column in columns[:3])
        return z, y, x

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON values."""
        return {"affine": [list(row) for row in self.affine] + [[0.0, 0.0, 0.0, 1.0]]}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Self | None:
        """Return the orientation that a volume's attributes hold under :data:`KEY`, or None."""
        found = attributes.get(KEY)
        if not isinstance(found, Mapping) or "affine" not in found:
            return None
        rows = tuple(tuple(float(value) for value in row) for row in found["affine"][:3])
        return cls(rows)  # type: ignore[arg-type]


def carried(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a source's attributes holds for every volume that is made of it."""
    return {KEY: attributes[KEY]} if KEY in attributes else {}
