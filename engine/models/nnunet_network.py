"""The two networks of nnU-Net, under the names that its checkpoints give their weights.

A plain and a residual encoder, both before the same decoder: what the package
dynamic-network-architectures (Isensee et al. 2021, "nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation"; residual encoders 2024, "nnU-Net revisited") calls
PlainConvUNet and ResidualEncoderUNet. Some modules are held under two names, so that a checkpoint
holds their weights twice. The outputs of deep supervision are kept for their weights, and not computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOLS = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


@dataclass(frozen=True, slots=True)
class Layer:
    """A kind of layer and its settings."""

    kind: type[nn.Module]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def make(self, *arguments: int) -> nn.Module:
        """Return a new one."""
        return self.kind(*arguments, **self.settings)


@dataclass(frozen=True, slots=True)
class Blocks:
    """What every convolution of a network comes with."""

    n_space: int
    """Axes of space: 2 or 3."""
    has_bias: bool
    norm: Layer | None
    dropout: Layer | None
    activation: Layer | None
    is_activated_first: bool = False
    """Whether the activation goes before the norm."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A U-Net of nnU-Net, from the finest stage to the coarsest."""

    blocks: Blocks
    is_residual: bool
    """Whether the encoder is made of residual blocks after a stem."""
    features: tuple[int, ...]
    """Channels per stage."""
    kernels: tuple[tuple[int, ...], ...]
    """Of the convolutions, per stage and space axis."""
    strides: tuple[tuple[int, ...], ...]
    """Into the stage, per stage and space axis."""
    n_encoder: tuple[int, ...]
    """Convolutions or residual blocks per stage."""
    n_decoder: tuple[int, ...]
    """Convolutions per stage of the decoder, one stage fewer, from the coarsest."""
    stem_features: int | None = None
    """Channels of the stem of a residual encoder; those of the first stage if None."""


