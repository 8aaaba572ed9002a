"""Which views of a volume a source URL asks for, whatever holds it: members, steps, and place.

    grid.zarr#place=latitude,hour      with its place as further channels: see placed.py
    grid.zarr#steps=100                a state, and the steps that a run makes of it: see rolled.py
    grid.zarr#members=8&steps=100      the same for eight members of an ensemble
"""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import VolumeError

NAMES = ("members", "steps", "state", "place")


@dataclass(frozen=True, slots=True)
class ViewChoice:
    """What a source URL says of views."""

    members: int | None = None
    """Members of an ensemble that all begin alike."""
    steps: int | None = None
    """Steps of a run in which each is made from the one before."""
    state: str | None = None
    """The output that holds these steps."""
    place: tuple[str, ...] = ()
    """What a model is told of each voxel's place, as further channels."""

    @property
    def options(self) -> list[str]:
        """What stands behind the ``#``, one option each."""
        pairs = {"members": self.members, "steps": self.steps, "state": self.state, "place": ",".join(self.place)}
        return [f"{name}={value}" for name, value in pairs.items() if value]


def parse_views(texts: Mapping[str, str], *, url: str) -> ViewChoice:
    """Return the views that a source URL asks for, from its options by name.

    Raises:
        VolumeError: If a number is none.
    """
    n_members, n_steps = (_whole(name, texts.get(name), url=url) for name in ("members", "steps"))
    place = tuple(name for name in texts.get("place", "").split(",") if name)
    return ViewChoice(n_members, n_steps, texts.get("state"), place)


def _whole(name: str, text: str | None, *, url: str) -> int | None:
    if text is not None and not (text.isascii() and text.isdigit() and int(text)):
        raise VolumeError(f"'{name}' must be a whole number from 1 on, not '{text}' in '{url}'. Write it as #{name}=8.")
    return None if text is None else int(text)
