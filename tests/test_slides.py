"""Slides from the scanner's file to objects: each step equals what other tools give for the whole slide at once.

Every test has two slides: CMU-1-Small-Region where it lies beside the repository, and tissue that is made up.
"""

import shutil
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image, ImageLabel
from scipy import ndimage

import engine
from engine.geometry.axes import Role, positions
from engine.models.fitted import set_constants, unfitted
from engine.models.load import load_model
from engine.models.whole import whole_pass
from engine.objects.find import ObjectsReport, find_objects
from engine.objects.geojson import read_features
from engine.objects.recipe import Recipe
from engine.objects.table import read_table
from engine.plan_json import plan_to_json
from engine.runtime.events import TaskDone
from engine.slides import plan_of, slide_objects
from engine.storage.volume import open_volume
from tests.objects import whole
from tests.objects.test_outline import check_rfc7946, filled, polygons_of
from tests.slide_models import COARSE, NUCLEI, STAINED
from tests.slides import write_slide
from tests.stored import checksums

import tissue  # isort: skip -- a job's, found beside the models above

SMALL_REGION = Path(__file__).parents[2] / "shared" / "data" / "slide" / "CMU-1-Small-Region.svs"
SLIDES = [
    "made up",
    pytest.param(
        "real",
        marks=[
            pytest.mark.real,
            pytest.mark.skipif(not SMALL_REGION.exists(), reason="the real slide is not beside the repository"),
        ],
    ),
]
MADE_SIZE = 1002  # neither whole blocks nor whole jumps of the network
JUMP = 4
CROP = np.s_[1208:1860, 302:1105]  # of the real slide: tissue, nuclei and a little glass
RECIPE = Recipe(name="nuclei", volume="label", method="watershed", min_distance=6, min_area_um2=12.0)
OPTIONS = engine.Options(threads=2, batch=1)


@dataclass(frozen=True)
class Slide:
    path: Path
    pixels: np.ndarray
    """(y, x, 3), as OpenSlide reads them."""
    mpp: float


class Found(NamedTuple):
    report: ObjectsReport
    labels: np.ndarray
    rows: list
    features: list


@pytest.fixture(scope="module", autouse=True)
def tiles_are_not_timed():
    """What a tile costs decides no voxel here, and learning it takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["engine.learnt"], "SECONDS_PER_TIMING", 0.0)
        yield


def opened(path):
    with openslide.OpenSlide(path) as slide:
        pixels = np.array(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    return Slide(path, pixels, open_volume(str(path)).axes[-1].spacing)


@pytest.fixture(scope="module", params=SLIDES)
def slide(request, tmp_path_factory):
    if request.param == "real":
        return opened(SMALL_REGION)
    path = tmp_path_factory.mktemp("slide") / "made.tiff"
    tissue.write_slide(path, tissue.Tissue(MADE_SIZE, seed=1).strips(), size=MADE_SIZE, mpp=0.5)
    return opened(path)


@pytest.fixture(scope="module")
def small(slide, tmp_path_factory):
    """A part of the slide that is soon run, in a file without loss."""
    pixels = slide.pixels[CROP] if slide.path == SMALL_REGION else slide.pixels[350:, :803]
    return opened(write_slide(tmp_path_factory.mktemp("small") / "small.tiff", pixels, mpp=slide.mpp))


def whole_of(module, pixels):
    """The network over all pixels at once; as the engine, mirrored at the far border to whole jumps."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % JUMP), (0, -width % JUMP), (0, 0)), mode="reflect")
    found = whole_pass(module, padded.transpose(2, 0, 1))
    return {name: values[..., :height, :width] for name, values in found.items()}


@pytest.fixture(scope="module")
def reference(slide):
    return whole_of(load_model(NUCLEI), slide.pixels)


@pytest.fixture(scope="module")
def dense(slide, tmp_path_factory):
    """The network over the scanner's file, all of it."""
    url = str(tmp_path_factory.mktemp("dense") / "out.zarr")
    report = engine.run(str(slide.path), NUCLEI, url, options=engine.Options(threads=2, batch=1, block=(512, 512)))
    assert report.is_complete
    assert report.plan.graph.n_blocks >= 4
    return url


