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
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        shapes = {key: tuple(value) if isinstance(value, list) else value for key, value in held["shapes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CollectionError(
            f"'{path}' must be as the engine wrote it, and is not ({type(error).__name__}: {error}). Restore it, or "
            "name another folder."
        ) from error
    if differ := [key for key in ours if ours[key] != held.get(key)]:
        raise CollectionError(
            f"the folder '{folder}' holds the results of another call: {', '.join(differ)} differ. Name another "
            "folder, or give the same model and options."
        )
    return shapes


def keep_claim(folder: str, claim: Mapping[str, Any]) -> None:
    """Write what a folder's results are of, whole or not at all.

    Raises:
        CollectionError: If it cannot be written.
    """
    path = Path(folder) / CLAIM
    draft = path.with_suffix(".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(claim, indent=1), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise CollectionError(
            f"the results need a folder that can be written, and '{folder}' cannot ({error}). Name another."
        ) from error
