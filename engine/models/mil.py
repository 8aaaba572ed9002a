"""Multiple-instance learning: a slide's score, and how much each of its patches counts, from the patches' features.

A bag is (n, feature) with the grid position (row, column) of each instance. Every aggregator has one call,
``(features, positions) -> MILOutput``, keeps n x feature numbers in memory and no n x n matrix. The transformer's
time grows with n squared: 100,000 instances of 512 features are about 10^13 multiplications a layer, seconds on
a GPU and minutes on a CPU.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from engine.errors import ModelError


@dataclass(frozen=True, slots=True)
class MILOutput:
    """What an aggregator says of one bag."""

    logits: torch.Tensor
    """(class,)."""
    attention: torch.Tensor
    """(n,), not negative, summing to 1."""


class Aggregator(nn.Module):
    """A module from a bag to a :class:`MILOutput`; a subclass says how."""

    activation: ClassVar[str] = "softmax"
    """What makes probabilities of the logits: softmax, or sigmoid where classes do not exclude each other."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def forward(self, features: torch.Tensor, positions: torch.Tensor) -> MILOutput:
        """Return the logits and the attention of ``features`` (n, feature) at ``positions`` (n, 2)."""
        raise NotImplementedError


class MeanPool(Aggregator):
    """A linear classifier of the mean feature vector: every instance counts the same, one of zeros too."""

    def __init__(self, n_features: int, n_classes: int = 2) -> None:
        super().__init__(n_features)
        self.classifier = nn.Linear(n_features, n_classes)

    def forward(self, features: torch.Tensor, positions: torch.Tensor) -> MILOutput:  # noqa: ARG002 -- one call for all
        """Return the logits of the mean, and 1/n for each instance."""
        return MILOutput(self.classifier(features.mean(dim=0)), features.new_full((len(features),), 1 / len(features)))


class MaxPool(Aggregator):
    """A linear classifier of each instance; a class's logit is that of its strongest instance."""

    def __init__(self, n_features: int, n_classes: int = 2) -> None:
        super().__init__(n_features)
        self.classifier = nn.Linear(n_features, n_classes)

    def forward(self, features: torch.Tensor, positions: torch.Tensor) -> MILOutput:  # noqa: ARG002 -- one call for all
        """Return each class's largest logit; all attention is on the instance that gave the largest of all."""
        logits, strongest = self.classifier(features).max(dim=0)
        attention = F.one_hot(strongest[logits.argmax()], len(features))
        return MILOutput(logits, attention.to(features.dtype))


class Gate(nn.Module):
    """The gated attention of Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning", eq. 9."""

    def __init__(self, n_hidden: int, n_attention: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(n_hidden, n_attention), nn.Tanh())
        self.attention_b = nn.Sequential(nn.Linear(n_hidden, n_attention), nn.Sigmoid())
        self.attention_c = nn.Linear(n_attention, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the raw attention (n,) of ``hidden`` (n, feature)."""
        raw: torch.Tensor = self.attention_c(self.attention_a(hidden) * self.attention_b(hidden))
        return raw.squeeze(1)


class GatedAttention(Aggregator):
    """Gated attention as CLAM's single branch has it (Lu et al. 2021), its parameters named as there.

    A state dict that CLAM saved loads by ``load_clam``; one of this module loads into CLAM's, but for the
    instance classifiers, which serve its training only.
    """

    def __init__(self, n_features: int, n_classes: int = 2, *, n_hidden: int = 512, n_attention: int = 256) -> None:
        super().__init__(n_features)
        self.attention_net = nn.Sequential(
            nn.Linear(n_features, n_hidden), nn.ReLU(), nn.Dropout(0.0), Gate(n_hidden, n_attention)
        )
        self.classifiers = nn.Linear(n_hidden, n_classes)

    def forward(self, features: torch.Tensor, positions: torch.Tensor) -> MILOutput:  # noqa: ARG002 -- one call for all
        """Return the logits of the attended mean of the hidden features."""
        hidden = self.attention_net[:3](features)
        attention = torch.softmax(self.attention_net[3](hidden), dim=0)
        return MILOutput(self.classifiers(attention @ hidden), attention)


class DualStream(Aggregator):
    """DSMIL (Li et al. 2021): instances are weighed by their likeness to each class's strongest instance.

    Args:
        n_features: Of an instance.
        n_classes: Not excluding each other: probabilities are sigmoids.
        n_query: Length of a query.
        is_deep: Whether queries pass two layers with ReLU and tanh, as its later code has it, or one.
        value: What instances pass before they are summed: "identity", "linear" (its first code) or "relu".
    """

    activation = "sigmoid"

    def __init__(
        self, n_features: int, n_classes: int = 1, *, n_query: int = 128, is_deep: bool = True, value: str = "identity"
    ) -> None:
        super().__init__(n_features)
        self.instance = nn.Linear(n_features, n_classes)
        layers = [nn.Linear(n_features, n_query)]
        deeper = [nn.ReLU(), nn.Linear(n_query, n_query), nn.Tanh()] if is_deep else []
        self.query = nn.Sequential(*layers, *deeper)
        self.value = nn.Sequential(
            *([] if value == "identity" else [nn.Linear(n_features, n_features)]),
            *([nn.ReLU()] if value == "relu" else []),
        )
        self.classifier = nn.Conv1d(n_classes, n_classes, kernel_size=n_features)

    def forward(self, features: torch.Tensor, positions: torch.Tensor) -> MILOutput:  # noqa: ARG002 -- one call for all
        """Return the bag's logits; the attention is that of the class with the largest."""
        queries = self.query(features)
        strongest = self.instance(features).argmax(dim=0)
        alike = queries @ queries[strongest].T / queries.shape[1] ** 0.5
        attention = torch.softmax(alike, dim=0)
        logits = self.classifier((attention.T @ self.value(features))[None]).reshape(-1)
        return MILOutput(logits, attention[:, logits.argmax()])


class TransformerAggregator(Aggregator):
    """A transformer over the instances and a class token, each instance knowing its row and column.

    Layers are as in Vaswani et al. 2017, normalised before (Xiong et al. 2020); positions are sinusoids of the
    row and of the column, half of the width each, so that any grid size will do.
    """

    def __init__(
        self, n_features: int, n_classes: int = 2, *, width: int = 256, n_heads: int = 4, n_layers: int = 2
    ) -> None:
        super().__init__(n_features)
        if width % 4 or width % n_heads:
            raise ModelError(f"a transformer's width must be a multiple of 4 and of its {n_heads} heads, not {width}.")
        self.project = nn.Linear(n_features, width)
        self.token = nn.Parameter(torch.zeros(width))
        self.first = nn.ModuleList(_Layer(width, n_heads) for _ in range(n_layers - 1))
        self.last = _Layer(width, n_heads)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, features: torch.Tensor, positions: torch.Tensor) -> MILOutput:
        """Return the class token's logits, and what it attends to in the last layer, averaged over heads."""
        placed = self.project(features) + sinusoids(positions, self.token.numel()).to(features.dtype)
        tokens = torch.cat([self.token[None], placed])
        for layer in self.first:
            tokens = layer(tokens)
        others = self.last.attention_of_first(tokens)[1:]
        tokens = self.last(tokens)
        return MILOutput(self.classifier(self.norm(tokens[0])), others / others.sum())


