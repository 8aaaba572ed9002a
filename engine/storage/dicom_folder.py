"""Which files of a folder are one DICOM series."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.errors import IngestError
from engine.storage import arrays
from engine.storage.dicom_file import DicomFile, is_dicom, is_slide, read_dicom

SUFFIX = ".dcm"
"""File name ending that promises DICOM; most exports have none, so files are told by what is in them."""

_ZARR = ("zarr.json", ".zarray", ".zgroup")
_MOST_LISTED, _MOST_NAMED = 12, 3


def is_series(place: Path) -> bool:
    """Say whether a folder holds DICOM, and is no Zarr; or a file is DICOM, and no slide; False if unreadable."""
    try:
        if place.is_dir():
            is_zarr = any((place / name).exists() for name in _ZARR)
            return not is_zarr and any(_is_promised(path) or is_dicom(path) for path in _files(place))
        return place.is_file() and is_dicom(place) and not is_slide(place)
    except OSError:
        return False


def series_files(place: Path, *, series: str | None) -> tuple[tuple[DicomFile, ...], tuple[str, ...]]:
    """Return the files of one series, their headers read, sorted by name; and notes of what was left out.

    Args:
        place: A folder, not searched below; or one of a series' files, whose others lie beside it.
        series: SeriesInstanceUID of the one that is meant; needed where a folder holds several.

    Raises:
        IngestError: If there is none, it is not said which of several, or a file is damaged.
    """
    folder = place if place.is_dir() else place.parent
    paths, others = _told_apart(folder)
    if paths and is_slide(paths[0]):
        raise IngestError(
            f"a folder of a CT, MR or PET series is wanted, and '{folder}' holds a whole-slide image. Name one of its "
            f"files, as '{paths[0]}'."
        )
    own = None if place.is_dir() else read_dicom(place)
    found = [own if own is not None and path == place else read_dicom(path) for path in paths]
    if not found:
        raise IngestError(f"a folder of a DICOM series is wanted, and '{folder}' holds none. {beneath(folder)}")
    picked = _picked(found, place=place, series=own.text("SeriesInstanceUID") if own and not series else series)
    pictureless = [one.path for one in found if one not in picked and one.pixels is None]
    return picked, (*_left_out("no DICOM", others), *_left_out("without pictures", pictureless))


def beneath(folder: Path) -> str:
    """Return what to do about a folder without DICOM: name the first one below it that has some."""
    for other in sorted(path for path in folder.iterdir() if path.is_dir()):
        if is_series(other):
            return f"Name one of the folders in it, as '{other}'."
    return "Name the file in it, or the folder of a DICOM series."


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder by name; hidden ones, which some systems keep, and lists of files are left out."""
    names = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in names if not path.name.startswith(".") and path.name.upper() != "DICOMDIR"]


def _told_apart(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files that are DICOM, or should be, and the others.

    Raises:
        IngestError: If one may not be read: a slice would be lost unseen.
    """
    files = _files(folder)
    try:
        are_dicom = [_is_promised(path) or is_dicom(path) for path in files]
    except OSError as error:
        raise IngestError(
            f"all files of the folder of a DICOM series must be readable, and one of '{folder}' is not "
            f"({arrays.first_line(error)}). Change its permissions, or move it out of the folder."
        ) from error
    told = list(zip(files, are_dicom, strict=True))
    return [path for path, is_one in told if is_one], [path for path, is_one in told if not is_one]


def _left_out(what: str, paths: Sequence[Path]) -> tuple[str, ...]:
    if not paths:
        return ()
    names, more = ", ".join(path.name for path in paths[:_MOST_NAMED]), len(paths) - _MOST_NAMED
    return (f"left out, as {what}: {names}" + (f", and {more} more" if more > 0 else ""),)


def _is_promised(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIX)


def _picked(found: Sequence[DicomFile], *, place: Path, series: str | None) -> tuple[DicomFile, ...]:
    by_series: dict[str, list[DicomFile]] = {}
    for one in found:
        by_series.setdefault(one.text("SeriesInstanceUID"), []).append(one)
    if series is not None:
        if series not in by_series:
            raise IngestError(
                f"the series {series} is wanted of '{place}', and it holds {_listed(by_series)}. Name one of them."
            )
        return tuple(by_series[series])
    pictures = {uid: files for uid, files in by_series.items() if any(one.pixels for one in files)} or by_series
    if len(pictures) > 1:
        raise IngestError(
            f"one DICOM series is wanted, and '{place}' holds {len(pictures)}: {_listed(pictures)}. Pick one, as "
            f"'{place}#series={next(iter(pictures))}', or move them into folders of their own."
        )
    (files,) = pictures.values()
    return tuple(files)


def _listed(by_series: Mapping[str, Iterable[DicomFile]]) -> str:
    lines = []
    for uid, files in list(by_series.items())[:_MOST_LISTED]:
        first, *others = files
        described = first.text("SeriesDescription") or "no description"
        n = 1 + len(others)
        lines.append(f"{uid} ({first.text('Modality')} '{described}', {n} file{'s' if n > 1 else ''})")
    more = len(by_series) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more else "")
