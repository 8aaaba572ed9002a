"""Modules that stand in for a network while the geometry is learnt: by what they do to the grid, the network not run.

Such a module says so by its attribute ``stands_in``.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_is_skeleton: ContextVar[bool] = ContextVar("is_skeleton", default=False)


@contextmanager
def skeletons() -> Iterator[None]:
    """Let every module of this thread that can stand in for its network do so."""
    token = _is_skeleton.set(True)
    try:
        yield
    finally:
        _is_skeleton.reset(token)


def is_skeleton() -> bool:
    """Say whether modules stand in for their networks now."""
    return _is_skeleton.get()


def in_own_thread(deed: Callable[[], T]) -> T:
    """Return what ``deed`` gives in a thread of its own, where no mode of torch (fake tensors) is active."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(deed).result()
