"""Under a mask: what is wanted equals the whole pass, the rest is 0, and the coverage says which is which."""

import numpy as np
import pytest
import torch
import zarr
from ome_zarr_models.v05 import Image, ImageLabel

import engine
from engine.describe import describe
from engine.errors import TissueError, VolumeError
from engine.geometry.axes import Axis, Role
from engine.geometry.region import Region
from engine.prepare import Options, prepare
from engine.run import run
from engine.runtime.events import TaskDone
from engine.runtime.masking import coverage
from engine.show import report_rows, status_rows
from engine.storage.create import create_volume
from engine.storage.ledger import State
from engine.storage.volume import open_volume

SHAPE = (3, 452, 612)
CELL = 32  # 16 um at 0.5 um


class Heads(torch.nn.Module):
    """Outputs at scale 1 and 1/4, with and without channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(3, 4, 5, padding=2), torch.nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        y = self.second(torch.relu(self.first(x / 255)))
        coarse = torch.nn.functional.avg_pool2d(y, 4)
        return {"probability": torch.softmax(y, 1), "label": y.argmax(1).to(torch.uint8), "coarse": coarse}


def slide_axes(spacing, names="cyx"):
    roles = {"c": (Role.CHANNEL, 1.0, None)}
    return tuple(Axis(n, *roles.get(n, (Role.SPACE, spacing, "micrometer"))) for n in names)


def stored(url, voxels, *, spacing, names="cyx"):
    volume = create_volume(
        url, axes=slide_axes(spacing, names), dtype=voxels.dtype, shape=voxels.shape,
        chunk_shape=[min(n, 128) for n in voxels.shape],
    )  # fmt: skip
    volume.write(Region.whole(volume.shape), voxels)
    return url


def whole(url):
    volume = open_volume(url)
    return volume.read(Region.whole(volume.shape))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    pixels = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    mask = np.zeros((15, 20), np.uint8)  # cells of 16 um
    mask[2:6, 3:9] = 1
    mask[12:, 17:] = 1
    mask[9, 0] = 1
    stored(f"{folder}/slide.zarr", pixels, spacing=0.5)
    stored(f"{folder}/mask.zarr", mask, spacing=16.0, names="yx")
    with torch.inference_mode():
        reference = {name: value[0].numpy() for name, value in Heads()(torch.from_numpy(pixels)[None].float()).items()}
    return folder, mask, reference


def wanted_voxels(mask, scale):
    big = np.kron(mask, np.ones((CELL, CELL), np.uint8))[: SHAPE[1], : SHAPE[2]] > 0
    if scale == 1:
        return big
    rows, columns = SHAPE[1] // scale, SHAPE[2] // scale
    return big[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale).any((1, 3))


@pytest.mark.parametrize("block", [64, 192, 512])
def test_the_wanted_part_equals_the_whole_pass_whatever_the_blocks_and_the_rest_is_zero(scene, tmp_path, block):
    folder, mask, reference = scene
    out = f"{tmp_path}/out.zarr"
    options = Options(tissue=f"{folder}/mask.zarr", tile=(96, 96), block=(block, block))
    report = run(f"{folder}/slide.zarr", Heads(), out, options=options)
    assert report.is_complete
    assert report.certificate.n_tiles > 0
    assert (report.summary.n_skipped > 0) == (block < 512)
    assert 0 < report.summary.n_tiles < report.plan.n_tiles
    for name, path, scale in [("probability", "probability", 1), ("label", "labels/label", 1), ("coarse", "coarse", 4)]:
        wanted = wanted_voxels(mask, scale)
        assert reference[name][..., wanted].std() > 0
        assert 0 < wanted.mean() < 1
        found = whole(f"{out}/{path}")
        np.testing.assert_allclose(found[..., wanted], reference[name][..., wanted], atol=1e-6, rtol=0)
        assert not found[..., ~wanted].any()
    np.testing.assert_array_equal(whole(f"{out}/tissue"), mask)
    np.testing.assert_array_equal(whole(f"{out}/coverage"), np.where(mask, 1, 2))


def test_an_interrupted_masked_run_says_what_is_pending_and_resumes_to_the_same_bits(scene, tmp_path):
    folder, _mask, _ = scene
    options = Options(tissue=f"{folder}/mask.zarr", tile=(96, 96), block=(64, 64))
    run(f"{folder}/slide.zarr", Heads(), f"{tmp_path}/one.zarr", options=options)

    def stop(event):
        if isinstance(event, TaskDone) and event.receipt.task > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(f"{folder}/slide.zarr", Heads(), f"{tmp_path}/two.zarr", options=options, listener=stop)
    assert engine.resume(f"{tmp_path}/two.zarr", model=Heads()).is_complete
    assert engine.verify(f"{tmp_path}/two.zarr", model=Heads()).holds
    for path in ("probability", "labels/label", "coarse", "coverage"):
        assert whole(f"{tmp_path}/one.zarr/{path}").tobytes() == whole(f"{tmp_path}/two.zarr/{path}").tobytes()


def test_a_block_that_fails_is_failed_in_the_coverage(scene, tmp_path):
    folder, mask, _ = scene
    source = stored(f"{tmp_path}/slide.zarr", whole(f"{folder}/slide.zarr"), spacing=0.5)
    chunk = f"{source}/0/c/0/0/1"  # y 0:128, x 128:256
    options = Options(tissue=f"{folder}/mask.zarr", tile=(96, 96), block=(64, 64))

    def damage(event):
        with open(chunk, "wb") as file:  # noqa: PTH123
            file.write(b"no chunk")

    report = run(source, Heads(), f"{tmp_path}/out.zarr", options=options, listener=damage)
    found = whole(f"{tmp_path}/out.zarr/coverage")
    assert report.summary.n_failed
    assert not report.is_complete
    assert set(np.unique(found)) == {1, 2, 3}
    assert ((found == 2) == (mask == 0)).all()


def test_the_output_is_one_ome_zarr_image_with_its_labels(scene, tmp_path):
    folder, _, _ = scene
    options = Options(tissue=f"{folder}/mask.zarr")
    run(f"{folder}/slide.zarr", Heads(), f"{tmp_path}/out.zarr", options=options)
    image = Image.from_zarr(zarr.open_group(f"{tmp_path}/out.zarr", mode="r"))
    label = ImageLabel.from_zarr(zarr.open_group(f"{tmp_path}/out.zarr/labels/label", mode="r"))
    assert image.attributes.ome.multiscales[0].datasets[0].path == "probability/0"
    assert label.attributes.ome.image_label.source.image == "../../"
    assert zarr.open_group(f"{tmp_path}/out.zarr/labels").attrs["ome"]["labels"] == ["label"]


def test_a_saved_plan_keeps_its_mask_and_refuses_another(scene, tmp_path):
    folder, mask, _ = scene
    url = stored(f"{tmp_path}/mask.zarr", mask, spacing=16.0, names="yx")
    first = run(f"{folder}/slide.zarr", Heads(), f"{tmp_path}/one.zarr", options=Options(tissue=url))
    plan = engine.plan_json.plan_to_json(first.plan)
    again = run(f"{folder}/slide.zarr", Heads(), f"{tmp_path}/two.zarr", plan=plan)
    assert again.plan.mask == first.plan.mask
    assert again.is_complete
    open_volume(url).write(Region.whole(mask.shape), 1 - mask)
    with pytest.raises(engine.errors.PlanError, match="the mask .* is not the one"):
        run(f"{folder}/slide.zarr", Heads(), f"{tmp_path}/three.zarr", plan=plan)


def test_nothing_wanted_is_refused_and_so_is_an_output_with_the_name_of_the_engines_own(scene, tmp_path):
    folder, mask, _ = scene
    empty = stored(f"{tmp_path}/mask.zarr", 0 * mask, spacing=16.0, names="yx")
    with pytest.raises(TissueError, match="finds no tissue"):
        run(f"{folder}/slide.zarr", Heads(), f"{tmp_path}/out.zarr", options=Options(tissue=empty))

    class Reserved(Heads):
        def forward(self, x):
            return {"tissue": super().forward(x)["probability"]}

    with pytest.raises(VolumeError, match="may not be called tissue"):
        run(f"{folder}/slide.zarr", Reserved(), f"{tmp_path}/out.zarr")


class Unpadded(torch.nn.Module):
    """One output loses 40 voxels on each side, so that its last blocks are empty."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.same = torch.nn.Conv2d(3, 1, 81), torch.nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        return {"less": self.wide(x / 255), "same": self.same(x / 255)}


