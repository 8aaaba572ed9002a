"""A state and what follows from it as one volume: what a model that is applied again and again reads.

    initial.zarr#steps=4

    step of the source    0         1         2         3
    read from             initial   out[0]    out[1]    out[2]

Item k of the output is the model's answer to item k of the source, so the state lies in the output itself: a run
that was stopped goes on from the last step that is stored.
"""

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import STEP, Axis, Role
from engine.geometry.region import Region
from engine.storage.readable import Readable, View, in_front
from engine.storage.stored import open_stored


@dataclass(frozen=True)
class Rolled(View):
    """An initial state, then the steps that are stored: (step, *axes of the base)."""

    state: str | None = None
    """URL of the output that holds the steps; None until there is one."""
    _open: list[Readable] = field(default_factory=list, init=False, repr=False, compare=False)
    _lock: list[Lock] = field(default_factory=lambda: [Lock()], init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": [], "_lock": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_lock": [Lock()]})

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``; a step that was not made yet cannot be asked for.

        Raises:
            VolumeError: If the region leaves the volume, or what holds it is damaged there.
        """
        (first, *start), (last, *stop) = region.start, region.stop
        voxels = np.empty(region.shape, self.dtype)
        inner = Region(tuple(start), tuple(stop))
        for step in range(first, last):
            if step == 0:
                voxels[-first] = self.base.read(inner, level=level)
            else:
                own = Region((step - 1, *start), (step, *stop))
                voxels[step - first] = self._stored().read(own)[0]
        return voxels

    def _stored(self) -> Readable:
        with self._lock[0]:
            if not self._open:
                if self.state is None:
                    raise VolumeError(f"only step 0 of '{self.url}' can be read before a run has made the others.")
                stored = open_stored(self.state)
                if stored.shape != self.shape:
                    raise VolumeError(
                        f"the state of a run of {self.shape[0]} steps must have the shape {self.shape}, and "
                        f"'{self.state}' has {stored.shape}: the model must give what it takes. Check its outputs."
                    )
                self._open.append(stored)
            return self._open[0]


def rolled(base: Readable, *, url: str, n_steps: int, state: str | None) -> Rolled:
    """Return ``base`` and ``n_steps`` - 1 states after it.

    Raises:
        VolumeError: If the base has such an axis already.
    """
    if any(axis.name == STEP for axis in base.axes):
        raise VolumeError(f"'{base.url}' has an axis '{STEP}' of its own. Leave out '#steps={n_steps}'.")
    axes = (Axis(STEP, Role.BATCH), *base.axes)
    return Rolled(url, base, axes, (in_front(base.levels[0], n_steps),), state)
