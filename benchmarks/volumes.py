"""Generated volumes: smooth structure under sensor noise, so that compression costs what it costs on real ones."""

from pathlib import Path
from tempfile import gettempdir

import numpy as np

from engine.geometry.axes import axes_from_names
from engine.geometry.region import Region
from engine.storage.create import create_volume
from engine.storage.volume import Volume, open_volume

FOLDER = Path(gettempdir()) / "haloengine-benchmarks"
"""Where generated volumes stay, so that the next run need not make them."""

CHUNKS = {"zyx": (64, 64, 64), "cyx": (3, 256, 256), "yx": (256, 256)}
SHARDS = {"zyx": (128, 128, 128), "cyx": (3, 1024, 1024), "yx": (2048, 2048)}


def generated(*, axes: str, shape: tuple[int, ...], dtype: str) -> Volume:
    """Return a volume of that shape; made once, shard by shard, the same every time."""
    FOLDER.mkdir(exist_ok=True)
    url = FOLDER / f"{axes}-{'x'.join(map(str, shape))}-{dtype}.zarr"
    if url.exists():
        return open_volume(str(url))
    draft = url.with_name(f"draft-{url.name}")
    shard = tuple(min(-(-n // c) * c, s) for n, c, s in zip(shape, CHUNKS[axes], SHARDS[axes], strict=True))
    volume = create_volume(
        str(draft), axes=axes_from_names(axes), shape=shape, dtype=dtype, chunk_shape=CHUNKS[axes], shard_shape=shard
    )
    grid = volume.levels[0].grid
    for number in range(grid.n_cells):
        region = grid.region(number)
        volume.write(region, voxels(region, dtype=dtype, seed=number))
    draft.rename(url)
    return open_volume(str(url))


def voxels(region: Region, *, dtype: str, seed: int) -> np.ndarray:
    """Return voxels of a region: waves along each axis, with noise of a few per cent."""
    signal = np.zeros(region.shape, dtype=np.float32)
    for axis, (start, stop) in enumerate(zip(region.start, region.stop, strict=True)):
        shape = [1] * len(region.shape)
        shape[axis] = stop - start
        place = np.arange(start, stop, dtype=np.float32)
        signal += (np.sin(place / 37) + 0.5 * np.sin(place / 11)).reshape(shape)
    noise = np.random.default_rng(seed).standard_normal(region.shape, dtype=np.float32)
    high = 200 if dtype == "uint8" else 3000
    return np.clip(high * (0.5 + 0.1 * signal + 0.04 * noise), 0, np.iinfo(dtype).max).astype(dtype)
