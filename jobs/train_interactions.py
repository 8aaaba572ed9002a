"""The recipe of ``interaction_net.safetensors``: minutes on two CPU cores, and the model card with what came out.

    python jobs/train_interactions.py

Data: the docked poses in ``DATA/pocket/gninatypes``, labelled by the rules of ``interactions.py``; three receptors are
held out. Each example is a pose, as it was docked or with its ligand moved a little, turned anyhow, on a grid of 28
voxels about an atom of the ligand. Loss: cross-entropy of voxels (the rarer a contact, the more it weighs) and of
pockets. AdamW, one cycle; seed 0. Then each label gets the threshold that suits the voxels learnt from, and the
calibration that suits the pockets.
"""

import hashlib
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from interaction_net import N_VOXELS, RIM, SPACING, WEIGHTS, WIDTH, InteractionNet
from jaccard import Table, majority, pocket_table, voxel_table
from job import DATA
from numpy.typing import NDArray
from pocket_examples import HELD_OUT, Contacts, Pose, contacts, real_poses
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from engine.factory import ready_process
from engine.models.voxeliser import Voxeliser

SEED, STEPS, BATCH, CROP, RATE = 0, 420, 8, 28, 4e-3
N_THREADS = 1
"""CPU threads: the steps are small, and one machine's others work beside it."""

N_TURNS = 4
"""Turns of each pose that a network is judged on."""

N_REPEATS = 4
"""Examples made of each moved ligand."""

POCKET_WEIGHT = 0.1
"""Of the pockets' loss beside the voxels'."""

N_WEIGHED = 64
"""Examples that are looked at to see how rare each label is."""

LEAST_WEIGHT, MOST_WEIGHT = 6.0, 24.0
"""Of a voxel of a contact: half the square root of how rare it is, within these."""

MOVED = 0.6
"""Share of draws in which the ligand is moved; the labels are found anew, and serve for several turns."""

CARD = WEIGHTS.with_suffix(".md")

Maps = tuple[torch.Tensor, torch.Tensor]
"""Logits and truth of voxels, (b, label, z, y, x)."""


def main() -> int:
    """Train, and write weights and card."""
    ready_process(N_THREADS)
    torch.manual_seed(SEED)
    chance = np.random.default_rng(SEED)
    poses = real_poses(DATA / "pocket" / "gninatypes")
    learnt = [pose for pose in poses if pose.group not in HELD_OUT]
    held = [pose for pose in poses if pose.group in HELD_OUT]
    begin = time.monotonic(), time.process_time()
    network = train(learnt, chance, n_steps=STEPS)
    seen = [contacts(pose) for pose in learnt]
    calibrate(network, seen, np.random.default_rng(SEED))
    seconds = time.monotonic() - begin[0], time.process_time() - begin[1]
    save_file(network.state_dict(), WEIGHTS)
    judged = [contacts(pose) for pose in held]
    tables = judge(network, judged, always=majority(seen))
    CARD.write_text(card(tables, n_learnt=len(learnt), n_held=len(held), network=network, seconds=seconds))
    print(CARD.read_text())
    return 0


