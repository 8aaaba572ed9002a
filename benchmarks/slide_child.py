"""Ours on one slide, from the file to the certified result on disk, in a process of its own; one line of JSON.

``python -m benchmarks.slide_child --slide S --model M --out FOLDER [--tissue auto] [--whole]``
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.tree import Peak
from engine.geometry.region import Region
from engine.models.load import load_model
from engine.models.whole import whole_pass
from engine.prepare import Options
from engine.run import run, serial_runner
from engine.runtime.events import RunFinished
from engine.storage.volume import open_volume


def ours(wanted: argparse.Namespace) -> dict[str, object]:
    """Run the engine as it comes; what is timed is all of it: learning, planning, running, certifying."""
    sums, before = [], psutil.Process().memory_info().rss

    def listen(event: object) -> None:
        if isinstance(event, RunFinished):
            sums.append(event.summary)

    with Peak() as peak:
        begin = time.perf_counter()
        report = run(
            wanted.slide, wanted.model, str(wanted.out / "ours.zarr"), listener=listen, runner=serial_runner,
            options=Options(threads=wanted.threads, tissue=wanted.tissue, pyramid=True, memory=wanted.memory),
        )  # fmt: skip
        seconds = time.perf_counter() - begin
    assert report.is_complete
    (summary,) = sums
    return {
        "seconds": seconds, "peak": peak.n_bytes, "rss_before": before, "blocks_seconds": summary.seconds,
        "compute_seconds": summary.compute_seconds, "read_seconds": summary.read_seconds,
        "write_seconds": summary.write_seconds, "n_blocks": summary.n_tasks, "n_skipped": summary.n_skipped,
        "n_bytes_written": sum(p.stat().st_size for p in (wanted.out / "ours.zarr").rglob("*") if p.is_file()),
        "n_files": sum(p.is_file() for p in (wanted.out / "ours.zarr").rglob("*")),
    }  # fmt: skip


def whole(wanted: argparse.Namespace) -> dict[str, object]:
    """Run the network over all of the slide at once, and keep its probability."""
    volume = open_volume(wanted.slide)
    before = psutil.Process().memory_info().rss
    begin = time.perf_counter()
    pixels = volume.read(Region.whole(volume.shape))
    decoded = time.perf_counter() - begin
    with Peak() as peak:
        begin = time.perf_counter()
        outputs = whole_pass(load_model(wanted.model), pixels)
        seconds = time.perf_counter() - begin
    np.save(wanted.out / "whole.npy", outputs["probability"])
    return {"seconds": seconds, "decode_seconds": decoded, "peak": peak.n_bytes, "rss_before": before}


def main() -> None:
    """Do what is asked, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tissue")
    parser.add_argument("--memory", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--whole", action="store_true")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    wanted.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(whole(wanted) if wanted.whole else ours(wanted)), flush=True)


if __name__ == "__main__":
    main()
