"""Networks to time: factories that a model specification can name, weights drawn from a fixed seed."""

import torch
from torch import nn

from engine.models.wrappers import ArgMax, Compose
from tests.real_models import DATA, MESHNETS, MeshNet, meshnet

TRAINED = next(iter(MESHNETS))


class UNet(nn.Module):
    """Three levels, two convolutions each, ReLU, max-pooling down, transposed convolution up, two classes."""

    def __init__(self, *, n_space: int, n_channels: int, width: int) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[n_space]
        up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[n_space]
        pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[n_space]
        widths = [width, 2 * width, 4 * width]

        def pair(c_in: int, c_out: int) -> nn.Sequential:
            first, second = conv(c_in, c_out, 3, padding=1), conv(c_out, c_out, 3, padding=1)
            return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))

        self.pool = pool(2)
        self.down = nn.ModuleList(pair(i, o) for i, o in zip([n_channels, *widths], widths, strict=False))
        self.ups = nn.ModuleList(up(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.join = nn.ModuleList(pair(2 * w, w) for w in reversed(widths[:-1]))
        self.head = conv(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channel, *space) -> (batch, 2, *space), class scores."""
        x = x * (1 / 256)
        skips = []
        for level, pair in enumerate(self.down):
            x = pair(x if level == 0 else self.pool(x))
            skips.append(x)
        for up, join, skip in zip(self.ups, self.join, reversed(skips[:-1]), strict=True):
            x = join(torch.cat([up(x), skip], dim=1))
        return self.head(x)


class ThreeLayers(nn.Module):
    """A denoiser at a quarter of the scale: it does so little per voxel that reading and writing are half the work."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 8, 4, stride=4)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 1, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 1, y, x) -> the same shape."""
        return self.up(self.middle(self.down(x).relu_()).relu_())


def unet_3d() -> nn.Module:
    """Return a compute-bound network for scans: the class of each voxel."""
    torch.manual_seed(0)
    return Compose(UNet(n_space=3, n_channels=1, width=16), ArgMax()).eval()


def unet_2d() -> nn.Module:
    """Return a compute-bound network for slides: the class of each pixel."""
    torch.manual_seed(0)
    return Compose(UNet(n_space=2, n_channels=3, width=16), ArgMax()).eval()


def three_layers() -> nn.Module:
    """Return an I/O-bound network."""
    torch.manual_seed(0)
    return ThreeLayers().eval()


def smoother_3d() -> nn.Module:
    """Return three cheap layers for scans."""
    torch.manual_seed(0)
    down, up = nn.Conv3d(1, 8, 4, stride=4), nn.ConvTranspose3d(8, 1, 4, stride=4)
    return nn.Sequential(down, nn.ReLU(inplace=True), nn.Conv3d(8, 8, 3, padding=1), up).eval()


def meshnet_twin() -> nn.Module:
    """Return a network of the trained one's shape, with random weights that keep its classes alive."""
    torch.manual_seed(0)
    network = MeshNet(width=11, dilations=(1, 2, 4, 8, 4, 2, 2, 1), n_classes=3, activation=nn.ReLU)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
    place = torch.arange(40.0).sin()
    sample = 110 + 40 * (place[:, None, None] + place[:, None] + place) + 8 * torch.randn(1, 1, 40, 40, 40)
    with torch.inference_mode():
        mean = network.eval()(sample).mean((0, 2, 3, 4))
    with torch.no_grad():
        network.layers[-1].bias -= mean.round(decimals=2)  # type: ignore[operator]
    return network


def meshnet_trained() -> nn.Module:
    """Return brainchop's 'model11_gw_ae': scores of background, grey and white matter."""
    return meshnet(TRAINED)


def has_trained() -> bool:
    """Say whether the trained weights are beside the repository."""
    return (DATA / "models" / TRAINED).exists()