def train(poses: Sequence[Pose], chance: np.random.Generator, *, n_steps: int) -> InteractionNet:
    """Return the network after some steps."""
    network, grids = InteractionNet().train(), Voxeliser(n=CROP, spacing=SPACING)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=n_steps)
    known = [contacts(pose) for pose in poses]
    inner = (..., *[slice(RIM, -RIM)] * 3)
    weight = rarity(torch.cat([examples(known, chance)[1][inner] for _ in range(N_WEIGHED // BATCH)]))
    for step in range(n_steps):
        atoms, truth = examples(known, chance)
        logits = network.logits(grids(atoms))[inner]
        truth = truth[inner]
        loss = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
        has = truth.amax(dim=(2, 3, 4))
        loss = loss + POCKET_WEIGHT * F.binary_cross_entropy_with_logits(logits.amax(dim=(2, 3, 4)), has)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 19:
            print(f"step {step + 1} of {n_steps}: loss {loss.item():.4f}", flush=True)
    return network.eval()


def rarity(truth: torch.Tensor) -> torch.Tensor:
    """Return how much a voxel of each label's contacts weighs, (label, 1, 1, 1)."""
    share = truth.mean(dim=(0, 2, 3, 4))
    return (share.rsqrt() / 2).clamp(LEAST_WEIGHT, MOST_WEIGHT)[:, None, None, None]


def examples(known: Sequence[Contacts], chance: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch: atoms (b, 4, atom) and contacts (b, label, z, y, x), float32."""
    seen = []
    while len(seen) < BATCH:
        one = known[int(chance.integers(len(known)))]
        is_moved = chance.uniform() < MOVED
        one = contacts(one.pose.jittered(chance)) if is_moved else one
        for _ in range(N_REPEATS if is_moved else 1):
            place = one.pose.ligand.place
            centre = place[int(chance.integers(len(place)))] + chance.normal(0, 1.0, 3)
            seen.append(one.seen(CROP, centre=centre, turn=Rotation.random(random_state=chance)))
    atoms, found = zip(*seen[:BATCH], strict=True)
    return torch.from_numpy(np.stack(atoms)), torch.from_numpy(np.stack(found).astype(np.float32))


def maps(network: InteractionNet, known: Sequence[Contacts], *, n_turns: int) -> Maps:
    """Return the logits and the truth of voxels of whole pockets, each turned ``n_turns`` times: the same each time."""
    grids, logits, truths = Voxeliser(n=N_VOXELS, spacing=SPACING), [], []
    for i, one in enumerate(known):
        for k in range(n_turns):
            atoms, found = one.seen(N_VOXELS, turn=Rotation.random(random_state=1000 * i + k))
            with torch.inference_mode():
                logits.append(network.logits(grids(torch.from_numpy(atoms)[None]))[0])
            truths.append(torch.from_numpy(found))
    return torch.stack(logits), torch.stack(truths)


def calibrate(network: InteractionNet, known: Sequence[Contacts], chance: np.random.Generator) -> None:
    """Set, in place, the thresholds of voxels and the calibration of pockets; half of what is known is moved for it."""
    seen = [one if i % 2 else contacts(one.pose.jittered(chance)) for i, one in enumerate(known)]
    logits, truth = maps(network, seen, n_turns=1)
    network.threshold.copy_(best_thresholds(logits, truth))
    logits = logits - network.threshold[:, None, None, None]
    strongest = logits.amax(dim=(2, 3, 4)).clone()
    has = torch.from_numpy(np.stack([one.has for one in seen])).float()
    optimiser = torch.optim.LBFGS([network.scale, network.bias], max_iter=100)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        fit = F.binary_cross_entropy_with_logits(network.scale * strongest + network.bias, has)
        fit = fit + 1e-2 * ((network.scale - 1) ** 2 + network.bias**2).mean()
        fit.backward()
        return fit

    optimiser.step(loss)


def best_thresholds(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return, per label, the logit above which voxels overlap best (Jaccard) with the truth."""
    steps = torch.linspace(-3, 4, 29)
    scores = []
    for step in steps:
        found = logits > step
        both, either = ((found & truth), (found | truth))
        scores.append(both.sum((0, 2, 3, 4)) / either.sum((0, 2, 3, 4)).clamp(min=1))
    return steps[torch.stack(scores).argmax(0)]


def judge(network: InteractionNet, known: Sequence[Contacts], *, always: NDArray[np.bool_]) -> tuple[Table, Table]:
    """Return how pockets and voxels of poses were told, beside saying ``always`` the same of every pocket."""
    logits, truth = maps(network, known, n_turns=N_TURNS)
    with torch.inference_mode():
        found = (network.pockets(logits) > 0).numpy()
    has = np.repeat(np.stack([one.has for one in known]), N_TURNS, axis=0)
    return pocket_table(found, has, always), voxel_table((logits > 0).numpy(), truth.numpy())


def card(
    tables: tuple[Table, Table],
    *,
    n_learnt: int,
    n_held: int,
    network: InteractionNet,
    seconds: tuple[float, float],
) -> str:
    """Return the model card."""
    data = WEIGHTS.read_bytes()
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    pockets, voxels = tables
    return "\n".join(
        [
            "# interaction_net",
            "",
            f"A 3-d CNN of four layers ({WIDTH} channels, {n_parameters:,} parameters) that says which interactions a",
            "ligand has with its receptor, and where, from densities of typed atoms at 0.5 Angstrom.",
            "",
            "**What it is:** a demonstration, small enough to ship. It learnt to repeat rules (`interactions.py`: the",
            "distances and angles that PLIP publishes), which see hydrogens and bonds; the network sees neither, only",
            "blurred heavy atoms by type.",
            "",
            "**What it is not:** a chemist's judgement, or a docking score. It saw a few ligands of one docking",
            "program, in their own pockets. On held-out receptors it finds hydrogen bonds and hydrophobic contacts,",
            "hardly a stacked ring, no pi-cation, and tells salt bridges worse than the constant answer: it saw few.",
            "",
            f"**Data:** gnina's and libmolgrid's test poses (Apache-2.0 / GPL-2): {n_learnt} of nine complexes of six",
            f"proteins are learnt from, {n_held} of {', '.join(HELD_OUT)} held out, chosen before. A contact",
            "is what lies within 1.5 Angstrom of the middle between two partners.",
            "",
            "**Recipe:** `python jobs/train_interactions.py`: cross-entropy of voxels and pockets, AdamW at",
            f"{RATE:g} in one cycle, {STEPS} steps of {BATCH} turned crops of {CROP} voxels, most with the",
            f"ligand moved about an Angstrom, seed {SEED};",
            f"{seconds[1]:.0f} s of one CPU core, {seconds[0]:.0f} s by the clock while others used it too.",
            "",
            f"## Held-out pockets ({n_held} poses, {N_TURNS} turns each): Jaccard",
            "",
            pockets.markdown(),
            "",
            "The baseline says of every pocket what most pockets learnt from have. Over samples: the mean over pockets",
            "of the overlap of found and true labels.",
            "",
            "## Held-out voxels: Jaccard",
            "",
            voxels.markdown(),
            "",
            "Most voxels have no contact, so the constant majority says none and overlaps with nothing; saying yes",
            "everywhere overlaps as much as there are contacts.",
            "",
            f"**Weights:** {WEIGHTS.name}, {len(data):,} bytes, sha256",
            f"{hashlib.sha256(data).hexdigest()}.",
            "Apache-2.0.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
