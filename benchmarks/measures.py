"""Measures of label volumes that grow 32-fold: seconds, and the most memory that the process holds."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from math import prod
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.report import Result
from benchmarks.tree import Peak
from benchmarks.volumes import FOLDER
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.measure.measure import measure
from engine.measure.thickness import thickness
from engine.memory import format_bytes
from engine.storage.create import create_volume
from engine.storage.volume import Volume, open_volume

SHAPES = ((320, 320, 320), (640, 640, 640), (1024, 1024, 1024))
SPACING = 0.4
"""Millimetre of a step."""

OPENING = 0.25
"""Radian, from the middle of the cap to its rim."""


def main() -> list[Result]:
    """Measure bones under caps, in a fresh process each."""
    rows = []
    for shape in SHAPES:
        places = [labels(shape, is_result=is_result).url for is_result in (False, True)]
        for name, deed in DEEDS.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # peaks are a process's own
                seconds, peak, said = fresh.submit(_timed, deed, *places).result()
            read = 4 * prod(shape) * (2 if deed is surfaces else 1)
            size = f"{'x'.join(map(str, shape))} ({format_bytes(read)})"
            rows.append((name, size, f"{seconds:.0f} s", format_bytes(peak), f"{read / peak:.1f}", said))
    note = (
        "Labels of four bytes a voxel, 0.4 mm: a bone under a cap of 2 to 4 mm; the result is moved, rough, and has a "
        "speck far off. One process, two threads; 0.5 GiB of its peak are imports. Wanted: memory that stays, on "
        "volumes of four times as much and more."
    )
    columns = ("measure", "labels", "time", "peak RSS", "labels / peak", "found")
    return [Result("Measures while the volume grows", columns, tuple(rows), note)]


def surfaces(reference: str, result: str, _: Path) -> str:
    """Measure overlap, volumes and surface distances of bone and cap."""
    found = measure(reference, result, labels=[1, 2], tolerance_mm=1.0, n_threads=2)
    return ", ".join(f"label {k}: HD {s.hausdorff_mm:.1f}, HD95 {s.hd95_mm:.2f} mm" for k, s in found.surfaces.items())


def local(reference: str, _: str, folder: Path) -> str:
    """Measure the local thickness of the cap."""
    found = thickness(reference, str(folder / "local.zarr"), layer=2, max_mm=10)
    return f"{found.minimum_mm:.2f}, {found.median_mm:.2f}, {found.maximum_mm:.2f} mm"


def height(reference: str, _: str, folder: Path) -> str:
    """Measure the height of the cap over the bone."""
    found = thickness(reference, str(folder / "height.zarr"), layer=2, beneath=1, max_mm=10)
    return f"{found.minimum_mm:.2f}, {found.median_mm:.2f}, {found.maximum_mm:.2f} mm"


DEEDS = {"overlap, volumes, surfaces": surfaces, "local thickness": local, "height over the bone": height}


def labels(shape: tuple[int, ...], *, is_result: bool) -> Volume:
    """Return a bone (1) under a cap (2), or what a network might make of it; made once, block by block."""
    FOLDER.mkdir(exist_ok=True)
    url = FOLDER / f"cap-{'x'.join(map(str, shape))}-{'result' if is_result else 'reference'}.zarr"
    if not url.exists():
        draft = url.with_name(f"draft-{url.name}")
        rmtree(draft, ignore_errors=True)
        axes = [Axis(name, Role.SPACE, spacing=SPACING, unit="millimeter") for name in "zyx"]
        volume = create_volume(str(draft), axes=axes, dtype="int32", shape=shape, chunk_shape=(64, 64, 64))
        grid = volume.levels[0].grid
        for number in range(grid.n_cells):
            region = grid.region(number)
            volume.write(region, _cap(region, shape, is_result=is_result))
        draft.rename(url)
    return open_volume(str(url))


def _cap(region: Region, shape: tuple[int, ...], *, is_result: bool) -> np.ndarray:
    spans = zip(region.start, region.stop, shape, strict=True)
    z, y, x = np.meshgrid(*(np.arange(a, b, dtype=np.float32) - n / 2 for a, b, n in spans), indexing="ij")
    z += shape[0] / 2
    far, wave = np.sqrt(z * z + y * y + x * x), np.sin(x / 23) * np.sin(y / 31)
    angle = np.arctan2(np.sqrt(y * y + x * x), z)
    bone = 0.7 * shape[0] + 2 * wave + (0.8 * np.sin(x) * np.cos(y) + 0.7 if is_result else 0)
    depth = 7.5 + 2.5 * np.sin(x / 17) + (0.6 * np.cos(z) if is_result else 0)
    found = np.where(far < bone, 1, np.where((far < bone + depth) & (angle < OPENING), 2, 0)).astype("int32")
    if is_result and region.start == (shape[0] - region.shape[0], 0, 0):
        found[-9:-5, 5:9, 5:9] = 2
    return found


def _timed(deed: Callable[[str, str, Path], str], reference: str, result: str) -> tuple[float, int, str]:
    with TemporaryDirectory(prefix="bench-") as folder, Peak() as peak:
        begin = time.monotonic()
        said = deed(reference, result, Path(folder))
        seconds = time.monotonic() - begin
    return seconds, peak.n_bytes, said
