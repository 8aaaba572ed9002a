"""What a MONAI bundle does to an image before its network, as modules: spacing, orientation and intensities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from engine.errors import ModelError
from engine.geometry.resampling import Order
from engine.models.bundle_steps import FACTORY, Step
from engine.models.intensity import MinMax, Window
from engine.models.summarised import Summarised
from engine.models.wrappers import Normalise
from engine.models.zscore import ZScore

NOTHING_TO_DO = """LoadImaged EnsureChannelFirstd AsChannelFirstd AddChanneld EnsureTyped CastToTyped ToTensord
ToDeviced SelectItemsd FromMetaTensord""".split()
"""Transforms that read, or change how an array is kept: the volume's store does that here."""

ORDERS: Mapping[object, Order] = {"bilinear": "linear", "nearest": "nearest", 0: "nearest", 1: "linear", 3: "cubic"}
"""Modes of interpolation; a whole number is the order of a spline in MONAI."""

CROPPED = "CropForegroundd"


@dataclass
class Preprocessing:
    """What is found of the transforms, in order."""

    n_channels: int
    before: list[nn.Module] = field(default_factory=list)
    """On the source's grid."""
    inside: list[nn.Module] = field(default_factory=list)
    """On the network's grid; all of it where there is no spacing."""
    spacing: tuple[float | None, ...] | None = None
    """Per axis as MONAI has them, x first."""
    order: Order = "linear"
    orientation: str | None = None
    notes: list[str] = field(default_factory=list)
    is_cropped: bool = False

    def add(self, *modules: nn.Module) -> None:
        """Add what is done to intensities."""
        (self.before if self.spacing is None else self.inside).extend(modules)
        if self.spacing is not None and any(isinstance(module, Summarised) for module in modules):
            self.notes.append("statistics are those of the source's own voxels, not of the resampled ones")


