"""Where the demo's slide comes from: a real one mirrored, or H&E tissue made up, written as a pyramid of JPEG tiles.

Both come in strips of whole rows, so that a slide of any size is written in the memory of one strip. The file is a
tiled TIFF as scanners write it (TIFF 6.0 with its JPEG supplement), which OpenSlide and QuPath open. Pillow encodes
the tiles; it cannot write a tiled TIFF itself.
"""

import io
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)
"""Optical density of each stain in red, green and blue, of length 1 (Ruifrok & Johnston 2001)."""

Pixels = NDArray[np.uint8]
"""(y, x, 3), RGB."""

TILE = 256
"""Pixels along a side of a TIFF tile."""

STRIP = 512
"""Rows that are made at a time; whole tiles."""

SHRINK = 4
"""Each level of the file has so many times fewer pixels a side than the one before."""

MPP = 0.5
"""Micrometre per pixel of made-up tissue."""


# ---- a real slide, mirrored ---------------------------------------------------------------------------------------


def mirrored(path: Path, *, size: int) -> tuple[Iterator[Pixels], float]:
    """Return strips of the slide at ``path`` mirrored at its borders until it is ``size`` square, and its mpp."""
    with openslide.OpenSlide(path) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        mpp = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
    rows, columns = (_there_and_back(size, n) for n in pixels.shape[:2])
    return (pixels[rows[y : y + STRIP]][:, columns] for y in range(0, size, STRIP)), mpp


def _there_and_back(size: int, n: int) -> NDArray[np.int64]:
    """Return indices that run through ``n`` pixels to and fro.

    >>> _there_and_back(8, 3).tolist()
    [0, 1, 2, 2, 1, 0, 0, 1]
    """
    at = np.arange(size) % (2 * n)
    return np.minimum(at, 2 * n - 1 - at)


