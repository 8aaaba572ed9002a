"""A deed in a process of its own: its seconds, and the most memory that the process held."""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch


def alone(deed: Callable[[], Any]) -> tuple[float, int, Any]:
    """Return seconds, peak bytes of RSS, and what the deed gives; it runs on two threads."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # peaks are a process's own
        return fresh.submit(_timed, deed).result()


def _timed(deed: Callable[[], Any]) -> tuple[float, int, Any]:
    torch.set_num_threads(2)
    begin = time.perf_counter()
    found = deed()
    return time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, found
