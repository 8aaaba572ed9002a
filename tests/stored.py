"""Volumes on disk as tests want them: written from an array, read back by plain Zarr, hashed object by object."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import nn


def store(path: Path, array: np.ndarray, names: str | Sequence[str], *, chunk: int = 32) -> str:
    """Write a bare Zarr array with named axes, and return its URL."""
    chunks = tuple(min(chunk, n) for n in array.shape)
    target = zarr.create_array(
        store=str(path), shape=array.shape, chunks=chunks, dtype=array.dtype, dimension_names=list(names)
    )
    target[...] = array
    return str(path)


def stored(url: str | Path, name: str = "output", *, level: int = 0) -> np.ndarray:
    """Return a level of an output, read by plain Zarr; label maps lie under ``labels``."""
    path = name if (Path(url) / name).exists() else f"labels/{name}"
    return np.asarray(zarr.open_array(f"{url}/{path}/{level}", mode="r")[...])


def objects(url: str | Path) -> list[Path]:
    """Return the stored voxels of an output, the ledger's left out: every file that holds voxels, sorted."""
    root = Path(url)
    return sorted(
        p for p in root.rglob("*") if p.is_file() and p.name != "zarr.json" and p.relative_to(root).parts[0] != "ledger"
    )


def checksums(url: str | Path) -> dict[str, str]:
    """Return the SHA-256 of every stored object of an output."""
    return {str(p.relative_to(url)): hashlib.sha256(p.read_bytes()).hexdigest() for p in objects(url)}


def smooth(shape: Sequence[int], *, seed: int = 0, dtype: str = "float32", n_passes: int = 2) -> np.ndarray:
    """Return a random field of unit standard deviation whose neighbours resemble each other, periodic on every axis."""
    field = np.random.default_rng(seed).standard_normal(tuple(shape))
    for axis in range(field.ndim):
        for _ in range(n_passes):
            field = field + np.roll(field, 1, axis) + np.roll(field, -1, axis)
    return (field / field.std()).astype(dtype)


def whole(module: nn.Module, array: np.ndarray, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Return one forward pass over a whole array (channel, *space)."""
    with torch.inference_mode():
        return module(torch.from_numpy(np.ascontiguousarray(array))[None].to(dtype))[0].numpy()
