"""Where a sliding window stands: the rules of the field's tools, as formulas of the axis's length.

    MONAI     |--- window ---|          steps of int(window * (1 - overlap)); the last one slides back to the end
    nnU-Net   |--- window ---|          as few as steps of at most window * (1 - overlap) need, evenly spread
"""

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal, Self, get_args

from engine.errors import PlanError

Rule = Literal["monai", "nnunet"]
Weights = Literal["constant", "gaussian"]

RULES: tuple[Rule, ...] = get_args(Rule)
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


@dataclass(frozen=True, slots=True)
class Windows:
    """A sliding window over any number of space axes.

    An axis shorter than the window is padded with zeros to it, half before and the rest after, as both tools do.

    >>> Windows((4,), (0.5,)).starts(0, 9), Windows((4,), (0.5,), rule="nnunet").starts(0, 9)
    ((0, 2, 4, 5), (0, 2, 3, 5))
    """

    shape: tuple[int, ...]
    """Voxels of the window, per space axis."""
    overlap: tuple[float, ...]
    """Part of the window that the next one covers too, at least; per space axis, from 0 to less than 1."""
    weights: Weights = "constant"
    """What a window's voxels count: all the same, or by a Gaussian about its centre."""
    sigma_scale: float = 0.125
    """Standard deviation of the Gaussian, as a part of the window."""
    rule: Rule = "monai"
    """Whose steps and whose Gaussian."""

    def __post_init__(self) -> None:
        fits = len(self.shape) == len(self.overlap) and min(self.shape, default=0) >= 1
        if not fits or not all(0 <= part < 1 for part in self.overlap) or self.sigma_scale <= 0:
            raise PlanError(
                f"a sliding window needs a length of at least 1 and an overlap in [0, 1) per axis, and a positive "
                f"sigma_scale, not {self.shape}, {self.overlap} and {self.sigma_scale}. Give as many of each."
            )
        if self.rule not in RULES or self.weights not in WEIGHTS:
            raise PlanError(
                f"a sliding window's rule must be one of {RULES} and its weights one of {WEIGHTS}, not "
                f"'{self.rule}' and '{self.weights}'. Name one of them."
            )

    def starts(self, axis: int, size: int) -> tuple[int, ...]:
        """Return the first voxel of each window along an axis of ``size``, which may be shorter than the window."""
        window, overlap = self.shape[axis], self.overlap[axis]
        last = max(size, window) - window
        if not last:
            return (0,)
        if self.rule == "nnunet":  # nnunetv2 compute_steps_for_sliding_window
            n_windows = ceil(last / (window * (1 - overlap))) + 1
            return tuple(round(last / (n_windows - 1) * i) for i in range(n_windows))
        step = max(1, int(window * (1 - overlap)))  # monai.inferers.utils._get_scan_interval
        return (*range(0, last, step), last)

    def padded(self, axis: int, size: int) -> tuple[int, int]:
        """Return the zeros before and after an axis of ``size``."""
        lacking = max(self.shape[axis] - size, 0)
        return lacking // 2, lacking - lacking // 2

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return what :meth:`to_json` wrote."""
        return cls(**{**value, "shape": tuple(value["shape"]), "overlap": tuple(value["overlap"])})
