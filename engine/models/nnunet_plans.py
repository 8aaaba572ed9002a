"""What nnU-Net's plans.json and dataset.json say of one configuration, in our words and without running anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from engine.errors import ModelError
from engine.geometry.resampling import Order
from engine.models.json_object import entry, integers, numbers
from engine.models.nnunet_architecture import read_architecture
from engine.models.nnunet_network import Architecture

SCHEMES = (
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
"""Normalisations that plans may name."""

ORDERS: Mapping[int, Order] = {0: "nearest", 1: "linear", 3: "cubic"}
"""Orders of interpolation that have a counterpart here."""

REORIENTED = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
"""Readers that turn every scan to RAS."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What is done to one channel."""

    scheme: str
    """One of :data:`SCHEMES`."""
    is_masked: bool
    """Whether only voxels that are not 0 count and are changed."""
    intensities: Mapping[str, float]
    """``mean``, ``std``, ``percentile_00_5`` and ``percentile_99_5`` of the training set, for CT."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One configuration of a model folder."""

    name: str
    architecture: Architecture
    order: tuple[int, ...]
    """The space axis, in storage order, that each axis of the network is."""
    window: tuple[int, ...]
    """Voxels per axis of the network."""
    spacing: tuple[float, ...] | None
    """Millimetre per axis of the network; None where nothing is resampled."""
    resampling: tuple[Order, Order]
    """Orders of interpolation: of the source, and of the logits back."""
    normalisations: tuple[Normalisation, ...]
    """One per channel."""
    class_names: tuple[str, ...]
    """Of the network's channels, without the ignored label."""
    regions: tuple[int, ...] | None
    """The label of each region, later ones over earlier ones; None where a voxel has one class."""
    orientation: str | None
    """To which every scan was turned, x first, such as RAS; None where scans were taken as they are."""


def read_configuration(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], *, name: str, trainer: str, where: str
) -> Configuration:
    """Return what the files say of the configuration ``name``.

    Args:
        plans: plans.json.
        dataset: dataset.json.
        name: Of the configuration, as the checkpoint has it.
        trainer: Of the trainer, as the checkpoint has it.
        where: The file, for messages.

    Raises:
        ModelError: If something is missing, of another kind, or has no counterpart here.
    """
    found = _inherited(plans, name, where)
    here = f"configuration '{name}' of {where}"
    if found.get("previous_stage"):
        raise ModelError(
            f"{here} is the second stage of a cascade: it needs the segmentation of '{found['previous_stage']}' as "
            "input. Use a configuration that stands alone, such as 3d_fullres."
        )
    window = integers(found, "patch_size", where=here)
    if len(window) not in (2, 3):
        raise ModelError(f"{here} must have a patch_size of 2 or 3 axes, not {window}. Fetch it again.")
    names, regions = _labels(dataset)
    return Configuration(
        name=name,
        architecture=read_architecture(found, n_space=len(window), trainer=trainer, where=here),
        order=_order(plans, n_space=len(window), where=where),
        window=window,
        spacing=_spacing(plans, found, n_space=len(window), where=here),
        resampling=(_resampling(found, "data", 3, here), _resampling(found, "probabilities", 1, here)),
        normalisations=_normalisations(plans, found, where=here),
        class_names=names,
        regions=regions,
        orientation="RAS" if plans.get("image_reader_writer") in REORIENTED else None,
    )


