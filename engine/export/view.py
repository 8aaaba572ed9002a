"""How a radiologist looks at a scan: which axis runs where on the page, whichever way it is stored."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from engine.export.affine import Affine, GridAffine

LETTERS = ("RL", "AP", "SI")
"""What the ends of the patient's three axes are called: towards more, towards less of RAS."""

_SECOND = 0.35
"""Share of an oblique direction from which on its second letter is told."""


class Plane(StrEnum):
    """The plane of a picture."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


_DOWN_AND_ACROSS = {Plane.AXIAL: (2, 1, 0), Plane.CORONAL: (1, 2, 0), Plane.SAGITTAL: (0, 2, 1)}
"""Patient axes that pictures follow each other along, and that run down and across one of them."""


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at a volume of axes z, y, x.

    The patient's right, front and head are left, up and first, as radiology has it; an oblique scan is shown along
    its own axes, the nearest ones.

                A                      S                      S
        axial R + L        coronal R   +   L     sagittal A   +   P
                P                      I                      I
    """

    axes: tuple[int, int, int]
    """Storage axes (0 z, 1 y, 2 x) of the pictures' order, their rows and their columns."""
    flips: tuple[bool, bool, bool]
    """Whether each is shown against the way it is stored."""
    edges: tuple[str, str, str, str]
    """Letters at the left, right, top and bottom; empty where no orientation is known."""

    @classmethod
    def of(cls, affine: GridAffine, plane: Plane) -> Self:
        """Return the view of a plane; a volume that says not where it lies is taken for axial, as it is stored."""
        if not affine.is_oriented:
            wanted = _DOWN_AND_ACROSS[plane]
            z, rows, columns = (2 - axis for axis in wanted)
            return cls((z, rows, columns), (False, False, False), ("", "", "", ""))
        found = io_orientation(affine.matrix)  # type: ignore[no-untyped-call]
        patient = [int(axis) for axis in found[:, 0]]  # of voxel axes x, y, z
        axes = [2 - patient.index(axis) for axis in _DOWN_AND_ACROSS[plane]]
        flips = [bool(found[2 - axis, 1] > 0) for axis in axes]
        down, across = (
            _unit(affine.matrix[:3, 2 - axis]) * (-1 if flip else 1)
            for axis, flip in zip(axes[1:], flips[1:], strict=True)
        )
        edges = (letters(-across), letters(across), letters(-down), letters(down))
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]), edges)

    def arranged(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return a plane across the first axis, its other two in storage order, as rows and columns; a view."""
        if self.axes[1] > self.axes[2]:
            plane = plane.T
        return plane[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips[1:])]

    def place(self, affine: GridAffine, index: int, shape: tuple[int, ...]) -> str:
        """Return where picture ``index`` lies: its number along the storage axis, and millimetres in the patient."""
        axis = self.axes[0]
        told = f"{'zyx'[axis]} {index}"
        if not affine.is_oriented:
            return told
        voxel = [(n - 1) / 2 for n in shape]
        voxel[axis] = index
        point = affine.points(np.array([voxel[::-1]]))[0]
        patient = int(abs(_unit(affine.matrix[:3, 2 - axis])).argmax())
        return f"{told}   {LETTERS[patient][int(point[patient] < 0)]} {abs(point[patient]):.1f} mm"


def letters(direction: Affine) -> str:
    """Return what a direction in the patient is called, the nearest axis first.

    >>> letters(np.array([0.0, -1.0, 0.0])), letters(np.array([0.8, 0.6, 0.0]))
    ('P', 'RA')
    """
    order = np.argsort(-abs(direction), kind="stable")
    named = [LETTERS[axis][int(direction[axis] < 0)] for axis in order]
    return named[0] + (named[1] if abs(direction[order[1]]) > _SECOND else "")


def _unit(vector: Affine) -> Affine:
    found: Affine = vector / np.sqrt((vector**2).sum())
    return found
