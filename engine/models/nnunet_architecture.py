"""How nnU-Net's plans name a network: the two ways to write it down, and which layers they may name.

Plans name classes by their dotted path, which nnU-Net imports. Nothing is imported here: a class is looked up in a
table by its last name.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from engine.errors import ModelError
from engine.models.json_object import entry, integers
from engine.models.nnunet_network import Architecture, Blocks, Layer

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
"""The networks that are known here; the second has residual blocks."""

KINDS: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(nn.Dropout, nn.Dropout2d, nn.Dropout3d),
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    )
}
"""Layers that plans may name."""

KNOWN = """n_stages features_per_stage conv_op kernel_sizes strides n_conv_per_stage n_blocks_per_stage
n_conv_per_stage_decoder conv_bias norm_op norm_op_kwargs dropout_op dropout_op_kwargs nonlin nonlin_kwargs
nonlin_first stem_channels deep_supervision""".split()
"""The network's arguments that are known here."""

OWN_NORM = "nnUNetTrainerBN"
"""A trainer whose networks have batch norm, whatever the plans say."""

FACTORY = "Write a factory that builds the network: file.py:factory@weights."


def read_architecture(found: Mapping[str, Any], *, n_space: int, trainer: str, where: str) -> Architecture:
    """Return the network of one configuration of plans.json, of the new style or the old.

    Raises:
        ModelError: If it names a network, an argument or a layer that is not known, or lacks one.
    """
    name, arguments = _new_style(found, where) if "architecture" in found else _old_style(found, n_space, where)
    if name not in NETWORKS:
        raise ModelError(f"{where} names the network '{name}', and known are {', '.join(NETWORKS)}. {FACTORY}")
    for key in arguments:
        if key not in KNOWN and arguments[key] is not None:
            raise ModelError(f"{where} gives its network {key}={arguments[key]!r}, which is not known. {FACTORY}")
    if trainer == OWN_NORM:
        norm = {"norm_op": f"BatchNorm{n_space}d", "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
        arguments = {**arguments, **norm}
    n = entry(arguments, "n_stages", int, where=where)
    is_residual = name == NETWORKS[1]
    return Architecture(
        blocks=_blocks(arguments, n_space, where),
        is_residual=is_residual,
        features=_per_stage(arguments, "features_per_stage", n, where),
        kernels=_per_axis(arguments, "kernel_sizes", n, n_space, where),
        strides=_per_axis(arguments, "strides", n, n_space, where),
        n_encoder=_per_stage(arguments, "n_blocks_per_stage" if is_residual else "n_conv_per_stage", n, where),
        n_decoder=_per_stage(arguments, "n_conv_per_stage_decoder", n - 1, where),
        stem_features=arguments.get("stem_channels"),
    )


def _new_style(found: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    architecture = entry(found, "architecture", dict, where=where)
    path = entry(architecture, "network_class_name", str, where=where)
    return path.rpartition(".")[2], entry(architecture, "arch_kwargs", dict, where=where)


def _old_style(found: Mapping[str, Any], n_space: int, where: str) -> tuple[str, Mapping[str, Any]]:
    """Return what plans of the first releases mean, as nnU-Net itself reads them (``ConfigurationManager``)."""
    name = entry(found, "UNet_class_name", str, where=where)
    convolutions = integers(found, "n_conv_per_stage_encoder", where=where)
    first = entry(found, "UNet_base_num_features", int, where=where)
    most = entry(found, "unet_max_num_features", int, where=where)
    return name, {
        "n_stages": len(convolutions),
        "features_per_stage": [min(first * 2**stage, most) for stage in range(len(convolutions))],
        "conv_op": f"Conv{n_space}d",
        "kernel_sizes": found.get("conv_kernel_sizes"),
        "strides": found.get("pool_op_kernel_sizes"),
        "n_blocks_per_stage" if name == NETWORKS[1] else "n_conv_per_stage": list(convolutions),
        "n_conv_per_stage_decoder": found.get("n_conv_per_stage_decoder"),
        "conv_bias": True,
        "norm_op": f"InstanceNorm{n_space}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "nonlin": "LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _blocks(arguments: Mapping[str, Any], n_space: int, where: str) -> Blocks:
    convolution = entry(arguments, "conv_op", str, where=where).rpartition(".")[2]
    if convolution != f"Conv{n_space}d":
        raise ModelError(f"{where} has patches of {n_space} axes and the convolution '{convolution}'. {FACTORY}")
    return Blocks(
        n_space=n_space,
        has_bias=bool(arguments.get("conv_bias", False)),
        norm=_layer(arguments, "norm_op", "norm_op_kwargs", where),
        dropout=_layer(arguments, "dropout_op", "dropout_op_kwargs", where),
        activation=_layer(arguments, "nonlin", "nonlin_kwargs", where),
        is_activated_first=bool(arguments.get("nonlin_first", False)),
    )


def _layer(arguments: Mapping[str, Any], key: str, settings_key: str, where: str) -> Layer | None:
    path = arguments.get(key)
    if path is None:
        return None
    name = str(path).rpartition(".")[2]
    settings = arguments.get(settings_key) or {}
    if name not in KINDS:
        raise ModelError(f"{where} names the layer {path!r} as {key}, and known are {', '.join(KINDS)}. {FACTORY}")
    if not isinstance(settings, dict) or not all(isinstance(value, int | float | bool) for value in settings.values()):
        raise ModelError(f"{where} must give {settings_key} as plain numbers, not {settings!r}. Fetch it again.")
    layer = Layer(KINDS[name], settings)
    try:
        layer.make(*([1] if key == "norm_op" else []))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} of {where} cannot take {settings}: {error}. Fetch it again.") from error
    return layer


def _per_stage(arguments: Mapping[str, Any], key: str, n: int, where: str) -> tuple[int, ...]:
    """Return a positive whole number per stage; one serves all."""
    value = arguments.get(key)
    if isinstance(value, int):
        return (value,) * n
    found = integers(arguments, key, where=where, n=n)
    if min(found) < 1:
        raise ModelError(f"{where} must give {key} as positive numbers, not {list(found)}. Fetch it again.")
    return found


def _per_axis(
    arguments: Mapping[str, Any], key: str, n: int, n_space: int, where: str
) -> tuple[tuple[int, ...], ...]:
    """Return whole numbers per stage and space axis; one serves all axes, or all stages."""
    value = arguments.get(key)
    stages = [value] * n if isinstance(value, int) else value
    if not isinstance(stages, list) or len(stages) != n:
        raise ModelError(f"{where} must give {key} for {n} stages, not {value!r}. Fetch it again.")
    rows = ([stage] * n_space if isinstance(stage, int) else stage for stage in stages)
    return tuple(integers({key: row}, key, where=where, n=n_space) for row in rows)
