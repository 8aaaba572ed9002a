"""How a model that is a file comes to life: exported programs (.pt2) and TorchScript, without trusting the file.

``torch.jit.load`` reads with its own unpickler, which makes tensors and TorchScript classes only.
``torch.export.load`` falls back to a full unpickling of sample inputs, constants and subclassed
weights, looks up the operations' names anywhere below ``torch`` (``torch.os.system`` is there), and
hands size expressions to ``eval``. So the archive is read here first, and refused unless it holds
nothing but plain tensors, known operations and plain arithmetic.
"""

import io
import json
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from engine.errors import ModelError
from engine.models.weights import one_line, unpickle_tensors

OPERATION = re.compile(
    r"torch\.ops\.(aten|prims|prim|quantized|quantized_decomposed|torchvision|higher_order)(\.\w+)+"
    r"|torch\.sym_\w+|torch\._sym_\w+|math\.\w+|_operator\.(?!attrgetter|methodcaller)\w+"
)
"""Operations that a graph may call."""

NAME_IN_EXPRESSION = re.compile(r"([A-Z]\w*|[suz][a-z]{0,2}\d+|[a-z]\w*(?==)|\d+)(?!\w)")
"""Names that a size expression may hold: sympy's classes, symbols, keywords, numbers."""

ALLOWED_ENTRY = re.compile(
    r".*/(data/weights/(weight_\d+|\w+\.json)|data/constants/(tensor_\d+|\w+\.json)|models/model\.json"
    r"|data/sample_inputs/\w+\.pt|extra/.*|archive_format|archive_version|byteorder|version|\.data/\w+|\.\w+)"
)
"""Files of an archive that ``torch.export.save`` writes for a model of plain tensors."""


def load_exported(path: Path) -> torch.nn.Module:
    """Return the module of a program that ``torch.export.save`` wrote.

    Raises:
        ModelError: If the file is damaged, of an older format, or would have to be trusted.
    """
    _check_exported(path)
    try:
        with warnings.catch_warnings(), _quiet("torch.export"):
            warnings.simplefilter("ignore")
            return torch.export.load(path).module(check_guards=False)
    except Exception as error:  # torch.export lets whatever a damaged archive causes through
        raise _damaged(path, error, "torch.export.save") from error


def _check_exported(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            strangers = [name for name in names if not ALLOWED_ENTRY.fullmatch(name)]
            if strangers:
                raise ModelError(
                    f"program '{path}' must hold one graph and plain tensors, but it has '{strangers[0]}', which may "
                    "need unpickling. Export it again with this torch, from a module whose constants are tensors."
                )
            for name in names:
                _check_entry(path, name, archive.read(name))
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise _damaged(path, error, "torch.export.save") from error


def _check_entry(path: Path, name: str, data: bytes) -> None:
    if name.endswith(".json"):
        for key, value in _entries(json.loads(data)):
            if not _is_plain(key, value):
                raise ModelError(
                    f"program '{path}' asks for {key} '{str(value)[:80]}' in '{name}', which could run any code. "
                    "Export the model again from its source, with plain tensors and standard operations."
                )
    elif "/sample_inputs/" in name and data:
        try:
            unpickle_tensors(io.BytesIO(data))
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ModelError(
                f"program '{path}' has sample inputs in '{name}' that are not plain tensors: {one_line(error)}. "
                "Export the model again with one tensor as its input."
            ) from error


def _entries(value: object) -> Iterator[tuple[str, object]]:
    """Yield the key and value of every entry of nested JSON, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _is_plain(key: str, value: object) -> bool:
    if key == "use_pickle":
        return not value
    if key == "target" and str(value).startswith(("torch", "_operator", "math", "#")):
        return OPERATION.fullmatch(str(value)) is not None
    if key == "expr_str":
        return is_arithmetic(str(value))
    return True


def is_arithmetic(expression: str) -> bool:
    """Return whether a size expression is sympy arithmetic on symbols and numbers, and nothing else.

    >>> is_arithmetic("Mul(Integer(2), Symbol('s16', positive=True))"), is_arithmetic("exec('x')")
    (True, False)
    """
    without_text = re.sub(r"'\w*'", "0", expression)
    if re.search(r"\.\s*[A-Za-z_]|__|[\[\]{}'\"@:;\\]", without_text):
        return False
    return all(NAME_IN_EXPRESSION.match(without_text, name.start()) for name in re.finditer(r"\w+", without_text))


def load_torchscript(path: Path) -> torch.nn.Module:
    """Return the module of a TorchScript file.

    Raises:
        ModelError: If the file is damaged, or holds a state dict or a pickled module.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            is_script = any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error, "torch.jit.save") from error
    if not is_script:
        raise ModelError(
            f"'{path}' is no TorchScript program: it holds a state dict or a pickled module. "
            f"Write file.py:factory@{path}, with the state dict in it."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.*")
            module: torch.nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, error, "torch.jit.save") from error
    return module


def _damaged(path: Path, error: Exception, writer: str) -> ModelError:
    return ModelError(f"program '{path}' is damaged, or not written by {writer}: {one_line(error)}. Save it again.")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep torch's own tracebacks out of the log: what went wrong is told in our error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
