"""The OME-Zarr record of label volumes: the group ``labels`` and each label's ``image-label``.

https://ngff.openmicroscopy.org/0.5/#labels-md. A group's attributes are a JSON file, and this edits it.
"""

import json
from collections.abc import Mapping
from typing import Any

from engine.objects import parts
from engine.storage import arrays, record

VERSION = "0.5"


def enrol(output: str, name: str) -> None:
    """Make the group ``labels`` of an output if there is none, and name a label volume in it. Idempotent."""
    url = f"{arrays.local_path(output)}/labels/zarr.json"
    group: dict[str, Any] = _read(url) if arrays.exists(url) else {"zarr_format": 3, "node_type": "group"}
    attributes = dict(group.get("attributes") or {})
    ome = dict(attributes.get("ome") or {})
    names = [*dict.fromkeys([*ome.get("labels", []), name])]
    attributes["ome"] = {**ome, "version": VERSION, "labels": names}
    _write(url, {**group, "attributes": attributes})


def describe(url: str, *, source: str | None) -> None:
    """Note on a label volume what it labels, and that all of it is stored. Idempotent.

    Viewers colour instances by themselves.

    Args:
        url: The label volume.
        source: Path, from the label volume, of the image; None where it is not in the same group.
    """
    group = _read(f"{url}/zarr.json")
    attributes = dict(group["attributes"])
    label: dict[str, Any] = {"version": VERSION}
    if source is not None:
        label["source"] = {"image": source}
    attributes["ome"] = {**attributes["ome"], "image-label": label}
    attributes[record.KEY] = {**attributes.get(record.KEY, {}), "is_finished": True}
    _write(f"{url}/zarr.json", {**group, "attributes": attributes})


def _read(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parts.read_bytes(url))
    return found


def _write(url: str, group: Mapping[str, Any]) -> None:
    parts.write_bytes(url, json.dumps(group, indent=2).encode())
