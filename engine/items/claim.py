"""Whose results a folder of items holds, and the plan that every later call keeps."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import CollectionError
from engine.items.manifest import Item
from engine.items.outputs import Output
from engine.items.plan import Bucket, ItemPlan

CLAIM, BUCKETS = "items.json", "buckets.npy"
"""What the folder holds; and the bucket of each row of the manifest, int32."""


def manifest_digest(items: Sequence[Item]) -> str:
    """Return a SHA-256 over all rows: their order decides which items share a batch."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.id, dict(item.row)]).encode())
    return digest.hexdigest()


def write_claim(folder: str, identity: Mapping[str, Any], plan: ItemPlan, outputs: Sequence[Output]) -> None:
    """Write what a folder is of, whole or not at all.

    Raises:
        CollectionError: If it cannot be written.
    """
    rows = np.empty(plan.n_items, np.int32)
    for number, bucket in enumerate(plan.buckets):
        rows[bucket.numbers] = number
    buckets = [{"shape": b.shape, "batch_size": b.batch_size, "block_size": b.block_size} for b in plan.buckets]
    claim = {**identity, "buckets": buckets, "outputs": [asdict(output) for output in outputs]}
    path = Path(folder) / CLAIM
    try:
        np.save(Path(folder) / BUCKETS, rows)
        draft = path.with_suffix(".writing")
        draft.write_text(json.dumps(claim, indent=1), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise CollectionError(f"results need a folder that can be written, and '{folder}' cannot ({error}).") from error


def read_claim(folder: str, identity: Mapping[str, Any]) -> tuple[ItemPlan, tuple[Output, ...]] | None:
    """Return the plan and the outputs of the run that a folder holds; None where it holds none.

    Raises:
        CollectionError: If the folder holds another run, or something else.
    """
    place = Path(folder)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    if not (place / CLAIM).is_file():
        raise CollectionError(
            f"results need a folder of their own, and '{folder}' has no {CLAIM}. Name another, or remove it."
        )
    try:
        held = json.loads((place / CLAIM).read_text(encoding="utf-8"))
        rows = np.load(place / BUCKETS, allow_pickle=False)
        buckets = [
            Bucket(tuple(b["shape"]), np.flatnonzero(rows == n), b["batch_size"], b["block_size"])
            for n, b in enumerate(held["buckets"])
        ]
        outputs = tuple(Output(o["name"], tuple(o["shape"]), o["dtype"]) for o in held["outputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CollectionError(
            f"'{place / CLAIM}' must be as the engine wrote it, and is not ({type(error).__name__}: {error}). Restore "
            "it, or name another folder."
        ) from error
    if differ := [key for key in identity if identity[key] != held.get(key)]:
        raise CollectionError(
            f"the folder '{folder}' holds the results of another call: {', '.join(differ)} differ. Name another "
            "folder, or give the same manifest, model and options."
        )
    return ItemPlan(tuple(buckets)), outputs
