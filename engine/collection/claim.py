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

CLAIM = "collection.json"


def tissue_of(options: Options) -> str | None:
    """Return how the tissue of slides is found, unless their manifest says: by colour if nothing was asked for."""
    return None if options.tissue == "none" else options.tissue or "auto"


def identity_of(
    model: Model, options: Options, *, objects: ObjectsWish | None, score: ScoreWish | None
) -> dict[str, Any]:
    """Return what decides the results, as JSON values: two calls that differ in it are two collections."""
    return {
        "model": model.fingerprint,
        "precision": options.precision,
        "mpp": options.mpp,
        "tissue": tissue_of(options),
        "objects": asdict(objects) if objects else None,
        "score": asdict(score) if score else None,
    }


def shapes_of(job: CollectionJob) -> dict[str, Any]:
    """Return the tile, block and batch of a collection, which later calls keep: the same kernels, the same bits."""
    return {
        "tile": list(job.wishes.tile or ()),
        "block": list(job.wishes.block or ()),
        "batch": job.wishes.batch_size,
    }


def tuples(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return kept shapes as options have them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in shapes.items()}


def claimed(folder: str, ours: dict[str, Any]) -> dict[str, Any]:
    """Make the folder this collection's, or see that it is, and return what it holds.

    Raises:
        CollectionError: If it holds the results of another model or other options.
    """
    path = Path(folder) / CLAIM
    if not path.exists():
        keep_claim(folder, ours)
        return ours
    held: dict[str, Any] = json.loads(path.read_text())
    plain = json.loads(json.dumps(ours))
    if differ := [key for key in plain if plain[key] != held.get(key)]:
        raise CollectionError(
            f"the folder '{folder}' holds the results of another call: {', '.join(differ)} differ. Name another "
            "folder, or give the same model and options."
        )
    return held


def keep_claim(folder: str, claim: Mapping[str, Any]) -> None:
    """Write what a folder's results are of.

    Raises:
        CollectionError: If it cannot be written.
    """
    path = Path(folder) / CLAIM
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(claim, indent=1))
    except OSError as error:
        raise CollectionError(
            f"the results need a folder that can be written, and '{folder}' cannot ({error}). Name another."
        ) from error
