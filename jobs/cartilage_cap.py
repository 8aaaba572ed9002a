"""How thick is the cap? From a knee's DICOM series to millimetres, and what is true beside them.

    knee --DICOM series--> z-score, 0.5 mm grid, U-Net, labels on the series' own grid --> bone, cap --> thickness, mm

The knee is made up (``knee.py``), so that its cap's thickness is known: what is measured on its true labels says what
the measurement is worth, and what is measured on the network's labels what a reader would get. The network is
``knee_unet.py``; its model card, ``knee_unet.md``, says what it is and is not.

Thickness is how far the cap's outer face lies from the bone. Within :data:`RIM` of bone that is bare a cap ends, and no
reader measures there: that is left out, of the truth too.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cap_picture
import numpy as np
from cap_picture import Cap
from job import Clock, answer, console, emptied
from knee import BONE, CARTILAGE, NAMES, Knee
from knee_scan import scanned, write_nifti, write_series
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from scipy.ndimage import binary_erosion, distance_transform_edt, label

from engine.export.dicom_seg import export_dicom_seg
from engine.export.montage import montage
from engine.export.nifti import export_nifti
from engine.export.provenance import label_map_of
from engine.export.segments import Segment
from engine.geometry.region import Region
from engine.measure import thickness_picture
from engine.measure.measure import measure
from engine.measure.thickness import thickness
from engine.memory import format_bytes
from engine.prepare import Options
from engine.run import Report, check_complete, run
from engine.runtime.progress import progress
from engine.storage.create import create_volume
from engine.storage.orientation import carried
from engine.storage.volume import open_volume

HERE = Path(__file__).resolve().parent
MODEL = f"{HERE / 'knee_unet.py'}:knee"

SHAPE, SPACING, TILT = (96, 160, 160), (0.6, 0.4, 0.4), 0.3
"""Voxels along z, y and x, millimetre per voxel, and radians by which the series is oblique."""

KNEE = replace(Knee.of(0), thinnest=1.5, thickest=4.0)
"""The network never saw it."""

RIM = 1.0
"""Millimetre of bone about the cap's end whose cover is not measured."""

SHARES = {"minimum": 0.0, "5th percentile": 0.05, "median": 0.5, "95th percentile": 0.95, "maximum": 1.0}

CODES = {BONE: ("272673000", "SCT", "Bone"), CARTILAGE: ("61496007", "SCT", "Cartilage")}

