"""Real volumes through real networks, tile by tile: equal to one forward pass over all of it."""

import logging
import os
import time
from pathlib import Path

import nibabel
import numpy as np
import openslide
import pytest
import torch
import xarray as xr
from torch import nn

import engine
from engine.errors import PlanError
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.models.trace import trace
from engine.run import Report
from tests import real_models
from tests.oracle import Named, plan_for
from tests.real_models import Labels, Scaled, real, unet
from tests.stored import smooth, store, stored, whole

logger = logging.getLogger(__name__)
WRAP = Edge(EdgeKind.WRAP)
THREADS = max(2, len(os.sched_getaffinity(0)))


def _tiled(source: str, module: nn.Module, output: Path, **options: object) -> tuple[np.ndarray, Report]:
    """Run a module over a volume with the plain loop, and return what is stored."""
    report = engine.run(source, module, str(output), options=engine.Options(threads=THREADS, **options), n_certified=2)  # type: ignore[arg-type]
    assert report.is_complete, report
    return _cf(output) if (output / "output" / "output").exists() else stored(output), report


def _cf(output: Path) -> np.ndarray:
    return xr.open_zarr(output / "output", consolidated=False)["output"].to_numpy()


def _t1(crop: tuple[slice, ...] = ()) -> np.ndarray:
    voxels = np.asarray(nibabel.load(real(real_models.T1)).dataobj).T  # x, y, z in the file
    return np.ascontiguousarray(voxels[crop]) if crop else np.ascontiguousarray(voxels)


# A crop of the brain and a tile: as few voxels as 27 tiles allow; the longer halo, along one axis, gets 3.
CROPS = {
    "meshnet_model11_gw_ae": ((57, 58, 60), (51, 51, 52), 27),
    "meshnet_model20chan3cls": ((36, 40, 104), (36, 40, 96), 3),
}


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["meshnet_model11_gw_ae", pytest.param("meshnet_model20chan3cls", marks=pytest.mark.slow)]
)
def test_a_trained_meshnet_tiled_over_a_crop_of_the_brain_gives_the_labels_of_the_whole_pass(tmp_path, name):
    size, tile, n_tiles = CROPS[name]
    starts = (100, 90, 80)
    voxels = _t1(tuple(slice(a, a + n) for a, n in zip(starts, size, strict=True)))
    module = Labels(real_models.meshnet(name))
    found, report = _tiled(store(tmp_path / "t1.zarr", voxels, "zyx"), module, tmp_path / "out.zarr", tile=tile)
    wanted = whole(module, voxels[None])
    assert report.plan.n_tiles >= n_tiles
    assert set(np.unique(wanted)) == {0, 1, 2}
    assert np.count_nonzero(found != wanted) == 0


def test_a_meshnet_of_random_weights_gives_the_labels_of_the_whole_pass(tmp_path):
    network = real_models.meshnet_twin()
    voxels = (smooth((37, 34, 41)) * 40 + 128).clip(0, 255).astype(np.uint8)
    wanted = whole(Labels(network), voxels[None])
    found, report = _tiled(
        store(tmp_path / "in.zarr", voxels, "zyx"), Labels(network), tmp_path / "out.zarr", tile=(24, 24, 24)
    )
    assert report.plan.n_tiles >= 27
    assert len(np.unique(wanted)) > 1
    assert np.count_nonzero(found != wanted) == 0


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "tile"), [("meshnet_model11_gw_ae", 118), ("meshnet_model20chan3cls", 148)])
def test_a_trained_meshnet_tiled_over_the_whole_brain_gives_the_labels_of_the_whole_pass(tmp_path, name, tile):
    torch.set_num_threads(THREADS)
    module = Labels(real_models.meshnet(name))
    engine.ingest(real(real_models.T1), str(tmp_path / "t1.zarr"))
    begin = time.perf_counter()
    found, report = _tiled(str(tmp_path / "t1.zarr"), module, tmp_path / "out.zarr", tile=(tile,), block=(256,))
    tiled_seconds = time.perf_counter() - begin
    voxels = engine.open_volume(str(tmp_path / "t1.zarr")).read(Region.whole((256, 256, 256)))
    begin = time.perf_counter()
    wanted = whole(module, voxels[None])
    whole_seconds = time.perf_counter() - begin
    n_different = int(np.count_nonzero(found != wanted))
    counts = np.bincount(wanted.ravel(), minlength=3)
    logger.info(
        "| %s | T1 256^3 | %s | %d | %.2f | %d of %d | %s | %.0f | %.0f |",
        *(name, report.plan.tile_shape, report.plan.n_tiles, report.plan.compute_ratio, n_different, wanted.size),
        *(counts.tolist(), whole_seconds, tiled_seconds),
    )
    assert report.plan.n_tiles >= 27
    assert min(counts) > 100_000
    assert n_different == 0


