"""What a MONAI bundle does to its network's output, as modules: probabilities and labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.bundle_steps import FACTORY, Step
from engine.models.wrappers import ArgMax, Softmax

NOTHING_TO_DO = "EnsureTyped CastToTyped ToTensord ToDeviced SaveImaged SelectItemsd FromMetaTensord".split()
"""Transforms that write, or change how an array is kept: the output's store does that here."""

INVERTED = "Invertd"


class AtLeast(nn.Module):
    """1 where a value reaches a threshold, else 0: MONAI's ``AsDiscrete(threshold=)``.

    >>> AtLeast(0.5)(torch.tensor([0.4, 0.5]))
    tensor([0, 1], dtype=torch.uint8)
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = float(threshold)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` as 0 and 1, of the same shape."""
        return (x >= self.threshold).to(torch.uint8)


@dataclass
class Postprocessing:
    """What is found of the transforms, in order."""

    inside: list[nn.Module] = field(default_factory=list)
    """On the network's grid, before it is brought back."""
    after: list[nn.Module] = field(default_factory=list)
    """On the source's grid."""
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    is_back: bool = False
    """Whether the source's grid is reached; labels are made on it in any case."""

    def add(self, step: Step, module: nn.Module) -> None:
        """Add what is done to the network's output.

        Raises:
            ModelError: If something before it is left out.
        """
        if self.left_out:
            raise ModelError(
                f"{step} works on what {self.left_out[0]} makes before it, which is not known here. {FACTORY}."
            )
        (self.after if self.is_back else self.inside).append(module)


def postprocessing(steps: tuple[Step, ...]) -> Postprocessing:
    """Return what the transforms do; those that are not known are left out, with a note.

    Raises:
        ModelError: If one has an argument that has no counterpart, or follows one that is left out.
    """
    found = Postprocessing()
    for step in steps:
        if step.name in KNOWN:
            KNOWN[step.name](step, found)
        elif step.name not in NOTHING_TO_DO:
            found.left_out.append(step.name)
            found.notes.append(f"{step.name} after the network is left out")
    return found


def _activated(step: Step, found: Postprocessing) -> None:
    step.refuse_unless({"other": (None,)})
    if step.get("sigmoid", False):
        found.add(step, nn.Sigmoid())
    if step.get("softmax", False):
        found.add(step, Softmax())


def _inverted(_: Step, found: Postprocessing) -> None:
    if found.after:
        found.notes.append("labels are made on the source's grid, not brought back to it by the nearest")
    found.is_back = True


def _discrete(step: Step, found: Postprocessing) -> None:
    step.refuse_unless({"to_onehot": (None,), "rounding": (None,)})
    found.is_back = True
    if step.get("argmax", False):
        found.add(step, ArgMax())
    threshold = step.get("threshold")
    if threshold is not None:
        found.add(step, AtLeast(float(threshold)))


KNOWN: Mapping[str, Callable[[Step, Postprocessing], None]] = {
    "Activationsd": _activated,
    INVERTED: _inverted,
    "AsDiscreted": _discrete,
}
"""Transforms that are known, and what they become."""
