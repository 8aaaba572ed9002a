"""Bone, and gas inside the body, in a CT of any spacing: labels on its own grid, millilitres, and files for the clinic.

    python jobs/organ_ct.py [SCAN] [--output organs-output]

    scan --window, resample to 3.5 mm, U-Net, back, label--> organs.zarr, certified --measure, export--> ml, NIfTI, SEG

SCAN is a NIfTI file or a folder of DICOM files; by default TotalSegmentator's example CT, or, where that is not beside
the repository, a trunk that is made up and written as DICOM. The network works at 3.5 mm; the engine resamples there
and back inside its tiles, so nothing is held of the whole scan, and a DICOM series gets a DICOM SEG. ``organ_unet.md``
says what the network is and is not: it learnt from one patient, and is no medical device.
"""

import argparse
import sys
from pathlib import Path

import phantoms
from job import DATA, Clock, answer, console, emptied, near
from organ_unet import BONE, GAS, SPACING
from scan_job import Segmented, closing_rows, measured, opened, segment, written

from engine.export.segments import Segment
from engine.prepare import Options
from engine.show import print_rows

HERE = Path(__file__).resolve().parent
MODEL = f"{HERE / 'organ_unet.py'}:organs"
CT = DATA / "ct" / "totalsegmentator_example_ct.nii.gz"

ORGANS = {
    GAS: Segment(GAS, "gas in the body", ("74947009", "SCT", "Gas"), ("91720002", "SCT", "Body Substance")),
    BONE: Segment(BONE, "bone", ("272673000", "SCT", "Bone")),
}

WINDOW = (50.0, 1500.0)
"""Level and width in HU at which the picture is drawn: wide, to show both gas and bone."""

PHANTOM = ((64, 112, 144), (3.0, 2.5, 2.5))
"""Voxels and millimetre per voxel along z, y and x of the scan that is made up."""


def main() -> int:
    """Run the job; 0 if every block is stored and the certificate holds."""
    return answer(show, parse())


def parse() -> argparse.Namespace:
    """Return what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", nargs="?", help="a CT, NIfTI or a DICOM folder; else the real one, or one made up")
    parser.add_argument("--output", type=Path, default=Path("organs-output"), help="folder to write to [organs-output]")
    return parser.parse_args()


def show(asked: argparse.Namespace) -> Segmented:
    """Label a scan, measure it, write what the field's tools open, and say what was done."""
    clock, folder = Clock(), asked.output

    with clock.stage("a scan"):
        scan = opened(asked.scan or example(folder))
        console.print(f"the network works at {SPACING:g} mm; the labels come back on this grid")

    found = segment(scan, MODEL, folder / "organs.zarr", options=Options(workers=1), clock=clock)

    with clock.stage("volumes and files"):
        millilitres = measured(found, folder / "organs.csv", ORGANS)
        written(found, folder, "organs", segments=ORGANS, axis="axial", window=WINDOW)

    console.print()
    rows = closing_rows(found, clock, segments=ORGANS, millilitres=millilitres)
    print_rows(rows, title="What was done", console=console)
    console.print(f"\nSee {near(folder / 'organs.png')} and {near(folder / 'organs.csv')}.", markup=False)
    return found


def example(folder: Path) -> str:
    """Return the real CT, or a DICOM series of a trunk that is made up."""
    if CT.exists():
        return str(CT)
    series = emptied(folder / "trunk")
    shape, spacing = PHANTOM
    phantoms.write_dicom(series, phantoms.trunk(shape, spacing)[0], spacing)
    console.print(f"{near(series)}: the trunk is made up, {shape[0]} DICOM images")
    return str(series)


if __name__ == "__main__":
    sys.exit(main())
