"""The folds of an nnU-Net model folder, and what their checkpoints hold: read without running what they say.

    nnUNetTrainer__nnUNetPlans__3d_fullres/
      plans.json  dataset.json
      fold_0/checkpoint_final.pth  fold_1/checkpoint_final.pth  ...
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError, WeightsError
from engine.models.specification import NNUNET_FOLD
from engine.models.weights import StateDict, read_pickled, tensors_of

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
"""File names in the order in which they are taken."""

NESTED = "network_weights"

SAVE_ANEW = (
    "Keep only what is read here: c = torch.load(path, weights_only=False); torch.save({'network_weights': "
    "c['network_weights'], 'trainer_name': c['trainer_name'], 'init_args': {'configuration': "
    "c['init_args']['configuration']}, 'inference_allowed_mirroring_axes': "
    "c['inference_allowed_mirroring_axes']}, path) in Python."
)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What is read of a checkpoint."""

    path: str
    weights: StateDict
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]
    """Axes of the network that may be mirrored."""


def folds_of(folder: Path) -> tuple[Path, tuple[Path, ...]]:
    """Return the model folder and the checkpoints of its folds, for that folder or for one fold of it.

    A folder's folds are all that are numbered, or ``fold_all`` where none is. As nnU-Net has it, all are of one file
    name: ``checkpoint_final.pth`` where any fold has it.

    Raises:
        ModelError: If there is no checkpoint.
    """
    is_fold = bool(re.fullmatch(NNUNET_FOLD, folder.name))
    root = folder.parent if is_fold else folder
    folds = [folder] if is_fold else sorted(root.glob("fold_[0-9]*"), key=_number) or [root / "fold_all"]
    for name in CHECKPOINTS:
        found = tuple(fold / name for fold in folds if (fold / name).is_file())
        if found:
            return root, found
    raise ModelError(
        f"an nnU-Net model folder must hold {' or '.join(CHECKPOINTS)} in a fold, and '{folder}' has none in "
        f"{', '.join(fold.name for fold in folds)}. Name the folder that holds plans.json, or one fold of it."
    )


def _number(fold: Path) -> tuple[int, str]:
    digits = re.sub(r"\D", "", fold.name)
    return int(digits or 0), fold.name


def read_checkpoint(path: Path) -> Checkpoint:
    """Return what a checkpoint holds.

    Raises:
        WeightsError: If it is damaged, or wants more than tensors and plain values.
        ModelError: If it is no checkpoint of nnU-Net's.
    """
    found = read_pickled(path, cure=SAVE_ANEW)
    if not isinstance(found, Mapping) or not isinstance(found.get(NESTED), Mapping):
        raise WeightsError(
            f"'{path}' must be a checkpoint of nnU-Net's, with {NESTED}, and is not. Fetch the model folder again."
        )
    return Checkpoint(
        path=str(path),
        weights=tensors_of(found[NESTED], path=str(path)),
        configuration=_configuration(found, path),
        trainer=str(found.get("trainer_name", "")),
        mirror_axes=_mirror_axes(found, path),
    )


def _configuration(found: Mapping[Any, Any], path: Path) -> str:
    """Return the configuration that was trained, of the checkpoint or else of the folder's name."""
    arguments = found.get("init_args")
    named = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    *_, last = path.parent.parent.absolute().name.split("__")
    return str(named or last)


def _mirror_axes(found: Mapping[Any, Any], path: Path) -> tuple[int, ...]:
    axes = found.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, tuple | list) or not all(isinstance(axis, int) and 0 <= axis <= 2 for axis in axes):
        raise ModelError(f"'{path}' must name the axes to mirror as 0, 1 and 2, not {axes!r}. Fetch it again.")
    return tuple(sorted(set(axes)))
