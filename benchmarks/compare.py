"""Side by side: the whole pass, ours, MONAI's sliding window, and dask's map_overlap, on one model and one volume."""

from collections.abc import Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.children import Child
from benchmarks.networks import DATA
from benchmarks.report import Result
from benchmarks.volumes import generated
from engine.memory import format_bytes
from engine.prepare import Options, prepare
from engine.storage.volume import Volume

N_CLASSES = 3
GUESS = 16
"""Depth that a user of map_overlap might take for enough."""

COLUMNS = ("way", "seconds", "over whole", "peak memory", "max |difference|", "labels changed")
T1 = DATA / "ct" / "t1_brain.nii.gz"


def main() -> list[Result]:
    """Compare on a generated volume, taking turns; for the real brain see ``scans.py``."""
    twin = generated(axes="zyx", shape=(128, 128, 128), dtype="uint8")
    title = "A random MeshNet on a generated volume"
    return [compare(title, "benchmarks.networks:meshnet_twin", twin, memory=1000, rounds=3)]


def compare(
    title: str,
    model: str,
    volume: Volume,
    *,
    memory: int,
    rounds: int,
    overlaps: Sequence[float] = (0.25, 0.5),
    with_dask: bool = True,
) -> Result:
    """Return the table of one model on one volume; ``memory`` is ours, in MiB."""
    prepared = prepare(volume.url, model, Options(threads=2, memory=memory * 2**20, pyramid=False))
    plan = prepared.plan
    side = round(prod(plan.tile_shape) ** (1 / 3) / 16) * 16
    halo = max(max(tiling.program.halo("output")) for tiling in plan.tilings)
    given: dict[str, Any] = {
        "model": model, "source": volume.url, "n_channels": 1, "n_classes": N_CLASSES, "warm": (64, 64, 64),
        "rounds": rounds, "memory": memory * 2**20, "roi": (side,) * 3, "chunk": side - 2 * halo,
    }  # fmt: skip
    ways: dict[str, dict[str, Any]] = {
        "whole pass": {"way": "whole"},
        f"ours, {plan.n_tiles} tiles of {'x'.join(map(str, plan.tile_shape))}": {"way": "ours"},
        **{f"MONAI {side}^3, overlap {part:g}": {"way": "monai", "overlap": part} for part in overlaps},
    }
    if with_dask:
        ways[f"map_overlap, depth {GUESS} guessed"] = {"way": "dask", "depth": GUESS}
        ways[f"map_overlap, depth {halo} derived"] = {"way": "dask", "depth": halo}
    with TemporaryDirectory(prefix="bench-") as name:
        saved = {way: str(Path(name) / f"{i}.npy") for i, way in enumerate(ways)}
        children = take_turns({way: {**given, **own, "scores": saved[way]} for way, own in ways.items()}, rounds)
        whole = np.load(saved["whole pass"])
        _check_alive(whole)
        rows = [_row(way, children[way], children["whole pass"], np.load(saved[way]), whole) for way in ways]
    return Result(
        title,
        COLUMNS,
        tuple(rows),
        f"{'x'.join(map(str, volume.shape))}, float32, 2 threads, a process each; the derived halo is {halo}. Ours "
        f"goes from Zarr to Zarr under a limit of {format_bytes(plan.memory_limit)}; the others have all in memory, "
        "and run as they come: they give freed memory back to the system after each tile, ours keeps it. "
        f"Best of {rounds}, in turns. Wanted: 0 labels changed, and not slower than MONAI at 0.25.",
    )


def take_turns(ways: dict[str, dict[str, Any]], rounds: int) -> dict[str, Child]:
    """Run every contender: side by side in turns where they are small, else one after the other."""
    children: dict[str, Child] = {}
    if rounds == 1:
        for way, wanted in ways.items():
            with Child(wanted) as children[way]:
                children[way].turn()
        return children
    with ExitStack() as stack:
        children = {way: stack.enter_context(Child(wanted)) for way, wanted in ways.items()}
        for _ in range(rounds):
            for child in children.values():
                child.turn()
    return children


def _check_alive(whole: np.ndarray) -> None:
    """Refuse a reference without variety: a dead network passes every comparison."""
    shares = np.bincount(whole.argmax(0).ravel(), minlength=N_CLASSES) / whole[0].size
    if whole.std() == 0 or (shares > 0.001).sum() < 2:
        raise RuntimeError(f"the whole pass gives classes in shares of {shares}: the comparison would prove nothing")


def _row(way: str, child: Child, whole: Child, scores: np.ndarray, reference: np.ndarray) -> tuple[str, ...]:
    changed = (scores.argmax(0) != reference.argmax(0)).mean()
    return (
        way,
        f"{child.best:.1f}",
        f"{child.best / whole.best:.2f}",
        format_bytes(child.peak),
        f"{np.abs(scores - reference).max():.2g}",
        f"{100 * changed:.3f} %" if changed else "0",
    )
