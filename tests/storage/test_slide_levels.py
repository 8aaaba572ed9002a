"""Slides of every kind that can be made here: each level equals its stored pixels, bounds and profiles are kept."""

import base64
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest

from engine.errors import IngestError
from engine.geometry.region import Region
from engine.storage.fingerprint import fingerprint
from engine.storage.ingest import ingest
from engine.storage.pyramid import reduce_mean
from engine.storage.slide import Slide
from engine.storage.source import companions, identity
from engine.storage.volume import open_volume
from tests.storage.slide_files import (
    CENTIMETRE,
    halved,
    noise,
    on_white,
    profile,
    write_aperio,
    write_dicom,
    write_leica,
    write_pyramid,
    write_sparse,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = pytest.mark.skipif(not DATA.exists(), reason=f"the real volumes are not beside the repository, at {DATA.name}")


def read(volume, level=0):
    return volume.read(Region.whole(volume.levels[level].shape), level=level)


def some_regions(shape, n=12, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        ends = [sorted(rng.integers(0, size + 1, 2)) for size in shape[1:]]
        start, stop = [int(a) for a, _ in ends], [int(b) for _, b in ends]
        yield Region((0, *start), (shape[0], *stop))


SHAPES = {  # a slide's pixels, and whether OpenSlide can place every pixel of its levels
    "whole factors": ((1200, 1600), True),
    "levels rounded up": ((1203, 1601), False),
    "as the scanner of CMU-1 leaves it": ((1030, 1600), False),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("write", [write_pyramid, write_aperio])
def test_every_level_is_its_stored_pixels_in_any_region(tmp_path, case, write):
    (height, width), is_aligned = SHAPES[case]
    levels = halved(noise(height, width, 3), 3)
    path = write(tmp_path / "a.svs", levels)
    volume = open_volume(str(path))
    with openslide.OpenSlide(path) as slide:
        assert all(one.is_integer() for one in slide.level_downsamples) == is_aligned
    for number, stored in enumerate(levels):
        assert stored.std() > 0
        assert volume.levels[number].shape == (3, *stored.shape[:2])
        assert np.array_equal(read(volume, number), stored.transpose(2, 0, 1))
        for region in some_regions(volume.levels[number].shape, n=4):
            found = volume.read(region, level=number)
            assert np.array_equal(found, stored.transpose(2, 0, 1)[region.slices])
    assert [level.spacing[1] / volume.levels[0].spacing[1] for level in volume.levels] == [1, 4, 16]


def test_openslide_itself_blends_the_pixels_of_an_unaligned_level(tmp_path):
    levels = halved(noise(1203, 1601, 3), 2)
    path = write_aperio(tmp_path / "a.svs", levels)
    with openslide.OpenSlide(path) as slide:
        step = slide.level_downsamples[1]
        theirs = on_white(slide.read_region((round(100 * step), round(100 * step)), 1, (50, 50)))
    stored = levels[1].transpose(2, 0, 1)[:, 100:150, 100:150]
    assert np.abs(theirs.astype(int) - stored).max() > 3
    region = Region((0, 100, 100), (3, 150, 150))
    assert np.array_equal(open_volume(str(path)).read(region, level=1), stored)


def test_an_unaligned_level_without_a_page_of_its_own_has_the_same_bits_in_every_region(tmp_path, monkeypatch):
    path = write_aperio(tmp_path / "a.svs", halved(noise(1203 * 4, 1601 * 4, 3), 2))
    monkeypatch.setattr("engine.storage.slide_pages.SlidePages.read", lambda *_, **__: None)
    monkeypatch.setattr("engine.storage.slide_levels.SlideLevel.is_aligned", property(lambda self: False))
    slide = Slide(path)
    whole = read(slide, 1)
    assert whole.std() > 0
    assert max(whole.shape[1:]) > 1024
    for region in some_regions(whole.shape):
        assert np.array_equal(slide.read(region, level=1), whole[region.slices])


def test_threads_and_pickles_read_the_same(tmp_path):
    path = write_aperio(tmp_path / "a.svs", halved(noise(1203, 1601, 3), 2))
    volume = open_volume(str(path))
    again = pickle.loads(pickle.dumps(volume))
    whole = read(volume, 1)
    regions = list(some_regions(whole.shape, n=24))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda region: again.read(region, level=1), regions))
    assert all(np.array_equal(one, whole[region.slices]) for one, region in zip(found, regions, strict=True))


def test_only_the_bounds_are_the_volume_and_say_where_they_lie(tmp_path):
    levels = halved(noise(400, 600, 3), 2)
    path = write_leica(tmp_path / "a.scn", levels, offset=(100, 200), whole=(1000, 1500))
    volume = open_volume(str(path))
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (1500, 1000)
        oracle = on_white(slide.read_region((200, 100), 0, (600, 400)))
    assert oracle.std() > 0
    assert np.array_equal(read(volume), oracle)
    assert np.array_equal(oracle, levels[0].transpose(2, 0, 1))
    assert np.array_equal(read(volume, 1), levels[1].transpose(2, 0, 1))
    assert volume.levels[0].translation == (0, 50, 100)
    assert volume.levels[1].translation == (0, 50 + 0.75, 100 + 0.75)
    assert volume.attributes["slide"]["offset"] == [100, 200]
    assert volume.attributes["slide"]["bounds-x"] == "200"
    made = ingest(path, str(tmp_path / "a.zarr"))
    assert np.array_equal(read(made), oracle)
    assert made.levels[0].translation == (0, 50, 100)


def test_a_level_of_a_slide_with_uneven_bounds_lies_where_it_says(tmp_path):
    levels = halved(noise(403, 605, 3), 2)
    path = write_leica(tmp_path / "a.scn", levels, offset=(101, 203), whole=(1000, 1500))
    volume = open_volume(str(path))
    assert volume.shape == (3, 403, 605)
    (_, y, x) = volume.levels[1].translation
    with openslide.OpenSlide(path) as slide:
        start = tuple(round((place - 0.75) / 0.5 / 4) for place in (x, y))
        oracle = on_white(slide.read_region((4 * start[0], 4 * start[1]), 1, volume.levels[1].shape[:0:-1]))
    assert oracle.std() > 0
    assert np.array_equal(read(volume, 1), oracle)


def test_what_the_scanner_did_not_see_is_white_and_recorded(tmp_path):
    pixels = noise(256, 384, 3)
    path = write_sparse(tmp_path / "a.svs", pixels, left_out={2, 3})
    with openslide.OpenSlide(path) as slide:
        unseen = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).getchannel("A")) == 0
    assert unseen.mean() == 1 / 3
    for volume in (open_volume(str(path)), ingest(path, str(tmp_path / "a.zarr"))):
        assert np.array_equal(read(volume), np.where(unseen[..., None], 255, pixels).transpose(2, 0, 1))
        assert volume.attributes["slide"]["background"] == "white"


