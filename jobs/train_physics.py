"""The recipe of ``physics_network.safetensors``: some minutes of two CPU cores, and the card with what came out.

    python jobs/train_physics.py

Data: globes that are made up (``physics_globe.py``), whose heating and its column integral are known. A step sees a
part of one, with what the convolutions see about it, wrapped round in longitude. Loss: the mean square of the heating
at each level, in K day-1, and of its column integral, in 100 W m-2, through the integral. AdamW in one cycle; seed 0.
"""

import hashlib
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from physics_globe import Globe, globe, latitudes
from physics_network import N_CHANNELS, REACH, WEIGHTS, integral, network, pipeline
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from engine.measure.area import cosine_weights

SEED, STEPS, RATE = 0, 850, 6e-3
CROP = 26
"""Cells along a side of the part that a step sees: with their reach, they fill one call of the column network."""

SIDE, INNER = CROP + 2 * REACH, slice(REACH, -REACH)

TRAINED, HELD_OUT = range(100, 124), range(0, 2)
"""Seeds of the globes."""

UNIT = 100.0
"""W m-2 that weigh as much in the loss as 1 K day-1."""

CARD = WEIGHTS.with_suffix(".md")

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of the column heating, weighted by area, in W m-2."""

    rmse: float
    mean: float
    """Of what was found, over the globe."""
    share: float
    """Of the variance that is explained, which is 0 for the mean everywhere."""


def main() -> int:
    """Train, measure on what was held out, and write the weights and the card."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    globes = [globe(seed) for seed in TRAINED]
    begin = time.monotonic(), time.process_time()
    trained = train(globes)
    seconds = time.monotonic() - begin[0], time.process_time() - begin[1]
    save_file(trained.state_dict(), WEIGHTS)
    CARD.write_text(card(measured(trained, globes), trained, seconds=seconds))
    print(CARD.read_text())
    return 0


