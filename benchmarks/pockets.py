"""Items a second of pockets, atoms to interactions, beside the bare network on densities that are there already."""

import sys
import tempfile
from pathlib import Path

from benchmarks.report import Result
from engine.memory import n_cpus

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

from pocket_examples import made_poses, real_poses
from pocket_voxels import POSES, bare_speed, scored, written

N_TURNS, N_MADE, BATCH = 12, 88, 8
WANTED = 1.25
"""Times the bare network's seconds that an item may take."""


def main() -> list[Result]:
    """Run the docked poses, turned, or made-up pockets where there are none."""
    poses = real_poses(POSES) if POSES.exists() else made_poses(range(N_MADE))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = written(poses, Path(folder) / "atoms", n_turns=N_TURNS)
        for name, n_workers in (("one worker, all cores", 1), ("a Ray actor a core", n_cpus())):
            before = bare_speed(poses, batch_size=BATCH)
            report = scored(manifest, Path(folder) / name, BATCH, n_workers=n_workers)
            floor = (before + bare_speed(poses, batch_size=BATCH)) / 2
            speed = report.summary.n_tiles / report.summary.seconds
            done = f"{report.n_items - report.n_failed:,} + {report.n_failed} failed"
            rows.append((name, done, f"{speed:.1f}", f"{floor:.1f}", f"{floor / speed:.2f}"))
    columns = ("run", "items", "items/s", "bare network, items/s", "ratio")
    note = f"Reading, turning and densities included; {n_cpus()} cores, batches of {BATCH}. Wanted: at most {WANTED}."
    return [Result("Pockets: the pipeline beside its bare network", columns, tuple(rows), note)]

