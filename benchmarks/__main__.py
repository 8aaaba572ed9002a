"""Run the benchmarks that are named, or all of them."""

import logging
import sys
import time
import warnings

from benchmarks import (
    collection,
    compare,
    exactness,
    gigapixel,
    globe,
    measures,
    memory,
    physics,
    pockets,
    scale,
    scans,
    slides,
    speed,
)
from benchmarks.report import keep, show

PARTS = {
    "speed": speed.main,
    "compare": compare.main,
    "memory": memory.main,
    "measures": measures.main,
    "scale": scale.main,
    "exactness": exactness.main,
    "slides": slides.main,
    "gigapixel": gigapixel.main,
    "collection": collection.main,
    "scans": scans.main,
    "globe": globe.main,
    "physics": physics.main,
    "pockets": pockets.main,
    "brain": scans.brain,
    "brain20": scans.brain20,
}


def main(names: list[str]) -> int:
    """Run the parts, print their tables and keep them."""
    unknown = sorted({*names} - {*PARTS})
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(PARTS)}.")
        return 2
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in names or PARTS:
        begin = time.monotonic()
        results = PARTS[name]()
        seconds = time.monotonic() - begin
        for result in results:
            show(result)
        keep(name, results, seconds=seconds)
        print(f"{name}: {seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
