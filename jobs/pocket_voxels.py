"""A thousand pockets: atoms to densities to the interactions that each has, in a table, beside what the rules say.

python jobs/pocket_voxels.py                  # the docked poses beside the repository, each turned a dozen ways
python jobs/pocket_voxels.py --made           # made-up pockets

1. a manifest: an item a pose and turn, and three that are broken
2. every item through the pipeline: densities of atoms | the trained CNN; the broken ones have their reasons
3. the bare network, on densities that are there already: what the pipeline's speed is measured by
4. how often each interaction was found where the rules find it, beside a constant answer
5. a picture of one pocket
"""

import argparse
import csv
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from interaction_net import N_VOXELS, SPACING, bare
from interactions import LABELS
from jaccard import Table, majority, pocket_table
from job import DATA, Clock, Row, answer, console, emptied, near
from pocket_examples import HELD_OUT, Contacts, Pose, contacts, made_poses, real_poses
from pocket_picture import draw

from engine.cli_options import pass_runner
from engine.factory import ready_process
from engine.items.atoms import write_gninatypes
from engine.items.pocket import pocket_array
from engine.items.run import ItemOptions, ItemReport, items
from engine.memory import n_cpus
from engine.models.voxeliser import Voxeliser
from engine.runtime.progress import progress
from engine.show import print_rows

MODEL = Path(__file__).with_name("interaction_net.py")
POSES = DATA / "pocket" / "gninatypes"
N_FLOOR = 240
"""Items that the bare network is timed on."""


