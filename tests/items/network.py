"""Small models of items: a value, a vector and a volume each."""

import torch
from torch import nn


class Scores(nn.Module):
    """Gives ``score`` (batch,), ``classes`` (batch, 3) and ``map`` (batch, 2, *space); refuses what is not finite."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Sequential(
            nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 2, 3, padding=1)
        )
        self.classes = nn.Linear(2, 3)

    def forward(self, x):
        if not torch.isfinite(x).all():
            raise ValueError("the model wants finite voxels")
        y = self.first(x)
        features = y.amax(dim=(2, 3, 4))
        return {"score": features.sum(1), "classes": torch.softmax(self.classes(features), 1), "map": y}


def scores() -> Scores:
    return Scores()


class OnlyMap(Scores):
    def forward(self, x):
        return {"map": super().forward(x)["map"]}


class Clash(Scores):
    def forward(self, x):
        return {"reason": super().forward(x)["score"]}


def only_map() -> OnlyMap:
    return OnlyMap()


def clash() -> Clash:
    return Clash()
