"""The recipe of ``organ_unet.safetensors``: some minutes of one CPU core, and the model card with what came out.

    python jobs/train_organs.py [--scan totalsegmentator_example_ct.nii.gz]

Data: the example CT of TotalSegmentator (Apache-2.0), abdomen and pelvis, 112 planes of 101 x 122 voxels of 3 mm.
Labels: made by rule from the whole scan (see :func:`labels`): gas is dark and *inside* the body, bone hangs together
with what is bright, or is enclosed by it. A voxel's own value tells neither, its surroundings do. A slab of planes in
the middle is held out, with a gap on either side. Loss: soft Dice (Milletari et al. 2016) and cross entropy, taken on
the scan's own grid, through the resampling. AdamW, one cycle, crops mirrored every way, brighter, larger and noisier;
seed 0, one thread. One machine repeats its weights to the bit; another may round otherwise.
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import organ_unet
import torch
from numpy.typing import NDArray
from organ_unet import BONE, GAS, SPACING, WEIGHTS, WIDTHS
from safetensors.torch import save_file
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, binary_opening, gaussian_filter, label
from skimage.filters import apply_hysteresis_threshold
from torch import nn
from torch.nn import functional as F

from engine.models.wrappers import Compose

SEED, STEPS, BATCH, RATE = 0, 700, 2, 3e-3
CROP = (20, 72, 72)
"""Voxels of a part that is trained on: planes, rows, columns."""

HELD_OUT, GAP = (0.54, 0.76), 4
"""Share of the planes that are never seen, from and to; and planes on either side that belong to neither."""

SKIN, DARK, DIM, BRIGHT = -400, -500, 150, 250
"""HU: body is above the first, gas below the second, bone above the third where it hangs together with the fourth."""

SMOOTHING = 2.0
"""Millimetre, of the scan before bone is told by its thresholds."""

LEAST_ML = {GAS: 0.25, BONE: 1.2}
"""Of an island of voxels; bone's keeps stones and calcified vessels out."""

CARD = WEIGHTS.with_suffix(".md")
CT = Path(__file__).resolve().parents[2] / "shared" / "data" / "ct" / "totalsegmentator_example_ct.nii.gz"

HU = NDArray[np.float32]
Labels = NDArray[np.uint8]


def main() -> int:
    """Train, measure on what was held out, and write the weights and the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=Path, default=CT, help=f"a CT of one spacing along all axes [{CT.name}]")
    path = parser.parse_args().scan
    if not path.exists():
        print(f"the scan is not at '{path}'. Give --scan.", file=sys.stderr)
        return 1
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # how sums are parted among threads is in the last bits
    hu, spacing = read(path)
    truth = labels(hu, spacing=spacing)
    held = slice(*(round(share * len(hu)) for share in HELD_OUT))
    seen = [slice(0, held.start - GAP), slice(held.stop + GAP, len(hu))]
    begin = time.process_time()
    unet = train([(hu[part], truth[part]) for part in seen], spacing=spacing)
    seconds = time.process_time() - begin
    save_file(unet.state_dict(), WEIGHTS)
    found = predict(unet, hu, spacing=spacing)
    alone = predict(unet, hu[held], spacing=spacing)
    best = best_threshold(hu[held], truth[held], inside=body(hu)[held])
    rows = {
        "the network": (found[held], truth[held]),
        "the network, shown the slab alone": (alone, truth[held]),
        "bare thresholds": (threshold(hu[held]), truth[held]),
        "the best thresholds, within the body": (best, truth[held]),
        "the network, on what it learnt from": tuple(np.concatenate([a[s] for s in seen]) for a in (found, truth)),
    }
    text = card({name: measures(*pair) for name, pair in rows.items()}, path, held=held, truth=truth, seconds=seconds)
    CARD.write_text(text)
    print(text)
    return 0


def read(path: Path) -> tuple[HU, float]:
    """Return the scan's HU (z, y, x) and millimetre per voxel."""
    image = nibabel.load(path)
    spacing = float(image.header.get_zooms()[0])
    return np.ascontiguousarray(np.asarray(image.dataobj, np.float32).T), spacing


def body(hu: HU) -> NDArray[np.bool_]:
    """Return where the patient is, with all that the skin encloses; the table is not."""
    opened = binary_opening(hu > SKIN, ball(2))
    islands, _ = label(opened)
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    return np.stack([binary_fill_holes(plane) for plane in islands == sizes.argmax()])