def main() -> int:
    """Show a thousand pockets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", default="pockets-output", type=Path, help="folder of the results")
    parser.add_argument("--made", action="store_true", help="made-up pockets instead of the docked poses")
    parser.add_argument("--poses", type=int, default=88, help="made-up pockets")
    parser.add_argument("--turns", type=int, default=12, help="turns of each pose")
    parser.add_argument("--batch", type=int, default=8, help="items in one call of the network")
    parser.add_argument("--workers", type=int, default=n_cpus(), help="Ray actors; 1 runs in this process")
    return answer(show, parser.parse_args())


def show(asked: argparse.Namespace) -> list[Row]:
    """Do it, and return what is told at the end."""
    clock, folder = Clock(), asked.output
    is_made = asked.made or not POSES.exists()
    with clock.stage("the poses, and what the rules find in them"):
        poses = made_poses(range(asked.poses)) if is_made else real_poses(POSES)
        known = [contacts(pose) for pose in poses]
        manifest = written(poses, emptied(folder / "atoms"), n_turns=asked.turns)
    with clock.stage("items: atoms to densities to interactions"), progress(console) as listener:
        report = scored(manifest, emptied(folder / "scored"), asked.batch, n_workers=asked.workers, listener=listener)
    with clock.stage("the bare network"):
        floor = bare_speed(poses, batch_size=asked.batch)
    with clock.stage("tables and a picture"):
        table, over = judged(report, known, is_made=is_made)
        shutil.copy(report.failures, folder / "failures.csv")
        (folder / "jaccard.md").write_text(table.markdown() + "\n")
        picture = folder / "pocket.png"
        draw(chosen(known), picture, n_voxels=N_VOXELS, spacing=SPACING)
    console.print(f"\nJaccard over {over}\n")
    console.print(table.markdown(), markup=False)
    rows = told(report, floor)
    failed = csv.DictReader(report.failures.read_text(encoding="utf-8").splitlines())
    rows += [("failed", f"{row['id']}: {row['reason']}") for row in failed]
    rows += [("table", near(report.table)), ("picture", near(picture)), ("seconds", clock.told)]
    print_rows(rows, title="Pockets")
    return rows


def written(poses: Sequence[Pose], folder: Path, *, n_turns: int) -> Path:
    """Write the poses' atoms and a manifest of them, each turned ``n_turns`` ways, with three broken items."""
    folder.mkdir(parents=True)
    rows = []
    for i, pose in enumerate(poses):
        names = {part: f"{pose.name}-{part}.gninatypes" for part in ("receptor", "ligand")}
        write_gninatypes(folder / names["receptor"], pose.receptor)
        write_gninatypes(folder / names["ligand"], pose.ligand)
        rows += [{"id": f"{pose.name}-{k}", **names, "turn": str(i * n_turns + k) if k else ""} for k in range(n_turns)]
    whole = (folder / rows[0]["ligand"]).read_bytes()
    (folder / "cut.gninatypes").write_bytes(whole[: len(whole) - 7])
    (folder / "letter.sdf").write_text("this is a letter and no molecule\n")
    for name in ("cut.gninatypes", "letter.sdf", "missing.gninatypes"):
        broken = {**rows[0], "id": f"broken-{Path(name).stem}", "ligand": name}
        rows.insert(len(rows) // 2, broken)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def scored(
    manifest: Path, folder: Path, batch: int, *, n_workers: int, listener: Callable[[Any], None] = lambda _: None
) -> ItemReport:
    """Run the pipeline over a manifest, in Ray actors that share the cores, or in this process."""
    options = ItemOptions(batch=batch, workers=n_workers, threads=max(1, n_cpus() // n_workers))
    runner = pass_runner("ray" if n_workers > 1 else "serial", None, n_workers=n_workers)
    model = f"{MODEL}:interactions"
    return items(str(manifest), model, str(folder), options=options, runner=runner, listener=listener)


def bare_speed(poses: Sequence[Pose], *, batch_size: int) -> float:
    """Return the items a second of the network alone, on densities that are in memory; its first call is left out."""
    ready_process(n_cpus())
    network = bare()
    arrays = [pocket_array(pose.receptor, pose.ligand) for pose in poses[:batch_size]]
    arrays = (arrays * batch_size)[:batch_size]
    with torch.inference_mode():
        grids = Voxeliser(n=N_VOXELS, spacing=SPACING)(torch.from_numpy(np.stack(arrays)))
        network(grids)
        n_calls = max(3, N_FLOOR // batch_size)
        begin = time.perf_counter()
        for _ in range(n_calls):
            network(grids)
    return batch_size * n_calls / (time.perf_counter() - begin)


def judged(report: ItemReport, known: Sequence[Contacts], *, is_made: bool) -> tuple[Table, str]:
    """Return the overlap by label over poses that the network did not learn from, and which they are."""
    truth = {one.pose.name: one for one in known}
    rows = [row for row in pq.read_table(report.table).to_pylist() if row["reason"] is None]
    learnt = [one for one in known if not is_made and one.pose.group not in HELD_OUT]
    judged = [row for row in rows if is_made or truth[row["id"].rpartition("-")[0]].pose.group in HELD_OUT]
    found = np.array([[row[f"has_{label}"] for label in LABELS] for row in judged])
    has = np.array([truth[row["id"].rpartition("-")[0]].has for row in judged])
    of = "made-up pockets" if is_made else f"turned poses of the receptors held out, {', '.join(HELD_OUT)}"
    return pocket_table(found, has, majority(learnt or known)), f"{len(judged):,} {of}"


def chosen(known: Sequence[Contacts]) -> Contacts:
    """Return the pose whose contacts are of the most kinds, and then the most."""
    return max(known, key=lambda one: (int(one.has.sum()), len(one.label)))


def told(report: ItemReport, floor: float) -> list[Row]:
    """Return how fast it went."""
    speed = report.summary.n_tiles / report.summary.seconds
    return [
        ("items", f"{report.n_items:,}, of which {report.n_failed} failed"),
        ("speed", f"{speed:.1f} items/s, reading and densities included"),
        ("bare network", f"{floor:.1f} items/s on all cores, on the densities of one batch"),
        ("ratio", f"{floor / speed:.2f}"),
    ]


if __name__ == "__main__":
    sys.exit(main())
