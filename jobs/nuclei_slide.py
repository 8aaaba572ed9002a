"""``make demo``: every nucleus of a slide, from the scanner's file to a table and outlines, and not a seam in it.

    slide.svs --tissue, plan, run--> nuclei.zarr --certificate--> --objects--> table, GeoJSON --> overview.png

The slide is OpenSlide's CMU-1-Small-Region, fetched by hash from the package index; where there is no index, tissue is
made up. Nothing is converted first: the engine reads the scanner's file. The network is ``nuclei_unet.py``; its model
card, ``nuclei_unet.md``, says what it is and is not. A second run keeps the slide and makes the result anew.
"""

import argparse
import sys
from pathlib import Path

import overview
import tissue
from job import Clock, Row, answer, console, emptied, near
from real_slide import real_slide

from engine.memory import format_bytes, n_cpus
from engine.objects.find import ObjectsReport
from engine.objects.recipe import Method, ObjectClass, Recipe
from engine.plan import Plan
from engine.prepare import Options, Prepared, prepare
from engine.run import Report, check_complete, run_prepared, serial_runner
from engine.runner import ray_runner
from engine.runtime.progress import progress
from engine.show import plan_rows, print_rows
from engine.slides import draw_tissue, slide_objects
from engine.storage.output import open_output

HERE = Path(__file__).resolve().parent
MODEL = f"{HERE / 'nuclei_unet.py'}:nuclei_and_stains"

N_CERTIFIED = 8
"""Tiles recomputed for the seam certificate."""

RECIPE = Recipe(
    name="nuclei",
    volume="label",
    method=Method.WATERSHED,
    min_distance=6,
    min_area_um2=12.0,
    classes={1: ObjectClass("Nucleus", (60, 40, 160))},
)
"""Touching nuclei are parted; what is smaller than a lymphocyte's half is left out."""

def main() -> int:
    """Run the job; 0 if every block is stored and the certificate holds."""
    return answer(show, parse())


def parse() -> argparse.Namespace:
    """Return what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write to [demo-output]")
    parser.add_argument("--slide", type=Path, help="a slide of your own, H&E; else a real one is fetched, or made up")
    parser.add_argument("--size", type=int, help="make up tissue of so many pixels a side instead")
    parser.add_argument("--workers", type=int, default=max(1, n_cpus() // 2), help="Ray actors [one per two CPUs]")
    parser.add_argument("--runner", choices=("ray", "serial"), default="ray", help="ray, or a plain loop here [ray]")
    asked = parser.parse_args()
    if asked.size is not None and (asked.size < 1024 or asked.size % 512):
        parser.error(f"--size must be a multiple of 512 from 1024 on, not {asked.size}")
    return asked


def show(asked: argparse.Namespace) -> Report:
    """Find the nuclei of a slide, draw what came out, and say what to do next."""
    clock, folder = Clock(), asked.output

    with clock.stage("a slide"):
        slide = slide_of(asked)

    with clock.stage("tissue, by colour"):
        share = draw_tissue(str(slide), "auto", folder / "tissue.png")
        console.print(f"{share:.0%} of the slide is tissue, with its margin: see {near(folder / 'tissue.png')}")

    with clock.stage("plan: halo and jump proved from the network's graph"):
        options = Options(workers=1 if asked.runner == "serial" else asked.workers, tissue="auto", block=(512, 512))
        with console.status("learning the network's geometry") as spinner:
            prepared = prepare(str(slide), MODEL, options, tell=spinner.update)
        print_rows(plan_rows(prepared.plan), title="", console=console)

    with clock.stage(f"run: {'Ray actors' if asked.runner == 'ray' else 'a plain loop'}, then the seam certificate"):
        result = emptied(folder / "nuclei.zarr")
        with progress(console) as listener:
            report = run_prepared(
                prepared,
                str(result),
                model=MODEL,
                options=options,
                listener=listener,
                n_certified=N_CERTIFIED,
                runner=ray_runner() if asked.runner == "ray" else serial_runner,
            )
        check_complete(report)

    with clock.stage("objects: each nucleus once, whichever blocks it lies in"):
        objects = slide_objects(str(result), RECIPE, measured=("probability", "uncertainty", "stain"))
        written = [near(Path(url)) for url in (objects.table_url, objects.geojson_url) if url]
        console.print(f"{objects.n_objects:,} nuclei: {', '.join(written)}")

    with clock.stage("a picture"):
        outputs = dict(open_output(str(result)).volumes)
        findings = overview.find(outputs["label"], prepared.mask)
        corner = overview.magnify(prepared.plan, prepared.model.module, prepared.source, outputs, findings)
        overview.draw(folder / "overview.png", prepared, findings, corner, n_nuclei=objects.n_objects)

    console.print()
    rows = closing_rows(clock, prepared, report, objects=objects, findings=findings, corner=corner)
    print_rows(rows, title="What was done", console=console)
    console.print(f"\nSee {near(folder / 'overview.png')}. What to type next:", markup=False)
    console.print(next_lines(result, slide), markup=False, highlight=False, soft_wrap=True)
    return report


def slide_of(asked: argparse.Namespace) -> Path:
    """Return the slide: the user's, the real one, or made-up tissue where that cannot be had or a size was given."""
    if asked.slide is not None:
        return asked.slide
    if asked.size is None and (found := real_slide(asked.output)) is not None:
        console.print(f"{near(found)}: OpenSlide's CMU-1-Small-Region (H&E, CC0), {format_bytes(found.stat().st_size)}")
        return found
    size = asked.size or 3072
    path = asked.output / f"tissue-{size}.tiff"
    if path.exists():
        console.print(f"{near(path)} is there already, and is kept")
        return path
    tissue.write_slide(path, tissue.Tissue(size).strips(), size=size, mpp=tissue.MPP)
    console.print(f"{near(path)}: H&E tissue, made up, {size:,} x {size:,}, {format_bytes(path.stat().st_size)}")
    return path


