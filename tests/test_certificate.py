"""The seam certificate: it holds on a true output, is kept with it, and finds a voxel changed near a seam."""

import json

import numpy as np
import pytest
import zarr

import engine
from engine.certificate import certify
from engine.errors import RunError, VerifyError
from engine.models.forward import pick_device
from engine.models.load import load_model
from engine.run import Report, check_complete
from engine.runtime.serial import SerialRunner
from engine.storage.output import open_output
from engine.storage.record import KEY
from tests.faults import Fault, FaultyFactory
from tests.stored import smooth, store

OPTIONS = engine.Options(tile=(48, 48), block=(32, 32), threads=2, batch=1, pyramid=False)
MODEL = "tests.pipelines:labelled"


def _source(folder) -> str:
    pixels = (smooth((3, 160, 128)) * 30 + 190).clip(0, 255).astype(np.uint8)
    return store(folder / "in.zarr", pixels, "cyx")


@pytest.fixture
def done(tmp_path) -> Report:
    report = engine.run(_source(tmp_path), MODEL, str(tmp_path / "out.zarr"), options=OPTIONS)
    check_complete(report)
    return report


def _tamper(url: str, name: str, where: tuple[slice, ...], by: float) -> None:
    array = zarr.open_array(f"{url}/{'labels/' * (name == 'label')}{name}/0", mode="r+")
    array[where] = (array[where] + by).astype(array.dtype)


def test_a_true_output_is_certified_and_the_certificate_is_kept_with_it(done):
    assert done.certificate is not None
    assert done.certificate.holds
    assert done.certificate.n_tiles == 4
    assert done.certificate.tile_shape != done.plan.tile_shape
    for seams in done.certificate.outputs.values():
        assert seams.std > 0
        assert seams.n_voxels > 1000
    kept = zarr.open_group(done.url, mode="r").attrs[KEY]["certificate"]
    assert kept == json.loads(json.dumps(done.certificate.to_json()))
    assert kept["outputs"]["label"]["n_different"] == 0


def test_verify_writes_a_new_certificate_and_repeats_itself_for_one_seed(done):
    first = engine.verify(done.url, n_tiles=6, seed=3)
    assert first.holds
    assert engine.verify(done.url, n_tiles=6, seed=3) == first
    assert zarr.open_group(done.url, mode="r").attrs[KEY]["certificate"]["seed"] == 3


@pytest.mark.parametrize(
    ("name", "where"), [("probability", (slice(1), slice(64, 65))), ("label", (slice(63, 65), slice(None)))]
)
def test_a_change_along_a_seam_is_found_and_said(done, name, where):
    _tamper(done.url, name, where, by=0.01 if name == "probability" else 1)
    with pytest.raises(VerifyError, match=rf"differ from .* beyond rounding: '{name}'"):
        engine.verify(done.url, n_tiles=24, seed=0)
    assert zarr.open_group(done.url, mode="r").attrs[KEY]["certificate"]["holds"] is False


def test_a_change_of_a_single_voxel_inside_a_recomputed_tile_is_found(done):
    untouched = engine.verify(done.url, n_tiles=40, seed=5)
    assert untouched.holds
    _tamper(done.url, "probability", (slice(0, 1), slice(65, 66), slice(66, 67)), by=0.5)
    with pytest.raises(VerifyError, match="'probability' by up to 0.5"):
        engine.verify(done.url, n_tiles=40, seed=5)


def test_rounding_is_not_taken_for_a_change(done):
    _tamper(done.url, "probability", (slice(None),), by=1e-7)
    assert engine.verify(done.url, n_tiles=12, seed=1).holds


def test_blocks_that_are_not_done_are_passed_over(tmp_path):
    def runner(factory, plan):
        return SerialRunner(FaultyFactory(factory, (Fault(9, "raise"),)))

    report = engine.run(
        _source(tmp_path), MODEL, str(tmp_path / "out.zarr"), options=OPTIONS, runner=runner, n_certified=30
    )
    assert report.certificate is not None
    assert report.certificate.n_skipped > 0
    assert report.certificate.n_tiles > 0
    assert report.certificate.holds
    assert not report.is_complete
    with pytest.raises(RunError, match="1 blocks failed.*scripted fault.*engine resume"):
        check_complete(report)


def test_an_output_of_which_nothing_is_done_cannot_be_verified(tmp_path):
    def runner(factory, plan):
        return SerialRunner(FaultyFactory(factory, tuple(Fault(task, "raise") for task in range(plan.graph.n_tasks))))

    report = engine.run(_source(tmp_path), MODEL, str(tmp_path / "out.zarr"), options=OPTIONS, runner=runner)
    assert report.certificate is None
    with pytest.raises(VerifyError, match="none of its blocks there is done.*Resume"):
        engine.verify(report.url)


def test_the_plan_and_the_source_are_what_is_recomputed(done, tmp_path):
    """Certify reads the source itself: another source of the same shape does not pass."""
    output = open_output(done.url)
    other = store(
        tmp_path / "other.zarr", (smooth((3, 160, 128), seed=8) * 30 + 190).clip(0, 255).astype(np.uint8), "cyx"
    )
    found = certify(
        done.plan, load_model(MODEL), engine.open_volume(other), output, n_tiles=4, seed=0, device=pick_device("cpu")
    )
    assert not found.holds
