"""How a model is written down as text: the grammar of a model specification.

specification   part ["+" part]...
part            file.py:factory[@weights] | package.module:factory[@weights] | file.pt2 | file.pt | folder

Several parts are composed into one pipeline, in order. A path may hold spaces, but no ``+``. A folder is
a patch classifier as the WSInfer zoo has them (a config.json and a TorchScript file), a model folder of
nnU-Net's or one fold of it (plans.json and dataset.json), or a bundle of MONAI's (configs/inference.json).
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from engine.errors import ModelError, WeightsError

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
EXPORTED_SUFFIXES = (".pt2",)
TORCHSCRIPT_SUFFIXES = (".pt", ".ts", ".torchscript")

WSINFER_CONFIG, WSINFER_PROGRAM = "config.json", "torchscript_model.pt"
"""The files of a folder of the WSInfer zoo."""

NNUNET_FILES = ("plans.json", "dataset.json")
"""What a model folder of nnU-Net's holds beside its folds."""

NNUNET_FOLD = r"fold_(\d+|all)"
"""The name of a fold's folder."""

BUNDLE_CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
"""What a bundle of MONAI's is told by; the first that is there is read."""

BUNDLE_METADATA, BUNDLE_WEIGHTS, BUNDLE_PROGRAM = "configs/metadata.json", "models/model.pt", "models/model.ts"
"""The other files of a bundle."""

GRAMMAR = (
    "Write file.py:factory, package.module:factory (either with @weights.safetensors or @weights.pt), "
    "program.pt2, script.pt or a folder of WSInfer's, nnU-Net's or MONAI's, several parts joined by +."
)


@dataclass(frozen=True, slots=True)
class Part:
    """One module of a pipeline, as it was written."""

    kind: Literal["module", "exported", "torchscript", "wsinfer", "nnunet", "bundle"]
    location: str
    """Path of a file or folder, or the dotted name of an importable module."""
    factory: str = ""
    """Name in that file or module of what gives the ``torch.nn.Module``; empty for files that are programs."""
    weights: str | None = None
    """Path of the weights, or None where the factory brings its own."""

    @property
    def programs(self) -> tuple[Path, ...]:
        """The files that the fingerprint covers whole: not the code and weights that torch shows of a module."""
        if self.kind == "module":
            return ()
        folder = Path(self.location)
        if self.kind == "wsinfer":
            return folder / WSINFER_CONFIG, folder / WSINFER_PROGRAM
        if self.kind == "nnunet":
            return tuple(nnunet_root(folder) / name for name in NNUNET_FILES)
        if self.kind == "bundle":
            has_weights = any(folder.glob(str(Path(BUNDLE_WEIGHTS).with_stem("*"))))
            names = (*BUNDLE_CONFIGS, BUNDLE_METADATA, *(() if has_weights else (BUNDLE_PROGRAM,)))
            return tuple(folder / name for name in names if (folder / name).is_file())
        return (folder,)

    @property
    def is_file(self) -> bool:
        """Whether ``location`` is a path."""
        return self.kind != "module" or self.location.endswith(".py")

    def __str__(self) -> str:
        text = f"{self.location}:{self.factory}" if self.factory else self.location
        return f"{text}@{self.weights}" if self.weights else text


def parse_spec(text: str) -> tuple[Part, ...]:
    """Return the parts of a model specification, in the order in which they run. Opens no file.

    >>> parse_spec("net.py:unet@best.safetensors + engine.models.wrappers:ArgMax")[0].weights
    'best.safetensors'

    Raises:
        ModelError: If a part is empty, or is neither a factory nor a program.
        WeightsError: If the weights' file is of no known kind.
    """
    pieces = [piece.strip() for piece in text.split("+")]
    if not all(pieces):
        raise ModelError(f"a model needs parts joined by '+', not an empty one in '{text}'. {GRAMMAR}")
    return tuple(_parse_part(piece) for piece in pieces)