def closing_rows(
    clock: Clock,
    prepared: Prepared,
    report: Report,
    *,
    objects: ObjectsReport,
    findings: overview.Findings,
    corner: overview.Corner,
) -> list[Row]:
    """Return what was done, as pairs of what and how much; the headline is the last."""
    plan, summary, certificate = prepared.plan, report.summary, report.certificate
    assert certificate is not None
    before, after = plan.geometry.programs[0].widest_halo
    probability, label = certificate.outputs["probability"], certificate.outputs["label"]
    tile, size = (" x ".join(f"{n:,}" for n in shape) for shape in (plan.tile_shape, prepared.source.shape[1:]))
    return [
        ("slide", f"{size} pixels of {prepared.source.axes[-1].spacing:g} um, read from the scanner's file"),
        ("left out", left_out(plan, summary.n_tiles)),
        ("cut into", f"{plan.graph.n_blocks:,} blocks, tiles of {tile}, halo {before} + {after} voxels"),
        ("seconds", clock.told),
        ("peak memory", f"{format_bytes(summary.peak_rss_bytes)} of the largest worker"),
        ("found", f"{objects.n_objects:,} nuclei, {findings.nuclear_share:.1%} of the tissue"),
        ("without a halo", f"probability wrong by up to {corner.difference_without_halo:.2g} at the corner drawn"),
        (
            "seams",
            f"max difference {probability.max_difference:.2g}, {label.n_different:,} of {label.n_voxels:,} labels "
            f"changed; {certificate.n_tiles} tiles recomputed on a shifted grid",
        ),
    ]


def left_out(plan: Plan, n_tiles: int) -> str:
    """Return how many tiles touch no tissue, and about how much computing that saved."""
    n = plan.n_tiles - n_tiles
    return f"{n} of {plan.n_tiles} tiles touch no tissue: about {plan.n_seconds * n / plan.n_tiles:.1f} s saved"


def next_lines(result: Path, slide: Path) -> str:
    """Return commands that work from here, with what each does."""
    engine, url = near(Path(sys.executable).with_name("engine")), near(result)
    lines = [
        (f"{engine} status {url}", "what is done, and the certificate"),
        (f"{engine} verify {url} --tiles 32", "recompute other tiles"),
        (f"{engine} check {near(HERE / 'nuclei_unet.py')}:nuclei_and_stains", "what the network needs of its input"),
        (f"{engine} tissue {near(slide)} tissue.png", "what --tissue auto wants of a slide"),
        (f"qupath open {near(slide)}", f"and drag {url}/objects/nuclei/objects.geojson.gz onto it"),
        (f"napari --plugin napari-ome-zarr {url}", "probability, label and instances"),
    ]
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"  {command:{width}}  # {what}" for command, what in lines)


if __name__ == "__main__":
    sys.exit(main())
