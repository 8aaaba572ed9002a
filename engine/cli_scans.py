"""Commands about scans: export."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from engine.cli_options import numbers
from engine.errors import UsageError
from engine.export import dicom_seg, nifti
from engine.export import montage as pictures
from engine.export.draft import Exported, check_target
from engine.export.provenance import label_map_of, maker_of
from engine.export.segments import read_segments
from engine.show import print_table


def export_command(
    output: Annotated[str, typer.Argument(help="An output, of which its first label map is taken; or any volume.")],
    nifti_file: Annotated[Path | None, typer.Option("--nifti", help="Write a .nii or .nii.gz.")] = None,
    seg_file: Annotated[Path | None, typer.Option("--dicom-seg", help="Write a DICOM SEG (.dcm).")] = None,
    series: Annotated[Path | None, typer.Option(help="Folder of the DICOM files that the scan was read from.")] = None,
    montage: Annotated[Path | None, typer.Option(help="Draw slices with contours as .png.")] = None,
    image: Annotated[str | None, typer.Option(help="The scan below the contours; the run's source by default.")] = None,
    labels: Annotated[Path | None, typer.Option(help='Names of the labels: JSON {"1": "liver"}, or CSV.')] = None,
    axis: Annotated[str, typer.Option(help="Slices of the montage: axial, coronal or sagittal.")] = "axial",
    n_slices: Annotated[int, typer.Option("--slices", help="How many of them.")] = 12,
    window: Annotated[str | None, typer.Option(help="Level and width of their intensities: 40,400.")] = None,
) -> None:
    """Write a result for the field's tools, on the grid of its source: NIfTI, DICOM SEG, a picture."""
    _check(nifti_file, seg_file, series, montage)
    level_width = _window(window) if window else None
    segments = read_segments(labels) if labels is not None else {}
    url = label_map_of(output)
    scan = image or (_source(url) if montage is not None else "")
    written: list[Exported] = []
    if nifti_file is not None:
        written.append(nifti.export_nifti(url, nifti_file))
    if seg_file is not None and series is not None:
        written.append(dicom_seg.export_dicom_seg(url, series, seg_file, segments=segments))
    if montage is not None:
        written.append(
            pictures.montage(scan, url, montage, n=n_slices, axis=axis, window=level_width, segments=segments)
        )
    print_table(_table(url, written))


def _check(nifti_file: Path | None, seg_file: Path | None, series: Path | None, montage: Path | None) -> None:
    """Refuse what cannot be written, all of it before the first file is."""
    if nifti_file is None and seg_file is None and montage is None:
        raise UsageError("export needs a file to write, and none is named. Give --nifti, --dicom-seg or --montage.")
    if (seg_file is None) != (series is None):
        raise UsageError(
            "--dicom-seg and --series go together: the file refers to the source's DICOM files. "
            f"Give --{'series FOLDER' if series is None else 'dicom-seg seg.dcm'} too."
        )
    for path, endings, what in (
        (nifti_file, nifti.ENDINGS, "a NIfTI file"),
        (seg_file, dicom_seg.ENDINGS, "a DICOM SEG file"),
        (montage, pictures.ENDINGS, "a montage"),
    ):
        if path is not None:
            check_target(path, endings=endings, what=what)


def _source(url: str) -> str:
    source = maker_of(url).source
    if not source:
        raise UsageError(
            f"--montage draws contours over the scan, and '{url}' does not say from which it was made. Give --image."
        )
    return source


def _window(text: str) -> tuple[float, float]:
    found = numbers(text, "--window", float)
    if len(found) != 2:
        raise UsageError(f"--window must be a level and a width, not '{text}'. Give it as 40,400.")
    return found[0], found[1]


def _table(url: str, written: list[Exported]) -> Table:
    """Return what was written, and what was assumed."""
    notes = [f"{one.path.name}: {note}" for one in written for note in one.notes]
    table = Table(
        title=f"Exported {escape(url)}",
        caption=escape("\n".join(notes)) or None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("file", overflow="fold")
    table.add_column("what", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    for one in written:
        table.add_row(escape(str(one.path)), escape(one.what), f"{one.path.stat().st_size:,}")
    return table
