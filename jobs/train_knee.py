"""The recipe of ``knee_unet.safetensors``: minutes on two CPU cores, and the model card with what came out.

    python jobs/train_knee.py

Data: knees made up by ``knee.py``, each with shape, cap, contrast, noise, spacing and tilt of its own, labelled by the
geometry that they were made from; seeds 100 on are trained on, seeds 1 to 4 held out, and the job's knee is seed 0.
Loss: cross-entropy and soft Dice (Milletari et al. 2016) of bone and cartilage. AdamW, one cycle, random crops,
flips and contrast; seed 0. One machine repeats its weights to the bit; another may round otherwise.
"""

import hashlib
import sys
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from knee import CARTILAGE, NAMES, Grid, Knee
from knee_scan import scanned
from knee_unet import N_LABELS, SPACING, WEIGHTS, WIDTHS, UNet, pipeline
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.ndimage import label
from skimage.filters import threshold_otsu
from torch.nn import functional as F

from engine.geometry.resampling import Resampling, grid_size
from engine.models.resampled import resample

SEED, STEPS, BATCH, CROP, RATE = 0, 240, 4, (24, 32, 32), 1e-2
TRAINED, HELD_OUT = range(100, 124), range(1, 5)
"""Seeds of the knees."""

SETTLED = 0.6
"""Share of the steps after which the normalisation keeps its statistics: those of a few crops are not a knee's."""

NEAR_CAP = 0.7
"""Share of crops whose middle is cartilage: it is one voxel in a hundred."""

HELD_SPACING, HELD_SHAPE = (0.6, 0.4, 0.4), (80, 130, 130)
"""Of the knees held out; on the network's grid their sizes are multiples of 4."""

CARD = WEIGHTS.with_suffix(".md")


class Scores(NamedTuple):
    """Of one label, over voxels."""

    dice: float
    recall: float
    precision: float


@dataclass(frozen=True)
class Example:
    """A knee on the network's grid."""

    x: torch.Tensor
    """Normalised magnitudes, (z, y, x) float32."""
    y: NDArray[np.uint8]
    cap: NDArray[np.intp]
    """Voxels of the cap, (n, 3)."""