def _slide_crop(shape: tuple[int, int]) -> np.ndarray:
    """Return tissue of the real slide as (channel, y, x), uint8."""
    with openslide.OpenSlide(real(real_models.SLIDE)) as slide:
        rgb = np.asarray(slide.read_region((600, 900), 0, (shape[1], shape[0])).convert("RGB"))
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def _tissue(shape: tuple[int, int]) -> np.ndarray:
    """Return what stands for the slide where it is not there."""
    return (smooth((3, *shape), n_passes=3) * 30 + 190).clip(0, 255).astype(np.uint8)


SLIDES = [
    pytest.param("transposed", _slide_crop, marks=pytest.mark.real, id="slide, transposed"),
    pytest.param("linear", _slide_crop, marks=pytest.mark.real, id="slide, bilinear"),
    pytest.param("transposed", _tissue, id="twin, transposed"),
    pytest.param("linear", _tissue, id="twin, bilinear"),
]


@pytest.mark.parametrize(("up", "pixels_of"), SLIDES)
def test_a_slide_through_a_unet_of_four_levels_equals_the_whole_pass(tmp_path, up, pixels_of):
    network = unet(n_space=2, n_in=3, n_out=2, widths=(4, 8, 16, 32), strides=[2] * 3, up=up)
    module = Scaled(network, shift=200.0, scale=40.0)
    pixels = pixels_of((352, 336))
    found, report = _tiled(
        store(tmp_path / "slide.zarr", pixels, "cyx", chunk=64),
        module,
        tmp_path / "out.zarr",
        tile=(128, 136),
        block=(96, 96),
    )
    wanted = whole(module, pixels)
    assert report.plan.n_tiles >= 9
    assert report.plan.tile_shape == (128, 136)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.real
def test_the_ingested_slide_whole_through_a_unet_equals_the_whole_pass(tmp_path):
    engine.ingest(real(real_models.SLIDE), str(tmp_path / "slide.zarr"))
    volume = engine.open_volume(str(tmp_path / "slide.zarr"))
    voxels = volume.read(Region.whole(volume.shape))
    network = unet(n_space=2, n_in=3, n_out=1, widths=(2, 4, 8, 16), strides=[2] * 3)
    module = Scaled(network, shift=200.0, scale=40.0)
    found, report = _tiled(str(tmp_path / "slide.zarr"), module, tmp_path / "out.zarr", tile=(512, 512))
    extent = [tiling.extent.extended for tiling in report.plan.tilings]
    extended = np.pad(
        voxels, [(0, 0), *((0, n - m) for n, m in zip(extent, voxels.shape[1:], strict=True))], mode="reflect"
    )
    wanted = whole(module, extended)[:, : voxels.shape[1], : voxels.shape[2]]
    assert report.plan.n_tiles >= 27
    assert wanted.std() > 0.01
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def _ct() -> np.ndarray:
    return np.asarray(nibabel.load(real(real_models.CT)).dataobj).astype(np.int32)


def _body() -> np.ndarray:
    return (smooth((43, 61, 57), n_passes=3) * 300).astype(np.int32)


CTS = [pytest.param(_ct, (40, 56, 56), marks=pytest.mark.real, id="ct"), pytest.param(_body, (30, 48, 48), id="twin")]


