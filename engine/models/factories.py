"""How Python code that a user names becomes a module: importing it, calling it, and saying what went wrong."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from engine.errors import ModelError
from engine.models.specification import Part, did_you_mean, existing_file
from engine.models.weights import one_line


def make(part: Part) -> torch.nn.Module:
    """Return the module that a part's factory gives.

    Raises:
        ModelError: If the file, module or factory is missing, fails, or gives something else.
    """
    source = _import_file(part.location) if part.is_file else _import_module(part.location)
    factory = getattr(source, part.factory, None)
    if factory is None:
        names = [name for name in vars(source) if not name.startswith("_")]
        raise ModelError(f"'{part.location}' has no '{part.factory}'. {did_you_mean(part.factory, names)}")
    if isinstance(factory, torch.nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(
            f"'{part.factory}' of '{part.location}' must be a function or class, not {factory!r}. "
            "Name what makes the network."
        )
    try:
        module = factory()
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"factory '{part.factory}' of '{part.location}' failed: {one_line(error)}. Correct it."
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"factory '{part.factory}' of '{part.location}' must return a torch.nn.Module, not {described(module)}. "
            "Return the network itself."
        )
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"module '{name}' cannot be imported: {one_line(error)}. Install it, or name its file with .py."
        ) from error


def _import_file(location: str) -> ModuleType:
    """Import a file under a name of its own, with its folder importable meanwhile."""
    file = existing_file(location, what="model file")
    name = f"engine_model_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(str(file.parent)):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(f"model file '{location}' cannot be imported: {one_line(error)}. Correct it.") from error
    return module


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def described(value: object) -> str:
    """Return what a value is, for a message."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else "an empty dict" if value == {} else f"a {type(value).__name__}"
