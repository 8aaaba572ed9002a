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
from engine.storage.claim import as_written, held_claim, keep_claim, writing_results

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
    with writing_results(Path(folder)):
        np.save(Path(folder) / BUCKETS, rows)
    keep_claim(Path(folder) / CLAIM, claim)


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
    held = held_claim(place / CLAIM, identity, same="manifest, model and options")
    with as_written(place / CLAIM):
        rows = np.load(place / BUCKETS, allow_pickle=False)
        buckets = [
            Bucket(tuple(b["shape"]), np.flatnonzero(rows == n), b["batch_size"], b["block_size"])
            for n, b in enumerate(held["buckets"])
        ]
        outputs = tuple(Output(o["name"], tuple(o["shape"]), o["dtype"]) for o in held["outputs"])
    return ItemPlan(tuple(buckets)), outputs
