"""Slide files made up for tests: pyramids, bounds, holes and profiles, each with the pixels that were put in."""

from pathlib import Path

import numpy as np
import pydicom
import tifffile
from PIL import Image, ImageCms

from engine.storage.pyramid import reduce_mean

CENTIMETRE = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
APERIO = "Aperio Image Library v11.2.1\r\n{x}x{y} (128x128)|AppMag = 20|MPP = 0.4990"


def noise(*shape: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    high = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 1000
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def write_pyramid(path: Path, levels: list[np.ndarray], *, icc: bytes | None = None, **said) -> Path:
    """Write levels (y, x, RGB) as tiled pages of one TIFF."""
    said = said or CENTIMETRE
    with tifffile.TiffWriter(path) as file:
        for i, level in enumerate(levels):
            first = {**said, "iccprofile": icc} if i == 0 else {k: v for k, v in said.items() if k == "compression"}
            file.write(level, tile=(128, 128), photometric="rgb", subfiletype=int(i > 0), metadata=None, **first)
    return path


def write_aperio(path: Path, levels: list[np.ndarray], **said) -> Path:
    """Write levels as an Aperio slide of 0.499 micrometre per pixel."""
    y, x = levels[0].shape[:2]
    return write_pyramid(path, levels, description=APERIO.format(x=x, y=y), **said)


def halved(pixels: np.ndarray, n_levels: int, *, factor: int = 4) -> list[np.ndarray]:
    found = [pixels]
    for _ in range(n_levels - 1):
        found.append(reduce_mean(found[-1], (factor, factor, 1)))
    return found


LEICA = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection sizeX="{cx}" sizeY="{cy}">
<image><pixels sizeX="{x}" sizeY="{y}">{dimensions}</pixels>
<view sizeX="{vx}" sizeY="{vy}" offsetX="{ox}" offsetY="{oy}"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>
</image></collection></scn>"""


def write_leica(path: Path, levels: list[np.ndarray], *, offset: tuple[int, int], whole: tuple[int, int]) -> Path:
    """Write levels as a Leica scan of 0.5 micrometre per pixel that lies at ``offset`` (y, x) of a larger slide."""
    step = 500  # nanometre
    y, x = levels[0].shape[:2]
    dimensions = "".join(
        f'<dimension sizeX="{one.shape[1]}" sizeY="{one.shape[0]}" r="{i}" ifd="{i}"/>' for i, one in enumerate(levels)
    )
    sizes = {"vx": x * step, "vy": y * step, "ox": offset[1] * step, "oy": offset[0] * step}
    text = LEICA.format(x=x, y=y, cx=whole[1] * step, cy=whole[0] * step, dimensions=dimensions, **sizes)
    return write_pyramid(path, levels, description=text, **CENTIMETRE)


def on_white(rgba: Image.Image) -> np.ndarray:
    """Return (c, y, x) of what OpenSlide read, composited by hand."""
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(canvas).transpose(2, 0, 1)


def write_dicom(path: Path, pixels: np.ndarray, *, mpp: float = 0.5, tile: int = 64) -> Path:
    """Write (y, x, RGB) as a whole-slide DICOM instance of one level, its tiles uncompressed and in order."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(pixels, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)))
    frames = padded.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 1, 3, 4)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = pydicom.Dataset()
    data.file_meta = meta
    measures, groups = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    groups.PixelMeasuresSequence = [measures]
    data.update(
        {
            "SOPClassUID": meta.MediaStorageSOPClassUID,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "StudyInstanceUID": pydicom.uid.generate_uid(),
            "SeriesInstanceUID": pydicom.uid.generate_uid(),
            "Modality": "SM",
            "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            "DimensionOrganizationType": "TILED_FULL",
            "TotalPixelMatrixColumns": width,
            "TotalPixelMatrixRows": height,
            "NumberOfFrames": rows * columns,
            "Rows": tile,
            "Columns": tile,
            "SamplesPerPixel": 3,
            "PhotometricInterpretation": "RGB",
            "PlanarConfiguration": 0,
            "BitsAllocated": 8,
            "BitsStored": 8,
            "HighBit": 7,
            "PixelRepresentation": 0,
        }
    )
    data.SharedFunctionalGroupsSequence = [groups]
    data.PixelData = np.ascontiguousarray(frames).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def write_sparse(path: Path, pixels: np.ndarray, *, left_out: set[int]) -> Path:
    """Write an Aperio slide of one level that leaves tiles of 128 x 128 out, counted row by row."""
    y, x = pixels.shape[:2]
    tiles = [pixels[i : i + 128, j : j + 128] for i in range(0, y, 128) for j in range(0, x, 128)]
    said = {"description": APERIO.format(x=x, y=y), "metadata": None, "photometric": "rgb", "tile": (128, 128)}
    kept = (None if i in left_out else tile for i, tile in enumerate(tiles))
    tifffile.imwrite(path, kept, shape=pixels.shape, dtype=pixels.dtype, **said)
    return path