def labels(hu: HU, *, spacing: float) -> Labels:
    """Return :data:`GAS` and :data:`BONE` by rule.

    Gas is darker than -500 HU and a voxel or more below the skin: lung and bowel, and not the room. Bone is what, once
    smoothed, is brighter than 150 HU and hangs together with what is brighter than 250 HU, no speck, closed over gaps
    of a few millimetres, with what it encloses in a plane: marrow is no brighter than other organs.
    """
    inside, n = body(hu), {one: ml * 1000 / spacing**3 for one, ml in LEAST_ML.items()}
    gas = islands_of((hu < DARK) & binary_erosion(inside, ball(1), border_value=1), at_least=n[GAS])
    smooth = gaussian_filter(hu.clip(DARK, 4 * BRIGHT), SMOOTHING / spacing)
    dense = islands_of(apply_hysteresis_threshold(smooth, DIM, BRIGHT) & inside, at_least=n[BONE])
    closed = binary_erosion(binary_dilation(np.pad(dense, 2, mode="edge"), ball(2)), ball(2), border_value=1)
    filled = np.stack([binary_fill_holes(plane) for plane in closed[2:-2, 2:-2, 2:-2]])
    return np.select([gas, filled], [GAS, BONE]).astype(np.uint8)


def ball(radius: int) -> NDArray[np.bool_]:
    """Return a ball of voxels."""
    z, y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    return np.asarray(z**2 + y**2 + x**2 <= radius**2)


def islands_of(mask: NDArray[np.bool_], *, at_least: float) -> NDArray[np.bool_]:
    """Return the islands of so many voxels; corners touch."""
    islands, _ = label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= at_least)[islands])


def threshold(hu: HU, *, bone: float = DIM) -> Labels:
    """Return what a voxel's own value says: dark is gas, bright is bone."""
    return np.select([hu < DARK, hu > bone], [GAS, BONE]).astype(np.uint8)


def best_threshold(hu: HU, truth: Labels, *, inside: NDArray[np.bool_]) -> Labels:
    """Return the same inside the body alone, with the threshold for bone that suits this very truth best."""
    tried = [np.where(inside, threshold(hu, bone=hounsfield), 0).astype(np.uint8) for hounsfield in range(80, 301, 20)]
    return max(tried, key=lambda found: measures(found, truth)[3])


class Extended(nn.Module):
    """A network on a grid that is extended by reflection to what it can take, and cropped after: the rule of a plan."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.step = 2 ** (len(WIDTHS) - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's output for ``x`` (b, channel, z, y, x) of any size."""
        size = x.shape[2:]
        padded = F.pad(x, [p for n in reversed(size) for p in (0, -n % self.step)], mode="reflect")
        found: torch.Tensor = self.network(padded)[(..., *(slice(n) for n in size))]
        return found


