"""Networks to time: factories that a model specification can name, weights drawn from a fixed seed."""

import torch
from torch import nn

from engine.models.resampled import Resampled
from engine.models.windowed import Windowed
from engine.models.wrappers import ArgMax, Compose, Normalise
from jobs.networks import MeshNet, UNet
from tests.real_models import DATA, MESHNETS, meshnet

TRAINED = next(iter(MESHNETS))

WINDOW = 64
"""Side of the sliding window that is timed."""


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
    return _unet(n_space=3, n_in=1)


def unet_2d() -> nn.Module:
    """Return a compute-bound network for slides: the class of each pixel."""
    return _unet(n_space=2, n_in=3)


def _unet(*, n_space: int, n_in: int) -> nn.Module:
    torch.manual_seed(0)
    network = UNet(n_space=n_space, n_in=n_in, n_out=2, widths=(16, 32, 64), norm="none")
    return Compose(Normalise(0.0, 256.0), network, ArgMax()).eval()


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
    """Return brainchop's 'model11_gw_ae': scores of background, white and grey matter."""
    return meshnet(TRAINED)


def meshnet_20chan() -> nn.Module:
    """Return brainchop's 'model20chan3cls': the same task, dilations to 16."""
    return meshnet(list(MESHNETS)[1])


def instance_unet() -> nn.Module:
    """Return a 3-d U-Net that normalises whatever it is shown, as patch-trained networks do."""
    torch.manual_seed(0)
    return UNet(n_space=3, n_in=1, n_out=4, widths=(16, 32, 64), norm="instance").eval()


def windowed_unet() -> nn.Module:
    """Return the same through a sliding window."""
    return Windowed(instance_unet(), window=WINDOW, overlap=0.5, weights="gaussian")


def segmenter(n_classes: int) -> nn.Module:
    """Return a cheap network of many classes: what is measured is what comes after it."""
    torch.manual_seed(0)
    first, second = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv3d(8, n_classes, 1)).eval()


def resampled_segmenter(n_classes: int) -> nn.Module:
    """Return it at twice the source's spacing, brought back class by class, and reduced there."""
    return Compose(Normalise(1500.0, 500.0), Resampled(segmenter(n_classes), spacing=2.0), ArgMax()).eval()


def has_trained() -> bool:
    """Say whether the trained weights are beside the repository."""
    return (DATA / "models" / TRAINED).exists()