def wrapped(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` (b, c, lat, lon) with what the convolutions see beyond its first and last column."""
    return F.pad(x, (REACH, REACH, 0, 0), mode="circular")


def train(globes: list[Globe], *, n_steps: int = STEPS) -> nn.Sequential:
    """Return the network after so many steps of one globe each."""
    torch.manual_seed(SEED)
    chance = np.random.default_rng(SEED)
    whole = torch.from_numpy(np.stack([one.x for one in globes]))
    truths = [np.concatenate([one.heating, one.column_heating[None]]) for one in globes]
    truth = torch.from_numpy(np.stack(truths)).float()
    trained, summed = network(), integral()
    set_normalisation(trained[0], whole)
    shown, wanted = wrapped(whole), wrapped(truth)
    optimiser = torch.optim.AdamW(trained.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=n_steps)
    for step in range(n_steps):
        x, y = part(shown, wanted, chance)
        rate = trained(x)[..., INNER, INNER]
        total = summed(torch.cat([rate, x[:, -1:, INNER, INNER]], 1))
        loss = F.mse_loss(rate, y[:, :-1]) + F.mse_loss(total / UNIT, y[:, -1:] / UNIT)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {n_steps}: loss {loss.item():.4f}", flush=True)
    return trained.eval()


def part(
    shown: torch.Tensor, wanted: torch.Tensor, chance: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a part of a random globe, and the truth without what the convolutions see about it, perhaps mirrored."""
    k, row, column = (int(chance.integers(n)) for n in (len(shown), *(n - SIDE + 1 for n in shown.shape[2:])))
    at = np.s_[k : k + 1, :, row : row + SIDE, column : column + SIDE]
    mirrored = [axis for axis in (2, 3) if chance.uniform() < 0.5]
    return shown[at].flip(mirrored), wanted[at].flip(mirrored)[..., INNER, INNER]


def set_normalisation(layer: nn.Module, x: torch.Tensor) -> None:
    """Set mean and spread of each channel to those of the globes (globe, channel, lat, lon)."""
    layer.mean = x.double().mean((0, 2, 3)).float()
    layer.std = x.double().std((0, 2, 3)).float()


def predicted(trained: nn.Module, made: Globe) -> Field:
    """Return the column heating, W m-2 (lat, lon), in one pass over the globe."""
    x = wrapped(torch.from_numpy(made.x)[None])
    with torch.inference_mode():
        return pipeline(trained)(x)["heating"][0, 0, :, REACH:-REACH].double().numpy()


def measured(trained: nn.Module, globes: list[Globe]) -> dict[str, Scores]:
    """Return the scores on the globes held out: the network's, and of what needs none."""
    mean, line = mean_of(globes), line_of(globes)
    held = [globe(seed) for seed in HELD_OUT]
    ways = {
        "the network": lambda one: predicted(trained, one),
        "a line through the column's own numbers": lambda one: along(line, one),
        "the mean of the training globes, everywhere": lambda one: np.full_like(one.rain, mean),
        "the truth": lambda one: one.column_heating,
    }
    truth = np.stack([one.column_heating for one in held])
    return {name: scores(np.stack([way(one) for one in held]), truth) for name, way in ways.items()}


def mean_of(globes: list[Globe]) -> float:
    """Return the mean column heating over the globes, weighted by area, W m-2."""
    rows = np.mean([one.column_heating.mean(1) for one in globes], axis=0)
    return float(np.average(rows, weights=cosine_weights(latitudes(len(rows)))))


def line_of(globes: list[Globe]) -> Field:
    """Return the least squares from a column's own inputs to its heating."""
    rows = np.concatenate([_rows(one) for one in globes])
    sums = np.concatenate([one.column_heating.ravel() for one in globes])
    return np.linalg.lstsq(rows, sums, rcond=None)[0]


def along(line: Field, made: Globe) -> Field:
    """Return what the line says, W m-2 (lat, lon)."""
    return (_rows(made) @ line).reshape(made.rain.shape)


def _rows(made: Globe) -> Field:
    scale = np.array([300.0] * 10 + [1e-2] * 10 + [1e5])[:, None, None]
    flat = (made.x / scale).reshape(N_CHANNELS, -1).T
    return np.concatenate([flat, np.ones((len(flat), 1))], 1)


def scores(found: Field, truth: Field) -> Scores:
    """Return how far column heatings (globe, lat, lon) are from the truth."""
    weights = np.broadcast_to(cosine_weights(latitudes(truth.shape[1]))[:, None], truth.shape)
    mean = float(np.average(truth, weights=weights))
    square = float(np.average((found - truth) ** 2, weights=weights))
    spread = float(np.average((truth - mean) ** 2, weights=weights))
    return Scores(square**0.5, float(np.average(found, weights=weights)), 1 - square / spread)


def card(rows: dict[str, Scores], trained: nn.Module, *, seconds: tuple[float, float]) -> str:
    """Return the model card."""
    n_parameters = sum(parameter.numel() for parameter in trained.parameters())
    seeds, held = (f"{which.start} to {which.stop - 1}" for which in (TRAINED, HELD_OUT))
    table = ["| held-out globes | RMSE, W m-2 | variance explained | global mean, W m-2 |", "| --- | --- | --- | --- |"]
    table += [f"| {name} | {one.rmse:.2f} | {one.share:.3f} | {one.mean:.2f} |" for name, one in rows.items()]
    data = WEIGHTS.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    return "\n".join(
        [
            "# physics_network",
            "",
            "Three horizontal 3 x 3 convolutions, a GRU along each column, and its mass-weighted integral:",
            f"{n_parameters:,} parameters, from temperature, humidity and surface pressure to heating in K day-1 at 10",
            "levels and in W m-2 of the column.",
            "",
            "**What it is:** a demonstration, small enough to ship, of a network that looks sideways and then up and",
            "down, with physics behind it, whose every integral is known.",
            "",
            "**What it is not:** it saw no atmosphere. Its globes are noise with a rule (`physics_globe.py`), those",
            "held out are of the same kind, and its scores say nothing of a real one. Nothing holds it to the water",
            "that there is: the budget closes as far as it learnt to close it.",
            "",
            f"**Data:** globes made up, 48 x 96 cells, 10 levels. Seeds {seeds} are trained on, {held} held out;",
            "the job's globe is the first of those.",
            "",
            "**Recipe:** `python jobs/train_physics.py`: mean square of the heating (K day-1) and of its integral",
            f"({UNIT:g} W m-2), AdamW at {RATE:g} in one cycle, {STEPS} steps of {CROP} x {CROP} cells,",
            f"mirrored either way, seed {SEED};",
            f"{seconds[1]:.0f} s of CPU on two cores, {seconds[0]:.0f} s by the clock while others used them too.",
            "",
            *table,
            "",
            "The line sees a column's own temperatures, humidities and surface pressure, and no neighbour.",
            "",
            f"**Weights:** physics_network.safetensors, {len(data):,} bytes, sha256 {sha256}.",
            "Apache-2.0.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
