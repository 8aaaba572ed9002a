"""Whose results a folder holds: the model and the options, and the shapes that all its slides have."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.collection.job import CollectionJob, ObjectsWish, ScoreWish
from engine.errors import CollectionError
from engine.models.load import Model
from engine.prepare import Options
from engine.storage.claim import as_written, held_claim

CLAIM = "collection.json"


def identity_of(
    model: Model, options: Options, *, objects: ObjectsWish | None, score: ScoreWish | None
) -> dict[str, Any]:
    """Return what decides the results, as JSON values: two calls that differ in it are two collections."""
    identity = {
        "model": model.fingerprint,
        "precision": options.precision,
        "mpp": options.mpp,
        "axes": options.axes,
        "edges": {name: asdict(edge) for name, edge in options.edges.items()},
        "nan": options.nan,
        "extend": options.extend,
        "pyramid": options.pyramid,
        "tissue": options.tissue or "auto",
        "objects": asdict(objects) if objects else None,
        "score": asdict(score) if score else None,
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def shapes_of(job: CollectionJob) -> dict[str, Any]:
    """Return the tile, block and batch of a collection, which later calls keep: the same kernels, the same bits."""
    return {"tile": job.wishes.tile, "block": job.wishes.block, "batch": job.wishes.batch_size}


def kept_shapes(folder: str, ours: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the shapes of the collection that a folder holds, as options have them; None where it holds none.

    Raises:
        CollectionError: If it is no folder, or holds the results of another model or other options.
    """
    if "://" in folder:
        raise CollectionError(f"the results of a collection need a folder of this machine, not '{folder}'. Name one.")
    path = Path(folder) / CLAIM
    if not path.exists():
        return None
    held = held_claim(path, ours, same="model and options")
    with as_written(path):
        return {key: tuple(value) if isinstance(value, list) else value for key, value in held["shapes"].items()}
