"""OME-Zarr: the ``multiscales`` record of a group, 0.5 written, 0.4 and 0.5 read.

Axes are time, channel, then two or three of space (https://ngff.openmicroscopy.org/0.5/#axes-md).
Level k of a volume averaged by 2 has scale ``s * 2^k``, and its first voxel's centre lies half a coarse
voxel less half a fine one further in: translation ``t + s * (2^k - 1) / 2``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import AxisError, VolumeError
from engine.geometry.axes import KNOWN_ROLES, Axis, Role, check_axes

PALETTE = (
    (220, 50, 47), (38, 139, 210), (133, 153, 0), (181, 137, 0),
    (108, 113, 196), (42, 161, 152), (211, 54, 130), (203, 75, 22),
)  # fmt: skip
"""Colours of classes from 1 on, repeated: eight that are told apart on pink tissue (Solarized accents, MIT)."""

_TYPES = {Role.BATCH: "time", Role.CHANNEL: "channel", Role.SPACE: "space"}
_ROLES = {kind: role for role, kind in _TYPES.items()}
_RANK = {"time": 0, "channel": 1, "space": 2}


@dataclass(frozen=True, slots=True)
class Dataset:
    """One level as the record names it."""

    path: str
    """Array path inside the group."""
    spacing: tuple[float, ...]
    """Physical step per axis."""
    translation: tuple[float, ...]
    """Physical place of the first voxel's centre per axis."""


def multiscales(name: str, *, axes: Sequence[Axis], datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Return the group attributes that OME-Zarr 0.5 asks for.

    Raises:
        VolumeError: If OME-Zarr cannot name these axes in this order.
    """
    check_ngff_axes(axes)
    levels = [{"path": dataset.path, "coordinateTransformations": _transformations(dataset)} for dataset in datasets]
    described = [
        {"name": axis.name, "type": _TYPES[axis.role]} | ({"unit": axis.unit} if axis.unit else {}) for axis in axes
    ]
    return {"ome": {"version": "0.5", "multiscales": [{"name": name, "axes": described, "datasets": levels}]}}


def nested(attributes: Mapping[str, Any], *, path: str, name: str) -> dict[str, Any]:
    """Return the record of an image that lies at ``path`` inside a group, as that group's own: its levels' paths grow.

    So a viewer that opens the outer group sees the image, and finds the outer group's labels over it.
    """
    (record,) = attributes["ome"]["multiscales"]
    datasets = [{**item, "path": f"{path}/{item['path']}"} for item in record["datasets"]]
    return {"ome": {"version": "0.5", "multiscales": [{**record, "name": name, "datasets": datasets}]}}


def label_list(names: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of a group of label maps (https://ngff.openmicroscopy.org/0.5/#labels-md)."""
    return {"ome": {"version": "0.5", "labels": list(names)}}


def image_label(attributes: Mapping[str, Any], *, image: str | None, n_colours: int) -> dict[str, Any]:
    """Return a label map's attributes with its colours, class by class, and the image that it lies over.

    Args:
        attributes: What the group says now.
        image: Path of the image from the label map; None where there is none.
        n_colours: Classes above 0 that get a colour; 0 is clear. None are named where 0, for maps of instances.
    """
    colours = [{"label-value": 0, "rgba": [0, 0, 0, 0]}] if n_colours else []
    colours += [{"label-value": i + 1, "rgba": [*PALETTE[i % len(PALETTE)], 255]} for i in range(n_colours)]
    described: dict[str, Any] = {"source": {"image": image}} if image else {}
    described |= {"colors": colours} if colours else {}
    return {"ome": {**attributes["ome"], "image-label": described}}


def _transformations(dataset: Dataset) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(dataset.spacing)}]
    if any(dataset.translation):
        steps.append({"type": "translation", "translation": list(dataset.translation)})
    return steps


def check_ngff_axes(axes: Sequence[Axis]) -> None:
    """Refuse axes that OME-Zarr has no place for.

    Raises:
        VolumeError: Unless they are time, channel, then two or three of space, each at most once.
    """
    kinds = [_TYPES[axis.role] for axis in axes]
    in_order = kinds == sorted(kinds, key=_RANK.__getitem__)
    names = tuple(axis.name for axis in axes)
    is_geographic = bool({"lat", "lon", "latitude", "longitude", "item"} & set(names))
    if not in_order or is_geographic or kinds.count("space") not in (2, 3) or kinds.count("time") > 1:
        raise VolumeError(
            f"OME-Zarr wants axes (t, c, z, y, x), of which 2 or 3 are space, not {names}. "
            "Transpose them, or write the volume with flavour 'cf'."
        )


def is_multiscales(attributes: Mapping[str, Any]) -> bool:
    """Say whether a group's attributes hold an OME-Zarr record of any version."""
    record = attributes.get("ome", attributes)
    return isinstance(record, Mapping) and "multiscales" in record


def parse(attributes: Mapping[str, Any], *, where: str) -> tuple[tuple[Axis, ...], tuple[Dataset, ...]]:
    """Return the axes, with the finest level's spacing, and the levels of an OME-Zarr group, 0.4 or 0.5.

    Raises:
        VolumeError: If the record lacks what the specification asks for, or names axes that the engine cannot order.
    """
    try:
        record = attributes.get("ome", attributes)["multiscales"][0]
        common = record.get("coordinateTransformations", [])
        n_axes = len(record["axes"])
        datasets = tuple(_dataset(item, common=common, n_axes=n_axes) for item in record["datasets"])
        axes = tuple(_axis(item, spacing=step) for item, step in zip(record["axes"], datasets[0].spacing, strict=True))
        check_axes(axes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, AxisError) as error:
        raise VolumeError(
            f"the multiscales record of '{where}' must hold axes with types and datasets with a scale, as OME-Zarr 0.4 "
            f"and 0.5 say: {type(error).__name__} {error}. Correct the group's attributes, or open one level by its "
            "path with --axes."
        ) from error
    return axes, datasets


def _axis(item: Mapping[str, Any], *, spacing: float) -> Axis:
    name = str(item["name"]).lower()
    role = _ROLES.get(item.get("type") or "", KNOWN_ROLES.get(name, Role.BATCH))
    return Axis(name, role, spacing=spacing, unit=item.get("unit"))


def _dataset(item: Mapping[str, Any], *, common: Sequence[Mapping[str, Any]], n_axes: int) -> Dataset:
    """Return one level, its own transformations applied first and then those of all levels."""
    spacing, translation = [1.0] * n_axes, [0.0] * n_axes
    for step in (*item["coordinateTransformations"], *common):
        if step["type"] == "scale":
            spacing = [a * float(b) for a, b in zip(spacing, step["scale"], strict=True)]
            translation = [a * float(b) for a, b in zip(translation, step["scale"], strict=True)]
        elif step["type"] == "translation":
            translation = [a + float(b) for a, b in zip(translation, step["translation"], strict=True)]
    return Dataset(item["path"], tuple(spacing), tuple(translation))
