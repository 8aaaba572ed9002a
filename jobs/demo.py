"""``make demo``: a slide too large for one forward pass, run in blocks on Ray actors, and not a seam in it.

    slide.tiff --ingest--> slide.zarr --plan, run--> nuclei.zarr --certificate--> overview.png

Nothing is downloaded. A second run keeps the slide and its volume, and makes the result anew.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path

import overview
import tissue
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engine.errors import EngineError
from engine.memory import format_bytes, n_cpus
from engine.prepare import Options, Prepared, prepare
from engine.run import Report, check_complete, run_prepared, serial_runner
from engine.runner import ray_runner
from engine.runtime.progress import progress
from engine.show import plan_rows, print_rows, widest_halo
from engine.storage.ingest import ingest
from engine.storage.output import open_output

HERE = Path(__file__).resolve().parent
MODEL = f"{HERE / 'nuclei.py'}:nuclei"
REAL_SLIDE = HERE.parents[1] / "shared" / "data" / "slide" / "CMU-1-Small-Region.svs"
"""An H&E slide of OpenSlide's test data, CC0; where it is not there, tissue is made up."""

N_CERTIFIED = 8
"""Tiles recomputed for the seam certificate."""

console = Console()


@dataclass
class Clock:
    """Seconds per stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say that a stage begins, and note how long it took."""
        console.print(f"\n[bold]{len(self.seconds) + 1}. {name}[/bold]")
        begin = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begin


