"""TIFF that OpenSlide would refuse or change: plain, planar, 16 bit, many channels, stacks, OME-TIFF with levels."""

import base64
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from engine.errors import IngestError
from engine.geometry.region import Region
from engine.storage.ingest import ingest
from engine.storage.tiff import Tiff
from engine.storage.view import at_mpp
from engine.storage.volume import open_volume
from tests.storage.slide_files import CENTIMETRE, halved, noise, profile
from tests.storage.test_slide_levels import read, some_regions

OME = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}


def write(path: Path, array: np.ndarray, **said) -> Path:
    tifffile.imwrite(path, array, **{**CENTIMETRE, **said})
    return path


def colours(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 0)


TILED = {"tile": (64, 64)}
KINDS = {  # what is written, and what the volume is to hold
    "plain colours": (noise(200, 300, 3), {"photometric": "rgb"}, colours),
    "compressed strips": (noise(200, 300, 3), {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 16}, colours),
    "planar colours": (noise(3, 200, 300), {"photometric": "rgb", "planarconfig": "separate"}, np.asarray),
    "planar colours in tiles": (noise(3, 200, 300), {"photometric": "rgb", "planarconfig": "separate", **TILED}, np.asarray),
    "colours of 16 bits": (noise(200, 300, 3, dtype="uint16"), {"photometric": "rgb", **TILED}, colours),
    "grey": (noise(200, 300), TILED, lambda a: a[None]),
    "grey of 16 bits, big endian": (noise(200, 300, dtype="uint16"), {"byteorder": ">"}, lambda a: a[None]),
    "real numbers": (noise(200, 300, dtype="float32"), {**TILED, "compression": "zlib"}, lambda a: a[None]),
    "jpeg 2000": (noise(200, 300, 3), {"photometric": "rgb", "compression": "jpeg2000", **TILED}, colours),
    "lzw with a predictor": (noise(200, 300, 3), {"photometric": "rgb", "compression": "lzw", "predictor": True, **TILED}, colours),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_tiff_equals_tifffile(tmp_path, case):
    array, said, as_volume = KINDS[case]
    path = write(tmp_path / "a.tif", array, **said)
    oracle = as_volume(tifffile.imread(path))
    assert oracle.std() > 0
    assert np.array_equal(oracle, as_volume(array)) or said["compression"] == "jpeg2000"
    volume = open_volume(str(path))
    assert [axis.name for axis in volume.axes] == ["c", "y", "x"]
    assert [axis.spacing for axis in volume.axes] == [1, 0.5, 0.5]
    assert volume.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(read(volume), oracle)
    again = pickle.loads(pickle.dumps(volume))
    regions = list(some_regions(oracle.shape))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(again.read, regions))
    assert all(np.array_equal(one, oracle[region.slices]) for one, region in zip(found, regions, strict=True))


def test_an_ingested_tiff_equals_tifffile_and_openslide_would_not(tmp_path):
    array = noise(200, 300, 3, dtype="uint16")
    path = write(tmp_path / "a.tiff", array, photometric="rgb", tile=(64, 64))
    with openslide.OpenSlide(path) as slide:
        assert np.asarray(slide.read_region((0, 0), 0, slide.dimensions)).dtype == np.uint8
    made = ingest(path, str(tmp_path / "a.zarr"), chunk_shape=(3, 64, 64), shard_shape=(3, 128, 128))
    assert made.dtype == np.uint16
    assert np.array_equal(read(made), colours(array))


def write_ome(path: Path, levels: list[np.ndarray], *, axes: str, **said) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        metadata = {"axes": axes, **OME}
        for i, level in enumerate(levels):
            extra = {"subifds": len(levels) - 1, "metadata": metadata} if i == 0 else {"subfiletype": 1, "metadata": None}
            file.write(level, tile=(64, 64), **extra, **said)
    return path


def test_an_ome_tiff_has_levels_channels_and_its_own_resolution(tmp_path):
    levels = [colours(one) for one in halved(noise(300, 402, 5, dtype="uint16"), 3, factor=2)]
    path = write_ome(tmp_path / "a.ome.tif", levels, axes="CYX", photometric="minisblack")
    volume = open_volume(str(path))
    assert [level.shape for level in volume.levels] == [(5, 300, 402), (5, 150, 201), (5, 75, 101)]
    assert volume.levels[0].spacing == (1, 0.25, 0.5)
    assert volume.levels[2].spacing == (1, 1, 2)
    assert volume.levels[2].translation == (0, 0.375, 0.75)
    for number, level in enumerate(levels):
        assert level.std() > 0
        assert np.array_equal(read(volume, number), level)
        for region in some_regions(level.shape, n=4):
            assert np.array_equal(volume.read(region, level=number), level[region.slices])
    view = open_volume(at_mpp(str(path), (0.5, 1.0)))
    assert view.attributes["view"] == {"level": 1, "ratio": [1, 1], "method": "as it is"}
    assert np.array_equal(read(view), levels[1])
    made = ingest(path, str(tmp_path / "a.zarr"))
    assert np.array_equal(read(made), levels[0])
    assert made.attributes["slide"]["vendor"] == "ome-tiff"


