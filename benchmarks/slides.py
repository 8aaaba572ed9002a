"""A slide beside TIAToolbox, the same network, from the file to the result on disk; and the decoder's floor."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openslide
import torch

from benchmarks.networks import DATA
from benchmarks.report import Result
from benchmarks.volumes import FOLDER
from engine.memory import format_bytes
from engine.models.load import load_model

ROOT = Path(__file__).parents[1]
MODEL = f"{ROOT / 'jobs' / 'nuclei_unet.py'}:nuclei"
SIZE = 6144
MEMORY = 2 * 2**30
"""Limit of ours, in bytes: no more than TIAToolbox takes."""

OTHER = Path(os.environ.get("TIATOOLBOX_PYTHON", ROOT.parent / "tia-env" / "bin" / "python"))
"""Python of the environment that ``tiatoolbox_child.py`` tells how to make, beside the repository."""

SIDE_BY_SIDE, AVERAGED = 512, 256
"""Strides of TIAToolbox's tiles of 512: without overlap, and with its usual one."""

ROUNDS = 2
"""Turns of ours and of TIAToolbox, one after the other; the better of each counts."""

COLUMNS = ("way", "seconds", "peak memory", "of it imports", "max |difference|", "labels changed", "written")


def main() -> list[Result]:
    """Compare on the real slide, mirrored to :data:`SIZE`; made-up tissue where the real one is not there."""
    slide = mirrored(SIZE)
    with TemporaryDirectory(prefix="bench-slides-") as name:
        folder = Path(name)
        whole = child(folder, slide, "--whole")
        reference = np.load(folder / "whole.npy")
        assert reference.std() > 0.01
        turns = [(child(folder / f"a{n}", slide), theirs(folder / f"t{n}", slide, SIDE_BY_SIDE)) for n in range(ROUNDS)]
        ours = min((one for one, _ in turns), key=lambda facts: facts["seconds"])
        beside = [other for _, other in turns if other is not None]
        masked = child(folder / "b", slide, "--tissue", "auto")
        rows = [
            ("whole pass in memory", whole, reference, "nothing"),
            ("ours, from the file", ours, stored(folder / "a0"), "3 maps in levels"),
        ]
        if beside:
            best = min(beside, key=lambda facts: facts["seconds"])
            usual = theirs(folder / "usual", slide, AVERAGED)
            assert usual is not None
            rows.append(("TIAToolbox, 512 side by side", best, np.load(best["probability"]), "1 map, 1 level"))
            rows.append(("TIAToolbox, stride 256, averaged", usual, np.load(usual["probability"]), "1 map, 1 level"))
        table = tuple(row(*one, reference) for one in rows)
        return [
            Result("A slide beside TIAToolbox", COLUMNS, table, told(masked)),
            floors(slide, whole, ours, masked),
        ]


def child(out: Path, slide: Path, *more: str) -> dict[str, Any]:
    """Return what our child says."""
    command = ["-m", "benchmarks.slide_child", "--slide", str(slide), "--model", MODEL, "--out", str(out), *more]
    command += ["--memory", str(MEMORY)]
    return said(Path(sys.executable), command)


