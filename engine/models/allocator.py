"""How this process treats memory that torch frees: kept for the next tensor, not given back and zeroed again.

By default glibc maps every large tensor anew and unmaps it when it is freed, and the kernel zeroes each page again at
first touch. Measured on 2 cores, torch 2.13, seconds of CPU for one forward: a 3-d U-Net over 128^3 4.5 by default and
2.7 kept; a 2-d U-Net over 2048^2 9.1 and 4.3.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.process import libc

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
"""Numbers of mallopt(3)."""

_TOP_PAD_BYTES = 64 * 2**20
_MOST_MAPPINGS, _SMALLEST_MAPPING = 65536, 128 * 2**10

HOLES = 1.5
"""Bytes that a process which keeps its memory holds, over what its tensors need: 1.1 to 1.5 measured on U-Nets and
dilated chains, since a freed tensor's place does not always serve the next one."""

_is_kept = False


def keep_freed_memory() -> None:
    """Let freed tensors stay in this process, for the next ones. Idempotent.

    Only glibc knows how; elsewhere nothing happens.
    """
    global _is_kept  # noqa: PLW0603 -- a property of the process
    glibc = libc()
    if glibc is not None:
        _is_kept = True
        glibc.mallopt(_M_MMAP_MAX, 0)
        glibc.mallopt(_M_TRIM_THRESHOLD, -1)
        glibc.mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)


def release_freed_memory() -> None:
    """Give back to the system what was kept; what is kept from now on grows anew. Idempotent."""
    glibc = libc()
    if glibc is not None:
        glibc.malloc_trim(0)


@contextmanager
def no_memory_kept() -> Iterator[None]:
    """Let the process hold no more than its tensors need, as a measurement wants it, within this context."""
    glibc = libc()
    if glibc is not None:
        glibc.mallopt(_M_MMAP_MAX, _MOST_MAPPINGS)
        glibc.mallopt(_M_MMAP_THRESHOLD, _SMALLEST_MAPPING)
        glibc.malloc_trim(0)
    try:
        yield
    finally:
        if _is_kept:
            keep_freed_memory()