class OwnNonzero(ZScore):
    """A :class:`ZScore` of what is not 0 in each channel by itself: MONAI's ``nonzero`` with ``channel_wise``."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels, foreground="nonzero")

    def is_foreground(self, x: torch.Tensor) -> torch.Tensor:
        """Say which voxels are not 0, channel by channel."""
        return x != 0


def preprocessing(steps: tuple[Step, ...], *, n_channels: int, n_space: int) -> Preprocessing:
    """Return what the transforms do.

    Raises:
        ModelError: If one is not known, or has an argument that has no counterpart.
    """
    found = Preprocessing(n_channels)
    for step in steps:
        if step.name in NOTHING_TO_DO:
            continue
        if step.name not in KNOWN:
            raise ModelError(
                f"{step} is not known here; known are {', '.join((*KNOWN, *NOTHING_TO_DO))}. {FACTORY}, with a module "
                "in its place."
            )
        KNOWN[step.name](step, found)
    if found.spacing is None:
        found.before, found.inside = [], found.before
    else:
        found.spacing = (*found.spacing, *(found.spacing[-1],) * n_space)[:n_space]
    return found


def _spacing(step: Step, found: Preprocessing) -> None:
    step.refuse_unless({"diagonal": (False,), "min_pixdim": (None,), "max_pixdim": (None,)})
    if found.spacing is not None:
        raise ModelError(f"{step} comes twice, and one spacing is known here. {FACTORY}.")
    pixdim = step.whole("pixdim")
    numbers = pixdim if isinstance(pixdim, list) else [pixdim]
    if not numbers or not all(isinstance(number, int | float) for number in numbers):
        raise step.refused("pixdim", pixdim)
    mode = step.get("mode", "bilinear")
    if mode not in ORDERS:
        raise step.refused("mode", mode)
    found.order = ORDERS[mode]
    found.spacing = tuple(float(number) if number > 0 else None for number in numbers)
    if not bool(step.get("scale_extent", False)):
        found.notes.append(
            "the grid of Spacingd begins at the border of the first voxel, not at its centre: as with scale_extent=True"
        )


def _orientation(step: Step, found: Preprocessing) -> None:
    axcodes = "RAS" if step.whole("as_closest_canonical", False) else step.whole("axcodes")
    if not isinstance(axcodes, str):
        raise step.refused("axcodes", axcodes)
    found.orientation = axcodes


def _range(step: Step, found: Preprocessing) -> None:
    a_min, a_max = step.number("a_min"), step.number("a_max")
    b_min, b_max = step.number("b_min"), step.number("b_max")
    if a_min is None or a_max is None or not a_min < a_max:
        raise step.refused("a_min, a_max", (a_min, a_max))
    if b_min is None or b_max is None:
        found.add(Normalise(a_min, a_max - a_min))
    elif not b_min < b_max:
        raise step.refused("b_min, b_max", (b_min, b_max))
    elif bool(step.whole("clip", False)):
        found.add(Window((a_min + a_max) / 2, a_max - a_min, to=(b_min, b_max)))
    else:
        std = (a_max - a_min) / (b_max - b_min)
        found.add(Normalise(a_min - b_min * std, std))


def _normalise(step: Step, found: Preprocessing) -> None:
    mean, std = step.whole("subtrahend"), step.whole("divisor")
    is_nonzero = bool(step.whole("nonzero", False))
    if mean is not None or std is not None:
        if is_nonzero:
            raise step.refused("nonzero beside subtrahend or divisor", value=True)
        found.add(Normalise(0.0 if mean is None else mean, 1.0 if std is None else std))
        return
    _check_together(step, found)
    if not is_nonzero:
        _check_uncropped(step, found)
    found.add(OwnNonzero(found.n_channels) if is_nonzero else ZScore(found.n_channels))


def _min_max(step: Step, found: Preprocessing) -> None:
    step.refuse_unless({"factor": (None,)})
    _check_together(step, found)
    _check_uncropped(step, found)
    low, high = step.number("minv", 0.0), step.number("maxv", 1.0)
    found.add(MinMax(found.n_channels), *_stretched(step, low, high))


def _percentiles(step: Step, found: Preprocessing) -> None:
    step.refuse_unless({"relative": (False,), "clip": (True,)})
    _check_together(step, found)
    _check_uncropped(step, found)
    lower, upper = step.number("lower"), step.number("upper")
    if lower is None or upper is None:
        raise step.refused("lower, upper", (lower, upper))
    found.add(MinMax(found.n_channels, percentiles=(lower, upper)))
    found.add(*_stretched(step, step.number("b_min"), step.number("b_max")))


def _stretched(step: Step, low: float | None, high: float | None) -> list[nn.Module]:
    """Return what brings 0 to 1 to another range."""
    if low is None or high is None or (low, high) == (0.0, 1.0):
        return []
    if not low < high:
        raise step.refused("the range", (low, high))
    return [Normalise(-low / (high - low), 1 / (high - low))]


def _cropped(_: Step, found: Preprocessing) -> None:
    found.is_cropped = True
    found.notes.append(
        f"{CROPPED} is left out: windows start at the corner of the source. Crop it beforehand to get the same ones"
    )


def _check_together(step: Step, found: Preprocessing) -> None:
    if found.n_channels > 1 and not bool(step.whole("channel_wise", False)):
        raise step.refused("channel_wise", value=False)


def _check_uncropped(step: Step, found: Preprocessing) -> None:
    if found.is_cropped:
        raise ModelError(
            f"{step} measures what {CROPPED} before it leaves, and there is no such crop here. Crop the source "
            f"beforehand and take {CROPPED} out of the bundle."
        )


KNOWN: Mapping[str, Callable[[Step, Preprocessing], None]] = {
    "Spacingd": _spacing,
    "Orientationd": _orientation,
    "ScaleIntensityRanged": _range,
    "NormalizeIntensityd": _normalise,
    "ScaleIntensityd": _min_max,
    "ScaleIntensityRangePercentilesd": _percentiles,
    CROPPED: _cropped,
}
"""Transforms that are known, and what they become."""
