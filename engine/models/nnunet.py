"""Reads model folders of nnU-Net v2 (Isensee et al. 2021) into one pipeline: raw voxels to labels.

    Compose( Card | normalisation | Resampled( Windowed( Turned( Mirrored( Ensemble( UNet... ))))) | labels )

The order of the steps, the window, its steps and weights, the mirroring, the mean over folds and the labels are
nnU-Net's. These differ, and :class:`engine.models.card.Card` says so of each model:

- nnU-Net interpolates the source by splines of order 3, whose every value depends on the whole axis, and between the
  slices of anisotropic scans by the nearest; here a local cubic kernel is used along every axis. At the spacing of
  the training set both do nothing.
- nnU-Net crops the source to the box of what is not 0 first. Crop it beforehand where its background is 0 to get the
  same windows, and the same z-score of the whole.
- nnU-Net sums windows in float16, and runs in mixed precision on a GPU.

A 2-d configuration gives a pipeline of two dimensions: read the volume slice by slice, ``scan.nii.gz#slices=1``.
"""

from collections.abc import Sequence
from math import inf
from pathlib import Path

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.card import Card
from engine.models.ensemble import Ensemble
from engine.models.intensity import Clip, MinMax
from engine.models.json_object import entry, json_object
from engine.models.nnunet_checkpoint import Checkpoint, folds_of, read_checkpoint
from engine.models.nnunet_network import UNet
from engine.models.nnunet_plans import Configuration, Normalisation, read_configuration
from engine.models.region_labels import RegionLabels
from engine.models.resampled import Resampled
from engine.models.some_channels import SomeChannels
from engine.models.specification import NNUNET_FILES, existing_file
from engine.models.turned import Turned, stored
from engine.models.weights import set_weights
from engine.models.windowed import Mirrored, Windowed
from engine.models.wrappers import ArgMax, Compose, Normalise
from engine.models.zscore import ZScore

SIGMA_SCALE = 0.125
"""nnU-Net's Gaussian, as a part of the window."""


def nnunet(folder: str | Path, *, overlap: float = 0.5, is_mirrored: bool = True) -> Compose:
    """Return the pipeline of a model folder: (batch, channel, *space) in the source's units to labels (batch, *space).

    Args:
        folder: Holds plans.json and dataset.json beside its folds; or one of the folds.
        overlap: Part of a window that the next covers too: 1 less nnU-Net's tile_step_size.
        is_mirrored: Whether to mirror along the axes that the checkpoint allows.

    Raises:
        ModelError: If a file is missing or damaged, or asks for something that has no counterpart here.
        WeightsError: If a checkpoint is damaged or unsafe, or does not fit the network of the plans.
    """
    root, paths = folds_of(Path(folder))
    plans, dataset = (json_object(existing_file(str(root / name), what="nnU-Net file")) for name in NNUNET_FILES)
    checkpoints = [read_checkpoint(path) for path in paths]
    first = checkpoints[0]
    for other in checkpoints[1:]:
        _check_alike(first, other)
    found = read_configuration(
        plans, dataset, name=first.configuration, trainer=first.trainer, where=f"'{root / NNUNET_FILES[0]}'"
    )
    n_channels = _n_channels(dataset, found)
    networks = [_network(found, checkpoint, n_channels) for checkpoint in checkpoints]
    network = networks[0] if len(networks) == 1 else Ensemble(*networks)
    if is_mirrored and first.mirror_axes:
        network = Mirrored(network, axes=first.mirror_axes)
    if found.order != tuple(range(len(found.order))):
        network = Turned(network, order=found.order)
    whole: nn.Module = Windowed(
        network,
        window=stored(found.window, found.order),
        overlap=overlap,
        weights="gaussian",
        sigma_scale=SIGMA_SCALE,
        rule="nnunet",
    )
    if found.spacing is not None:
        order, back = found.resampling
        whole = Resampled(whole, spacing=stored(found.spacing, found.order), order=order, back=back)
    return Compose(_card(found, first), *_normalised(found.normalisations), whole, _labels(found))


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    for what in ("configuration", "trainer", "mirror_axes"):
        a, b = getattr(first, what), getattr(other, what)
        if a != b:
            raise ModelError(
                f"the folds of a model must be of one {what}, and '{first.path}' has {a!r}, '{other.path}' {b!r}. "
                "Name one fold's folder."
            )


def _n_channels(dataset: dict[str, object], found: Configuration) -> int:
    names = entry(dataset, "modality" if "modality" in dataset else "channel_names", dict, where="dataset.json")
    if len(names) != len(found.normalisations):
        raise ModelError(
            f"dataset.json names {len(names)} channels, and plans.json {len(found.normalisations)} normalisations. "
            "Fetch the model folder again."
        )
    return len(names)


def _network(found: Configuration, checkpoint: Checkpoint, n_channels: int) -> nn.Module:
    network = UNet(found.architecture, n_channels=n_channels, n_classes=len(found.class_names))
    set_weights(network, checkpoint.weights, path=checkpoint.path)
    return network


def _normalised(channels: tuple[Normalisation, ...]) -> list[nn.Module]:
    """Return what is done to the source's voxels, each scheme to the channels that ask for it.

    What is fitted comes first, for it asks where the source is not 0.
    """
    found: list[nn.Module] = []
    for is_masked in (True, False):
        z_scored = [c.scheme == "ZScoreNormalization" and c.is_masked == is_masked for c in channels]
        found += _on(ZScore(len(channels), foreground="nonzero" if is_masked else None), z_scored)
    found += _on(MinMax(len(channels)), [c.scheme == "RescaleTo01Normalization" for c in channels])
    ct = [c.intensities if c.scheme == "CTNormalization" else None for c in channels]
    if any(ct):
        found.append(
            Clip(
                [-inf if values is None else values["percentile_00_5"] for values in ct],
                [inf if values is None else values["percentile_99_5"] for values in ct],
            )
        )
    means = [0.0 if values is None else values["mean"] for values in ct]
    stds = [1.0 if values is None else values["std"] for values in ct]
    stds = [255.0 if c.scheme == "RGBTo01Normalization" else std for c, std in zip(channels, stds, strict=True)]
    if any(mean != 0 for mean in means) or any(std != 1 for std in stds):
        found.append(Normalise(means, stds))
    return found


def _on(module: nn.Module, is_chosen: Sequence[bool]) -> list[nn.Module]:
    if not any(is_chosen):
        return []
    return [module if all(is_chosen) else SomeChannels(module, is_chosen)]


def _labels(found: Configuration) -> nn.Module:
    if found.regions is not None:
        return RegionLabels(found.regions)
    return ArgMax(torch.uint8 if len(found.class_names) <= 256 else torch.int16)


def _card(found: Configuration, checkpoint: Checkpoint) -> Card:
    notes = [
        f"the network is taken to be that of the plans, as trainer '{checkpoint.trainer}' left it",
        "nnU-Net crops the source to the box of what is not 0 first; crop it beforehand to get the same windows",
    ]
    if found.spacing is not None:
        notes.append(
            f"the source is resampled by a local {found.resampling[0]} kernel along every axis, not by nnU-Net's "
            "splines, nor by the nearest slice where it is anisotropic"
        )
    if any(channel.is_masked for channel in found.normalisations):
        notes.append("holes in what is not 0 are not filled before the z-score")
    if len(found.window) == 2:
        notes.append("a 2-d network: read the volume slice by slice, with #slices=1")
    return Card(
        class_names=found.class_names,
        orientation=found.orientation,
        n_channels=len(found.normalisations),
        n_space=len(found.window),
        notes=notes,
    )
