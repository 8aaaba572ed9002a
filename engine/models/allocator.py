"""How this process treats memory that torch frees: kept for the next tensor, not given back and zeroed again.

By default glibc maps every large tensor anew and unmaps it when it is freed, and the kernel zeroes each page again at
first touch. Measured on 2 cores, torch 2.13, seconds of CPU for one forward: a 3-d U-Net over 128^3 4.5 by default and
2.7 kept; a 2-d U-Net over 2048^2 9.1 and 4.3.

Only the first heap of a process keeps what is large, so a thread that computes must lie in it
(:func:`computing_thread`): a MeshNet of 20 channels took 14.5 s a tile of 176^3 outside it, 8.7 s within.
"""

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from engine.process import libc

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
"""Numbers of mallopt(3)."""

_TOP_PAD_BYTES = 64 * 2**20
_MOST_MAPPINGS, _SMALLEST_MAPPING = 65536, 128 * 2**10

HOLES = 1.5
"""Bytes that a process which keeps its memory holds, over what its tensors need: 1.1 to 1.5 measured on U-Nets and
dilated chains, since a freed tensor's place does not always serve the next one."""

_NOT_FIRST_HEAP = 4
"""The bit in the size that glibc writes before each piece of memory: it is of another heap than the first."""

_NO_CACHED_SIZE = 4000
"""Bytes of a piece that comes from a heap for certain: a thread keeps none so large in its own cache."""

_REST_SIZES, _N_CACHED = range(24, 200, 16), 7
"""Bytes that may be left over where an aligned tensor is cut, and how many such pieces a thread's cache takes."""

_MOST_CANDIDATES = 64

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


def computing_thread() -> ThreadPoolExecutor:
    """Return an executor of one thread, whose large tensors are kept when freed.

    A new thread gets whichever heap glibc has next; all get the first where the engine was imported before torch (see
    ``engine/process.py``). Otherwise threads are started until one is in it.
    """
    others: list[ThreadPoolExecutor] = []
    glibc = _typed(libc())
    while True:
        candidate = ThreadPoolExecutor(1, thread_name_prefix="compute")
        if glibc is None or len(others) == _MOST_CANDIDATES or candidate.submit(_settle, glibc).result():
            break
        others.append(candidate)  # alive: the next would get the heap of one that has ended
    for other in others:
        other.shutdown()
    return candidate


def _settle(glibc: ctypes.CDLL) -> bool:
    """Return whether this thread is in the first heap, and fill its cache there.

    glibc cuts an aligned tensor out of a larger piece, and a thread's cache that has room takes the rest: the tensor's
    place, once free, is then a few bytes too small for the next of its size.
    """
    place = glibc.malloc(_NO_CACHED_SIZE)
    is_first = not ctypes.c_size_t.from_address(place - ctypes.sizeof(ctypes.c_size_t)).value & _NOT_FIRST_HEAP
    glibc.free(place)
    for place in [glibc.malloc(size) for size in _REST_SIZES for _ in range(_N_CACHED)]:
        glibc.free(place)
    return is_first


def _typed(glibc: ctypes.CDLL | None) -> ctypes.CDLL | None:
    if glibc is not None:
        glibc.malloc.restype, glibc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        glibc.free.restype, glibc.free.argtypes = None, [ctypes.c_void_p]
    return glibc
