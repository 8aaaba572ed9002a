"""One volume as several members of an ensemble: a batch axis whose items are all the same."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.geometry.axes import MEMBER, Axis, Role
from engine.geometry.region import Region
from engine.storage.readable import Readable, View, in_front


class Members(View):
    """Another volume, ``n`` times along a new first axis."""

    def read(self, region: Region, *, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``region``, which are read once.

        Raises:
            VolumeError: If the region leaves the volume, or what holds it is damaged there.
        """
        one = self.base.read(Region(region.start[1:], region.stop[1:]), level=level)
        return np.ascontiguousarray(np.broadcast_to(one, region.shape))


def members(base: Readable, *, url: str, n: int) -> Members:
    """Return ``base`` as ``n`` members.

    Raises:
        VolumeError: If it has members already.
    """
    if any(axis.name == MEMBER for axis in base.axes):
        raise VolumeError(f"'{base.url}' has an axis '{MEMBER}' of its own. Leave out '#members={n}'.")
    return Members(url, base, (Axis(MEMBER, Role.BATCH), *base.axes), tuple(in_front(one, n) for one in base.levels))