def test_blocks_of_an_unpadded_output_that_hold_nothing_are_skipped(scene, tmp_path):
    folder, _, _ = scene
    options = Options(tissue=f"{folder}/mask.zarr", block=(64, 64), tile=(192, 192))
    report = run(f"{folder}/slide.zarr", Unpadded(), f"{tmp_path}/out.zarr", options=options)
    assert report.is_complete
    last = tuple(n - 1 for n in report.plan.graph.counts)
    assert not report.plan.block_region(report.plan.output("less"), last).n_voxels


def test_tissue_that_is_a_speck_is_certified(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (3, 2048, 2048), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[50, 9] = 1
    stored(f"{tmp_path}/slide.zarr", pixels, spacing=0.5)
    stored(f"{tmp_path}/mask.zarr", mask, spacing=16.0, names="yx")
    options = Options(tissue=f"{tmp_path}/mask.zarr", tile=(96, 96), block=(64, 64), pyramid=False)
    report = run(f"{tmp_path}/slide.zarr", Heads(), f"{tmp_path}/out.zarr", options=options)
    assert report.is_complete
    assert report.certificate.n_tiles == 4
    assert report.n_background == 32 * 32 - 1
    shown = dict(report_rows(report))
    assert shown["background"].startswith("1,023 of 1,024 blocks skipped, which saved about ")
    assert "1,024 of 1,024 stored or skipped" in shown["tasks"]
    stands = dict(status_rows(engine.status(f"{tmp_path}/out.zarr")))
    assert stands["background"] == shown["background"]
    assert stands["wanted"].startswith("0.0% of y 64 x x 64 cells")


def test_a_cell_over_many_small_blocks_has_the_worst_of_them_all(scene, tmp_path):
    folder, mask, _ = scene
    options = Options(tissue=f"{folder}/mask.zarr", tile=(40, 40), block=(8, 8), pyramid=False)
    prepared = prepare(f"{folder}/slide.zarr", Heads(), options)
    output = describe(prepared, f"{tmp_path}/out.zarr", options=options)
    graph = prepared.plan.graph
    for task in range(graph.n_blocks):
        output.ledger.mark(task, State.DONE)
    inside = graph.task(0, (2 * 4 + 1, 3 * 4 + 2))  # neither the first nor the last block of cell (2, 3)
    output.ledger.mark(inside, State.FAILED, "by hand")
    found = coverage(prepared.mask, output.ledger)
    assert found[2, 3] == 3
    assert (found == 3).sum() == 1
    assert ((found == 1) == (mask > 0) & (found != 3)).all()