def train(parts: list[tuple[HU, Labels]], *, spacing: float, n_steps: int = STEPS) -> nn.Module:
    """Return the network after so many steps, over parts of a scan as (HU, labels)."""
    torch.manual_seed(SEED)
    unet = organ_unet.network()
    pipeline = organ_unet.scores(Extended(unet))
    optimiser = torch.optim.AdamW(unet.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=n_steps)
    chance = np.random.default_rng(SEED)
    for step in range(n_steps):
        x, y = crops(parts, chance)
        as_if_of(pipeline, spacing * chance.uniform(0.85, 1.15))
        loss = loss_of(pipeline(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1} of {n_steps}: loss {loss.item():.3f}", flush=True)
    return unet.eval()


def as_if_of(pipeline: Compose, spacing: float) -> None:
    """Tell the pipeline the spacing of what comes in: a false one makes the patient larger or smaller."""
    *_, resampled = pipeline.children()
    resampled.source_spacing = (spacing,) * 3


def crops(parts: list[tuple[HU, Labels]], chance: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of crops, each mirrored at random, as HU (b, 1, z, y, x) and labels (b, z, y, x)."""
    shares = np.array([len(hu) - CROP[0] + 1 for hu, _ in parts], float)
    xs, ys = [], []
    for _ in range(BATCH):
        hu, truth = parts[int(chance.choice(len(parts), p=shares / shares.sum()))]
        at = placed(truth, chance)
        flips = np.flatnonzero(chance.integers(2, size=3))
        x, y = (np.flip(a[at], flips) for a in (hu, truth))
        x = x * chance.uniform(0.9, 1.1) + chance.uniform(-30, 30)
        xs.append(x + chance.uniform(0, 25) * chance.standard_normal(x.shape))
        ys.append(y.astype(np.int64))
    return torch.from_numpy(np.stack(xs).astype(np.float32))[:, None], torch.from_numpy(np.stack(ys))


def placed(truth: Labels, chance: np.random.Generator) -> tuple[slice, ...]:
    """Return a box of :data:`CROP`: a third lie anywhere, a third about gas, a third about bone."""
    wanted = np.argwhere(truth == chance.integers(3)) if truth.any() else np.argwhere(truth == 0)
    middle = wanted[chance.integers(len(wanted))]
    starts = [int(np.clip(m - n // 2, 0, size - n)) for m, n, size in zip(middle, CROP, truth.shape, strict=True)]
    return tuple(slice(start, start + n) for start, n in zip(starts, CROP, strict=True))


def loss_of(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return cross entropy and 1 - soft Dice of the two labels, over a batch; the two weigh alike."""
    p, y = torch.softmax(found, 1), F.one_hot(truth, found.shape[1]).movedim(-1, 1)
    sums = (0, 2, 3, 4)
    dice = (2 * (p * y).sum(sums) + 1) / ((p * p).sum(sums) + y.sum(sums) + 1)
    return F.cross_entropy(found, truth) + 1 - dice[1:].mean()


def predict(unet: nn.Module, hu: HU, *, spacing: float) -> Labels:
    """Return the labels of a scan, in one pass."""
    pipeline = organ_unet.scores(Extended(unet)).eval()
    as_if_of(pipeline, spacing)
    with torch.inference_mode():
        return pipeline(torch.from_numpy(hu)[None, None])[0].argmax(0).numpy().astype(np.uint8)


def measures(found: Labels, truth: Labels) -> list[float]:
    """Return Dice, recall and precision of gas, then of bone."""
    values = []
    for one in (GAS, BONE):
        is_found, is_true = found == one, truth == one
        hit, n_found, n_true = (int(mask.sum()) for mask in (is_found & is_true, is_found, is_true))
        values += [2 * hit / (n_found + n_true), hit / n_true, hit / n_found]
    return values


def card(rows: dict[str, list[float]], scan: Path, *, held: slice, truth: Labels, seconds: float) -> str:
    """Return the model card."""
    names = [f"{one} {what}" for one in ("gas", "bone") for what in ("Dice", "recall", "precision")]
    table = [f"| planes {held.start} to {held.stop - 1} | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    table += [f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |" for name, row in rows.items()]
    share = {one: float((truth == one).mean()) for one in (GAS, BONE)}
    known, data = hashlib.sha256(scan.read_bytes()).hexdigest(), WEIGHTS.read_bytes()
    return "\n".join(
        [
            "# organ_unet",
            "",
            f"A 3-d U-Net of four levels ({', '.join(map(str, WIDTHS))} channels, batch norm) that marks gas inside",
            f"the body (1) and bone (2) in CT at {SPACING:g} mm.",
            "",
            "**What it is:** a demonstration, small enough to ship. It learnt to repeat rules that need a voxel's",
            "surroundings: gas is dark and *inside the skin* (the room is as dark), bone *hangs together with what is",
            "bright, or is enclosed by it* (marrow is no brighter than a kidney), and specks (stones) are none:",
            "some it marks.",
            "",
            "**What it is not:** no radiologist taught it. It saw one patient and one scanner, abdomen and pelvis in",
            "axial planes, with a metal hip that it calls bone. It saw no head and only the tips of lungs: most of a",
            "large one it takes for the room. Held out is another slab of the same patient, so the figures say",
            "nothing about another. It was validated for nothing, and is no medical device.",
            "",
            f"**Data:** {scan.name}, TotalSegmentator's example, Apache-2.0, sha256",
            f"{known[:16]}...; {share[GAS]:.1%} of its voxels are gas, {share[BONE]:.1%} bone. Of {len(truth)} planes,",
            f"{held.start} to {held.stop - 1} are held out, and {GAP} on either side belong to neither.",
            "",
            "**Recipe:** `python jobs/train_organs.py`: soft Dice and cross entropy on the scan's own grid, through",
            f"the resampling; AdamW at {RATE:g} in one cycle, {STEPS} steps of {BATCH} crops of",
            f"{' x '.join(map(str, CROP))} voxels, seed {SEED}; {seconds:.0f} s of one CPU core.",
            "",
            *table,
            "",
            f"Bare thresholds: gas below {DARK} HU, bone above {DIM} HU. The best: bone's is chosen to suit",
            "the held-out slab itself, and the room is left out by the rule that made the labels.",
            "",
            f"**Weights:** {WEIGHTS.name}, {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}.",
            "Apache-2.0.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
