"""What one slice of a DICOM series says of itself: where it lies, and how its values are stored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.uid import ExplicitVRBigEndian

from engine.errors import IngestError
from engine.storage.dicom_codecs import SYNTAXES
from engine.storage.dicom_file import PLAIN_SYNTAXES, DicomFile, numbers

_UNIT_TOLERANCE = 1e-3
_BITS = (8, 16, 32)
_PLAIN = "Decompress it, as by dcmconv or gdcmconv --raw"
_NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored")


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice: a file, or a frame of one."""

    file: DicomFile
    frame: int
    """Counted from 0; 0 of a file that holds one slice."""
    position: tuple[float, ...]
    """Centre of its first voxel in the patient, millimetre; left, posterior and head positive."""
    directions: tuple[float, ...]
    """Unit vectors along x, then along y, of the patient's axes."""
    spacing: tuple[float, float]
    """Millimetre per voxel along y and x."""
    slope: float
    intercept: float
    """A value is what is stored times slope, plus intercept."""

    @property
    def name(self) -> str:
        """What messages call it."""
        own = f"'{self.file.path.name}'"
        return own if self.file.n_frames == 1 else f"frame {self.frame + 1} of {own}"

    @property
    def shape(self) -> tuple[int, int]:
        """Voxels along y and x."""
        return self.file.whole("Rows"), self.file.whole("Columns")

    @property
    def n_bits(self) -> int:
        """Bits of a stored value that count: the lowest ones."""
        return self.file.whole("BitsStored")

    @property
    def is_signed(self) -> bool:
        """Whether stored values are two's complement."""
        return self.file.whole("PixelRepresentation", 0) == 1

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Unsigned integers as they lie in a plain file, byte order included."""
        order = ">" if self.file.syntax == ExplicitVRBigEndian else "<"
        return np.dtype(f"{order}u{self.file.whole('BitsAllocated') // 8}")

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and greatest value that it could hold."""
        low = -(1 << self.n_bits - 1) if self.is_signed else 0
        ends = low * self.slope + self.intercept, (low + (1 << self.n_bits) - 1) * self.slope + self.intercept
        return min(ends), max(ends)


def slices_of(file: DicomFile, *, spacing: tuple[float, float] | None) -> Iterator[Slice]:
    """Yield the slices of a file, in its own order.

    Args:
        file: Of a series.
        spacing: Millimetre along y and x, given by hand.

    Raises:
        IngestError: If it is no slice of a scan, does not say where it lies, or is stored in a way that is not read.
    """
    _check_kind(file)
    _check_storage(file)
    for frame in range(file.n_frames):
        said = _Said(file, frame)
        position = said.numbers("PlanePositionSequence", "ImagePositionPatient", n=3)
        directions = said.numbers("PlaneOrientationSequence", "ImageOrientationPatient", n=6)
        for name, found in (("ImagePositionPatient", position), ("ImageOrientationPatient", directions)):
            if not found:
                raise _refused(file, f"say where it lies, and has no {name}", "Export it again with all its tags")
        steps = spacing or said.numbers("PixelMeasuresSequence", "PixelSpacing", n=2)
        if not steps or min(steps) <= 0:
            raise _refused(
                file,
                "say its PixelSpacing, and has none",
                "Find it in the scan's record and give --spacing Z,Y,X to engine ingest, or run FOLDER#spacing=Z,Y,X",
            )
        slope = said.numbers("PixelValueTransformationSequence", "RescaleSlope", n=1) or (1.0,)
        intercept = said.numbers("PixelValueTransformationSequence", "RescaleIntercept", n=1) or (0.0,)
        y, x = steps
        yield Slice(file, frame, position, _units(file, directions), (y, x), slope[0], intercept[0])


class _Said:
    """What a frame says: in its own functional group, in the one that all frames share, or in the file itself."""

    def __init__(self, file: DicomFile, frame: int) -> None:
        data = file.data
        frames = data.get("PerFrameFunctionalGroupsSequence") or ()
        shared = data.get("SharedFunctionalGroupsSequence") or ()
        self._file = file
        self._groups = [*frames[frame : frame + 1], *shared[:1]]

    def numbers(self, sequence: str, name: str, *, n: int) -> tuple[float, ...]:
        """Return ``n`` finite numbers; empty where they are not said.

        Raises:
            IngestError: If they are said otherwise.
        """
        values = [item.get(name) for group in self._groups for item in (group.get(sequence) or ())[:1]]
        for value in (*values, self._file.data.get(name)):
            found = numbers(value)
            if found and (len(found) != n or not np.isfinite(found).all()):
                what = f"say its {name} in {n} number{'s' if n > 1 else ''}, and says {list(found)}"
                raise _refused(self._file, what, "Export it again")
            if found:
                return found
        return ()


