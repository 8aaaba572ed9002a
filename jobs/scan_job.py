"""What the jobs on scans do alike: read a scan, run a pipeline over it, certify, measure, write files and a picture.

    scan.nii.gz, DICOM folder --run, certificate--> labels.zarr --measure, export--> CSV, NIfTI, DICOM SEG, PNG
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from job import Clock, Row, console, emptied, near
from rich.markup import escape
from torch import nn

from engine.export.dicom_seg import export_dicom_seg
from engine.export.montage import montage
from engine.export.nifti import export_nifti
from engine.export.provenance import label_map_of
from engine.export.segments import Segment
from engine.measure.volumes import label_volumes
from engine.memory import format_bytes
from engine.prepare import Options, Prepared, prepare
from engine.run import Report, check_complete, run_prepared
from engine.runtime.progress import progress
from engine.show import plan_rows, print_rows
from engine.storage.orientation import KEY
from engine.storage.readable import Readable
from engine.storage.source_url import parse_source
from engine.storage.volume import open_volume

N_CERTIFIED = 4
"""Tiles recomputed for the seam certificate."""


@dataclass(frozen=True)
class Segmented:
    """A scan and its labels."""

    scan: Readable
    labels: str
    """URL of the label map, on the scan's grid."""
    prepared: Prepared
    report: Report


def opened(scan: str) -> Readable:
    """Open a scan where it lies, and say what it is: nothing is converted first.

    Raises:
        EngineError: If it is none.
    """
    volume = open_volume(scan)
    sizes, steps = (" x ".join(map(str, part)) for part in (volume.shape, (f"{a.spacing:.3g}" for a in volume.axes)))
    console.print(f"{near(Path(scan))}: {sizes} voxels of {steps} mm (z, y, x), {volume.dtype}", markup=False)
    return volume


def segment(scan: Readable, pipeline: nn.Module | str, result: Path, *, options: Options, clock: Clock) -> Segmented:
    """Plan and run a pipeline of one label map over a scan, and recompute tiles of it on another grid.

    Raises:
        EngineError: If the plan is refused, a block failed, or the seam certificate does not hold.
    """
    with clock.stage("plan: halo and step proved from the network's graph"):
        with console.status("learning the network's geometry") as spinner:
            prepared = prepare(scan.url, pipeline, options, tell=spinner.update)
        print_rows(plan_rows(prepared.plan), title="", console=console)
    with clock.stage("run, then the seam certificate"):
        with progress(console) as listener:
            report = run_prepared(
                prepared,
                str(emptied(result)),
                model=pipeline,
                options=options,
                listener=listener,
                n_certified=N_CERTIFIED,
            )
        check_complete(report)
    return Segmented(scan, label_map_of(report.url), prepared, report)


def measured(found: Segmented, path: Path, segments: Mapping[int, Segment]) -> dict[int, float]:
    """Return millilitres by label, which are written as a table too; a label that is nowhere has 0."""
    volumes = {one.label: one for one in label_volumes(found.labels)}
    rows = {label: (volumes[label].n_voxels, volumes[label].ml) if label in volumes else (0, 0.0) for label in segments}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label", "name", "voxels", "ml"])
        writer.writerows([label, segments[label].name, n, ml] for label, (n, ml) in rows.items())
    return {label: ml or 0.0 for label, (_, ml) in rows.items()}


def written(
    found: Segmented,
    folder: Path,
    name: str,
    *,
    segments: Mapping[int, Segment],
    axis: str,
    window: tuple[float, float] | None = None,
) -> None:
    """Write NIfTI, a montage with contours, and DICOM SEG where the scan came as DICOM; what was there is replaced.

    Args:
        found: A scan and its labels.
        folder: Where to.
        name: Of the files, without an ending.
        segments: Names by label.
        axis: Slices of the montage.
        window: Level and width of its intensities.
    """
    series = series_of(found.scan)
    nifti, picture, seg = (emptied(folder / f"{name}{ending}") for ending in (".nii.gz", ".png", ".dcm"))
    files = [export_nifti(found.labels, nifti)]
    if series is not None:
        files.append(export_dicom_seg(found.labels, series, seg, segments=segments))
    files.append(montage(found.scan.url, found.labels, picture, n=12, axis=axis, window=window, segments=segments))
    for one in files:
        console.print(f"{near(one.path)}: {one.what}, {format_bytes(one.path.stat().st_size)}", markup=False)
        for note in one.notes:
            console.print(f"  {escape(note)}")


def series_of(scan: Readable) -> Path | None:
    """Return the folder of DICOM files that a scan is read from; None where it is read from something else."""
    place = Path(parse_source(scan.url).place)
    is_dicom = scan.attributes.get(KEY, {}).get("format") == "dicom"
    return place if is_dicom and place.is_dir() and not (place / "zarr.json").exists() else None


def closing_rows(
    found: Segmented, clock: Clock, *, segments: Mapping[int, Segment], millilitres: Mapping[int, float]
) -> list[Row]:
    """Return what was done, as pairs of what and how much; the certificate is the last."""
    plan, certificate = found.report.plan, found.report.certificate
    assert certificate is not None
    (seams,) = certificate.outputs.values()
    return [
        ("tiles", f"{plan.n_tiles:,} of {' x '.join(map(str, plan.tile_shape))} voxels"),
        ("seconds", clock.told),
        ("peak memory", format_bytes(found.report.summary.peak_rss_bytes)),
        *((segments[label].name, f"{ml:,.1f} ml") for label, ml in millilitres.items()),
        (
            "seams",
            f"{seams.n_different:,} of {seams.n_voxels:,} labels changed; {certificate.n_tiles} tiles recomputed on "
            "a shifted grid",
        ),
    ]
