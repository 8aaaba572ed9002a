"""What resolution a pipeline was made for: the micrometres per voxel that one of its modules declares."""

from math import isfinite

from torch import nn

from engine.errors import ModelError
from engine.models.patches import MPP_TOLERANCE


def declared_mpp(module: nn.Module) -> tuple[float, float] | None:
    """Return the micrometres per voxel that the modules of a pipeline ask for, and by what share these may differ.

    A module declares them by its attributes ``mpp`` and, where it wants, ``mpp_tolerance``.

    >>> from engine.models.patches import Patches
    >>> declared_mpp(nn.Sequential(Patches(nn.Flatten(), size=8, mpp=0.5)))
    (0.5, 0.05)

    Raises:
        ModelError: If a declaration is no positive number, or two of them disagree.
    """
    found: dict[tuple[float, float], str] = {}
    for path, part in module.named_modules():
        mpp = getattr(part, "mpp", None)
        if mpp is None:
            continue
        tolerance = getattr(part, "mpp_tolerance", MPP_TOLERANCE)
        where = f"'{path}' ({type(part).__name__})" if path else f"the model itself ({type(part).__name__})"
        found.setdefault((_number(mpp, "mpp", where), _number(tolerance, "mpp_tolerance", where)), where)
    if len(found) > 1:
        said = ", ".join(f"{where} {mpp:g} to {tolerance:.0%}" for (mpp, tolerance), where in found.items())
        raise ModelError(f"a pipeline must be made for one resolution, and its modules declare {said}. Take one out.")
    return next(iter(found), None)


def _number(value: object, name: str, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise ModelError(f"{name} of {where} must be a positive number, not {value!r}. Give micrometres per voxel.")
    return float(value)  # type: ignore[arg-type]
