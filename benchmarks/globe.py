"""A globe of 0.25 degrees and 37 levels in the layout of ARCO-ERA5: a chunk is all of one time step.

Ours beside xarray with dask's map_overlap and a plain loop over whole globes; broken off and resumed; by two workers.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask.array as da
import numpy as np
import torch
import xarray as xr
import xbatcher
from torch import nn
from torch.nn import functional as F

from benchmarks.alone import alone
from benchmarks.broken import digest, engine, killed
from benchmarks.report import Result
from benchmarks.volumes import FOLDER
from engine.memory import format_bytes
from engine.prepare import Options, prepare
from engine.reopen import verify
from engine.run import check_complete, run_prepared
from engine.storage.volume import open_volume

N_STEPS, N_LEVELS, N_LAT, N_LON = 8, 37, 721, 1440
HALO = 5
BATCH = 128
MEMORY = 3 * 2**30
MODEL = "benchmarks.globe:network"


def network() -> nn.Module:
    """Return a CNN over all levels as channels, without padding in longitude's place: its edges are the engine's."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for c_in, c_out, k in ((N_LEVELS, 24, 5), (24, 24, 5), (24, 4, 3)):
        layers += [nn.Conv2d(c_in, c_out, k, padding=k // 2), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def main() -> list[Result]:
    """Return the tables."""
    url = arco(N_STEPS)
    return [side_by_side(url), growing(), robust(url)]


def arco(n_steps: int) -> str:
    """Return the URL of temperatures (time, level, latitude, longitude) as ARCO-ERA5 lays them out; made once."""
    path = FOLDER / f"arco-{n_steps}.zarr"
    if path.exists():
        return str(path)
    FOLDER.mkdir(exist_ok=True)
    lat, lon = np.linspace(90, -90, N_LAT), np.arange(N_LON) * 0.25
    level = np.linspace(1, 1000, N_LEVELS)
    draft = path.with_name(f"draft-{path.name}")
    for step in range(n_steps):
        field = _temperatures(step, lat, lon, level)
        coordinates = {
            "time": ("time", [step * 6], {"units": "hours since 1959-01-01", "standard_name": "time"}),
            "level": ("level", level, {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}),
            "latitude": ("latitude", lat, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("longitude", lon, {"units": "degrees_east", "standard_name": "longitude"}),
        }
        about = {"units": "K", "standard_name": "air_temperature"}
        dims = ("time", "level", "latitude", "longitude")
        one = xr.Dataset({"temperature": (dims, field[None], about)}, coordinates)
        chunks = {"temperature": {"chunks": (1, N_LEVELS, N_LAT, N_LON)}, "time": {"chunks": (n_steps,)}}
        if step:
            one.to_zarr(draft, append_dim="time", consolidated=False)
        else:
            one.to_zarr(draft, mode="w", encoding=chunks, consolidated=False)
    draft.rename(path)
    return str(path)


def _temperatures(step: int, lat: np.ndarray, lon: np.ndarray, level: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(step).standard_normal((N_LEVELS, N_LAT, N_LON), dtype=np.float32)
    row = 288 - 60 * np.sin(np.deg2rad(lat)) ** 2
    wave = 5 * np.sin(np.deg2rad(3 * lon + 10 * step))
    field = (row[:, None] + wave)[None] * (level[:, None, None] / 1000) ** 0.19 + noise
    return (field / 20 - 12).astype(np.float32)


def side_by_side(url: str) -> Result:
    """Return time, memory and difference of three ways over all steps."""
    with TemporaryDirectory(prefix="bench-") as folder:
        ways = {
            "ours, wrapped": partial(ours, url, f"{folder}/ours.zarr"),
            "loop over whole globes, wrapped by hand": partial(loop, url, f"{folder}/loop.npy"),
            "xarray, dask map_overlap, depth of the halo": partial(overlapped, url, f"{folder}/dask.npy", depth=HALO),
            "the same, depth 2 guessed, no wrap": partial(overlapped, url, f"{folder}/guess.npy", depth=2),
        }
        told = {way: alone(deed) for way, deed in ways.items()}
        run: Took = next(iter(told.values()))[2]
        with xr.open_zarr(f"{folder}/ours.zarr/output", consolidated=False) as stored:
            found = [stored["output"].to_numpy(), *(np.load(f"{folder}/{n}.npy") for n in ("loop", "dask", "guess"))]
    seconds = [run.seconds, *(one[0] for one in list(told.values())[1:])]
    rows = []
    for way, values, took in zip(told, found, seconds, strict=True):
        off = np.abs(values - found[1]) / found[1].std()
        far = f"{(off > 1e-3).mean():.2%}"
        rows.append((way, f"{took:.1f}", format_bytes(told[way][1]), f"{off.max():.1e}", far))
    none, some = in_no_batch(overlap=0), in_no_batch(overlap=2 * HALO)
    inside = in_no_batch(overlap=2 * HALO, rim=HALO)
    return Result(
        "A globe of 721 x 1440, 37 levels, 8 steps",
        ("way", "seconds", "peak memory", "max |difference|, std", "cells off by 1e-3 std"),
        tuple(rows),
        f"Differences from the loop. 2 threads, a process each, from Zarr to disk; ours under {format_bytes(MEMORY)}: "
        f"{run.n_tiles} tiles, {run.n_decoded} chunks decoded for {N_STEPS} stored. Planning ({run.planning:.1f} s) "
        f"and the certificate ({run.certifying:.1f} s, decoding anew) are not in its seconds, but in its memory. "
        f"Of xbatcher's batches of {BATCH} x {BATCH}, {none:.1%} of the cells are in none; where they overlap by twice "
        f"the halo, {some:.1%} are in none, and {inside:.1%} never a halo away from the rim of one, where no net can "
        f"be right. Cells of ours that are left out or differ: {(found[0] != found[1]).mean():.1%}.",
    )


def in_no_batch(*, overlap: int, rim: int = 0) -> float:
    """Return the share of cells that no batch of xbatcher has, the rim of each batch apart."""
    cells = xr.Dataset({"cell": (("lat", "lon"), np.arange(N_LAT * N_LON).reshape(N_LAT, N_LON))})
    is_seen = np.zeros(N_LAT * N_LON, bool)
    inside = slice(rim, BATCH - rim)
    for batch in xbatcher.BatchGenerator(
        cells, input_dims={"lat": BATCH, "lon": BATCH}, input_overlap={"lat": overlap, "lon": overlap}
    ):
        is_seen[batch["cell"].to_numpy()[inside, inside]] = True
    return float(1 - is_seen.mean())


@dataclass(frozen=True, slots=True)
class Took:
    """What a run of ours took."""

    planning: float
    seconds: float
    certifying: float
    n_decoded: int
    """Chunks decoded by planning and the run."""
    n_tiles: int


def ours(url: str, to: str) -> Took:
    """Run the engine from Zarr to Zarr, and certify what it stored."""
    source, options, ticks = open_volume(url), Options(threads=2, memory=MEMORY), [time.perf_counter()]
    prepared = prepare(url, MODEL, options)
    ticks.append(time.perf_counter())
    check_complete(run_prepared(prepared, to, model=MODEL, options=options, n_certified=0))
    ticks.append(time.perf_counter())
    n_decoded = source.n_decoded  # type: ignore[attr-defined]
    if not verify(to, n_tiles=4).holds:
        raise RuntimeError("the certificate does not hold")
    ticks.append(time.perf_counter())
    return Took(*np.diff(ticks).tolist(), n_decoded, prepared.plan.n_tiles)


def loop(url: str, to: str) -> None:
    """Run the network over each whole globe, continued in longitude."""
    model, found = network(), []
    with xr.open_zarr(url, consolidated=False) as dataset, torch.inference_mode():
        for step in range(dataset.sizes["time"]):
            x = torch.from_numpy(dataset["temperature"][step].to_numpy())[None]
            found.append(model(F.pad(x, (HALO, HALO, 0, 0), mode="circular"))[0, :, :, HALO:-HALO].numpy())
    np.save(to, np.stack(found))


def overlapped(url: str, to: str, *, depth: int) -> None:
    """Run the network over overlapping blocks of a dask array."""
    model = network()
    with xr.open_zarr(url, consolidated=False) as dataset:
        blocks = dataset["temperature"].data.rechunk((1, N_LEVELS, 361, 360))
        border = "periodic" if depth == HALO else "none"

        def one(x: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(np.ascontiguousarray(x))).numpy()

        lazy = _trimmed(one, blocks, depth=depth, border=border)
        np.save(to, lazy.compute(scheduler="single-threaded"))


def _trimmed(one: Any, blocks: da.Array, *, depth: int, border: str) -> da.Array:
    """Return map_overlap by its parts: the channels that come out are not those that go in."""
    depths, borders = {0: 0, 1: 0, 2: depth, 3: depth}, {0: "none", 1: "none", 2: "none", 3: border}
    wide = da.overlap.overlap(blocks, depths, borders)
    found = wide.map_blocks(one, dtype="float32", chunks=(wide.chunks[0], (4,), *wide.chunks[2:]))
    return da.overlap.trim_internal(found, depths, borders)


def growing() -> Result:
    """Return the engine's peak memory and decoded chunks as steps grow."""
    rows = []
    for n_steps in (8, 16, 32):
        url = arco(n_steps)
        with TemporaryDirectory(prefix="bench-") as folder:
            _, peak, run = alone(partial(ours, url, f"{folder}/out.zarr"))
        rows.append((str(n_steps), f"{run.seconds:.1f}", format_bytes(peak), str(run.n_decoded)))
    note = f"One process, --memory {format_bytes(MEMORY)}. Wanted: memory flat, each chunk decoded once."
    return Result("The same globe as its steps grow", ("steps", "seconds", "peak memory", "decoded"), tuple(rows), note)


def robust(url: str) -> Result:
    """Return whether two workers, and a run that was killed in its middle, store the bits of one worker."""
    with TemporaryDirectory(prefix="bench-") as folder:
        alone_, two, broken = (Path(folder) / name for name in ("alone.zarr", "two.zarr", "broken.zarr"))
        words = ["--memory", str(2 * MEMORY), "--threads", "2", "--verify", "2"]
        engine("run", url, MODEL, str(alone_), *words, "--runner", "serial")
        wanted = digest(alone_)
        engine("run", url, MODEL, str(two), *words, "--workers", "2")
        rows = [("two Ray workers, one store", "-", str(digest(two) == wanted))]
        n_stored = killed(["run", url, MODEL, str(broken), *words, "--workers", "2"], broken)
        engine("resume", str(broken), "--verify", "2")
        rows.append(("all its processes killed, then resumed", str(n_stored), str(digest(broken) == wanted)))
    columns = ("run", "blocks before the kill", "the bits of one worker")
    return Result("One store, many hands", columns, tuple(rows), "By the command line. Wanted: true throughout.")