def test_a_colour_profile_is_carried_into_what_is_ingested(tmp_path):
    path = write_aperio(tmp_path / "a.svs", [noise(300, 400, 3)], icc=profile())
    for volume in (open_volume(str(path)), ingest(path, str(tmp_path / "a.zarr"))):
        said = volume.attributes["slide"]
        assert base64.b64decode(said["icc_profile"]) == profile()
        assert "sRGB" in said["icc_description"]
        assert said["background"] == "white"
    assert "icc_profile" not in open_volume(str(write_pyramid(tmp_path / "b.tif", [noise(300, 400, 3)]))).attributes["slide"]


def test_a_dicom_slide_equals_openslide_and_its_own_pixels(tmp_path):
    pixels = noise(200, 300, 3)
    path = write_dicom(tmp_path / "a.dcm", pixels)
    volume = open_volume(str(path))
    assert np.array_equal(read(volume), pixels.transpose(2, 0, 1))
    assert pixels.std() > 0
    assert [axis.spacing for axis in volume.axes] == [1, 0.5, 0.5]
    assert volume.attributes["slide"]["vendor"] == "dicom"
    assert np.array_equal(read(ingest(path, str(tmp_path / "a.zarr"))), pixels.transpose(2, 0, 1))


def test_unequal_steps_are_kept_apart(tmp_path):
    said = {"resolution": (20000, 40000), "resolutionunit": "CENTIMETER"}
    volume = open_volume(str(write_pyramid(tmp_path / "a.tif", [noise(300, 400, 3)], **said)))
    assert [axis.spacing for axis in volume.axes] == [1, 0.25, 0.5]


def test_the_files_beside_a_slide_are_part_of_what_it_is(tmp_path):
    (tmp_path / "a").mkdir()
    main, data = tmp_path / "a.mrxs", tmp_path / "a" / "Data0000.dat"
    main.write_bytes(b"x" * 99)
    data.write_bytes(b"y" * 99)
    before = identity([main])
    assert companions(main) == [data]
    data.write_bytes(b"y" * 100)
    assert identity([main]) != before
    dicom = write_dicom(tmp_path / "b.dcm", noise(100, 120, 3))
    before = fingerprint(open_volume(str(dicom)))
    (tmp_path / "c.dcm").write_bytes(b"another")
    assert fingerprint(open_volume(str(dicom))) != before


def test_a_copy_of_a_slide_has_the_same_fingerprint_and_a_changed_one_another(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", [noise(300, 400, 3)])
    (tmp_path / "b").mkdir()
    copy = tmp_path / "b" / "c.tif"
    copy.write_bytes(path.read_bytes())
    assert fingerprint(open_volume(str(path))) == fingerprint(open_volume(str(copy)))
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    assert fingerprint(open_volume(str(path))) != fingerprint(open_volume(str(copy)))


def test_a_slide_that_is_damaged_in_the_middle_names_the_region(tmp_path):
    said = {**CENTIMETRE, "compression": "jpeg"}
    path = write_pyramid(tmp_path / "a.tif", [noise(1200, 1600, 3)], **said)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60000] = bytes(60000)
    path.write_bytes(data)
    volume = open_volume(str(path))
    with pytest.raises(IngestError, match=r"pixels \[y 0:1200, x 0:1600\] of level 0 of '.*a.tif' cannot be decoded"):
        read(volume)


@pytest.mark.real
@REAL
def test_the_real_slide_is_read_directly_as_it_is_ingested(tmp_path):
    path = DATA / "slide/CMU-1-Small-Region.svs"
    volume = open_volume(str(path))
    with openslide.OpenSlide(path) as slide:
        oracle = on_white(slide.read_region((0, 0), 0, slide.dimensions))
    assert oracle.std() > 0
    for region in some_regions(oracle.shape):
        assert np.array_equal(volume.read(region), oracle[region.slices])
    made = ingest(path, str(tmp_path / "a.zarr"), n_levels=2)
    assert np.array_equal(read(made, 1), reduce_mean(oracle, (1, 2, 2)))
