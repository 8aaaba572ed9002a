"""Items a second of pockets, atoms to interactions, beside the bare network on densities that are there already."""

import sys
import tempfile
from pathlib import Path

from benchmarks.report import Result
from engine.items.run import ItemOptions, items
from engine.memory import n_cpus
from engine.runtime.actors import RayRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

from pocket_examples import made_poses, real_poses
from pocket_voxels import MODEL, POSES, bare_speed, written

N_TURNS, N_MADE, BATCH = 12, 88, 8
WANTED = 1.25
"""Times the bare network's seconds that an item may take."""


def main() -> list[Result]:
    """Run the docked poses, turned, or made-up pockets where there are none."""
    poses = real_poses(POSES) if POSES.exists() else made_poses(range(N_MADE))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = written(poses, Path(folder) / "atoms", n_turns=N_TURNS)
        for name, n_workers, runner in (("one worker, all cores", 1, None), ("a Ray actor a core", n_cpus(), actors)):
            before = bare_speed(poses, batch_size=BATCH)
            options = ItemOptions(batch=BATCH, workers=n_workers, threads=n_cpus() // n_workers)
            place = str(Path(folder) / name)
            more = {} if runner is None else {"runner": runner}
            report = items(str(manifest), f"{MODEL}:interactions", place, options=options, **more)
            floor = (before + bare_speed(poses, batch_size=BATCH)) / 2
            speed = report.summary.n_tiles / report.summary.seconds
            done = f"{report.n_items - report.n_failed:,} + {report.n_failed} failed"
            rows.append((name, done, f"{speed:.1f}", f"{floor:.1f}", f"{floor / speed:.2f}"))
    columns = ("run", "items", "items/s", "bare network, items/s", "ratio")
    note = f"Reading, turning and densities included; {n_cpus()} cores, batches of {BATCH}. Wanted: at most {WANTED}."
    return [Result("Pockets: the pipeline beside its bare network", columns, tuple(rows), note)]


def actors(factory):
    return RayRunner(factory, n_workers=n_cpus(), n_cpus_per_worker=factory.n_threads, n_in_flight=1)
