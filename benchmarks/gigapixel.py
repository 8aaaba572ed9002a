"""A slide of 60,000 x 60,000 on two actors: memory of every process while it runs, a kill, and the same bits after.

All of it is planned; polygons want a part that fits the time, a square across many blocks, and both runs do that part.
"""

import json
import shutil
import time
from pathlib import Path

import psutil

from benchmarks.broken import digest, done_share, engine, killed, started
from benchmarks.report import Result
from benchmarks.slides import MODEL, mirrored
from benchmarks.volumes import FOLDER
from engine.memory import format_bytes

SIZE = 60_000
SIDE = 10_000
"""Of the square that is run, in pixels."""

BLOCK = 1024
COLUMNS = ("process", "after a quarter", "half", "three quarters", "at the end", "peak")


def main() -> list[Result]:
    """Plan the slide, run the square undisturbed and with a kill in the middle, and compare."""
    slide = mirrored(SIZE)
    corner = SIZE // 2 - SIDE // 2 + 300
    polygons = FOLDER / "square.geojson"
    ring = [[corner, corner], [corner + SIDE, corner], [corner + SIDE, corner + SIDE], [corner, corner + SIDE]]
    polygons.write_text(json.dumps({"type": "Polygon", "coordinates": [[*ring, ring[0]]]}))
    plan = FOLDER / "gigapixel-plan.json"
    flags = ["--tissue", str(polygons), "--memory", "8G", "--workers", "2", "--threads", "2", "--block", str(BLOCK)]
    begin = time.monotonic()
    said = engine("plan", str(slide), MODEL, "--json", str(plan), *flags)
    planned = time.monotonic() - begin
    print(said)
    whole, broken = FOLDER / "giga-whole.zarr", FOLDER / "giga-broken.zarr"
    for path in (whole, broken):
        shutil.rmtree(path, ignore_errors=True)
    samples, seconds = watched(slide, whole, plan)
    n_killed = killed(run_words(slide, broken, plan), broken)
    begin = time.monotonic()
    engine("resume", str(broken), "--verify", "2")
    resumed = time.monotonic() - begin
    same = digest(whole) == digest(broken)
    note = (
        f"{SIZE} x {SIZE} pixels, the real slide mirrored, {format_bytes(slide.stat().st_size)} of JPEG; planned in "
        f"{planned:.1f} s. Run: {SIDE} x {SIDE} pixels in its middle ({seconds:.0f} s, blocks of {BLOCK}); "
        f"the rest is skipped. SIGKILL of driver and actors after {n_killed} blocks; resumed in {resumed:.0f} s; "
        f"every stored object {'is the same to the bit' if same else 'DIFFERS'}. RSS, imports included."
    )
    if not same:
        raise RuntimeError(note)
    return [Result("A slide of 60,000 x 60,000", COLUMNS, rows(samples), note)]


def run_words(slide: Path, output: Path, plan: Path) -> list[str]:
    """Return the words of the run."""
    return ["run", str(slide), MODEL, str(output), "--plan", str(plan), "--verify", "2", "--threads", "2"]


def watched(slide: Path, output: Path, plan: Path) -> tuple[list[tuple[float, dict[str, int]]], float]:
    """Run to the end, and return (share of blocks done, RSS by process) over time, and the seconds."""
    begin = time.monotonic()
    process = started(*run_words(slide, output, plan))
    samples = []
    while process.poll() is None:
        time.sleep(0.5)
        share = done_share(output)
        if share is not None:
            samples.append((share, memory(process.pid)))
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}")
    return samples, time.monotonic() - begin


def memory(pid: int) -> dict[str, int]:
    """Return the RSS of the driver, of each actor, and of all of Ray's own processes."""
    found = {"driver": psutil.Process(pid).memory_info().rss, "Ray's own": 0}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            name, rss = " ".join(child.cmdline()), child.memory_info().rss
        except psutil.Error:
            continue
        key = f"actor {child.pid}" if "_Host" in name else "Ray's own"
        found[key] = found.get(key, 0) + rss
    return found


def rows(samples: list[tuple[float, dict[str, int]]]) -> tuple[tuple[str, ...], ...]:
    """Return the table: a line per process, actors in the order in which they came."""
    names = list(dict.fromkeys(name for _, at in samples for name in at))
    first, last = samples[0][0], 1.0
    found = []
    for number, name in enumerate(sorted(names, key=lambda n: (not n.startswith("actor"), n))):
        cells = []
        for quarter in (0.25, 0.5, 0.75, 0.98):
            wanted = first + quarter * (last - first)
            near = min(samples, key=lambda sample: abs(sample[0] - wanted) + 10 * (name not in sample[1]))
            cells.append(format_bytes(near[1].get(name, 0)))
        peak = max(at.get(name, 0) for _, at in samples)
        found.append((f"actor {number + 1}" if name.startswith("actor") else name, *cells, format_bytes(peak)))
    return tuple(found)