@pytest.fixture(scope="module")
def found(dense):
    return objects_of(dense)


def objects_of(url, *, block=1024):
    """What is found of a result, in blocks of so many voxels a side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.slides.find_objects", partial(find_objects, block=(block, block)))
        report = slide_objects(url, RECIPE, measured=("probability",))
    rows = read_table(report.table_url).to_pylist()
    return Found(report, whole.read(report.label_url), rows, list(read_features(report.geojson_url)))


def bytes_of(report):
    """The files of a report: the table, and the outlines."""
    return [Path(url).read_bytes() for url in (report.table_url, report.geojson_url)]


def stored(url, name):
    return whole.read(f"{url}/{name}")


def labelled_at_once(classes, mpp):
    """The objects that :data:`RECIPE` means, from the whole label map."""
    every = whole.parted(classes, min_distance=RECIPE.min_distance)
    is_kept = np.bincount(every.ravel()) * mpp**2 >= RECIPE.min_area_um2
    is_kept[0] = False
    return whole.in_order(np.where(is_kept[every], every, 0)), int(every.max())


# ---- dense outputs --------------------------------------------------------------------------------------------------


def test_a_run_on_the_scanners_file_equals_one_pass_over_openslides_pixels(dense, reference):
    assert reference["probability"].std() > 0.02
    assert reference["label"].mean() > 0.005
    for name, path in {"probability": "probability", "uncertainty": "uncertainty", "label": "labels/label"}.items():
        values = stored(dense, path)
        assert values.shape == reference[name].shape
        assert np.abs(values.astype(float) - reference[name]).max() <= 1e-6, name
    assert np.count_nonzero(stored(dense, "labels/label") != reference["label"]) == 0


def test_under_tissue_what_is_wanted_equals_one_pass_and_the_rest_is_0(slide, reference, tmp_path):
    url = str(tmp_path / "out.zarr")
    options = engine.Options(threads=2, batch=1, block=(256, 256), tissue="auto")
    assert engine.run(str(slide.path), NUCLEI, url, options=options).is_complete
    plan, height, width = plan_of(url), *slide.pixels.shape[:2]
    wanted = np.kron(stored(url, "tissue"), np.ones(plan.mask.cell, np.uint8))[:height, :width] > 0
    assert 0.1 < wanted.mean() < 0.95
    for name, path in {"probability": "probability", "uncertainty": "uncertainty", "label": "labels/label"}.items():
        values, there = stored(url, path), reference[name][..., wanted]
        assert there.std() > 0
        assert np.abs(values[..., wanted].astype(float) - there).max() <= 1e-6, name
        assert not values[..., ~wanted].any()
    assert reference["probability"][..., ~wanted].any()


# ---- objects --------------------------------------------------------------------------------------------------------


def test_objects_are_those_of_the_whole_label_map_row_for_row(slide, dense, found):
    classes = stored(dense, "labels/label")
    wanted, n_before = labelled_at_once(classes, slide.mpp)
    assert n_before > wanted.max() > 50  # some were too small
    assert whole.n_crossing(wanted, (512, 512)) > 5
    assert np.array_equal(found.labels, wanted)
    rows = whole.table(wanted, classes, spacing=slide.mpp, probability=stored(dense, "probability")[0])
    assert len({row["mean_probability"] for row in rows}) > 50
    assert [{k: v for k, v in row.items() if k != "class_name"} for row in found.rows] == rows


def test_objects_have_the_same_bytes_whatever_the_blocks_they_are_sought_in(dense, found):
    wanted = bytes_of(found.report)  # by blocks of 1024
    for block in (256, 512):
        shutil.rmtree(f"{dense}/objects/nuclei")
        shutil.rmtree(f"{dense}/labels/nuclei")
        again = objects_of(dense, block=block)
        assert again.report == found.report
        assert bytes_of(again.report) == wanted
        assert np.array_equal(again.labels, found.labels)


def test_objects_are_the_same_whatever_the_blocks_of_the_run(small, tmp_path):
    runs = []
    for block in (256, 512, 1024):
        url = str(tmp_path / f"{block}.zarr")
        options = engine.Options(threads=2, batch=1, tile=(256, 256), block=(block, block))
        assert engine.run(str(small.path), NUCLEI, url, options=options, n_certified=1).is_complete
        runs.append(objects_of(url))
    first = runs[0]
    assert len(first.rows) > 50
    assert whole.n_crossing(first.labels, (256, 256)) > 5
    for again in runs[1:]:
        assert np.array_equal(again.labels, first.labels)
        assert bytes_of(again.report) == bytes_of(first.report)


# ---- outlines -------------------------------------------------------------------------------------------------------


def painted(features, shape, *, scale=(1.0, 1.0), shift=(0.0, 0.0)):
    """Fill the outlines again, each in its own box; ``scale`` and ``shift``, (y, x), lead to level-0 pixels."""
    labels = np.zeros(shape, np.uint32)
    for feature in features:
        check_rfc7946(feature)
        polygons = []
        for polygon in polygons_of(feature):
            rings = [(np.array(ring) - shift[::-1]) / scale[::-1] for ring in polygon]
            assert all(np.abs(ring - np.rint(ring)).max() < 0.01 for ring in rings)
            polygons.append([np.rint(ring).astype(int) for ring in rings])
        corners = np.concatenate([ring for rings in polygons for ring in rings])
        low, high = corners.min(0), corners.max(0)
        inside = filled([[(ring - low).tolist() for ring in rings] for rings in polygons], (high - low)[::-1])
        box = labels[low[1] : high[1], low[0] : high[0]]
        assert not box[inside].any()
        box[inside] = feature["properties"]["measurements"]["ID"]
    return labels


def test_outlines_filled_in_again_give_the_label_volume(found):
    assert len(found.features) == found.labels.max() > 50
    assert np.array_equal(painted(found.features, found.labels.shape), found.labels)


def test_outlines_are_level_0_pixels_also_where_the_run_is_coarser(small, tmp_path):
    fine, coarse = f"{tmp_path}/fine.zarr", f"{tmp_path}/coarse.zarr"
    for url, model in ((fine, NUCLEI), (coarse, COARSE)):
        assert engine.run(str(small.path), model, url, options=OPTIONS, n_certified=1).is_complete
    there, here = objects_of(fine), objects_of(coarse)
    label = open_volume(here.report.label_url)
    spacing = np.array([label.axes[i].spacing for i in positions(label.axes, Role.SPACE)])
    scale = spacing / small.mpp
    assert scale == pytest.approx(2, rel=0.01)
    shift = (np.array(label.levels[0].translation) - spacing / 2) / small.mpp + 0.5
    assert shift == pytest.approx(0, abs=1e-6)  # the same corner
    assert np.array_equal(painted(here.features, here.labels.shape, scale=scale, shift=shift), here.labels)

    def centres(rows):
        return np.array([(row["centroid_y_px"], row["centroid_x_px"]) for row in rows])

    fine_at, coarse_at = centres(there.rows), centres(here.rows)
    middles = ndimage.center_of_mass(here.labels > 0, here.labels, np.arange(1, len(coarse_at) + 1))
    np.testing.assert_allclose(coarse_at, (np.array(middles) + 0.5) * scale + shift, atol=1e-6)
    away = coarse_at[:, None] - fine_at[None]
    nearest = np.abs(away).max(2).argmin(1)
    offset = away[np.arange(len(away)), nearest]
    is_same = np.abs(offset).max(1) < 4
    assert is_same.sum() > 30
    assert is_same.mean() > 0.7
    assert np.abs(np.median(offset[is_same], axis=0)).max() < 0.25  # of a pixel: half of one would be a shifted grid
    micron = np.array([(row["centroid_y_um"], row["centroid_x_um"]) for row in here.rows])
    np.testing.assert_allclose(micron, coarse_at * small.mpp)


# ---- OME-Zarr -------------------------------------------------------------------------------------------------------


def test_the_output_opens_in_ome_zarr_with_its_labels_and_equals_an_ome_tiff_of_one_pass(
    slide, dense, found, reference, tmp_path
):
    image = Image.from_zarr(zarr.open_group(dense, mode="r"))
    assert image.attributes.ome.multiscales[0].datasets[0].path == "probability/0"
    for name in ("label", "nuclei"):
        label = ImageLabel.from_zarr(zarr.open_group(f"{dense}/labels/{name}", mode="r"))
        assert label.attributes.ome.image_label is not None

    tifffile.imwrite(
        tmp_path / "whole.ome.tiff",
        reference["probability"],
        metadata={"axes": "CYX", "PhysicalSizeX": slide.mpp, "PhysicalSizeY": slide.mpp},
        tile=(256, 256),
    )
    truth = tifffile.imread(tmp_path / "whole.ome.tiff")
    assert truth.std() > 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is not ours
        nodes = list(Reader(parse_url(dense))())
        levels = [np.asarray(level) for level in nodes[0].data]
    assert np.abs(levels[0].reshape(truth.shape) - truth).max() <= 1e-6
    for fine, coarse in pairwise(levels):
        assert coarse.shape[-2:] == tuple(-(-n // 2) for n in fine.shape[-2:])
    scale = nodes[0].metadata["coordinateTransformations"][0][0]["scale"]
    assert scale[-2:] == [slide.mpp] * 2

    by_name = {node.zarr.basename(): node for node in nodes}
    assert {"labels", "label", "nuclei"} <= set(by_name)
    assert np.array_equal(np.asarray(by_name["nuclei"].data[0]).reshape(found.labels.shape), found.labels)


# ---- statistics of a slide ------------------------------------------------------------------------------------------


BLOCKS = engine.Options(threads=2, batch=1, tile=(256, 256), block=(256, 256))


@pytest.fixture(scope="module")
def fitted(small, tmp_path_factory):
    """A run of a pipeline that is fitted to its slide."""
    url = str(tmp_path_factory.mktemp("fitted") / "out.zarr")
    report = engine.run(str(small.path), STAINED, url, options=BLOCKS, n_certified=0)
    assert report.is_complete
    return report


def recoloured(small, path):
    """The same tissue as another laboratory would stain it."""
    density = -np.log((small.pixels + 1.0) / 256) * (0.8, 1.15, 0.9)
    return opened(write_slide(path, (256 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8), mpp=small.mpp))


def test_what_is_fitted_to_a_slide_is_in_the_plan_and_workers_use_it(small, fitted):
    fresh = load_model(STAINED)
    assert unfitted(fresh.module)
    set_constants(fresh.module, plan_of(fitted.url).model.constants)
    wanted = whole_of(fresh, small.pixels)["probability"]
    assert wanted.std() > 0.02
    assert np.abs(wanted - whole_of(load_model(NUCLEI), small.pixels)["probability"]).max() > 0.01
    assert np.abs(stored(fitted.url, "probability") - wanted).max() <= 1e-5


def test_two_slides_are_fitted_each_to_its_own_colours(small, fitted, tmp_path):
    other = recoloured(small, tmp_path / "other.tiff")
    constants = engine.prepare(str(other.path), STAINED, BLOCKS).plan.model.constants
    assert constants.keys() == fitted.plan.model.constants.keys() != set()
    assert all(constants[path] != value for path, value in fitted.plan.model.constants.items())


def test_a_fitted_run_that_was_broken_off_ends_with_the_same_bits_and_can_be_verified(small, fitted, tmp_path):
    n_done = 0

    def stop(event):
        nonlocal n_done
        n_done += isinstance(event, TaskDone)
        if n_done == 5:
            raise KeyboardInterrupt

    url, plan = f"{tmp_path}/out.zarr", plan_to_json(fitted.plan)
    with pytest.raises(KeyboardInterrupt):
        engine.run(str(small.path), STAINED, url, plan=plan, listener=stop, n_certified=0)
    report = engine.resume(url)
    assert report.is_complete
    assert 0 < report.summary.n_done_before < report.plan.graph.n_tasks
    assert engine.verify(url, seed=1).holds
    assert checksums(url) == checksums(fitted.url)