# ---- made-up tissue -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tissue:
    """H&E tissue, made up: the same pixels for the same size and seed, in strips or not."""

    size: int
    """Pixels along each side."""
    seed: int = 0

    def strips(self) -> Iterator[Pixels]:
        """Yield the slide from top to bottom, in strips of whole rows."""
        for top in range(0, self.size, STRIP):
            yield self.rows(top, min(top + STRIP, self.size))

    def rows(self, top: int, bottom: int) -> Pixels:
        """Return rows ``top`` to ``bottom - 1`` by Beer-Lambert: stain absorbs, white light is 255 with a veil."""
        cover = self._cover.over(top, bottom)
        eosin = cover * (0.35 + 0.1 * self._fibres(top, bottom) + 0.1 * self._clouds.over(top, bottom))
        haematoxylin = cover * (0.06 + 0.12 * self._is_epithelium(self._epithelium.over(top, bottom)))
        self._draw_nuclei(haematoxylin, top)
        density = haematoxylin[..., None] * np.float32(HAEMATOXYLIN) + eosin.clip(0)[..., None] * np.float32(EOSIN)
        return (244.0 * np.exp(-density)).astype(np.uint8)

    @cached_property
    def nuclei(self) -> NDArray[np.float64]:
        """Rows of (y, x, radius along, radius across, angle, haematoxylin), in pixels and radians, by rising y."""
        chance, cell = np.random.default_rng(self.seed), 28
        n = -(-self.size // cell)
        at = (np.stack(np.indices((n, n)), -1) + chance.uniform(0.15, 0.85, (n, n, 2))).reshape(-1, 2) * cell
        in_epithelium = self._is_epithelium(self._epithelium.at(at))
        is_there = chance.uniform(size=len(at)) < self._cover.at(at) * (0.12 + 0.68 * in_epithelium)
        radius = np.where(in_epithelium > 0.5, chance.uniform(7.5, 11.0, len(at)), chance.uniform(6.0, 8.0, len(at)))
        slim = np.where(in_epithelium > 0.5, chance.uniform(0.75, 1.0, len(at)), chance.uniform(0.55, 0.9, len(at)))
        angle, stain = chance.uniform(0, np.pi, len(at)), chance.uniform(1.6, 2.6, len(at))  # as dark as CMU-1's
        found = np.column_stack([at, radius, radius * slim, angle, stain])
        return found[is_there & (self._cover.at(at) > 0.5) & (at < self.size - 1).all(1)]

    def _draw_nuclei(self, haematoxylin: NDArray[np.float32], top: int) -> None:
        """Add the nuclei that meet the strip: ellipses with a soft rim, darkest at it, as chromatin is."""
        height, width = haematoxylin.shape
        first, last = np.searchsorted(self.nuclei[:, 0], [top - 64, top + height + 64])
        for y, x, along, across, angle, stain in self.nuclei[first:last]:
            reach = int(along) + 3
            low_y, high_y = max(int(y) - reach, top), min(int(y) + reach + 1, top + height)
            low_x, high_x = max(int(x) - reach, 0), min(int(x) + reach + 1, width)
            if low_y >= high_y:
                continue
            dy, dx = np.arange(low_y, high_y)[:, None] - y, np.arange(low_x, high_x) - x
            u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
            r = np.sqrt((u / along) ** 2 + (v / across) ** 2)
            inside = ((1.0 - r) * across / 1.5 + 0.5).clip(0.0, 1.0)
            patch = haematoxylin[low_y - top : high_y - top, low_x:high_x]
            np.maximum(patch, inside * stain * (0.8 + 0.2 * r), out=patch, casting="same_kind")

    def _fibres(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Return stroma in -1 to 1: waves of some 12 um, bent by slow noise and frayed by fast."""
        bent = 14.0 * self._bend.over(top, bottom) + 1.5 * self._clouds.over(top, bottom)
        bent += ((np.arange(top, bottom)[:, None] + 0.4 * np.arange(self.size)) / 6.0).astype(np.float32)
        return np.asarray(np.sin(bent))

    @cached_property
    def _cover(self) -> "Noise":
        return Noise(self.size, max(self.size / 8, 256), seed=self.seed + 1, sharpness=20.0, above=-0.15)

    @cached_property
    def _epithelium(self) -> "Noise":
        return Noise(self.size, 256, seed=self.seed + 2)

    @cached_property
    def _clouds(self) -> "Noise":
        return Noise(self.size, 48, seed=self.seed + 3)

    @cached_property
    def _bend(self) -> "Noise":
        return Noise(self.size, 160, seed=self.seed + 4)

    @staticmethod
    def _is_epithelium(noise: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(((noise - 0.1) * 6.0).clip(0.0, 1.0))


class Noise:
    """A smooth random field over a square: normal numbers on a coarse grid, joined by cubic B-splines."""

    def __init__(
        self, size: int, period: float, *, seed: int, sharpness: float | None = None, above: float = 0.0
    ) -> None:
        """Draw the field; with ``sharpness`` it is a ramp from 0 to 1 where it rises above ``above``."""
        self._size, self._period, self._sharpness, self._above = size, period, sharpness, above
        n = int(size / period) + 5
        self._grid = np.random.default_rng(seed).standard_normal((n, n)).astype(np.float32)

    def over(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Return the field on whole rows ``top`` to ``bottom - 1``."""
        along_y, along_x = self._weights(np.arange(top, bottom)), self._weights(np.arange(self._size))
        return self._ramp(along_y @ self._grid @ along_x.T)

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the field at ``points``, rows of (y, x)."""
        along_y, along_x = (self._weights(points[:, axis]) for axis in (0, 1))
        return self._ramp(np.einsum("pi,pi->p", along_y @ self._grid, along_x))

    def _ramp(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._sharpness is None:
            return field
        return np.asarray(((field - self._above) * self._sharpness).clip(0.0, 1.0))

    def _weights(self, at: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the weight of each coarse point, (position, coarse point): the cubic B-spline."""
        distance = np.abs(at[:, None] / self._period + 1.0 - np.arange(len(self._grid)))
        near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clip(0) ** 3 / 6
        return np.where(distance < 1, near, far).astype(np.float32)


# ---- the file -----------------------------------------------------------------------------------------------------


def write_slide(path: Path, strips: Iterator[Pixels], *, size: int, mpp: float) -> None:
    """Write a square slide that comes in strips of :data:`STRIP` rows; the file appears when it is whole."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file, ThreadPoolExecutor(2) as pool:
        file.write(struct.pack("<2sHI", b"II", 42, 0))
        directories, level = [], strips
        while True:
            smaller: list[Pixels] = []
            directories.append(_write_level(file, pool, level, smaller, size=size, mpp=mpp, is_first=not directories))
            size //= SHRINK
            if size < TILE:
                break
            mpp *= SHRINK
            whole = np.concatenate(smaller)[:size]
            level = (whole[y : y + STRIP] for y in range(0, size, STRIP))
        _write_directories(file, directories)
    unfinished.replace(path)


Directory = dict[int, tuple[int, list[int]]]
"""Per TIFF tag, its type (3: 16 bits, 4: 32 bits, 5: a fraction) and values."""


def _write_level(
    file: BinaryIO,
    pool: ThreadPoolExecutor,
    strips: Iterator[Pixels],
    smaller: list[Pixels],
    *,
    size: int,
    mpp: float,
    is_first: bool,
) -> Directory:
    """Write one level's tiles, row by row, put its shrunken strips in ``smaller``, and return its directory."""
    offsets, lengths = [], []
    for strip in strips:
        for y in range(0, len(strip), TILE):
            for jpeg in pool.map(_jpeg, (strip[y : y + TILE, x : x + TILE] for x in range(0, size, TILE))):
                offsets.append(file.tell())
                lengths.append(file.write(jpeg))
        smaller.append(_shrunk(strip))
    per_centimetre = Fraction(10_000 / mpp).limit_denominator(1000)
    resolution = [per_centimetre.numerator, per_centimetre.denominator]
    return {
        254: (4, [0 if is_first else 1]),  # a reduced version of another level
        256: (4, [size]),  # width
        257: (4, [size]),  # height
        258: (3, [8, 8, 8]),  # bits
        259: (3, [7]),  # compression: JPEG
        262: (3, [6]),  # colour: YCbCr
        277: (3, [3]),  # samples
        282: (5, resolution),  # along x
        283: (5, resolution),  # along y
        284: (3, [1]),  # samples side by side
        296: (3, [3]),  # resolution is per centimetre
        322: (4, [TILE]),
        323: (4, [TILE]),
        324: (4, offsets),
        325: (4, lengths),
        530: (3, [2, 2]),  # colour at half the resolution
    }


def _jpeg(pixels: Pixels) -> bytes:
    """Return one tile as JPEG; at the far border its last pixels go on."""
    missing = [(0, TILE - n) for n in pixels.shape[:2]]
    stream = io.BytesIO()
    Image.fromarray(np.pad(pixels, (*missing, (0, 0)), mode="edge")).save(stream, "JPEG", quality=90, subsampling=2)
    return stream.getvalue()


def _shrunk(pixels: Pixels) -> Pixels:
    """Return the means of squares; what is left over at the far border is dropped."""
    height, width = (n // SHRINK for n in pixels.shape[:2])
    squares = pixels[: height * SHRINK, : width * SHRINK].reshape(height, SHRINK, width, SHRINK, 3)
    return squares.mean((1, 3)).round().astype(np.uint8)


def _write_directories(file: BinaryIO, directories: list[Directory]) -> None:
    """Write the levels' directories at the end of the file, each pointing to the next, the header to the first."""
    pointer = 4
    for directory in directories:
        entries = []
        for tag, (kind, values) in sorted(directory.items()):
            packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
            if len(packed) > 4:
                place = file.tell()
                file.write(packed + b"\0" * (len(packed) % 2))
                packed = struct.pack("<I", place)
            entries.append(
                struct.pack("<HHI", tag, kind, len(values) // (2 if kind == 5 else 1)) + packed.ljust(4, b"\0")
            )
        place = file.tell() + file.tell() % 2
        file.seek(place)
        file.write(struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0))
        end = file.tell()
        file.seek(pointer)
        file.write(struct.pack("<I", place))
        file.seek(end)
        pointer = end - 4