class _Layer(nn.Module):
    """Attention and two dense layers over tokens (n, width), added to what came."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self._heads(tokens)
        met = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]  # (head, n, width of a head)
        tokens = tokens + self.out(met.transpose(0, 1).flatten(1))
        changed: torch.Tensor = self.dense(self.after(tokens))
        return tokens + changed

    def attention_of_first(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return how much the first token attends to each token (n,), averaged over heads."""
        query, key, _ = self._heads(tokens)
        alike = torch.einsum("hd,hnd->hn", query[:, 0], key) / query.shape[-1] ** 0.5
        return torch.softmax(alike, dim=1).mean(dim=0)

    def _heads(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mixed = self.mixed(self.before(tokens)).unflatten(1, (3, self.n_heads, -1))  # (n, 3, head, width of a head)
        query, key, value = mixed.permute(1, 2, 0, 3)
        return query, key, value


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Return (n, width): sines and cosines of rows in the first half, of columns in the second.

    Wavelengths run from 2 pi to 10,000 times that, as in Vaswani et al. 2017, section 3.5.

    >>> sinusoids(torch.tensor([[0, 1]]), 8)[0, :4].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    quarter = width // 4
    rates = 10000 ** (-torch.arange(quarter, device=positions.device, dtype=torch.float64) / quarter)
    angles = positions.to(torch.float64)[:, :, None] * rates  # (n, 2, quarter)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1).to(torch.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What an aggregator says of one bag, as arrays."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    attention: NDArray[np.float32]
    """(n,), summing to 1."""


def aggregate(aggregator: nn.Module, features: NDArray[np.float32], positions: NDArray[np.int64]) -> Scored:
    """Return the score of a bag, ``features`` (n, feature) at grid ``positions`` (n, 2), on the aggregator's device.

    Raises:
        ModelError: If the bag is empty, holds NaN, or has other features than the aggregator was made for.
    """
    wanted = getattr(aggregator, "n_features", features.shape[1])
    if not len(features) or features.shape[1] != wanted:
        raise ModelError(
            f"the aggregator needs a bag of (instance, {wanted} features), not one of {features.shape}. "
            "Compute features with the encoder that it was trained on, on tissue that there is."
        )
    n_bad = int((~np.isfinite(features).all(axis=1)).sum())
    if n_bad:
        raise ModelError(f"features must be finite, and {n_bad} of {len(features)} instances hold NaN. Mask them out.")
    first = next(iter(aggregator.parameters()), torch.zeros(0))
    is_training = aggregator.training
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(features)).to(first.device, first.dtype)
        output = aggregator.eval()(x, torch.from_numpy(np.ascontiguousarray(positions)).to(first.device))
        is_softmax = getattr(aggregator, "activation", "softmax") == "softmax"
        shares = torch.softmax(output.logits, dim=0) if is_softmax else torch.sigmoid(output.logits)
        found = [tensor.float().cpu().numpy() for tensor in (output.logits, shares, output.attention)]
    aggregator.train(is_training)
    return Scored(*found)
