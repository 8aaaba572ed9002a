"""One DICOM file: its header without its pixels, and where in the file those lie."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import error as StructError  # noqa: N812 -- an exception, named as one
from struct import unpack
from typing import IO, Any

import pydicom
from pydicom import config
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from engine.errors import IngestError
from engine.storage import arrays

PLAIN_SYNTAXES = (str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian), str(ExplicitVRBigEndian))
"""Transfer syntaxes that store pixels as they are."""

_MAGIC_AT, _MAGIC = 128, b"DICM"
_PIXEL_DATA, _FLOAT_DATA, _DOUBLE_DATA = 0x7FE00010, 0x7FE00008, 0x7FE00009
_SLIDE_CLASS, _MODALITY = "1.2.840.10008.5.1.4.1.1.77.1.6", 0x00080060
_NUMERIC = ("DS", "IS", "US", "UL", "FD", "FL")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _DELIMITER = 0xFFFEE000, 0xFFFEE0DD
_READ_ERRORS = (
    *arrays.READ_ERRORS,
    InvalidDicomError,
    BytesLengthException,
    StructError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
)
_WANTED = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality SeriesDescription
    ImageType ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices Rows Columns
    SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation NumberOfFrames
    RescaleSlope RescaleIntercept RescaleType Units ModalityLUTSequence SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence InstanceNumber AcquisitionNumber AcquisitionTime EchoTime TriggerTime
    TemporalPositionIdentifier TemporalPositionIndex DiffusionBValue ContentTime
""".split()


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where the pixels of a file lie."""

    pieces: tuple[tuple[int, int], ...]
    """Byte and number of bytes of each stretch; of compressed pixels one or more per frame."""
    starts: tuple[int, ...]
    """Of compressed pixels: number of the piece with which each frame begins; none where the file does not say."""
    is_float: bool
    """Whether they are real numbers, as in parametric maps."""


@dataclass(frozen=True, eq=False)
class DicomFile:
    """A DICOM file whose header was read."""

    path: Path
    data: Any
    """The elements that matter here, as a pydicom Dataset."""
    syntax: str
    """Transfer syntax UID."""
    pixels: Pixels | None
    """None where it has none."""

    @property
    def syntax_name(self) -> str:
        """What the standard calls the transfer syntax."""
        return str(UID(self.syntax, validation_mode=config.IGNORE).name)

    @property
    def n_frames(self) -> int:
        """Slices that it holds."""
        return self.whole("NumberOfFrames", 1)

    def text(self, name: str) -> str:
        """Return an element as text in one line; empty where there is none."""
        value = self.data.get(name)
        return "" if value is None else "".join(mark if mark.isprintable() else "?" for mark in str(value))

    def whole(self, name: str, default: int | None = None) -> int:
        """Return an element that is one whole number.

        Raises:
            IngestError: If it is none, or is not there and has no default.
        """
        found = numbers(self.data.get(name))
        if not found and default is not None:
            return default
        if len(found) != 1 or not found[0].is_integer():
            raise IngestError(
                f"each file of a DICOM series must say its {name} in one whole number, and says {list(found)}: "
                f"'{self.path}'. Export it again."
            )
        return int(found[0])

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return an element of numbers; empty where there is none."""
        return numbers(self.data.get(name))


def numbers(value: Any) -> tuple[float, ...]:  # noqa: ANN401 -- whatever pydicom read
    """Return what an element holds as numbers; none where it holds none.

    >>> numbers("2.5"), numbers([1, 0]), numbers(None), numbers("")
    ((2.5,), (1.0, 0.0), (), ())
    """
    if value is None or value == "":
        return ()
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(float(part) for part in parts)


def is_dicom(path: Path) -> bool:
    """Say whether a file begins as DICOM files do.

    Raises:
        OSError: If it may not be read.
    """
    with path.open("rb") as file:
        file.seek(_MAGIC_AT)
        return file.read(len(_MAGIC)) == _MAGIC


