"""U-Nets on the real slide and the real CT: tiles beside one forward pass over the whole volume in memory."""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import engine
from benchmarks.report import Result
from engine.geometry.region import Region
from engine.models.wrappers import Normalise
from tests.real_models import unet

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SLIDE = (DATA / "slide" / "CMU-1-Small-Region.svs", (127.5, 64.0), 3, [(2, 2)] * 3, ((384, 384), (640, 640), None))
CT = (
    DATA / "ct" / "totalsegmentator_example_ct.nii.gz",
    (-200.0, 500.0),
    1,
    [(1, 2, 2), (1, 2, 2)],
    ((48, 76, 76), (64, 84, 84), (64, 88, 88), None),
)
COLUMNS = ("volume and network", "tile", "tiles", "max difference", "of std", "labels that differ", "std", "seconds")


def main() -> list[Result]:
    """Return one table, empty where the real volumes are absent."""
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for path, constants, n_in, strides, tiles in (SLIDE, CT):
            if path.exists():
                rows += _rows(Path(folder), path, constants, n_in=n_in, strides=strides, tiles=tiles)
    note = (
        "Wanted: at most 1e-6 of the field's std. A tile so small that its coarsest level is a few voxels makes oneDNN "
        "take other kernels than for the whole, and they round otherwise."
    )
    return [Result("Tiles beside the whole pass, float32", COLUMNS, tuple(rows), note)]


def _rows(folder, path, constants, *, n_in, strides, tiles):
    engine.ingest(path, str(folder / f"{path.name}.zarr"))
    volume = engine.open_volume(str(folder / f"{path.name}.zarr"))
    voxels = volume.read(Region.whole(volume.shape))
    n_space = len(strides[0])
    space = voxels.shape[-n_space:]
    steps = np.prod(np.array(strides), axis=0)
    lead = voxels.reshape(n_in, *space)
    extended = np.pad(lead, [(0, 0), *((0, int(-n % s)) for n, s in zip(space, steps, strict=True))], mode="reflect")
    widths = [8 * 2**stage for stage in range(len(strides) + 1)]
    for up in ("transposed", "linear"):
        network = unet(seed=0, n_space=n_space, n_in=n_in, n_out=3, widths=widths, strides=strides, up=up)
        model = torch.nn.Sequential(Normalise(*constants), network).eval()
        with torch.inference_mode():
            whole = model(torch.from_numpy(extended)[None].float())[0].numpy()
        whole = whole[(slice(None), *(slice(n) for n in space))]
        for tile in tiles:
            yield _row(folder, f"{path.name}, {up}", model, volume.url, whole=whole, tile=tile)


def _row(folder, name, model, source, *, whole, tile):
    out = str(folder / "out.zarr")
    block = None if tile is None else (64,) if len(tile) == 3 else (256,) if tile[0] < 600 else (512,)
    begin = time.monotonic()
    options = engine.Options(tile=tile, block=block, batch=1, pyramid=False)
    report = engine.run(source, model, out, options=options, n_certified=0)
    seconds = time.monotonic() - begin
    stored = engine.open_volume(f"{out}/output")
    ours = stored.read(Region.whole(stored.shape))
    shutil.rmtree(out)
    worst = float(np.abs(ours - whole).max())
    return (
        name,
        " x ".join(map(str, report.plan.tile_shape)),
        str(report.plan.n_tiles),
        f"{worst:.3g}",
        f"{worst / whole.std():.2g}",
        str(int((ours.argmax(0) != whole.argmax(0)).sum())),
        f"{whole.std():.3g}",
        f"{seconds:.1f}",
    )