def main() -> int:
    """Run the demo; 0 if every block is stored and the certificate holds."""
    asked = parse()
    asked.output.mkdir(parents=True, exist_ok=True)
    try:
        show(asked.output, size=asked.size, n_workers=asked.workers, runner=asked.runner)
    except EngineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse() -> argparse.Namespace:
    """Return what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write to [demo-output]")
    parser.add_argument("--size", type=int, default=8192, help="pixels along each side of the slide [8192]")
    parser.add_argument("--workers", type=int, default=max(1, n_cpus() // 2), help="Ray actors [one per two CPUs]")
    parser.add_argument("--runner", choices=("ray", "serial"), default="ray", help="ray, or a plain loop here [ray]")
    asked = parser.parse_args()
    if asked.size < 1024 or asked.size % 1024:
        parser.error(f"--size must be a multiple of 1024, not {asked.size}")
    return asked


def show(folder: Path, *, size: int, n_workers: int, runner: str) -> Report:
    """Make a slide, run the network over it, draw what came out, and say what to do next."""
    clock = Clock()

    with clock.stage("a slide"):
        slide = slide_of(folder, size=size)

    with clock.stage("ingest: slide to OME-Zarr"), bar("shards") as tell:
        source = slide.with_suffix(".zarr")
        volume = ingest(slide, str(source), progress=lambda done, n, _: tell(done, n))
        console.print(f"{source}: {len(volume.levels)} levels, {volume.axes[-1].spacing:g} um a pixel")

    with clock.stage("plan: halo and jump proved from the network's graph"):
        # Blocks of an eighth of the slide, so that there are many; left alone the engine would take fewer, larger ones.
        options = Options(workers=1 if runner == "serial" else n_workers, block=(max(size // 8, 256),) * 2)
        with console.status("learning the network's geometry") as spinner:
            prepared = prepare(str(source), MODEL, options, tell=spinner.update)
        print_rows(plan_rows(prepared.plan), title="", console=console)

    with clock.stage(f"run: {'Ray actors' if runner == 'ray' else 'a plain loop'}, then the seam certificate"):
        result = folder / "nuclei.zarr"
        if result.exists():
            console.print(f"the former {result} is replaced")
            shutil.rmtree(result)
        with progress(console) as listener:
            report = run_prepared(
                prepared,
                str(result),
                model=MODEL,
                options=options,
                listener=listener,
                n_certified=N_CERTIFIED,
                runner=ray_runner() if runner == "ray" else serial_runner,
            )
        check_complete(report)

    with clock.stage("a picture"):
        outputs = dict(open_output(str(result)).volumes)
        findings = overview.find(outputs["label"])
        corner = overview.magnify(prepared.plan, prepared.model.module, prepared.source, outputs, findings)
        overview.draw(folder / "overview.png", prepared.plan, prepared.source, findings, corner)

    console.print()
    print_rows(closing_rows(clock, prepared, report, findings, corner), title="What was done", console=console)
    console.print(f"\nSee {near(folder / 'overview.png')}. What to type next:", markup=False)
    console.print(next_lines(result), markup=False, highlight=False, soft_wrap=True)
    return report


def slide_of(folder: Path, *, size: int) -> Path:
    """Return a slide in ``folder``: the one that is there, the real one mirrored, or tissue made up."""
    is_real = REAL_SLIDE.exists()
    path = folder / f"{'cmu-1-mirrored' if is_real else 'tissue'}-{size}.tiff"
    if path.exists():
        console.print(f"{path} is there already, and is kept")
        return path
    strips, mpp = tissue.mirrored(REAL_SLIDE, size=size) if is_real else (tissue.Tissue(size).strips(), tissue.MPP)
    with bar("rows") as tell:
        counted = (tell((n + 1) * len(strip), size) or strip for n, strip in enumerate(strips))
        tissue.write_slide(path, counted, size=size, mpp=mpp)
    origin = "OpenSlide's CMU-1 (H&E, CC0), mirrored" if is_real else "H&E tissue, made up"
    console.print(f"{path}: {origin} to {size:,} x {size:,}, {format_bytes(path.stat().st_size)}")
    return path


@contextmanager
def bar(noun: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, and nothing elsewhere."""
    columns = (BarColumn(), TaskProgressColumn(), TextColumn(noun), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task(noun, total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


def closing_rows(
    clock: Clock, prepared: Prepared, report: Report, findings: overview.Findings, corner: overview.Corner
) -> list[tuple[str, str]]:
    """Return what was done, as pairs of what and how much; the headline is the last."""
    plan, summary, certificate = prepared.plan, report.summary, report.certificate
    assert certificate is not None
    before, after = widest_halo(plan.geometry.programs[0])
    probability, label = certificate.outputs["probability"], certificate.outputs["label"]
    stages = ", ".join(f"{name.split(':')[0]} {seconds:.1f}" for name, seconds in clock.seconds.items())
    speed = plan.core_voxels / summary.seconds / 1e6
    tile, size = (" x ".join(f"{n:,}" for n in shape) for shape in (plan.tile_shape, prepared.source.shape[1:]))
    return [
        ("slide", f"{size} pixels, {format_bytes(prepared.source.n_bytes)}"),
        ("cut into", f"{plan.graph.n_blocks:,} blocks, {plan.n_tiles:,} tiles of {tile}"),
        ("halo", f"{before} + {after} voxels, jump {plan.geometry.programs[0].step}"),
        ("computed / core", f"{plan.compute_ratio:.2f} voxels"),
        ("seconds", f"{stages}; in all {sum(clock.seconds.values()):.1f}"),
        ("blocks alone", f"{summary.seconds:.1f} s, {speed:.2f} M pixels/s, workers: {plan.n_workers}"),
        ("peak memory", f"{format_bytes(summary.peak_rss_bytes)} of the largest worker"),
        ("found", f"{findings.nuclear_share:.1%} of the tissue is nuclei"),
        ("without a halo", f"probability wrong by up to {corner.difference_without_halo:.2g} at the corner drawn"),
        (
            "seams",
            f"max difference {probability.max_difference:.2g}, {label.n_different:,} of {label.n_voxels:,} labels "
            f"changed; {certificate.n_tiles} tiles recomputed on a shifted grid",
        ),
    ]


def next_lines(result: Path) -> str:
    """Return commands that work from here, with what each does."""
    engine, url = near(Path(sys.executable).with_name("engine")), near(result)
    lines = [
        (f"{engine} status {url}", "what is done, and the certificate"),
        (f"{engine} verify {url} --tiles 32", "recompute other tiles"),
        (f"{engine} report {url}", "plan, figures, provenance"),
        (f"{engine} check {near(HERE / 'nuclei.py')}:nuclei", "what the network needs of its input"),
        (f"napari --plugin napari-ome-zarr {url}/probability", "after pip install 'napari[all]' napari-ome-zarr"),
    ]
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"  {command:{width}}  # {what}" for command, what in lines)


def near(path: Path) -> str:
    """Return a path as one would type it here."""
    short = relpath(path)
    return str(path.absolute()) if short.startswith("..") else short


if __name__ == "__main__":
    sys.exit(main())
