"""TIAToolbox's SemanticSegmentor on one slide, in an environment of its own; it knows nothing of haloengine.

It needs another torch, zarr and numpy than the engine. Make its environment outside the repository (6.5 GB; 2 minutes):

    python3.11 -m venv ../tia-env
    ../tia-env/bin/pip install tiatoolbox==2.1.3 torch==2.12.1 torchvision==0.27.1 numpy==2.4.3 zarr==3.1.6 \
        dask==2026.7.0 openslide-python==1.4.3 openslide-bin==4.0.1.1 opencv-python==4.14.0.94 psutil

torch and torchvision are the builds of the package index, with CUDA: they run without a GPU too. Then

    ../tia-env/bin/python benchmarks/tiatoolbox_child.py --slide SLIDE --model MODEL.pt --out FOLDER --tile 512 \
        --stride 256 [--core 256] [--mask] [--mpp 0.5] [--batch 8]

MODEL.pt is a TorchScript module from float RGB 0..255 (b, 3, y, x) to probabilities (b, c, y, x) of the same size. The
slide is read at its finest level, voxel for voxel; ``--mpp`` reads it resampled, as TIAToolbox's own models do. One
line of JSON is printed; FOLDER then holds TIAToolbox's Zarr and ``probability.npy``, (c, y, x).
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import tiatoolbox
import torch
import zarr
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.tree import Peak


class Scripted(ModelABC):
    """A TorchScript network as TIAToolbox wants a model."""

    def __init__(self, path: Path, *, core: int) -> None:
        super().__init__()
        self.network = torch.jit.load(str(path), map_location="cpu").eval()
        self.core = core

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        return self.network(voxels)

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
        """Return (b, y, x, c) for uint8 (b, y, x, 3)."""
        voxels = batch_data.to(device).permute(0, 3, 1, 2).to(torch.float32).contiguous()
        margin = (voxels.shape[-1] - model.core) // 2
        inside = slice(margin, margin + model.core)
        with torch.inference_mode():
            return model(voxels)[..., inside, inside].permute(0, 2, 3, 1).contiguous().cpu().numpy()

    @staticmethod
    def postproc(image: Any) -> Any:
        """Return labels (y, x) for probabilities (y, x, c), as TIAToolbox's own networks do."""
        return (image[..., 0] > 0.5) * np.uint8(1) if image.shape[-1] == 1 else image.argmax(-1)


def segment(wanted: argparse.Namespace) -> Path:
    """Run TIAToolbox over the slide and return the Zarr that it wrote."""
    resolution = {"units": "mpp", "resolution": wanted.mpp} if wanted.mpp else {"units": "baseline", "resolution": 1.0}
    config = IOSegmentorConfig(
        input_resolutions=[resolution], output_resolutions=[resolution], save_resolution=resolution,
        patch_input_shape=(wanted.tile,) * 2, patch_output_shape=(wanted.core or wanted.tile,) * 2,
        stride_shape=(wanted.stride,) * 2,
    )  # fmt: skip
    model = Scripted(wanted.model, core=wanted.core or wanted.tile)
    segmentor = SemanticSegmentor(model=model, batch_size=wanted.batch, num_workers=wanted.workers, verbose=False)
    found = segmentor.run(
        images=[wanted.slide], patch_mode=False, ioconfig=config, save_dir=wanted.out / "tiatoolbox", overwrite=True,
        output_type="zarr", return_probabilities=True, auto_get_mask=wanted.mask, device="cpu",
        memory_threshold=wanted.memory_threshold,
    )  # fmt: skip
    return Path(next(iter(found.values())))


def copied(group: Path, target: Path) -> dict[str, Any]:
    """Copy the probabilities, a row of chunks at a time, as (c, y, x), and say what else the group holds."""
    arrays = dict(zarr.open_group(str(group), mode="r").arrays())
    source = arrays["probabilities"]  # (y, x, c)
    height, width, n_channels = source.shape
    copy = np.lib.format.open_memmap(target, mode="w+", dtype=source.dtype, shape=(n_channels, height, width))
    for top in range(0, height, source.chunks[0]):
        copy[:, top : top + source.chunks[0]] = np.moveaxis(np.asarray(source[top : top + source.chunks[0]]), -1, 0)
    copy.flush()
    return {name: f"{array.dtype} {array.shape}, chunks {array.chunks}" for name, array in arrays.items()}


def main(wanted: argparse.Namespace) -> None:
    torch.set_num_threads(wanted.threads)
    cv2.setNumThreads(wanted.threads)
    wanted.out.mkdir(parents=True, exist_ok=True)
    before = psutil.Process().memory_info().rss
    with Peak() as peak:
        begin = time.perf_counter()
        group = segment(wanted)
        seconds = time.perf_counter() - begin
    files = [path for path in group.parent.rglob("*") if path.is_file()]
    facts = {
        "seconds": seconds,
        "peak": peak.n_bytes,
        "rss_before": before,
        "n_files": len(files),
        "n_bytes_written": sum(path.stat().st_size for path in files),
        "zarr": str(group),
        "arrays": copied(group, wanted.out / "probability.npy"),
        "probability": str(wanted.out / "probability.npy"),
        "tile": wanted.tile, "core": wanted.core or wanted.tile, "stride": wanted.stride, "batch": wanted.batch,
        "mask": wanted.mask, "mpp": wanted.mpp, "threads": torch.get_num_threads(),
        "tiatoolbox": tiatoolbox.__version__, "torch": torch.__version__, "zarr_python": zarr.__version__,
        "python": sys.version.split()[0],
    }  # fmt: skip
    print(json.dumps(facts), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run TIAToolbox's SemanticSegmentor over a slide and time it.")
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="TorchScript, float RGB 0..255 to probabilities")
    parser.add_argument("--out", type=Path, required=True, help="folder; made anew inside")
    parser.add_argument("--tile", type=int, default=512, help="side of a patch that the network sees")
    parser.add_argument("--core", type=int, help="side of its middle that is kept (patch_output_shape); all by default")
    parser.add_argument("--stride", type=int, default=512, help="step from patch to patch; overlaps are averaged")
    parser.add_argument("--batch", type=int, default=8, help="patches in a forward pass; TIAToolbox's default is 8")
    parser.add_argument("--workers", type=int, default=0, help="processes that read; TIAToolbox's default is 0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-threshold", type=int, default=80, help="percent of memory from which it uses disk")
    parser.add_argument("--mask", action="store_true", help="leave out patches without tissue (auto_get_mask)")
    parser.add_argument("--mpp", type=float, help="read at this resolution instead of voxel for voxel")
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