def _parse_part(text: str) -> Part:
    head, at, weights = text.rpartition("@")
    if not at:
        head, weights = text, ""
    location, colon, factory = (side.strip() for side in head.rpartition(":"))
    if not colon:
        return _parse_program(text)
    if not location or not factory.isidentifier():
        raise ModelError(f"'{text}' must name a file or module and a factory in it, not '{factory}'. {GRAMMAR}")
    if not location.endswith(".py") and not all(name.isidentifier() for name in location.split(".")):
        raise ModelError(f"'{location}' of '{text}' is neither a .py file nor the name of a module. {GRAMMAR}")
    if at and not weights.strip().endswith(WEIGHTS_SUFFIXES):
        raise WeightsError(
            f"weights must be a file of {', '.join(WEIGHTS_SUFFIXES)}, not '{weights.strip()}' in '{text}'. "
            "Save the state dict as safetensors."
        )
    return Part("module", location, factory, weights.strip() or None)


def _parse_program(text: str) -> Part:
    if text.endswith(EXPORTED_SUFFIXES):
        return Part("exported", text)
    if text.endswith(TORCHSCRIPT_SUFFIXES):
        return Part("torchscript", text)
    if text.endswith(".py"):
        raise ModelError(f"'{text}' does not say what in it gives the model. Write {text}:factory.")
    if text.endswith(WEIGHTS_SUFFIXES):
        raise ModelError(f"'{text}' holds weights, not a model. Write file.py:factory@{text}.")
    if Path(text).is_dir():
        return _parse_folder(text)
    raise ModelError(f"'{text}' is not a model. {GRAMMAR} A path may not hold '+'.")


def _parse_folder(text: str) -> Part:
    folder = Path(text)
    if (folder / WSINFER_CONFIG).is_file():
        return Part("wsinfer", text)
    if (nnunet_root(folder) / NNUNET_FILES[0]).is_file():
        return Part("nnunet", text)
    if any((folder / name).is_file() for name in BUNDLE_CONFIGS):
        return Part("bundle", text)
    raise ModelError(
        f"the folder '{text}' is not a model: it has no {WSINFER_CONFIG} (WSInfer), no {NNUNET_FILES[0]} (nnU-Net v2) "
        f"and no {BUNDLE_CONFIGS[0]} (MONAI). {GRAMMAR}"
    )


def nnunet_root(folder: Path) -> Path:
    """Return the model folder of nnU-Net's that a path names: itself, or the one that holds it as a fold."""
    return folder.absolute().parent if re.fullmatch(NNUNET_FOLD, folder.absolute().name) else folder


def absolute_spec(spec: str) -> str:
    """Return the same specification with every path made absolute, so that another process finds the files.

    Names of importable modules stay as they are. Idempotent.

    Raises:
        ModelError: If the specification is malformed.
    """
    return " + ".join(str(absolute_part(part)) for part in parse_spec(spec))


def absolute_part(part: Part) -> Part:
    """Return the part with its paths made absolute."""
    location = str(Path(part.location).absolute()) if part.is_file else part.location
    weights = str(Path(part.weights).absolute()) if part.weights else None
    return Part(part.kind, location, part.factory, weights)


def existing_file(path: str, *, what: str, error: type[ModelError] = ModelError) -> Path:
    """Return the path of a file that is there, or say which names come close.

    Raises:
        ModelError: Of type ``error``, if there is no such file.
    """
    found = Path(path)
    if found.is_file():
        return found
    if found.is_dir():
        raise error(f"{what} must be a file, and '{path}' is a folder. Name the file in it.")
    names = [entry.name for entry in found.parent.iterdir()] if found.parent.is_dir() else []
    where = f"the folder '{found.parent}' does not exist" if not found.parent.is_dir() else f"no file '{path}'"
    raise error(f"{what} is missing: {where}. {did_you_mean(found.name, names)}")


def did_you_mean(name: str, names: list[str]) -> str:
    """Return advice that names the nearest of the names that there are.

    >>> did_you_mean("unte", ["unet", "torch"])
    "Did you mean 'unet'?"
    """
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else "Check the spelling."
