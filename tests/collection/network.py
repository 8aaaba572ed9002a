"""Small networks for slides."""

import torch

from engine.models.fitted import Statistics
from engine.models.wrappers import Compose


class StainNet(torch.nn.Module):
    """Probability and label of nuclei, from two convolutions."""

    mpp = 0.5

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = torch.nn.Conv2d(3, 4, 5, padding=2), torch.nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        y = torch.softmax(self.second(torch.relu(self.first(x / 255))), 1)
        return {"probability": y[:, 1:], "label": (y[:, 1] > 0.5).to(torch.uint8)}


def stain_net():
    return StainNet(0)


def other_net():
    return StainNet(1)


class Centred(Statistics):
    """Takes the slide's own mean colour away."""

    def __init__(self):
        super().__init__(mean=torch.full((3,), 128.0))

    def measure(self, pixels):
        return {"mean": pixels.mean(0)}

    def forward(self, x):
        self.check_fitted()
        return x - self.mean[:, None, None] + 128


def centred_net():
    return Compose(Centred(), StainNet(0))
