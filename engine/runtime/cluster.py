"""The Ray that a run's actors live in: the one of this process, one at an address, or a local one."""

import logging
import os
import socket
import warnings
from typing import Any

import ray
from ray.exceptions import RayError

from engine.errors import RunError
from engine.runtime.events import one_line

OBJECT_STORE_BYTES = 100 * 2**20
"""Of a local Ray: only the factory goes through it, never voxels."""

_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a FutureWarning
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` uploads the working directory
    "RAY_USAGE_STATS_ENABLED": "0",  # else Ray calls home, and says so
}


def connect(address: str | None, *, n_cpus: int, is_debug: bool) -> bool:
    """Join or start Ray, or use the one of this process; True if the caller must shut it down.

    Raises:
        RunError: If there is no cluster at ``address``, or a local one does not start.
    """
    if ray.is_initialized():
        return False
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    local: dict[str, Any] = {"num_cpus": n_cpus, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    # Ray prints each worker's death on the terminal, with escape codes, unless it is told not to here.
    ray._private.worker._worker_logs_enabled = is_debug
    try:
        if address is not None and ":" in address:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself tries for minutes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                address="local" if address is None else address,
                log_to_driver=is_debug,
                logging_level=logging.INFO if is_debug else logging.ERROR,
                **(local if address is None else {}),
            )
    except (RayError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        place = "on this machine" if address is None else f"at {address!r}"
        message = f"no Ray {place}: {one_line(str(error))}. Check the address, or use the serial runner."
        raise RunError(message) from error
    return True
