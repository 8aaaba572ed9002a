"""DICOM Segmentation: a label map as one file that refers, frame by frame, to the images of its source series."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from engine.errors import UsageError, VolumeError
from engine.export.affine import grid_affine
from engine.export.census import Census, take_census
from engine.export.draft import Exported, appearing, check_target
from engine.export.planes import Planes, label_planes
from engine.export.provenance import NAME, Maker, maker_of
from engine.export.segments import Segment, segments_of
from engine.export.series import OnSeries, laid_on_series, read_series
from engine.storage.ngff import PALETTE
from engine.storage.orientation import KEY
from engine.storage.volume import open_volume

ENDINGS = (".dcm",)

_MOST_BYTES = 2**32 - 2
"""Of pixels in one DICOM file that is not compressed."""
_LONGEST_TEXT = 64
"""Letters of a name in DICOM."""


def export_dicom_seg(
    label_url: str, series_folder: Path, path: Path, *, segments: Mapping[int, Segment] | None = None
) -> Exported:
    """Write a label map as DICOM SEG on the grid of its source series, with a segment per label that is there.

    The type is BINARY, one bit a voxel and a frame per segment and plane: Slicer, OHIF, MITK and the archives open
    it, where the younger LABELMAP is still new to most. Segments are numbered from 1 in the order of their labels, as
    the standard wants; the description of each says which label it was. Only planes that hold a label get a frame.
    The labels wait in a file beside ``path`` while it is written; the frames' bits (twice), and 60 kB of header a
    frame, are in memory, for that is how highdicom works: 16,000 frames of 512 x 512 take 1.9 GB.

    Args:
        label_url: A label map of one frame; it says by its attributes where it lies.
        series_folder: Where the DICOM files of the source are; other series may lie among them.
        path: The .dcm to write.
        segments: Names and codes by label; a label without is "label 7", a tissue.

    Raises:
        UsageError: If the file exists or cannot be written, or the folder does not hold the source's series.
        VolumeError: If there are no labels, or they do not lie on the series' images voxel for voxel.
    """
    check_target(path, endings=ENDINGS, what="a DICOM SEG file")
    planes = label_planes(open_volume(label_url))
    volume = planes.volume
    said = (volume.attributes.get(KEY) or {}).get("dicom") or {}
    uid, instances = said.get("series_instance_uid") or None, said.get("instances") or ()
    headers = read_series(series_folder, uid=uid, instances=instances)
    on_series = laid_on_series(volume, grid_affine(volume), headers)
    census = take_census(planes)
    chosen = segments_of(census.voxels, segments or {})
    _check_size(census, planes, url=label_url)
    maker = maker_of(label_url)
    with appearing(path) as draft:
        with _laid(planes, on_series, chosen, draft=draft) as pixels, _quiet():
            file = _segmentation(on_series, pixels, chosen, maker=maker)
        file.save_as(draft)
    n_frames = sum(census.n_planes.values())
    return Exported(path, f"DICOM SEG, {len(chosen)} segments in {n_frames} frames of series {said_of(headers)}")


def said_of(headers: Sequence[Any]) -> str:
    """Return what a series is called: its number and description."""
    number, text = headers[0].get("SeriesNumber"), headers[0].get("SeriesDescription")
    return " ".join(str(part) for part in (number, text) if part) or str(headers[0].SeriesInstanceUID)


def _check_size(census: Census, planes: Planes, *, url: str) -> None:
    _, n_y, n_x = planes.shape
    n_bytes = sum(census.n_planes.values()) * n_y * n_x // 8
    if n_bytes > _MOST_BYTES or len(census.voxels) >= 2**16:
        raise VolumeError(
            f"a DICOM SEG holds 65,535 segments and 4 GiB at most, and '{url}' has {len(census.voxels):,} labels on "
            f"{sum(census.n_planes.values()):,} frames, {n_bytes / 2**30:.1f} GiB. Export NIfTI, or fewer labels."
        )


@contextmanager
def _laid(planes: Planes, on_series: OnSeries, chosen: Sequence[Segment], *, draft: Path) -> Iterator[NDArray[Any]]:
    """Yield the numbers of segments as images of the series (z, rows, columns), paged in from a file as they are used.

    Planes without a label are holes in the file.
    """
    dtype = np.dtype(np.uint8 if len(chosen) < 2**8 else np.uint16)
    labels = np.array([0, *(one.label for one in chosen)])
    place = draft.with_name(f"{draft.name}.labels")
    try:
        with place.open("wb") as file:
            for first, slab in planes.slabs():
                for z, plane in enumerate(slab, first):
                    if plane.any():
                        numbers = np.searchsorted(labels, on_series.laid(plane)).astype(dtype)
                        file.seek(z * numbers.nbytes)
                        file.write(numbers.tobytes())
            file.truncate(int(np.prod(planes.shape)) * dtype.itemsize)
        yield np.memmap(place, dtype, mode="r", shape=planes.shape)
    finally:
        place.unlink(missing_ok=True)


def _segmentation(
    on_series: OnSeries, pixels: NDArray[Any], chosen: Sequence[Segment], *, maker: Maker
) -> Segmentation:
    source = on_series.headers[0]
    algorithm = _algorithm(maker)
    try:
        return Segmentation(
            source_images=on_series.headers,
            pixel_array=pixels,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(n, one, algorithm) for n, one in enumerate(chosen, 1)],
            series_instance_uid=UID(),
            series_number=int(source.get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer=NAME,
            manufacturer_model_name=NAME,
            software_versions=maker.version,
            device_serial_number=maker.fingerprint[:12] or "0",
            content_label="SEGMENTATION",
            content_description=maker.told[:_LONGEST_TEXT],
            specific_character_set="ISO_IR 192",  # UTF-8: labels may have names in any language
            series_description=f"Segmentation of {said_of(on_series.headers)}"[:_LONGEST_TEXT],
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"a DICOM SEG cannot refer to series {source.SeriesInstanceUID}: highdicom says {error}. Check the source "
            "files, or export NIfTI."
        ) from error


def _algorithm(maker: Maker) -> AlgorithmIdentificationSequence:
    return AlgorithmIdentificationSequence(
        name=NAME,
        family=codes.cid7162.ArtificialIntelligence,
        version=maker.version,
        parameters={"model": maker.fingerprint} if maker.fingerprint else None,
    )


def _description(number: int, segment: Segment, algorithm: AlgorithmIdentificationSequence) -> SegmentDescription:
    red, green, blue = PALETTE[(segment.label - 1) % len(PALETTE)]
    described = SegmentDescription(
        segment_number=number,
        segment_label=segment.name.replace("\\", "/")[:_LONGEST_TEXT],  # a backslash would part two values
        segmented_property_category=CodedConcept(*segment.category),
        segmented_property_type=CodedConcept(*segment.code),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_rgb(red, green, blue),
    )
    described.SegmentDescription = f"label {segment.label} of the label map"
    return described


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what highdicom and pydicom remark about the source's own headers out of the way."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
