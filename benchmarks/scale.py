"""What 10^9 blocks cost before anything runs, and how many idle blocks go through Dask and Ray per second."""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import Result
from engine.geometry.block_graph import BlockGraph
from engine.models.learn import learn
from engine.models.load import load_model
from engine.runtime.actors import RayRunner
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from engine.storage.ledger import Ledger
from tests.faults import Idle

ROOT = Path(__file__).parents[1]
GRAPH = BlockGraph((16, 16, 16), ((2, 2, 2), (2, 2, 2)))
N_ROUNDS = 2

PLANNING = """
import json, re, sys, time, types
from pathlib import Path
if sys.argv[2] == "planner alone":  # without engine/__init__.py, the front door, which brings torch
    engine = types.ModuleType("engine")
    engine.__path__ = [str(Path("engine").absolute())]
    sys.modules["engine"] = engine
else:
    import engine
def rss(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024
source, program = json.loads(sys.argv[1])
from engine.geometry.axes import axes_from_names
from engine.geometry.model_geometry import ModelGeometry
from engine.plan import ModelFacts, SourceFacts, TileCost
from engine.planner import Wishes, make_plan
from engine.runtime.graph import waves
import numpy as np
before = rss("VmRSS")
geometry = ModelGeometry.from_json(program)
facts = SourceFacts("s3://bucket/earth.zarr", axes_from_names("zyx"), tuple(source), "uint8", "none")
wishes = Wishes(memory_limit=64 * 2**30, n_workers=4, block=(128,))
begin = time.perf_counter()
plan = make_plan(facts, ModelFacts("a U-Net", "none", "float32"), geometry, TileCost(500.0, ((10**6, 1e-6),)), wishes)
numbers = [plan.n_tiles, plan.compute_ratio, plan.read_ratio]
planned = time.perf_counter() - begin
begin = time.perf_counter()
middle = plan.graph.index(plan.graph.n_blocks // 2)
tiles, region = plan.tiles(middle), plan.read_region(middle)
found = time.perf_counter() - begin
begin = time.perf_counter()
several = waves(plan.graph, lambda tasks: np.zeros(len(tasks), bool), limit=20_000)
n_nodes = sum(len(next(several).tasks) for _ in range(5))
waved = time.perf_counter() - begin
print(json.dumps({
    "blocks": plan.graph.n_blocks, "tasks": plan.graph.n_tasks, "planned": planned, "found": found,
    "nodes": n_nodes, "waved": waved, "peak": rss("VmHWM"),
    "added": rss("VmHWM") - before, "torch": "torch" in sys.modules, "ratio": plan.compute_ratio,
}))
"""


def main() -> list[Result]:
    """Plan 10^9 blocks, and dispatch idle ones."""
    return [planning(), dispatch()]


def planning() -> Result:
    """Plan 1000 x 1000 x 1000 blocks in a process of its own, without torch."""
    program = learn(load_model("benchmarks.networks:unet_3d"), n_channels=1, n_space=3).to_json()
    source = [128 * 1000 + 5] * 3
    arguments = json.dumps([source, program])
    alone, front = (_planned(arguments, how) for how in ("planner alone", "import engine"))
    if alone["torch"]:
        raise RuntimeError("planning imported torch")
    rows = (
        ("blocks of level 0", f"{alone['blocks']:,}", "10^9"),
        ("tasks of all levels", f"{alone['tasks']:,}", ""),
        ("plan with its totals, s", f"{alone['planned']:.3f}", "30"),
        ("one block in the middle: its tiles and what it reads, ms", f"{1000 * alone['found']:.2f}", ""),
        (f"Dask's order of the first {alone['nodes']:,} tasks, s", f"{alone['waved']:.2f}", ""),
        ("peak RSS, MB", f"{alone['peak'] / 1e6:.0f}", "300"),
        ("peak RSS with the front door and torch imported, MB", f"{front['peak'] / 1e6:.0f}", ""),
        ("of that, what planning and the waves added, MB", f"{front['added'] / 1e6:.0f}", ""),
    )
    return Result("Planning 10^9 blocks", ("what", "measured", "at most"), rows, "A 3-d U-Net over (128,005)^3 voxels.")


def _planned(arguments: str, how: str) -> dict[str, Any]:
    command = [sys.executable, "-c", PLANNING, arguments, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def dispatch() -> Result:
    """Send blocks that do nothing through Dask's order and a runner."""
    rows = []
    with TemporaryDirectory(prefix="bench-") as folder:
        for name, n_workers in (("serial", 0), ("ray, 1 worker", 1), ("ray, 2 workers", 2)):
            runner = RayRunner(Idle(), n_workers=n_workers, n_in_flight=3) if n_workers else SerialRunner(Idle())
            with runner:
                rates = []
                for i in range(N_ROUNDS):
                    ledger = Ledger.create(f"{folder}/{n_workers}-{i}.zarr", GRAPH.n_tasks)
                    begin = time.perf_counter()
                    summary = drive(GRAPH, runner, ledger, lambda _: None)
                    rates.append(summary.n_done / (time.perf_counter() - begin))
            rows.append((name, f"{GRAPH.n_tasks:,}", f"{max(rates):,.0f}", "500" if n_workers else ""))
    note = f"Blocks with two pyramid levels that depend on them, 3 in flight on a worker; best of {N_ROUNDS}."
    return Result(
        "Blocks that do nothing, per second", ("runner", "tasks", "per second", "at least"), tuple(rows), note
    )