def main() -> int:
    """Train, measure on what was held out, and write the weights and the card."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    chance = np.random.default_rng(SEED)
    examples = [example(seed, chance) for seed in TRAINED]
    begin = time.monotonic(), time.process_time()
    network = train(examples, chance)
    seconds = time.monotonic() - begin[0], time.process_time() - begin[1]
    save_file(network.state_dict(), WEIGHTS)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    share = sum(len(one.cap) for one in examples) / sum(one.y.size for one in examples)
    CARD.write_text(card(measured(network), seconds=seconds, n_parameters=n_parameters, share=share))
    print(CARD.read_text())
    return 0


def example(seed: int, chance: np.random.Generator) -> Example:
    """Return a knee as the network sees it, from a series of its own spacing and tilt."""
    knee = Knee.of(seed)
    spacing = (chance.uniform(0.45, 0.8), *[chance.uniform(0.35, 0.5)] * 2)
    side = chance.uniform(44, 54)
    shape = tuple(round(side / step) for step in spacing)
    grid = knee.grid(shape, spacing, tilt=chance.uniform(-0.4, 0.4))
    sizes = tuple(grid_size(n, spacing=own, wanted=SPACING) for n, own in zip(grid.shape, grid.spacing, strict=True))
    x = torch.from_numpy(scanned(knee, grid).astype(np.float32))[None, None]
    x = (x - x.mean()) / x.std(correction=0)
    x = resample(x, [Resampling(n, m, "linear") for n, m in zip(shape, sizes, strict=True)])[0, 0]
    y = knee.labels(grid.at(sizes))
    return Example(x, y, np.argwhere(y == CARTILAGE))


def train(examples: list[Example], chance: np.random.Generator) -> UNet:
    """Return the network after :data:`STEPS` steps."""
    network = UNet()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for step in range(STEPS):
        network.train(step < SETTLED * STEPS)
        x, y = crops(examples, chance)
        scored = network(x)
        loss = F.cross_entropy(scored, y) + 1 - soft_dice(torch.softmax(scored, 1), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 19:
            print(f"step {step + 1} of {STEPS}: loss {loss.item():.3f}", flush=True)
    return network.eval()


def crops(examples: list[Example], chance: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of random crops, flipped and of other contrast: (b, 1, z, y, x) float32; labels (b, z, y, x)."""
    images, truths = [], []
    for _ in range(BATCH):
        one = examples[int(chance.integers(len(examples)))]
        shape = one.y.shape
        middle = one.cap[int(chance.integers(len(one.cap)))] + chance.integers(-12, 13, 3)
        if chance.uniform() >= NEAR_CAP:
            middle = np.array([int(chance.integers(n)) for n in shape])
        start = np.clip(middle - np.array(CROP) // 2, 0, np.array(shape) - CROP)
        at = tuple(slice(a, a + n) for a, n in zip(start.tolist(), CROP, strict=True))
        flipped = [axis for axis in range(3) if chance.uniform() < 0.5]
        images.append(one.x[at].flip(flipped) * chance.uniform(0.93, 1.07) + chance.uniform(-0.1, 0.1))
        truths.append(torch.from_numpy(one.y[at].astype(np.int64)).flip(flipped))
    return torch.stack(images)[:, None], torch.stack(truths)


def soft_dice(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the soft Dice coefficient over a batch, the mean of bone's and cartilage's."""
    true = F.one_hot(y, N_LABELS).movedim(-1, 1)[:, 1:].to(p.dtype)
    space = (0, 2, 3, 4)
    hit, both = (p[:, 1:] * true).sum(space), (p[:, 1:] ** 2).sum(space) + true.sum(space)
    return ((2 * hit + 1) / (both + 1)).mean()


def measured(network: UNet) -> dict[str, list[Scores]]:
    """Return the scores of bone and cap of each held-out knee on its own grid, and of a threshold over all of them."""
    rows, compared = {}, []
    for seed in HELD_OUT:
        knee = Knee.of(seed)
        grid = knee.grid(HELD_SHAPE, HELD_SPACING, tilt=0.25)
        voxels, truth = scanned(knee, grid), knee.labels(grid)
        rows[f"seed {seed}"] = scores(predict(network, voxels, grid), truth)
        compared.append((CARTILAGE * brightest(voxels), truth))
    found, truth = (np.concatenate(parts, axis=None) for parts in zip(*compared, strict=True))
    return {**rows, "a threshold, all of them": scores(found, truth)}


def brightest(voxels: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return the largest island above Otsu's threshold."""
    islands, _ = label(voxels > threshold_otsu(voxels))
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    return islands == sizes.argmax()


def scores(found: NDArray[np.integer], truth: NDArray[np.integer]) -> list[Scores]:
    """Return the scores of bone and of cap; nan where nothing was found to be right or wrong about."""
    rows = []
    for number in NAMES:
        hit = float(((found == number) & (truth == number)).sum())
        n_found, n_true = float((found == number).sum()), float((truth == number).sum())
        rows.append(Scores(2 * hit / (n_found + n_true), hit / n_true, hit / n_found if n_found else float("nan")))
    return rows


def predict(network: UNet, voxels: NDArray[np.uint16], grid: Grid) -> NDArray[np.uint8]:
    """Return the labels of a series, in one pass over all of it."""
    whole = pipeline(network).eval()
    x = torch.from_numpy(voxels.astype(np.float32))
    zscore, resampled, _ = whole.children()
    zscore.fit(x.reshape(-1, 1))
    resampled.source_spacing = grid.spacing
    with torch.inference_mode():
        return whole(x[None, None])[0].numpy()


def card(rows: dict[str, list[Scores]], *, seconds: tuple[float, float], n_parameters: int, share: float) -> str:
    """Return the model card."""
    widths, crop = ", ".join(map(str, WIDTHS)), " x ".join(map(str, CROP))
    seeds, held = (f"{which.start} to {which.stop - 1}" for which in (TRAINED, HELD_OUT))
    columns = [f"{name}: {what}" for name in NAMES.values() for what in Scores._fields]
    table = [f"| held-out knees | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, found in rows.items():
        values = [value for one in found for value in one]
        table.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
    data = WEIGHTS.read_bytes()
    return "\n".join(
        [
            "# knee_unet",
            "",
            f"A 3-d U-Net of three levels ({widths} channels, {n_parameters:,} parameters) that marks",
            f"bone and cartilage cap on fat-suppressed knee series, at {SPACING} mm per voxel.",
            "",
            "**What it is:** a demonstration that is small enough to ship, so that a thickness in millimetre can be",
            "followed from DICOM files to a number whose truth is known.",
            "",
            "**What it is not:** it saw no patient. Its knees are geometry (`knee.py`, `knee_scan.py`) with noise, all",
            "of one kind, and its held-out knees are of that kind too, so its scores say nothing of real ones. It was",
            "validated for nothing, and it is no medical device. Do not use it on patients.",
            "",
            "**Data:** knees made up, each with shape, cap (1.4 to 4.5 mm), contrast, noise, spacing and tilt of its",
            f"own, labelled by their geometry. Seeds {seeds} are trained on; {share:.1%} of their voxels are cap.",
            f"Seeds {held} are held out, and so is the job's knee.",
            "",
            f"**Recipe:** `python jobs/train_knee.py`: cross-entropy and soft Dice, AdamW at {RATE:g} in one cycle,",
            f"{STEPS} steps of {BATCH} crops of {crop}, seed {SEED}; {seconds[1]:.0f} s of CPU on two cores,",
            f"{seconds[0]:.0f} s by the clock while others used them too.",
            "",
            *table,
            "",
            "The threshold is Otsu's, and of what is brighter its largest island: it cannot tell cartilage from fluid,",
            "and does not look for bone.",
            "",
            f"**Weights:** knee_unet.safetensors, {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}.",
            "Apache-2.0.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
