"""What is looked for: which volume holds the objects, how they are told apart, what is measured of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from engine.errors import UsageError
from engine.storage.ngff import PALETTE


class Method(StrEnum):
    """How one object is told from the next."""

    CONNECTED = "connected"
    """An object is a connected component of one class."""

    WATERSHED = "watershed"
    """Components are parted by the watershed of their distance map, from its peaks: touching nuclei. 2-d only."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A volume on the same grid whose mean is taken over each object."""

    volume: str
    """Name within the output, absolute path, or URL."""
    channel: int | None = None
    """Which channel; needed where there are several."""


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """What a value of the class map stands for."""

    name: str
    colour: tuple[int, int, int]
    """Red, green, blue, 0 to 255."""


@dataclass(frozen=True)
class Recipe:
    """Which objects are wanted, and what of them."""

    name: str = "instances"
    """Of this set of objects: ``objects/<name>`` and ``labels/<name>`` in the output."""
    volume: str = "label"
    """The class map (0 is background), or with ``threshold`` the probability: a name in the output, a path or URL."""
    channel: int | None = None
    """Channel of ``volume``; needed where there are several."""
    threshold: float | None = None
    """Least probability, as stored, of a voxel of an object; None where ``volume`` is a class map."""
    method: Method = Method.CONNECTED
    connectivity: int = 1
    """Steps along axes, at once, between neighbours: 1 for 4 or 6 neighbours, 2 for 8 or 18, 3 for 26."""
    min_distance: int = 5
    """Least distance of two peaks in the watershed, in voxels along the longer axis."""
    min_area_um2: float = 0.0
    """Smaller objects are dropped; cubic micrometre in 3-d."""
    max_area_um2: float | None = None
    """Larger objects are dropped; None keeps them."""
    measured: Mapping[str, Measured] = field(default_factory=dict)
    """By name of the column: what is averaged over each object."""
    classes: Mapping[int, ObjectClass] = field(default_factory=dict)
    """Names and colours by value of the class map; others are called "Class 3"."""
    level0_spacing: tuple[float, float] | None = None
    """Micrometre (the unit of the volume) per level-0 pixel of the slide, (y, x); that of the volume if None."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Level-0 pixels, (y, x), from the slide's corner to the volume's origin."""
    is_outlined: bool = True
    """Whether GeoJSON is written; 2-d only."""
    max_object_pixels: int = 2**26
    """Largest box of an object that is held in memory: of a component in the watershed, of an outline."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", Method(self.method))
        for name in (*self.measured, self.name):
            if not name or set(name) & set("/\\") or name.startswith("."):
                raise UsageError(
                    f"a name without '/' and a leading dot is wanted, not '{name}', in a recipe. Rename it."
                )
        for name, least in (("connectivity", 1), ("min_distance", 1), ("min_area_um2", 0), ("max_object_pixels", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"{name} must be at least {least}, not {getattr(self, name)}, in a recipe. Correct it."
                )
        if self.max_area_um2 is not None and self.max_area_um2 < self.min_area_um2:
            raise UsageError(
                f"max_area_um2 must be at least min_area_um2 = {self.min_area_um2}, not {self.max_area_um2}, in a "
                "recipe: nothing would be kept. Exchange them."
            )

    def class_of(self, value: int) -> ObjectClass:
        """Return the name and colour of a class, also of one that was not named.

        >>> Recipe().class_of(3)
        ObjectClass(name='Class 3', colour=(133, 153, 0))
        """
        return self.classes.get(value) or ObjectClass(f"Class {value}", PALETTE[(value - 1) % len(PALETTE)])

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain values, equal for equal recipes."""
        value = asdict(self)
        value["classes"] = {
            str(number): asdict(one) | {"colour": list(one.colour)} for number, one in self.classes.items()
        }
        value["level0_spacing"] = None if self.level0_spacing is None else list(self.level0_spacing)
        return value | {"offset": list(self.offset), "method": self.method.value}
