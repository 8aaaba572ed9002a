"""A collection of 20 slides, five of them bad in five ways, by the command line on Ray: what a lab would type."""

import csv
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import tifffile

from benchmarks.broken import called
from benchmarks.report import Result
from benchmarks.slides import MODEL, mirrored
from benchmarks.volumes import FOLDER

N_GOOD = 15
SIDES = (1024, 1536, 2048)
"""Of the good slides, in turn: the real slide, mirrored."""

BAD = {
    "damaged": "its first bytes are zeros",
    "truncated": "a tile in the middle of its level is not what it was",
    "no-mpp": "it does not say its micrometre per pixel",
    "empty": "it has no bytes",
    "text": "a letter, called .svs",
}


def main() -> list[Result]:
    """Run the collection, again, and once more for what failed."""
    slides, results = FOLDER / "collection" / "slides", FOLDER / "collection" / "results"
    shutil.rmtree(slides.parent, ignore_errors=True)
    slides.mkdir(parents=True)
    make(slides)
    words = ["batch", str(slides), "--model", MODEL, "--output", str(results), "--objects", "label", "--workers", "1"]
    calls = {"first call": words, "second call": words, "--only-failed": [*words, "--only-failed"]}
    rows = []
    for name, call in calls.items():
        begin = time.monotonic()
        done = called(*call)
        seconds = time.monotonic() - begin
        with (results / "collection.csv").open() as file:
            records = list(csv.DictReader(file))
        counts = Counter(record["status"] for record in records)
        tried = done.stdout.partition("failed, ")[2].partition(" tried")[0]
        figures = (tried, counts["done"], counts["failed"], done.returncode, f"{seconds:.1f}")
        rows.append((name, *map(str, figures)))
    failed = [record for record in records if record["status"] == "failed"]
    reasons = {record["id"]: (record["code"], record["reason"].replace(f"{slides}/", "")) for record in failed}
    if set(reasons) != set(BAD):
        raise RuntimeError(f"these failed: {reasons}")
    pixels = sum(SIDES[i % len(SIDES)] ** 2 for i in range(N_GOOD))
    columns = ("call", "slides tried", "done", "failed", "exit code", "seconds")
    note = f"{N_GOOD} good slides, {pixels / 1e6:.0f} M pixels, one actor of 2 threads, objects and certificates too."
    why = tuple((name, BAD[name], *reasons[name]) for name in BAD)
    return [
        Result("A collection of 20", columns, tuple(rows), note),
        Result("Why five failed", ("slide", "what is wrong with it", "code", "reason"), why, "As the table has it."),
    ]


def make(folder: Path) -> None:
    """Write the good slides and the bad."""
    for i in range(N_GOOD):
        shutil.copy(mirrored(SIDES[i % len(SIDES)]), folder / f"good-{i:02}.tiff")
    sound = mirrored(SIDES[0])
    (folder / "damaged.tiff").write_bytes(b"\0" * 8 + sound.read_bytes()[8:])
    shutil.copy(sound, folder / "truncated.tiff")
    with tifffile.TiffFile(sound) as file:
        page = file.pages[0]
        middle = len(page.dataoffsets) // 2
        offset, length = page.dataoffsets[middle], page.databytecounts[middle]
    with (folder / "truncated.tiff").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * length)
    pixels = tifffile.imread(sound)
    tifffile.imwrite(folder / "no-mpp.tiff", pixels, tile=(256, 256), photometric="rgb")
    (folder / "empty.svs").write_bytes(b"")
    (folder / "text.svs").write_text("Dear colleague, please find the slide in the other envelope.\n")


if __name__ == "__main__":
    sys.exit(bool(main()))
