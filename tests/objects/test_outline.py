"""The outlines, read by shapely and filled by Pillow: neither has a part in making them."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw
from shapely.geometry import shape as as_shape

from engine.objects.find import find_objects
from engine.objects.geojson import read_features
from engine.objects.outline import traced
from engine.objects.recipe import Recipe
from engine.objects.table import read_table
from tests.objects import whole


def filled(polygons, shape):
    """Which pixels have their middle inside: even-odd crossings of the rows through the middles with upright edges."""
    inside = np.zeros(shape, np.int64)
    for polygon in polygons:
        for ring in polygon:
            for (x, y), (next_x, next_y) in pairwise(ring):
                assert x == next_x or y == next_y
                if x == next_x:
                    inside[int(min(y, next_y)) : int(max(y, next_y)), int(x) :] += 1
    return inside % 2 == 1


def polygons_of(feature):
    geometry = feature["geometry"]
    return [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]


def turns_left(ring):
    (x, y) = np.array(ring).T
    return np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0


def check_rfc7946(feature):
    assert feature["type"] == "Feature"
    assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
    for polygon in polygons_of(feature):
        for i, ring in enumerate(polygon):
            assert ring[0] == ring[-1]
            assert len(ring) >= 4
            assert turns_left(ring) == (i == 0)
    assert as_shape(feature["geometry"]).is_valid


@pytest.mark.parametrize("method", ["connected", "watershed"])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_the_file_is_valid_and_filled_in_again_gives_the_label_map(tmp_path, method, connectivity):
    classes = whole.blobs((200, 260), sigma=2)
    classes[np.random.default_rng(3).random(classes.shape) < 0.08] = 0  # holes
    output = str(tmp_path / "o.zarr")
    whole.store(f"{output}/label", classes)
    recipe = Recipe(method=method, connectivity=connectivity, min_distance=3)
    report = find_objects(output, recipe, block=(64, 100))
    labels = whole.read(report.label_url)
    with gzip.open(report.geojson_url) as file:
        collection = json.load(file)
    assert collection["type"] == "FeatureCollection"
    features = collection["features"]
    assert features == list(read_features(report.geojson_url))
    assert len(features) == labels.max() > 100
    assert sum(len(polygon) > 1 for f in features for polygon in polygons_of(f)) > 20
    assert (sum(f["geometry"]["type"] == "MultiPolygon" for f in features) > 5) == (connectivity == 2)
    again = np.zeros_like(labels)
    for feature in features:
        check_rfc7946(feature)
        inside = filled(polygons_of(feature), labels.shape)
        assert not again[inside].any()
        again[inside] = feature["properties"]["measurements"]["ID"]
    assert np.array_equal(again, labels)
    assert len({f["id"] for f in features}) == len(features)


def test_pillow_fills_simple_outlines_to_the_same_pixels():
    numbers = np.zeros((40, 50), np.int32)
    numbers[3:20, 5:30], numbers[22:39, 1:49] = 1, 2
    for number, polygons in traced(numbers, (0, 0)).items():
        canvas = Image.new(
            "1", (400, 320)
        )  # eight pixels a voxel: an edge that Pillow draws one pixel wide is no voxel
        ImageDraw.Draw(canvas).polygon([(8 * x, 8 * y) for x, y in polygons[0][0]], fill=1)
        assert np.array_equal(np.array(canvas)[4::8, 4::8], numbers == number)


def test_coordinates_are_level_0_pixels_of_the_slide(tmp_path):
    classes = np.zeros((20, 30), np.uint8)
    classes[4:9, 10:17] = 1
    output = str(tmp_path / "o.zarr")
    # A level at a quarter of the resolution: its first voxel's middle lies 1.5 fine pixels in.
    whole.store(f"{output}/label", classes, spacing=1.0, origin=(0.375, 0.375))
    recipe = Recipe(level0_spacing=(0.25, 0.25), offset=(1000, 2000))
    report = find_objects(output, recipe)
    (feature,) = read_features(report.geojson_url)
    x, y = np.array(feature["geometry"]["coordinates"][0]).T
    assert (x.min(), x.max(), y.min(), y.max()) == (2040, 2068, 1016, 1036)
    assert feature["properties"]["objectType"] == "detection"
    assert feature["properties"]["measurements"] == {"ID": 1, "Area px": 35, "Area µm^2": 35.0}
    (row,) = read_table(report.table_url).to_pylist()
    centre = as_shape(feature["geometry"]).centroid
    assert (row["centroid_x_px"], row["centroid_y_px"]) == (centre.x, centre.y) == (2054, 1026)
    assert (row["centroid_x_um"], row["centroid_y_um"]) == (2054 / 4, 1026 / 4)