@pytest.mark.parametrize(("voxels_of", "tile"), CTS)
def test_a_scan_through_a_unet_of_uneven_strides_equals_the_pass_over_the_extended_scan(tmp_path, voxels_of, tile):
    network = unet(n_space=3, n_in=1, n_out=2, widths=(2, 4, 8), strides=[(1, 2, 2), 2])
    module = Scaled(network, shift=0.0, scale=300.0)
    voxels = voxels_of()
    found, report = _tiled(store(tmp_path / "ct.zarr", voxels, "zyx"), module, tmp_path / "out.zarr", tile=tile)
    extended = [tiling.extent.extended for tiling in report.plan.tilings]
    assert report.plan.geometry.steps == (2, 4, 4)
    assert extended != list(voxels.shape)
    assert any("extended by reflection" in note for note in report.plan.notes)
    reference = np.pad(voxels, [(0, n - m) for n, m in zip(extended, voxels.shape, strict=True)], mode="reflect")
    wanted = whole(module, reference[None])[(slice(None), *(slice(n) for n in voxels.shape))]
    assert report.plan.n_tiles >= 8
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def _winds() -> np.ndarray:
    """Return two levels of real vorticity-like wind on a (y, x) grid, both taken to unit variance."""
    with xr.open_dataset(real(real_models.ERA5)) as file:
        name = next(n for n in file.data_vars if n in ("u", "u_component_of_wind"))
        field = file[name].squeeze(drop=True).transpose("level", "latitude", "longitude").to_numpy()[[20, 30]]
    return (field / field.std(axis=(1, 2), keepdims=True)).astype(np.float32)


# tile lengths along y and x: ones that divide the grid and ones that do not
OCEANS = [
    pytest.param(real_models.pyqg, _winds, (36, 44), marks=pytest.mark.real, id="trained on real winds, 36 x 44"),
    pytest.param(
        real_models.pyqg, lambda: smooth((2, 64, 64)), (32, 32), marks=pytest.mark.real, id="trained, own size, 32"
    ),
    pytest.param(
        real_models.pyqg, lambda: smooth((2, 64, 64)), (45, 41), marks=pytest.mark.real, id="trained, own size, 45 x 41"
    ),
    pytest.param(real_models.pyqg_twin, lambda: smooth((2, 64, 64)), (32, 32), id="twin, 32 x 32"),
    pytest.param(real_models.pyqg_twin, lambda: smooth((2, 50, 62)), (29, 37), id="twin, 29 x 37"),
]
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Largest difference, as a share of the field's standard deviation."""

ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}
"""The same for networks of random weights: their sums cancel more, and float64 tells rounding from geometry."""


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("network_of", "field_of", "tile"), OCEANS)
def test_a_circular_network_on_a_periodic_grid_equals_the_whole_pass(tmp_path, network_of, field_of, tile, dtype):
    field, module = field_of(), network_of().to(dtype)
    source = store(tmp_path / "field.zarr", field, "cyx")
    found, report = _tiled(
        source, module, tmp_path / "out.zarr", tile=tile, block=(16, 24), edges={"y": WRAP, "x": WRAP}
    )
    wanted = whole(module, field, dtype)
    assert report.plan.n_tiles >= 4
    assert wanted.std() > 1e-3
    assert found.dtype == wanted.dtype
    bounds = BOUNDS if network_of is real_models.pyqg else ROUNDING
    assert np.abs(found - wanted).max() <= bounds[dtype] * wanted.std()


def test_a_circular_network_cut_under_the_edge_model_is_refused_with_the_edge_that_helps(tmp_path):
    source = store(tmp_path / "field.zarr", smooth((2, 64, 64)), "cyx")
    for edges, axis in (({}, "y"), ({"y": WRAP}, "x")):
        options = engine.Options(edges=edges, tile=(32, 32))
        with pytest.raises(PlanError, match=rf"axis '{axis}' .*circular padding.*--edge {axis}=wrap"):
            engine.run(source, real_models.pyqg_twin(), str(tmp_path / "out.zarr"), options=options)
    assert not (tmp_path / "out.zarr").exists()


def test_a_circular_network_that_fits_in_one_tile_runs_under_the_edge_model(tmp_path):
    field = smooth((2, 40, 48))
    found, report = _tiled(store(tmp_path / "field.zarr", field, "cyx"), real_models.pyqg_twin(), tmp_path / "out.zarr")
    assert report.plan.n_tiles == 1
    np.testing.assert_allclose(found, whole(real_models.pyqg_twin(), field), rtol=0, atol=1e-6)


def test_a_circular_network_too_large_for_the_memory_is_refused_with_the_edge_that_helps():
    field = np.broadcast_to(np.float32(0), (2, 200_000, 200_000))
    module = Named(real_models.pyqg_twin())
    geometry = trace(module, n_channels=2, n_space=2, dtype=torch.float32)
    with pytest.raises(PlanError, match="circular padding allows no tile short of the whole of y, x"):
        plan_for(geometry, field)
