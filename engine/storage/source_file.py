"""Which reader takes the files that are to be ingested: by its ending, or by what is in it."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from engine.errors import IngestError
from engine.storage import arrays, climate_files, slide
from engine.storage.climate import Climate
from engine.storage.climate_choice import ClimateChoice
from engine.storage.climate_files import is_climate, places_of
from engine.storage.dicom_folder import beneath
from engine.storage.fingerprint import fingerprint
from engine.storage.joined import Joined
from engine.storage.scan import SUFFIXES, Scan, is_scan, open_scan
from engine.storage.slide_file import open_slide
from engine.storage.source import Source, identity
from engine.storage.source_url import SourceUrl, parse_source


def own_urls(sources: Sequence[str | Path]) -> tuple[SourceUrl, ...]:
    """Return what was named to be ingested, with the options that say which file or series is meant.

    Raises:
        IngestError: If an option is about a way of looking at a volume.
    """
    urls = tuple(parse_source(str(source)) for source in sources)
    for url in urls:
        if url.mpp is not None or url.slices is not None:
            raise IngestError(
                f"a source is ingested as it is, and '#{url.options}' of '{url.place}' says how it is to be looked at. "
                "Ingest it without, and give that to the run."
            )
    return urls


def open_source(
    urls: Sequence[SourceUrl], *, spacing: Sequence[float] | None = None, variables: Sequence[str] | None = None
) -> Source:
    """Open what lies there: scans by their ending or as DICOM, others as their ending says.

    Raises:
        IngestError: If there is none, the ending is unknown, or the file is not what its ending says.
    """
    if not urls:
        raise IngestError("a source file is wanted, and none was given. Name a slide, scans, or climate files.")
    given = tuple(replace(url, spacing=tuple(spacing)) if spacing is not None else url for url in urls)
    paths = [Path(arrays.local_path(url.place)) for url in given]
    path, name = paths[0], paths[0].name.lower()
    if is_climate(given[0].place):
        return _climate(given, variables=variables)
    if all(is_scan(url.place) for url in given):
        return _joined(given) if len(given) > 1 else open_scan(given[0])
    if len(given) > 1:
        other = next(path for path, url in zip(paths, given, strict=True) if not is_scan(url.place))
        raise IngestError(
            f"one slide, or several scans, are wanted for a volume, not {len(given)} sources with '{other}', which is "
            f"no scan. {'Check its path.' if not other.exists() else 'Ingest each into its own target.'}"
        )
    if name.endswith(slide.SUFFIXES) and not path.is_dir():
        return open_slide(path, spacing=given[0].spacing)
    known = " ".join((*slide.SUFFIXES, *SUFFIXES, *climate_files.SUFFIXES))
    if path.is_dir() or not path.exists():
        what = "is a folder without DICOM" if path.is_dir() else "is not there"
        advice = beneath(path) if path.is_dir() else arrays.did_you_mean(str(path))
        raise IngestError(
            f"a file that ends in one of {known}, or a folder of DICOM, is wanted, and '{path}' {what}. {advice}"
        )
    raise IngestError(
        f"a file that ends in one of {known}, or one of DICOM, is wanted, not '{path}' (ending '{path.suffix}'). "
        "Convert it to one of these, or rename it if its ending is wrong."
    )


def _climate(urls: Sequence[SourceUrl], *, variables: Sequence[str] | None) -> Climate:
    """Open climate files that follow each other in time; variables given by hand go before those of the URL."""
    choices = {url.climate for url in urls} - {ClimateChoice()}
    if len(choices) > 1:
        raise IngestError(
            f"files that are joined in time must be read alike, not as {[str(url) for url in urls]}. Give one choice."
        )
    choice = choices.pop() if choices else ClimateChoice()
    if variables:
        choice = replace(choice, variables=tuple(variables))
    return Climate([place for url in urls for place in places_of(url.place)], choice=choice)


def _joined(urls: Sequence[SourceUrl]) -> Joined:
    scans: list[Scan] = []
    try:
        for url in urls:
            scans.append(open_scan(url))
        return Joined(scans)
    except IngestError:
        for scan in scans:
            scan.close()
        raise


def source_identity(source: Source, urls: Sequence[SourceUrl]) -> str:
    """Return a SHA-256 of the files that were named and lie there now."""
    scans = source.scans if isinstance(source, Joined) else (source,)
    prints = [fingerprint(scan) for scan in scans if isinstance(scan, Scan)]
    if prints:
        return prints[0] if len(prints) == 1 else sha256("".join(prints).encode()).hexdigest()
    if isinstance(source, Climate) and not all(map(climate_files.is_file, source.files.places)):
        return fingerprint(source)
    places = source.files.places if isinstance(source, Climate) else [arrays.local_path(url.place) for url in urls]
    return identity([Path(place) for place in places])