def said(python: Path, command: list[str]) -> dict[str, Any]:
    """Run a contender and return the last line that it prints."""
    done = subprocess.run([str(python), *command], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def theirs(out: Path, slide: Path, stride: int) -> dict[str, Any] | None:
    """Return what TIAToolbox says; None where its environment is not there."""
    if not OTHER.exists():
        print(f"TIAToolbox is left out: {OTHER} is not there; see benchmarks/tiatoolbox_child.py")
        return None
    out.mkdir(parents=True, exist_ok=True)
    export(out / "network.pt")
    command = [str(ROOT / "benchmarks" / "tiatoolbox_child.py"), "--slide", str(slide), "--out", str(out)]
    return said(OTHER, [*command, "--model", str(out / "network.pt"), "--tile", "512", "--stride", str(stride)])


def export(path: Path) -> None:
    """Save the network's probability as TorchScript, which any environment loads."""

    class Probability(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = load_model(MODEL).module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)["probability"]

    with torch.inference_mode():
        torch.jit.trace(Probability(), torch.zeros(1, 3, 512, 512), check_trace=False).save(str(path))


def stored(folder: Path) -> np.ndarray:
    """Return our probability."""
    import zarr  # noqa: PLC0415 -- beside the engine's own reader, on purpose

    return np.asarray(zarr.open_array(str(folder / "ours.zarr" / "probability" / "0"), mode="r")[...])


def row(way: str, facts: dict[str, Any], found: np.ndarray, what: str, reference: np.ndarray) -> tuple[str, ...]:
    """Return one line of the table."""
    height, width = (min(a, b) for a, b in zip(found.shape[1:], reference.shape[1:], strict=True))
    cut, true = found[:, :height, :width], reference[:, :height, :width]
    changed = float(((cut > 0.5) != (true > 0.5)).mean())
    written = f"{what}, {format_bytes(facts['n_bytes_written'])}" if "n_bytes_written" in facts else what
    return (
        way, f"{facts['seconds']:.1f}", format_bytes(facts["peak"]), format_bytes(facts["rss_before"]),
        f"{np.abs(cut - true).max():.2g}", f"{100 * changed:.3f} %" if changed else "0", written,
    )  # fmt: skip


def told(masked: dict[str, Any]) -> str:
    """Return how to read the table."""
    return (
        f"CMU-1-Small-Region mirrored to {SIZE} x {SIZE}, JPEG tiles, the U-Net of jobs/nuclei_unet.py, 2 threads, one "
        f"process each (ours: the serial runner, --memory 2G), imports not timed, the better of "
        f"{ROUNDS} turns; ours has learning, planning, "
        f"levels and the seam certificate. With --tissue auto ours takes {masked['seconds']:.1f} s: "
        f"{masked['n_skipped']} of {masked['n_blocks']} blocks hold no tissue. Wanted: exact, at least 1.5 times "
        "faster than TIAToolbox, with no more memory."
    )


def floors(slide: Path, whole: dict[str, Any], ours: dict[str, Any], masked: dict[str, Any]) -> Result:
    """Return what the run could not be faster than."""
    decode, alone = decoder_seconds(slide), whole["seconds"]
    waits = 1 - ours["compute_seconds"] / ours["blocks_seconds"]
    rows = (
        ("OpenSlide alone, 2 threads, tiles of 1024", f"{decode:.1f} s", f"{SIZE**2 / decode / 1e6:.0f} M pixels/s"),
        ("the network alone, whole pass", f"{alone:.1f} s", f"{SIZE**2 / alone / 1e6:.2f} M pixels/s"),
        ("ours, blocks only", f"{ours['blocks_seconds']:.1f} s", f"the model waits {100 * waits:.1f} % of the time"),
        ("ours, all", f"{ours['seconds']:.1f} s", f"{3600 / ours['seconds']:.0f} such slides per hour"),
        ("ours, all, --tissue auto", f"{masked['seconds']:.1f} s", f"{3600 / masked['seconds']:.0f} per hour"),
    )
    return Result("Floors", ("what", "seconds", "speed"), rows, "Wanted: the model waits under 10 % of the time.")


def decoder_seconds(slide: Path, *, tile: int = 1024) -> float:
    """Return the seconds that OpenSlide takes to decode all pixels, with nothing else going on."""
    handle = openslide.OpenSlide(str(slide))
    corners = [(x, y) for y in range(0, SIZE, tile) for x in range(0, SIZE, tile)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda corner: handle.read_region(corner, 0, (tile, tile)), corners))
    return time.perf_counter() - begin


def mirrored(size: int) -> Path:
    """Return a JPEG pyramid of the real slide mirrored to ``size``; of made-up tissue where it is not there."""
    sys.path.insert(0, str(ROOT / "jobs"))
    import tissue  # noqa: PLC0415 -- a job's folder is on the path only when it is run

    real = DATA / "slide" / "CMU-1-Small-Region.svs"
    path = FOLDER / f"{'cmu-1' if real.exists() else 'tissue'}-{size}.tiff"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        strips, mpp = tissue.mirrored(real, size=size) if real.exists() else (tissue.Tissue(size).strips(), tissue.MPP)
        tissue.write_slide(path, strips, size=size, mpp=mpp)
    return path