def test_an_ome_tiff_of_colours_is_read_with_its_sub_ifds(tmp_path):
    levels = halved(noise(300, 400, 3), 2)
    path = write_ome(tmp_path / "a.ome.tif", levels, axes="YXS", photometric="rgb")
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 1
    volume = open_volume(str(path))
    assert np.array_equal(read(volume, 1), colours(levels[1]))


def test_a_stack_is_transposed_to_channel_z_y_x(tmp_path):
    stack = noise(4, 2, 60, 70)  # (z, c, y, x)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "ZCYX", "PhysicalSizeZ": 2.0, **OME})
    volume = open_volume(str(path))
    assert [(axis.name, axis.spacing) for axis in volume.axes] == [("c", 1), ("z", 2), ("y", 0.25), ("x", 0.5)]
    oracle = stack.transpose(1, 0, 2, 3)
    assert oracle.std() > 0
    assert np.array_equal(read(volume), oracle)
    assert np.array_equal(volume.read(Region((1, 1, 5, 7), (2, 3, 50, 9))), oracle[1:2, 1:3, 5:50, 7:9])


def test_missing_tiles_are_white_for_colours(tmp_path):
    pixels = noise(128, 192, 3)
    tiles = (None if i == 1 else pixels[:64, :64] for i in range(6))
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, tiles, shape=pixels.shape, dtype="uint8", tile=(64, 64), photometric="rgb", metadata={"axes": "YXS", **OME})
    volume = open_volume(str(path))
    found = read(volume)
    assert np.all(found[:, :64, 64:128] == 255)
    assert np.array_equal(found[:, 64:, 128:], colours(pixels[:64, :64]))
    assert volume.attributes["slide"]["background"] == "white"


def test_a_colour_profile_is_carried(tmp_path):
    path = write(tmp_path / "a.tif", noise(200, 300, 3, dtype="uint16"), photometric="rgb", iccprofile=profile())
    assert base64.b64decode(open_volume(str(path)).attributes["slide"]["icc_profile"]) == profile()


RESOLUTIONS = {  # what the tags say, and micrometre per pixel
    "inch": ({"resolution": (50800, 25400), "resolutionunit": "INCH"}, (1.0, 0.5)),
    "centimetre": ({"resolution": (20000, 10000), "resolutionunit": "CENTIMETER"}, (1.0, 0.5)),
    "ImageJ": ({"resolution": (2.0, 1.0), "resolutionunit": "NONE", "imagej": True, "metadata": {"unit": "um"}}, (1.0, 0.5)),
}


@pytest.mark.parametrize("case", RESOLUTIONS)
def test_the_resolution_is_what_the_tags_say(tmp_path, case):
    said, (y, x) = RESOLUTIONS[case]
    volume = open_volume(str(write(tmp_path / "a.tif", noise(100, 120, dtype="uint16"), **said)))
    assert [axis.spacing for axis in volume.axes] == pytest.approx([1, y, x])


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


BAD = {
    "a resolution of paper": (lambda p: write(p, noise(50, 60), resolution=(72, 72), resolutionunit="INCH"), "--spacing"),
    "no resolution": (lambda p: write(p, noise(50, 60), resolution=(1, 1), resolutionunit="NONE"), "--spacing"),
    "axes without names": (lambda p: write(p, noise(5, 50, 60), photometric="minisblack"), "'QYX' of (5, 50, 60)"),
    "a header and no more": (lambda p: p.write_bytes(b"II*\0\x08\0\0\0") and p, "unreadable or damaged"),
    "complex numbers": (lambda p: write(p, noise(50, 60).astype("complex64")), "not complex64"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_tiff_is_refused_in_one_line(tmp_path, case):
    build, words = BAD[case]
    path = build(tmp_path / "a.tif")
    with pytest.raises(IngestError) as caught:
        open_volume(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", [{"tile": (64, 64), "compression": "zlib"}, {}, {"tile": (64, 64)}, {"compression": "zlib"}])
def test_a_tiff_that_is_cut_short_names_what_cannot_be_read(tmp_path, said):
    path = write(tmp_path / "a.tif", noise(400, 500, dtype="uint16"), **said)
    with tifffile.TiffFile(path) as file:  # the directory stands before the voxels
        assert file.pages[0].offset < path.stat().st_size // 4
    truncated(path)
    with pytest.raises(IngestError) as caught:
        read(open_volume(str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_open_tiff_leaves_no_file_behind(tmp_path):
    path = write(tmp_path / "a.tif", noise(100, 120), compression="zlib")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = Tiff(path)
        read(volume)
        file = volume._file.filehandle
        del volume
    assert file.closed
    assert not caught
