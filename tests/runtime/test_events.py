"""A failure knows what it means for the run, whatever wrapped it."""

import errno

import pytest

from engine.errors import VolumeError
from engine.runtime.events import Failure


def _wrapped(cause):
    try:
        try:
            raise cause
        except Exception as error:
            raise VolumeError("cannot write block 3") from error
    except VolumeError as error:
        return error


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("bad"), "raised"),
        (OSError(errno.ENOSPC, "No space left on device"), "no_space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no_space"),
        (OSError(errno.EIO, "Input/output error"), "raised"),
        (MemoryError(), "out_of_memory"),
        (OutOfMemoryError("CUDA"), "out_of_memory"),  # known by its name, without torch
    ],
)
def test_a_failure_is_classified_by_its_first_known_cause(error, kind):
    assert Failure.of(error).kind == kind
    assert Failure.of(_wrapped(error)) == Failure(kind, "VolumeError: cannot write block 3")
