"""What is set for the whole process: on import, before torch starts its threads.

Idle threads sleep, they do not spin: a spinning thread takes a core from a neighbour. On 2 cores shared with other
work, one worker of 2 threads took 201 s for a slide with OMP_WAIT_POLICY=ACTIVE and 8.3 s with PASSIVE.

All threads share one heap: glibc can keep freed memory only in its first one (see ``models/allocator.py``), and
would give the thread that computes another. Measured on 2 cores, one forward of a 3-d U-Net over 160^3 in a thread:
4.6 s in a heap of its own, 2.1 s in the first. Where torch comes first all the same, the thread that computes is
chosen: see ``computing_thread`` there.

A user's own settings are kept.
"""

import ctypes
import os
from typing import Any

_M_ARENA_MAX = -8
"""Number of mallopt(3)."""


def libc() -> Any:  # noqa: ANN401 -- a library, its functions found by name
    """Return the C library where it is glibc, else None."""
    try:
        found = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return found if hasattr(found, "mallopt") and hasattr(found, "malloc_trim") else None


def _set_up() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    glibc = libc()
    if glibc is not None and "MALLOC_ARENA_MAX" not in os.environ:
        glibc.mallopt(_M_ARENA_MAX, 1)


_set_up()
