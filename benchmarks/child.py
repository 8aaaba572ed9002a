"""A contender in a process of its own: runs one way over a volume, saves the scores, prints seconds and peak memory.

``python -m benchmarks.child '{"way": "whole", ...}'``; with ``rounds`` it waits for a line on stdin before each.
"""

import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import torch
from monai.inferers import sliding_window_inference

from benchmarks.runs import repeated
from engine.geometry.region import Region
from engine.models.load import load_model
from engine.prepare import Options, prepare
from engine.run import serial_runner
from engine.storage.output import open_output
from engine.storage.volume import open_volume

N_THREADS = 2


def main(wanted: dict[str, Any]) -> None:
    """Do what is wanted, once or as often as a line comes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(N_THREADS)
    if wanted["way"] == "ours":
        _ours(wanted)
        return
    volume = open_volume(wanted["source"])
    voxels = volume.read(Region.whole(volume.shape))
    network = load_model(wanted["model"]).module
    deed: Callable[[], np.ndarray] = {"whole": _whole, "monai": _monai, "dask": _dask}[wanted["way"]](
        voxels, network, wanted
    )
    with torch.inference_mode():
        network(torch.zeros(1, wanted["n_channels"], *wanted["warm"]))
        for _ in range(wanted["rounds"]):
            _wait(wanted)
            begin = time.perf_counter()
            scores = deed()
            _say(time.perf_counter() - begin)
    if wanted.get("scores"):
        np.save(wanted["scores"], scores)


def _whole(voxels: np.ndarray, network: torch.nn.Module, wanted: dict[str, Any]) -> Callable[[], np.ndarray]:
    x = torch.from_numpy(voxels).reshape(1, wanted["n_channels"], *voxels.shape[-len(wanted["warm"]) :])
    return lambda: _first(network(x.to(torch.float32)))


def _monai(voxels: np.ndarray, network: torch.nn.Module, wanted: dict[str, Any]) -> Callable[[], np.ndarray]:
    x = torch.from_numpy(voxels).reshape(1, wanted["n_channels"], *voxels.shape[-len(wanted["warm"]) :])
    how = (wanted["roi"], wanted.get("batch", 1), lambda tile: _tensor(network(tile)), wanted["overlap"], "gaussian")
    return lambda: _first(sliding_window_inference(x.to(torch.float32), *how))


def _dask(voxels: np.ndarray, network: torch.nn.Module, wanted: dict[str, Any]) -> Callable[[], np.ndarray]:
    """map_overlap keeps an axis's length, so the input is handed over once per class."""
    array = da.from_array(voxels, chunks=wanted["chunk"])
    depth = {0: 0, **dict.fromkeys(range(1, voxels.ndim + 1), wanted["depth"])}

    def one(block: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return _first(network(torch.from_numpy(block[None, :1]).to(torch.float32)))

    stacked = da.stack([array] * wanted["n_classes"]).rechunk({0: wanted["n_classes"]})
    lazy = da.map_overlap(one, stacked, depth=depth, boundary="reflect", dtype="float32", meta=np.empty((0,) * 4, "f4"))

    def deed() -> np.ndarray:
        with dask.config.set(scheduler="single-threaded"):
            return np.asarray(lazy.compute())

    return deed


def _ours(wanted: dict[str, Any]) -> None:
    """Run the engine, from Zarr to Zarr; what is timed lies between the first submit and the last receipt."""
    options = Options(threads=N_THREADS, memory=wanted["memory"], pyramid=False, batch=wanted.get("batch"))
    prepared = prepare(wanted["source"], wanted["model"], options)
    with repeated(prepared, model=wanted["model"], options=options, runner=serial_runner) as run:
        for _ in range(wanted["rounds"]):
            _wait(wanted)
            _say(run.again())
        if wanted.get("scores"):
            output = open_output(str(run.folder / "out.zarr")).volumes["output"]
            np.save(wanted["scores"], output.read(Region.whole(output.shape)))


def _tensor(found: "torch.Tensor | dict[str, torch.Tensor]") -> torch.Tensor:
    return found["output"] if isinstance(found, dict) else found


def _first(found: "torch.Tensor | dict[str, torch.Tensor]") -> np.ndarray:
    return np.asarray(_tensor(found)[0])


def _wait(wanted: dict[str, Any]) -> None:
    if wanted["rounds"] > 1 and not sys.stdin.readline():
        sys.exit(0)


def _say(seconds: float) -> None:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    print(json.dumps({"seconds": seconds, "peak": int(found.group(1)) * 1024 if found else 0}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
