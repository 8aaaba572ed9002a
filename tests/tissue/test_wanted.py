"""Which cells are wanted: by colour, polygons, a mask or a model, on slides at any resolution."""

import gzip
import json

import numpy as np
import pytest

from engine.errors import TissueError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.slides import draw_tissue
from engine.storage.create import create_volume
from engine.storage.view import at_mpp
from engine.tissue.wanted import cell_of, wanted_cells
from tests.slides import picture, write_slide

HEIGHT, WIDTH = 1000, 1400


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return str(
        write_slide(tmp_path_factory.mktemp("slides") / "slide.tiff", picture(HEIGHT, WIDTH), compression="deflate")
    )


def ellipse(shape, *, share=0.6):
    """Where the made-up tissue is, on a grid of cells over the slide."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in shape)
    return y[:, None] ** 2 + x[None] ** 2 < (share / 2) ** 2


@pytest.mark.parametrize("mpp", [None, 1.0])
def test_tissue_is_found_by_colour_at_the_resolution_of_the_run(slide, mpp):
    url = slide if mpp is None else at_mpp(slide, mpp)
    cell = cell_of(url)
    assert cell == ((32, 32) if mpp is None else (16, 16))
    cells = wanted_cells(url, "auto", cell=cell)
    assert cells.shape == (-(-HEIGHT // 32), -(-WIDTH // 32))
    true = ellipse(cells.shape)
    assert cells[true].all()
    assert cells[~ellipse(cells.shape, share=0.85)].mean() < 0.02


@pytest.mark.parametrize("name", ["regions.geojson", "regions.geojson.gz"])
def test_polygons_are_in_level_0_pixels_and_touch_cells(slide, tmp_path, name):
    square = [[[100, 200], [500, 200], [500, 400], [100, 400], [100, 200]]]  # x, then y
    features = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": square}}],
    }
    text = json.dumps(features).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    for mpp in (0.5, 1.0):
        cells = wanted_cells(at_mpp(slide, mpp), str(tmp_path / name), cell=(int(16 / mpp),) * 2)
        expected = np.zeros_like(cells)
        expected[200 // 32 : -(-400 // 32), 100 // 32 : -(-500 // 32)] = True
        np.testing.assert_array_equal(cells, expected)


def test_a_mask_at_any_resolution_is_laid_on_the_cells(slide, tmp_path):
    mask = np.zeros((125, 175), np.uint8)  # 4 um
    mask[40, 100] = 1
    volume = create_volume(
        f"{tmp_path}/mask.zarr", axes=[Axis(n, Role.SPACE, 4.0, "micrometer") for n in "yx"], dtype="uint8",
        shape=mask.shape, chunk_shape=(64, 64),
    )  # fmt: skip
    volume.write(Region.whole(mask.shape), mask)
    cells = wanted_cells(slide, f"{tmp_path}/mask.zarr", cell=(32, 32))
    assert np.argwhere(cells).tolist() == [[10, 25]]


def test_a_model_for_thumbnails_tells_what_is_wanted(slide):
    cells = wanted_cells(slide, "tests/tissue/thumbnail_model.py:dark", cell=(32, 32))
    assert cells[ellipse(cells.shape)].mean() > 0.95
    assert 0.2 < cells.mean() < 0.6


def test_the_picture_shows_what_is_wanted(slide, tmp_path):
    share = draw_tissue(slide, "auto", tmp_path / "tissue.png")
    assert 0.2 < share < 0.6
    assert (tmp_path / "tissue.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.geojson", "{", "cannot be read as one"),
        ("a.geojson", "{}", "holds none"),
        ("a.geojson", '{"type": "Polygon", "coordinates": [[[0, 0]]]}', "not as GeoJSON has it"),
        ("a.geojson.gz", "no gzip", "cannot be read as one"),
        (
            "away.geojson",
            '{"type": "Polygon", "coordinates": [[[9e5,9e5],[9.1e5,9e5],[9e5,9.1e5],[9e5,9e5]]]}',
            "finds no tissue",
        ),
    ],
)
def test_polygons_that_want_nothing_are_refused_in_one_line(slide, tmp_path, name, content, wanted):
    (tmp_path / name).write_text(content)
    with pytest.raises(TissueError, match=wanted) as caught:
        wanted_cells(slide, str(tmp_path / name), cell=(32, 32))
    assert "\n" not in str(caught.value)


def test_a_blank_slide_and_what_is_no_slide_are_refused(tmp_path):
    blank = str(write_slide(tmp_path / "blank.tiff", np.full((600, 600, 3), 243, np.uint8)))
    with pytest.raises(TissueError, match="finds no tissue"):
        wanted_cells(blank, "auto", cell=(32, 32))
    scan = create_volume(
        f"{tmp_path}/scan.zarr",
        axes=[Axis(n, Role.SPACE) for n in "zyx"],
        dtype="int16",
        shape=(4, 4, 4),
        chunk_shape=(4, 4, 4),
    )
    with pytest.raises(TissueError, match="3 space axes"):
        wanted_cells(scan.url, "auto", cell=(1, 1, 1))