def _units(file: DicomFile, directions: Sequence[float]) -> tuple[float, ...]:
    """Return both directions as unit vectors.

    Raises:
        IngestError: If they are far from it, or not at right angles.
    """
    x, y = np.reshape(directions, (2, 3))
    lengths = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(x @ y))) > _UNIT_TOLERANCE:
        what = f"have rows and columns at right angles, and ImageOrientationPatient is {list(directions)}"
        raise _refused(file, what, "Export it again")
    return (*(x / lengths[0]).tolist(), *(y / lengths[1]).tolist())


def _check_kind(file: DicomFile) -> None:
    """Refuse what is no slice of a scan.

    Raises:
        IngestError: If its transfer syntax is not known here, it has no pixels, real or coloured ones, is a localizer,
            or a film of frames without places.
    """
    if file.syntax not in (*PLAIN_SYNTAXES, *SYNTAXES):
        what = f"be plain, JPEG, JPEG-LS, JPEG 2000 or RLE, and is '{file.syntax_name}' ({file.syntax})"
        raise _refused(file, what, _PLAIN)
    out = "Move it out of the folder"
    if file.pixels is None or not set(_NEEDED) <= set(file.data.dir()):
        what = f"hold pixel data, and holds none (modality {file.text('Modality') or 'unknown'})"
        raise _refused(file, what, "Copy it again if it was cut, or move it out of the folder")
    colours = file.text("PhotometricInterpretation")
    if file.numbers("SamplesPerPixel") not in ((), (1.0,)) or colours not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise _refused(file, f"hold one value per voxel, and holds colours ({colours})", out)
    if "LOCALIZER" in file.text("ImageType"):
        raise _refused(file, "be a slice of the scan, and is a localizer (ImageType)", out)
    if file.pixels.is_float:
        raise _refused(file, "hold whole numbers, and holds floating-point pixel data", "Convert it to NIfTI")
    if "ModalityLUTSequence" in file.data:
        raise _refused(file, "rescale by slope and intercept, and has a modality lookup table", "Convert it to NIfTI")
    n_groups = len(file.data.get("PerFrameFunctionalGroupsSequence") or ())
    if file.n_frames < 1 or n_groups != file.n_frames > 1:
        what = f"say where each of its {file.n_frames} frames lies, and has {n_groups} functional groups for them"
        raise _refused(file, what, "Convert it to NIfTI")


def _check_storage(file: DicomFile) -> None:
    """Refuse values that are stored in a way that is not read.

    Raises:
        IngestError: If the bits of a value are none known here, bytes are missing, or frames cannot be told apart.
    """
    n_bits, n_stored = file.whole("BitsAllocated"), file.whole("BitsStored")
    high = file.whole("HighBit", n_stored - 1)
    if n_bits not in _BITS or not 0 < n_stored <= n_bits or high != n_stored - 1:
        what = f"store values in the lowest bits of 8, 16 or 32, and has {n_stored} bits up to bit {high} of {n_bits}"
        raise _refused(file, what, "Convert it to NIfTI")
    if n_bits == 8 and file.syntax == ExplicitVRBigEndian:
        raise _refused(file, "be little-endian where a value has 8 bits, and is big-endian", _PLAIN)
    assert file.pixels is not None
    n_pieces, n_bytes = len(file.pixels.pieces), sum(n for _, n in file.pixels.pieces)
    wanted = file.n_frames * file.whole("Rows") * file.whole("Columns") * n_bits // 8
    if file.syntax in PLAIN_SYNTAXES and (n_pieces != 1 or n_bytes < wanted):
        raise _refused(file, f"hold {wanted} bytes of pixels, and holds {n_bytes}", "Copy or export it again")
    is_told = file.n_frames in (n_pieces, 1) or len(file.pixels.starts) == file.n_frames
    if file.syntax in SYNTAXES and (n_pieces < file.n_frames or not is_told):
        what = f"say which of its {n_pieces} pieces are its {file.n_frames} frames, and does not"
        raise _refused(file, what, _PLAIN)


def _refused(file: DicomFile, what: str, advice: str) -> IngestError:
    return IngestError(f"each file of a DICOM series must {what}: '{file.path}'. {advice}.")