class ConvDropoutNormReLU(nn.Module):
    """A convolution with what comes with it: every layer by its name, and all of them once more in order."""

    def __init__(
        self,
        blocks: Blocks,
        n_in: int,
        n_out: int,
        *,
        kernel: Sequence[int],
        stride: Sequence[int],
        has_bias: bool,
        has_dropout: bool = True,
        has_activation: bool = True,
    ) -> None:
        super().__init__()
        padding = tuple((size - 1) // 2 for size in kernel)
        make: Any = CONVOLUTIONS[blocks.n_space]
        self.conv = make(n_in, n_out, tuple(kernel), tuple(stride), padding, bias=has_bias)
        layers = [self.conv]
        if blocks.dropout and has_dropout:
            self.dropout = blocks.dropout.make()
            layers.append(self.dropout)
        if blocks.norm:
            self.norm = blocks.norm.make(n_out)
            layers.append(self.norm)
        if blocks.activation and has_activation:
            self.nonlin = blocks.activation.make()
            layers.append(self.nonlin)
            if blocks.is_activated_first and blocks.norm:
                layers[-2:] = layers[:-3:-1]
        self.all_modules = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (batch, channel, *space) after all layers."""
        found: torch.Tensor = self.all_modules(x)
        return found


class StackedConvBlocks(nn.Module):
    """Convolutions one after the other, the first with a stride."""

    def __init__(
        self, blocks: Blocks, n_in: int, n_out: int, *, n: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * blocks.n_space
        self.convs = nn.Sequential(
            *(
                ConvDropoutNormReLU(
                    blocks,
                    n_out if i else n_in,
                    n_out,
                    kernel=kernel,
                    stride=one if i else stride,
                    has_bias=blocks.has_bias,
                )
                for i in range(n)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` after all convolutions."""
        found: torch.Tensor = self.convs(x)
        return found


class BasicBlockD(nn.Module):
    """A residual block as in ResNet-D (He et al. 2019): where it strides, what skips it is averaged."""

    def __init__(
        self, blocks: Blocks, n_in: int, n_out: int, *, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * blocks.n_space
        bias = blocks.has_bias
        self.conv1 = ConvDropoutNormReLU(blocks, n_in, n_out, kernel=kernel, stride=stride, has_bias=bias)
        self.conv2 = ConvDropoutNormReLU(
            blocks, n_out, n_out, kernel=kernel, stride=one, has_bias=bias, has_dropout=False, has_activation=False
        )
        self.nonlin2 = blocks.activation.make() if blocks.activation else nn.Identity()
        skip: list[nn.Module] = []
        if max(stride) > 1:
            make: Any = POOLS[blocks.n_space]
            skip.append(make(tuple(stride), tuple(stride)))
        if n_in != n_out:
            skip.append(
                ConvDropoutNormReLU(
                    blocks,
                    n_in,
                    n_out,
                    kernel=one,
                    stride=one,
                    has_bias=False,
                    has_dropout=False,
                    has_activation=False,
                )
            )
        self.skip = nn.Sequential(*skip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activated sum of ``x`` and its two convolutions."""
        found: torch.Tensor = self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))
        return found


class StackedResidualBlocks(nn.Module):
    """Residual blocks one after the other, the first with a stride."""

    def __init__(
        self, blocks: Blocks, n_in: int, n_out: int, *, n: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * blocks.n_space
        self.blocks = nn.Sequential(
            *(
                BasicBlockD(blocks, n_out if i else n_in, n_out, kernel=kernel, stride=one if i else stride)
                for i in range(n)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` after all blocks."""
        found: torch.Tensor = self.blocks(x)
        return found


class Encoder(nn.Module):
    """From the input to the features of every stage."""

    def __init__(self, architecture: Architecture, n_channels: int) -> None:
        super().__init__()
        blocks, features = architecture.blocks, architecture.features
        n_in = n_channels
        self.stem: nn.Module | None = None
        if architecture.is_residual:
            n_in = architecture.stem_features or features[0]
            one = (1,) * blocks.n_space
            self.stem = StackedConvBlocks(blocks, n_channels, n_in, n=1, kernel=architecture.kernels[0], stride=one)
        stages: list[nn.Module] = []
        per_stage = (features, architecture.n_encoder, architecture.kernels, architecture.strides)
        for n_out, n, kernel, stride in zip(*per_stage, strict=True):
            if architecture.is_residual:
                stages.append(StackedResidualBlocks(blocks, n_in, n_out, n=n, kernel=kernel, stride=stride))
            else:
                stages.append(nn.Sequential(StackedConvBlocks(blocks, n_in, n_out, n=n, kernel=kernel, stride=stride)))
            n_in = n_out
        self.stages = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every stage, the finest first."""
        x = x if self.stem is None else self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Decoder(nn.Module):
    """From the features of every stage to the logits; it holds the encoder, for its weights' names."""

    def __init__(self, architecture: Architecture, n_classes: int, *, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        blocks, features = architecture.blocks, architecture.features
        one = (1,) * blocks.n_space
        turned: Any = TRANSPOSED[blocks.n_space]
        straight: Any = CONVOLUTIONS[blocks.n_space]
        self.stages, self.transpconvs, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for fine, n in zip(reversed(range(len(features) - 1)), architecture.n_decoder, strict=True):
            stride, kernel, n_out = architecture.strides[fine + 1], architecture.kernels[fine], features[fine]
            self.transpconvs.append(turned(features[fine + 1], n_out, stride, stride, bias=blocks.has_bias))
            self.stages.append(StackedConvBlocks(blocks, 2 * n_out, n_out, n=n, kernel=kernel, stride=one))
            self.seg_layers.append(straight(n_out, n_classes, 1))

    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        """Return the logits on the finest grid."""
        x = skips[-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((up(x), skip), 1))
        found: torch.Tensor = self.seg_layers[-1](x)
        return found


class UNet(nn.Module):
    """A network of nnU-Net: (batch, channel, *space) to (batch, class, *space)."""

    def __init__(self, architecture: Architecture, *, n_channels: int, n_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(architecture, n_channels)
        self.decoder = Decoder(architecture, n_classes, encoder=self.encoder)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        found: torch.Tensor = self.decoder(self.encoder(x))
        return found
