"""Reads bundles of MONAI (MONAI Bundle Specification) into one pipeline: raw voxels to what its transforms make.

    Compose( Card | intensities | Resampled( intensities | Windowed( Turned( network )) | softmax ) | argmax )

Nothing of the bundle is run: its configuration is read (``bundle_values.py``), its transforms are replaced by
modules that do the same, its network is a known class of MONAI's or TorchScript. What is not known is refused by
name before the network, and left out with a note in the :class:`engine.models.card.Card` after it.

MONAI has arrays as (channel, x, y, z), and volumes here are (channel, z, y, x): the network is turned, and
lengths and spacings are given the other way round. These differ from MONAI:

- Spacingd puts the first voxels of both grids on one centre, unless ``scale_extent`` is true; here the outer borders of
  both grids always coincide. At the spacing of the training set both do nothing.
- The scan must lie as the bundle's Orientationd turns it; the card holds that as ``orientation``.
- CropForegroundd is left out: crop the source beforehand to get the same windows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torch import nn

from engine.errors import ModelError
from engine.models.bundle_inferer import Inferer, read_inferer
from engine.models.bundle_network import read_network
from engine.models.bundle_postprocessing import postprocessing
from engine.models.bundle_preprocessing import preprocessing
from engine.models.bundle_steps import read_steps
from engine.models.bundle_values import Values
from engine.models.card import Card
from engine.models.json_object import json_object
from engine.models.resampled import Resampled
from engine.models.specification import BUNDLE_CONFIGS, BUNDLE_METADATA
from engine.models.turned import Turned, turned_layers
from engine.models.weights import one_line
from engine.models.windowed import Windowed
from engine.models.wrappers import Compose


def bundle(folder: str | Path) -> Compose:
    """Return the pipeline of a bundle: (batch, channel, *space) in the source's units to what its transforms make.

    Args:
        folder: Holds configs/inference.json (or .yaml) and models/model.pt (or model.ts).

    Raises:
        ModelError: If a file is missing or damaged, or the bundle asks for something that has no counterpart here.
        WeightsError: If the weights are damaged, unsafe, or do not fit the network.
    """
    path = Path(folder)
    config = next((path / name for name in BUNDLE_CONFIGS if (path / name).is_file()), path / BUNDLE_CONFIGS[0])
    values = Values(_yaml(config) if config.suffix != ".json" else json_object(config), where=f"'{config}'")
    metadata = json_object(path / BUNDLE_METADATA) if (path / BUNDLE_METADATA).is_file() else {}
    inferer = read_inferer(values)
    n_space, n_channels = _n_space(values, inferer, metadata), _n_channels(values, metadata)
    before = preprocessing(read_steps(values, entry="preprocessing"), n_channels=n_channels, n_space=n_space)
    after = postprocessing(read_steps(values, entry="postprocessing", key="pred"))
    whole: nn.Module = _shown(read_network(path, values), inferer, n_space=n_space, n_channels=n_channels)
    whole = Compose(*before.inside, whole, *after.inside)
    if before.spacing is not None:
        whole = Resampled(whole, spacing=before.spacing[::-1], order=before.order)
    notes = dict.fromkeys([*before.notes, *(inferer.notes if inferer else ()), *after.notes])
    card = Card(
        class_names=_class_names(metadata),
        orientation=before.orientation,
        n_channels=n_channels,
        n_space=n_space,
        notes=tuple(notes),
    )
    return Compose(card, *before.before, whole, *after.after)


def _shown(network: nn.Module, inferer: Inferer | None, *, n_space: int, n_channels: int) -> nn.Module:
    """Return the network as it sees a volume whose axes are in storage order."""
    order = tuple(reversed(range(n_space)))
    if inferer is None:
        return turned_layers(network, order=order, n_channels=n_channels)
    return Windowed(
        Turned(network, order=order),
        window=inferer.window[::-1],
        overlap=inferer.overlap[::-1],
        weights=inferer.weights,
        sigma_scale=inferer.sigma_scale,
    )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ModelError(f"'{path}' must write every value out, and has YAML aliases (*name). Write '@id' instead.")
        found = yaml.safe_load(text)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' must be YAML, and does not read: {one_line(error)}. Fetch it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"'{path}' must be a YAML mapping, not a {type(found).__name__}. Fetch it again.")
    return found


def _network_argument(values: Values, names: tuple[str, ...]) -> int | None:
    definition = values.node(values.config.get("network_def"))
    for name in names if isinstance(definition, Mapping) else ():
        if name in definition:
            found = values.plain(definition[name])
            return found if isinstance(found, int) else None
    return None


def _n_space(values: Values, inferer: Inferer | None, metadata: Mapping[str, Any]) -> int:
    """Return the axes of space, as the network, the window or the metadata say; 3 where none does."""
    said = _network_argument(values, ("spatial_dims", "dimensions"))
    if said is None and inferer is not None and len(inferer.window) > 1:
        said = len(inferer.window)
    shape = _format(metadata, "inputs", "image").get("spatial_shape")
    if said is None and isinstance(shape, list):
        said = len(shape)
    return said or 3


def _n_channels(values: Values, metadata: Mapping[str, Any]) -> int:
    """Return the channels of the image, as the network or the metadata say; 1 where none does."""
    said = _network_argument(values, ("in_channels",)) or _format(metadata, "inputs", "image").get("num_channels")
    return said if isinstance(said, int) and said > 0 else 1


def _format(metadata: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    found: Any = metadata.get("network_data_format")
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _class_names(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the output's channels, or nothing where they are not all given."""
    names = _format(metadata, "outputs", "pred", "channel_def")
    keys = [str(number) for number in range(len(names))]
    return tuple(str(names[key]) for key in keys) if set(names) == set(keys) else ()