def is_slide(path: Path) -> bool:
    """Say whether a DICOM file is of a whole-slide image; only the beginning of its header is read."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = read_partial(file, stop_when=lambda tag, vr, n_bytes: tag > _MODALITY)
            return str(data.get("SOPClassUID")) == _SLIDE_CLASS or str(data.get("Modality")) == "SM"
    except _READ_ERRORS:
        return False


def read_dicom(path: Path) -> DicomFile:
    """Read the header of a DICOM file, and walk over its pixels without reading them.

    Raises:
        IngestError: If it is no DICOM file, may not be read, or is truncated or damaged.
    """
    try:
        # catch_warnings: pydicom warns of each value that is not quite as the standard wants it
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_WANTED)
            for element in data.iterall():  # pydicom converts a value when it is asked for: here, in all of them
                if element.VR in _NUMERIC:
                    numbers(element.value)
            syntax = str(data.file_meta.get("TransferSyntaxUID") or _guessed(data))
            if not (data.get("SeriesInstanceUID") and data.get("SOPInstanceUID")):
                raise EOFError("its header stops before it says which image of which series it is")
            return DicomFile(path, data, syntax, _pixels(file, syntax))
    except _READ_ERRORS as error:
        raise IngestError(
            f"a DICOM file is wanted, and '{path}' is none, or is truncated or damaged ({arrays.first_line(error)}). "
            "Copy or export it again, or move it out of the folder."
        ) from error


def _guessed(data: Any) -> str:  # noqa: ANN401 -- pydicom has no types here
    is_implicit, is_little = data.original_encoding
    return str(ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian)


def _pixels(file: IO[bytes], syntax: str) -> Pixels | None:
    """Return where the pixels lie, from the file's place behind the rest of the header."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = file.read(8)
    if len(head) < 8:
        return None
    group, element = unpack(f"{order}HH", head[:4])
    tag = group << 16 | element
    if tag not in (_PIXEL_DATA, _FLOAT_DATA, _DOUBLE_DATA):
        return None
    is_explicit = syntax != ImplicitVRLittleEndian
    (n_bytes,) = unpack(f"{order}I", file.read(4) if is_explicit else head[4:])
    is_float = tag != _PIXEL_DATA
    if n_bytes == _UNDEFINED:
        starts, pieces = _items(file)
        return Pixels(pieces, starts, is_float)
    offset = file.tell()
    there = file.seek(0, 2) - offset
    if there < n_bytes:
        raise EOFError(f"{there} of {n_bytes} bytes of pixels are there")
    return Pixels(((offset, n_bytes),), (), is_float)


def _items(file: IO[bytes]) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Walk over encapsulated pixels: return the pieces with which frames begin, and the pieces.

    Raises:
        EOFError: If they stop before their end.
        ValueError: If they are not encapsulated as the standard has it.
    """
    end = file.seek(0, 1), file.seek(0, 2)
    file.seek(end[0])
    table = _item(file, n_file=end[1])
    if table is None:
        raise ValueError("encapsulated pixels have no offset table")
    offsets = unpack(f"<{table[1] // 4}I", file.read(table[1] // 4 * 4))
    file.seek(sum(table))
    first, pieces = sum(table), []
    while (piece := _item(file, n_file=end[1])) is not None:
        pieces.append(piece)
        file.seek(sum(piece))
    places = {offset - 8 - first: number for number, (offset, _) in enumerate(pieces)}
    return tuple(places[offset] for offset in offsets), tuple(pieces)


def _item(file: IO[bytes], *, n_file: int) -> tuple[int, int] | None:
    """Return byte and number of bytes of the item that begins here; None at the end of all."""
    head = file.read(8)
    if len(head) < 8:
        raise EOFError("its pixels stop before their end")
    group, element, n_bytes = unpack("<HHI", head)
    tag = group << 16 | element
    if tag == _DELIMITER:
        return None
    if tag != _ITEM:
        raise ValueError(f"{group:04x},{element:04x} is among its pixels, where an item was due")
    offset = file.tell()
    if offset + n_bytes > n_file:
        raise EOFError(f"{n_file - offset} of {n_bytes} bytes of a piece of its pixels are there")
    return offset, n_bytes