def _inherited(plans: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a configuration with what it inherits."""
    known = entry(plans, "configurations", dict, where=where)
    chain: list[str] = []
    merged: dict[str, Any] = {}
    wanted: str | None = name
    while wanted is not None:
        if wanted not in known or wanted in chain:
            why = "inherits from itself" if wanted in chain else f"is not there: there are {', '.join(known)}"
            raise ModelError(f"the configuration '{wanted}' of {where} {why}. Fetch the model folder again.")
        chain.append(wanted)
        own = entry(known, wanted, dict, where=where)
        merged = {**own, **merged}
        wanted = own.get("inherits_from")
    return merged


def _order(plans: Mapping[str, Any], *, n_space: int, where: str) -> tuple[int, ...]:
    order = integers({"transpose_forward": [0, 1, 2], **plans}, "transpose_forward", where=where, n=3)
    if sorted(order) != [0, 1, 2]:
        raise ModelError(f"transpose_forward of {where} must name the axes 0, 1 and 2, not {order}. Fetch it again.")
    if n_space == 3:
        return order
    if order[0] != 0:
        raise ModelError(
            f"the slices of a 2-d configuration must lie along the first axis here, and transpose_forward of {where} "
            f"is {order}. Transpose the scan, or use a 3-d configuration."
        )
    return tuple(axis - 1 for axis in order[1:])


def _spacing(
    plans: Mapping[str, Any], found: Mapping[str, Any], *, n_space: int, where: str
) -> tuple[float, ...] | None:
    is_without = str(found.get("resampling_fn_data", "")).startswith("no_resampling")
    if is_without or plans.get("image_reader_writer") == "NaturalImage2DIO":
        return None
    spacing = numbers(found, "spacing", where=where, n=n_space)
    if min(spacing) <= 0:
        raise ModelError(f"{where} must give a positive spacing per axis, not {spacing}. Fetch it again.")
    return tuple(float(step) for step in spacing)


def _resampling(found: Mapping[str, Any], what: str, default: int, where: str) -> Order:
    settings = found.get(f"resampling_fn_{what}_kwargs") or {}
    order = settings.get("order", default)
    if order not in ORDERS:
        raise ModelError(
            f"{where} resamples by order {order!r} (resampling_fn_{what}_kwargs), and known are "
            f"{', '.join(map(str, ORDERS))}. Write a factory with Resampled(..., order=...)."
        )
    return ORDERS[order]


def _normalisations(
    plans: Mapping[str, Any], found: Mapping[str, Any], *, where: str
) -> tuple[Normalisation, ...]:
    schemes = entry(found, "normalization_schemes", list, where=where)
    masked = found.get("use_mask_for_norm") or [False] * len(schemes)
    by_channel = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    if len(masked) != len(schemes) or not schemes:
        raise ModelError(
            f"{where} must give one of normalization_schemes and use_mask_for_norm per channel, not {schemes} and "
            f"{masked}. Fetch it again."
        )
    pairs = zip(schemes, masked, strict=True)
    return tuple(
        _normalisation(scheme, is_masked=bool(mask), values=by_channel.get(str(channel)), where=where)
        for channel, (scheme, mask) in enumerate(pairs)
    )


WANTED_OF_CT = ("mean", "std", "percentile_00_5", "percentile_99_5")


def _normalisation(scheme: Any, *, is_masked: bool, values: Any, where: str) -> Normalisation:  # noqa: ANN401 -- JSON
    if scheme not in SCHEMES:
        raise ModelError(
            f"{where} asks for the normalisation {scheme!r}, and known are {', '.join(SCHEMES)}. Write a factory that "
            "composes it before the network."
        )
    if scheme != "CTNormalization":
        return Normalisation(scheme, is_masked and scheme == "ZScoreNormalization", {})
    values = values if isinstance(values, dict) else {}
    given = {key: float(entry(values, key, float, where=f"the intensities of {where}")) for key in WANTED_OF_CT}
    if not all(map(isfinite, given.values())) or given["std"] <= 0 or given[WANTED_OF_CT[2]] >= given[WANTED_OF_CT[3]]:
        raise ModelError(f"the intensities of {where} make no sense: {given}. Fetch it again.")
    return Normalisation(scheme, is_masked=False, intensities=given)


def _labels(dataset: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Return the names of the network's channels, and the label of each region or None."""
    labels = entry(dataset, "labels", dict, where="dataset.json")
    labels = {name: value for name, value in labels.items() if name != "ignore"}
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        names = tuple(name for name, value in labels.items() if value not in (0, [0]))
        return names, integers(dataset, "regions_class_order", where="dataset.json", n=len(names))
    by_label = {value[0] if isinstance(value, list) and value else value: name for name, value in labels.items()}
    if set(by_label) != set(range(len(labels))) or not labels:
        raise ModelError(
            f"the labels of dataset.json must be 0, 1, 2 and so on, or lists of them for regions, not {labels}. "
            "Fetch it again."
        )
    return tuple(by_label[label] for label in range(len(labels))), None