def main() -> int:
    """Run the job; 0 if all is written and the seam certificate holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("cap-output"), help="folder to write to [cap-output]")
    return answer(show, parser.parse_args())


def show(asked: argparse.Namespace) -> None:
    """Make a knee, find its cap, measure it, and say how far from true that is."""
    clock, folder, grid = Clock(), asked.output, KNEE.grid(SHAPE, SPACING, tilt=TILT)
    series, truth, found = (folder / name for name in ("knee-series", "true-labels.nii", "found.zarr"))
    with clock.stage("a knee"):
        write_series(emptied(series), scanned(KNEE, grid), grid)
        write_nifti(emptied(truth), KNEE.labels(grid), grid)
        console.print(f"{series}: {SHAPE[0]} DICOM files; {truth}: what is true")

    with clock.stage("labels: the network on its own grid, block by block"), progress(console) as listener:
        report = run(str(series), MODEL, str(emptied(found)), options=Options(), listener=listener)
        check_complete(report)
        largest_islands(label_map_of(str(found)), str(emptied(folder / "bone-and-cap.zarr")))

    with clock.stage("thickness of the cap over the bone"):
        labels = {"true labels": str(truth), "network's labels": str(folder / "bone-and-cap.zarr")}
        heights, caps = {}, {}
        for short, (name, url) in zip(("true", "found"), labels.items(), strict=True):
            own = emptied(folder / f"{short}-thickness.zarr")
            heights[name] = thickness(url, str(own), layer=CARTILAGE, beneath=BONE)
            thickness_picture.draw(emptied(own.with_suffix(".png")), heights[name])
            caps[name] = without_rim(url, str(own))

    with clock.stage("what a radiologist opens"):
        exported = export(folder, series, labels["network's labels"])
        cap_picture.draw(folder / "thickness.png", KNEE, grid, caps, rim=RIM)
        for path in (*exported, folder / "thickness.png"):
            console.print(f"{path}: {path.stat().st_size:,} bytes")

    console.print(thickness_table(caps))
    for line in summary(report, labels, caps, clock=clock):
        console.print(line)
    least = ", ".join(f"{found.minimum_mm:.2f} mm on the {name}" for name, found in heights.items())
    console.print(f"With its rim, the least thickness is {least}.")


def largest_islands(labels_url: str, target_url: str) -> None:
    """Keep of each label its largest island, as a volume of its own: there is one bone, and one cap."""
    volume, labels = open_volume(labels_url), whole(labels_url)
    kept = np.zeros_like(labels)
    for number in NAMES:
        islands, _ = label(labels == number)
        sizes = np.bincount(islands.ravel(), minlength=2)
        kept[islands == 1 + sizes[1:].argmax()] = number
    attributes = carried(volume.attributes)
    target = create_volume(
        target_url, axes=volume.axes, dtype=kept.dtype, shape=kept.shape, chunk_shape=(64,) * 3, attributes=attributes
    )
    target.write(Region.whole(kept.shape), kept)


def without_rim(labels_url: str, map_url: str) -> Cap:
    """Return the outer face of a cap from the map of its thickness, but for its rim.

    Bone is bare where its surface is farther than :data:`RIM` from the cap, so that a gap of a voxel between them is
    no rim; what is kept stands on bone that is twice as far from there.
    """
    labels, heights = whole(labels_url), whole(map_url)
    bone = labels == BONE
    from_cap = distance_transform_edt(labels != CARTILAGE, sampling=SPACING)
    bare = bone & ~binary_erosion(bone, border_value=1) & (from_cap > RIM)
    foot = distance_transform_edt(~bone, sampling=SPACING, return_distances=False, return_indices=True)
    is_kept = (heights > 0) & (distance_transform_edt(~bare, sampling=SPACING)[tuple(foot)] >= 2 * RIM)
    return Cap(np.argwhere(is_kept)[:, ::-1], heights[is_kept].astype(np.float64))


def whole(url: str) -> NDArray[np.generic]:
    """Return all voxels of a volume."""
    volume = open_volume(url)
    return volume.read(Region.whole(volume.shape))


def export(folder: Path, series: Path, labels_url: str) -> list[Path]:
    """Write the labels as NIfTI and DICOM SEG, and a picture of their contours; return the files."""
    names = {label: Segment(label, name, CODES[label]) for label, name in NAMES.items()}
    paths = [emptied(folder / name) for name in ("labels.nii.gz", "labels.dcm", "montage.png")]
    export_nifti(labels_url, paths[0])
    export_dicom_seg(labels_url, series, paths[1], segments=names)
    montage(str(series), labels_url, paths[2], axis="sagittal", segments=names)
    return paths


# ---- what is said -------------------------------------------------------------------------------------------------


def thickness_table(caps: Mapping[str, Cap]) -> Table:
    """Return the truth beside what was measured, in millimetre."""
    table = Table(title="Thickness of the cap, mm", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column()
    for head in ("truth", *(head for name in caps for head in (name, "off by"))):
        table.add_column(head, justify="right")
    values, weights = KNEE.face(rim=RIM)
    for name, share in SHARES.items():
        true = quantile(values, share, weights)
        found = [quantile(cap.thickness, share) for cap in caps.values()]
        table.add_row(name, f"{true:.2f}", *(cell for one in found for cell in (f"{one:.2f}", f"{one - true:+.2f}")))
    voxels = [cell for cap in caps.values() for cell in (f"{len(cap.thickness):,} voxels", "")]
    table.add_row("measured at", f"{weights.sum():,.0f} mm2", *voxels)
    return table


def quantile(values: NDArray[np.float64], share: float, weights: NDArray[np.float64] | None = None) -> float:
    """Return the value that a share of the weight lies at or below.

    >>> quantile(np.array([3.0, 1.0, 2.0]), 0.5), quantile(np.array([1.0, 9.0]), 0.5, np.array([1.0, 3.0]))
    (2.0, 9.0)
    """
    order = np.argsort(values)
    below = (np.ones(len(values)) if weights is None else weights)[order].cumsum()
    return float(values[order][min(np.searchsorted(below, share * below[-1] * (1 - 1e-12)), len(values) - 1)])


def summary(report: Report, labels: Mapping[str, str], caps: Mapping[str, Cap], *, clock: Clock) -> list[str]:
    """Return what was done, in lines; the headline is the first."""
    truth, found = labels.values()
    scores = measure(truth, found, labels=list(NAMES), names=NAMES, tolerance_mm=max(SPACING))
    certificate = report.certificate
    assert certificate is not None
    seams = next(iter(certificate.outputs.values()))
    worst = [max(abs(error) for error in errors(cap)) for cap in caps.values()]
    half = f"half a voxel is {min(SPACING) / 2:g} to {max(SPACING) / 2:g} mm"
    return [
        f"Off by at most {worst[0]:.2f} mm on true labels, {worst[1]:.2f} mm on the network's: {half}.",
        *(
            f"{row.name}: Dice {row.dice:.3f}, surfaces {scores.surfaces[row.label].assd_mm:.2f} mm apart on average, "
            f"95 % of them within {scores.surfaces[row.label].hd95_mm:.2f} mm"
            for row in scores.rows
        ),
        f"Seams: {seams.n_different:,} of {seams.n_voxels:,} labels changed in {certificate.n_tiles} recomputed tiles.",
        f"Seconds: {clock.told}; {format_bytes(report.summary.peak_rss_bytes)} at the most.",
    ]


def errors(cap: Cap) -> list[float]:
    """Return by how many millimetres minimum, median and maximum of a cap are off."""
    values, weights = KNEE.face(rim=RIM)
    return [quantile(cap.thickness, share) - quantile(values, share, weights) for share in (0.0, 0.5, 1.0)]


if __name__ == "__main__":
    sys.exit(main())
