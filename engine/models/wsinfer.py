"""Reads model folders as the WSInfer zoo has them: a TorchScript patch classifier beside its config.json.

The configuration (Kaczmarzyk et al. 2024, "Open and reusable deep learning for pathology with WSInfer
and QuPath") tells the patch size, the spacing, the class names and the transforms before the network.
Its probabilities are WSInfer's: a softmax over the classes, or a sigmoid where there is one.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError
from engine.models.json_object import json_object
from engine.models.patches import BATCH_SIZE, Patches
from engine.models.programs import load_torchscript
from engine.models.specification import WSINFER_CONFIG, WSINFER_PROGRAM, existing_file
from engine.models.wrappers import Compose, Normalise


class Resize(nn.Module):
    """Patches of 8-bit colours at another size: bilinear with antialiasing, as Pillow does it.

    Along x first, then along y, in whole levels after each.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"size={self.size}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (patch, channel, y, x) of 0 to 255 at the new size."""
        for size in ((x.shape[2], self.size[1]), self.size):
            if tuple(x.shape[2:]) != size:
                x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 255).round()
        return x


class CenterCrop(nn.Module):
    """The middle of each patch."""

    def __init__(self, size: int | Sequence[int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def extra_repr(self) -> str:
        """Return the settings, which are a part of the fingerprint."""
        return f"size={self.size}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the middle of ``x`` (patch, channel, y, x).

        Raises:
            ModelError: If the patch is smaller than that.
        """
        (height, width), (n_rows, n_columns) = self.size, x.shape[2:]
        if height > n_rows or width > n_columns:
            raise ModelError(f"CenterCrop to {self.size} needs larger patches than {n_rows} x {n_columns}. Resize.")
        top, left = round((n_rows - height) / 2), round((n_columns - width) / 2)
        return x[:, :, top : top + height, left : left + width]


class ToTensor(nn.Module):
    """Colours of 0 to 255 as shares of 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x / 255``."""
        return x / 255


class Probabilities(nn.Module):
    """Logits (patch, class) as probabilities: a softmax, or a sigmoid of a single class."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities (patch, class).

        Raises:
            ModelError: If the network gives another number of classes.
        """
        logits = logits.reshape(-1, 1) if logits.dim() == 1 else logits
        if logits.dim() != 2 or logits.shape[1] != self.n_classes:
            raise ModelError(
                f"the configuration names {self.n_classes} classes, and the network gives logits of "
                f"{tuple(logits.shape)}. Correct num_classes in {WSINFER_CONFIG}."
            )
        return torch.softmax(logits, dim=1) if self.n_classes > 1 else torch.sigmoid(logits)


TRANSFORMS: Mapping[str, Callable[..., nn.Module]] = {
    "Resize": Resize,
    "CenterCrop": CenterCrop,
    "ToTensor": ToTensor,
    "Normalize": Normalise,
}
"""What a configuration may name, by torchvision's names and arguments."""


def wsinfer(folder: str | Path, *, stride: int | None = None, batch_size: int = BATCH_SIZE) -> Patches:
    """Return the patch classifier of a folder of the WSInfer zoo: raw colours (0 to 255) to class probabilities.

    Args:
        folder: Holds config.json and torchscript_model.pt.
        stride: From one patch to the next, in voxels; the patch size where not given.
        batch_size: Patches in one call of the network.

    Raises:
        ModelError: If a file is missing or damaged, the configuration lacks something, or a transform is unknown.
    """
    path = Path(folder)
    config = _config(existing_file(str(path / WSINFER_CONFIG), what="WSInfer configuration"))
    network = load_torchscript(existing_file(str(path / WSINFER_PROGRAM), what="WSInfer network"))
    names = tuple(map(str, config["class_names"]))
    if len(names) != config["num_classes"]:
        raise ModelError(
            f"'{path / WSINFER_CONFIG}' must name as many classes as it has, {config['num_classes']}, not {names}. "
            "Correct class_names."
        )
    transforms = [_transform(item, path / WSINFER_CONFIG) for item in config["transform"]]
    return Patches(
        Compose(*transforms, network, Probabilities(len(names))),
        size=config["patch_size_pixels"],
        stride=stride,
        mpp=float(config["spacing_um_px"]),
        batch_size=batch_size,
        class_names=names,
    )


WANTED: Mapping[str, type | tuple[type, ...]] = {
    "num_classes": int,
    "class_names": list,
    "patch_size_pixels": int,
    "spacing_um_px": (int, float),
    "transform": list,
}
"""What a configuration must hold, and of which kind."""


def _config(path: Path) -> dict[str, Any]:
    config = json_object(path)
    for key, kind in WANTED.items():
        if not isinstance(config.get(key), kind) or isinstance(config[key], bool):
            came = f"{config[key]!r}" if key in config else "nothing"
            raise ModelError(f"'{path}' must give {key}, and holds {came} for it. See the WSInfer zoo's schema.")
    return config


def _transform(item: Any, path: Path) -> nn.Module:  # noqa: ANN401 -- JSON
    name = str(item.get("name") if isinstance(item, dict) else item)
    if name not in TRANSFORMS:
        raise ModelError(
            f"'{path}' asks for the transform '{name}', and known are {', '.join(TRANSFORMS)}. "
            "Write a factory that composes it: Patches(Compose(...), size=...)."
        )
    arguments = item.get("arguments") or {}
    try:
        return TRANSFORMS[name](**arguments)
    except TypeError as error:
        raise ModelError(f"the transform {name} in '{path}' cannot take {arguments}: {error}. Correct it.") from error
