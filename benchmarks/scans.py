"""Scans: trained networks on a real brain, a sliding window, and many classes on large scans, each beside MONAI."""

from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch.nn import functional as F

from benchmarks import networks
from benchmarks.alone import alone
from benchmarks.compare import COLUMNS, T1, compare, take_turns
from benchmarks.networks import WINDOW, has_trained
from benchmarks.report import Result
from benchmarks.volumes import FOLDER, generated
from engine.geometry.region import Region
from engine.memory import format_bytes
from engine.prepare import Options, prepare
from engine.run import check_complete, run_prepared
from engine.storage.ingest import ingest
from engine.storage.volume import open_volume

OVERLAPS = (0.25, 0.5, 0.75)
GIB = 2**30
LIMIT = 2 * GIB
"""Memory limit of our runs over large scans."""

SCANS = ((200, 256, 256), (800, 512, 512))
CLASSES = (2, 20, 100)
ROOM = 14 * GIB
"""MONAI is not started where two arrays of all classes over the source would take more."""


def main() -> list[Result]:
    """Take what generated scans can show."""
    return [windowed(), many_classes()]


def brain() -> list[Result]:
    """Run the trained MeshNet of 11 channels a layer on the real brain, where it is there."""
    return _brain("model11_gw_ae", "meshnet_trained", memory=3000)


def brain20() -> list[Result]:
    """Run the one of 20 channels, which sees 46 voxels about each: in less memory, tiles are mostly halo."""
    return _brain("model20chan3cls", "meshnet_20chan", memory=5000)


def _brain(name: str, factory: str, *, memory: int) -> list[Result]:
    if not (has_trained() and T1.exists()):
        print(f"the trained MeshNets on the real brain are left out: {T1} is not there")
        return []
    volume = ingest(T1, str(FOLDER / "t1.zarr"))
    title, model = f"The trained MeshNet {name} on a real T1 brain", f"benchmarks.networks:{factory}"
    return [compare(title, model, volume, memory=memory, rounds=1, overlaps=OVERLAPS, with_dask=False)]


def windowed() -> Result:
    """Return a network with instance norm through one sliding window, MONAI's and ours, by one window and by two."""
    volume = generated(axes="zyx", shape=(160, 192, 192), dtype="uint8")
    given: dict[str, Any] = {
        "source": volume.url, "n_channels": 1, "n_classes": 4, "warm": (WINDOW,) * 3, "rounds": 3,
        "memory": 3 * GIB, "roi": (WINDOW,) * 3, "overlap": 0.5,
    }  # fmt: skip
    models = {
        "MONAI": {"way": "monai", "model": "benchmarks.networks:instance_unet"},
        "ours": {"way": "ours", "model": "benchmarks.networks:windowed_unet"},
    }
    ways = {f"{whose}, {n} at once": {**given, **models[whose], "batch": n} for n in (1, 2) for whose in models}
    with TemporaryDirectory(prefix="bench-") as name:
        saved = {way: str(Path(name) / f"{i}.npy") for i, way in enumerate(ways)}
        children = take_turns({way: {**wanted, "scores": saved[way]} for way, wanted in ways.items()}, 3)
        scores = {way: np.load(path) for way, path in saved.items()}
    first = scores["MONAI, 1 at once"]
    rows = []
    for way, child in children.items():
        theirs = way.replace("ours", "MONAI")
        compared = scores[theirs] if way != theirs else first
        rows.append(
            (
                way,
                f"{child.best:.1f}",
                f"{child.best / children[theirs].best:.2f}",
                format_bytes(child.peak),
                f"{np.abs(scores[way] - compared).max():.2g}",
                f"{(scores[way].argmax(0) != compared.argmax(0)).sum()}",
            )
        )
    return Result(
        "A U-Net with instance norm through one sliding window",
        ("windows", "seconds", "over MONAI", *COLUMNS[3:]),
        tuple(rows),
        f"{'x'.join(map(str, volume.shape))}, window {WINDOW}^3, overlap 0.5, Gaussian, 2 threads, a process each, "
        f"best of 3 in turns; scores from {first.min():.2f} to {first.max():.2f}, std {first.std():.2f}. Ours goes "
        "from Zarr to Zarr, MONAI has all in memory. Differences: ours from MONAI's with as many windows at once; "
        "MONAI's from its own with one, where other kernels round otherwise. Wanted: 1e-6, and not slower.",
    )


def many_classes() -> Result:
    """Return seconds and peak memory of a resampled segmentation as classes and scan grow."""
    rows = []
    for shape in SCANS:
        url = generated(axes="zyx", shape=shape, dtype="int16").url
        for n_classes in CLASSES:
            n_bytes = 2 * n_classes * prod(shape) * 4
            ours = alone(partial(_ours, url, n_classes))
            theirs = alone(partial(_monai, url, n_classes)) if n_bytes <= ROOM else None
            told = (f"{theirs[0]:.0f}", format_bytes(theirs[1])) if theirs else ("-", f"over {format_bytes(n_bytes)}")
            rows.append(("x".join(map(str, shape)), str(n_classes), f"{ours[0]:.0f}", format_bytes(ours[1]), *told))
    return Result(
        "A segmentation at twice the scan's spacing, brought back to it class by class",
        ("scan", "classes", "ours, s", "ours, peak", "MONAI, s", "MONAI, peak"),
        tuple(rows),
        "int16, a cheap network, 2 threads, a process each; ours from Zarr to Zarr under --memory "
        f"{format_bytes(LIMIT)}, planning and certificate included; MONAI resamples the whole, slides a window of 96^3 "
        "(overlap 0.25, Gaussian), resamples all classes back and takes the largest. 'over' is arithmetic, two arrays "
        "of all classes: it was not run. Wanted: flat in classes and scan.",
    )


def _ours(url: str, n_classes: int) -> None:
    model, options = networks.resampled_segmenter(n_classes), Options(threads=2, memory=LIMIT, pyramid=False)
    with TemporaryDirectory(prefix="bench-") as folder:
        prepared = prepare(url, model, options)
        check_complete(run_prepared(prepared, f"{folder}/out.zarr", model=model, options=options))


def _monai(url: str, n_classes: int) -> None:
    volume, network = open_volume(url), networks.segmenter(n_classes)
    with torch.inference_mode():
        x = torch.from_numpy(volume.read(Region.whole(volume.shape)))[None, None].to(torch.float32)
        x = (x - 1500) / 500
        there = F.interpolate(x, size=[round(n / 2) for n in volume.shape], mode="trilinear")
        scores = sliding_window_inference(there, (96,) * 3, 1, network, 0.25, "gaussian")
        labels = F.interpolate(scores, size=volume.shape, mode="trilinear").argmax(1).to(torch.uint8)
    with TemporaryDirectory(prefix="bench-") as folder:
        np.save(f"{folder}/labels.npy", labels.numpy())
