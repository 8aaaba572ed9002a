"""The seam certificate: tiles recomputed on another grid with another shape, beside what the output holds."""

import random
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from engine.factory import forward_of
from engine.geometry.region import Region
from engine.geometry.tiling import AxisTile
from engine.models.load import Model
from engine.plan import OutputFacts, Plan
from engine.recompute import LENGTHS, affordable, other_tiling, place, recompute
from engine.runtime.masking import Mask
from engine.storage.ledger import State
from engine.storage.output import Output
from engine.storage.volume import Readable

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 5e-2}
"""Largest difference that a certificate allows, as a share of the output's largest magnitude."""

DRAWS_PER_TILE = 50
"""Places that are drawn, at most, for each tile that is to be compared under a mask."""

LABEL_TOLERANCE = 1e-4
"""Largest share of labels that may differ: ties that rounding breaks one way or the other."""


@dataclass(frozen=True, slots=True)
class OutputSeams:
    """What was found for one output."""

    n_voxels: int
    """Voxels compared."""
    max_difference: float
    """Largest absolute difference; for labels, 1 where any differs."""
    n_different: int
    """Voxels that differ at all."""
    largest: float
    """Largest magnitude of the recomputed voxels."""
    std: float
    """Standard deviation of the recomputed voxels: 0 would prove nothing."""
    holds: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """Recomputed tiles equal the output, or not."""

    n_tiles: int
    """Tiles recomputed."""
    n_skipped: int
    """Places passed over because a block there is not done."""
    tile_shape: tuple[int, ...]
    """Of the recomputed tiles; the run had another wherever the model and the volume allow one."""
    seed: int
    outputs: dict[str, OutputSeams]

    @property
    def holds(self) -> bool:
        """Whether every output is within tolerance and at least one tile was compared."""
        return self.n_tiles > 0 and all(seams.holds for seams in self.outputs.values())

    def to_json(self) -> dict[str, Any]:
        """Return this certificate as JSON values."""
        return {**asdict(self), "holds": self.holds}


def certify(
    plan: Plan,
    model: Model,
    source: Readable,
    output: Output,
    *,
    n_tiles: int,
    seed: int,
    device: torch.device,
    mask: Mask | None = None,
) -> Certificate:
    """Recompute ``n_tiles`` tiles around seams of the output, and compare.

    Every tile lies on a grid shifted against the plan's, and has another shape where one is legal. Reads
    the source and the output; writes nothing. Under a mask, tiles without a wanted voxel are passed over,
    and what is not wanted is not compared.
    """
    chance = random.Random(seed)
    longest = LENGTHS.get(len(plan.tilings), 64)
    other = replace(plan, tilings=tuple(other_tiling(tiling, longest) for tiling in plan.tilings))
    forward = forward_of(plan, model, device)
    n_tiles = affordable(plan, n_tiles)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {facts.name: [] for facts in plan.outputs}
    n_compared = n_skipped = 0
    for _ in range(n_tiles if mask is None else n_tiles * DRAWS_PER_TILE):
        if n_compared + n_skipped == n_tiles:
            break
        blocks = _block(plan, chance, mask)
        tiles = tuple(
            place(tiling, planned, block, chance)
            for tiling, planned, block in zip(other.tilings, plan.tilings, blocks, strict=True)
        )
        item = tuple(chance.randrange(axis.size) for axis in plan.batches)
        wanted = {o.name: mask.meets(o, _core(o, tiles)) for o in plan.outputs} if mask is not None else None
        if wanted is not None and not any(keep.any() for keep in wanted.values()):
            continue
        if not _is_done(plan, output, tiles, item):
            n_skipped += 1
            continue
        n_compared += 1
        for name, (ours, theirs) in recompute(other, forward, source, output, tiles=tiles, item=item):
            keep = slice(None) if wanted is None else wanted[name]
            found[name].append((ours[..., keep], theirs.reshape(ours.shape)[..., keep]))
    seams = {facts.name: _seams(plan, facts, found[facts.name]) for facts in plan.outputs}
    return Certificate(n_compared, n_skipped, other.tile_shape, seed, seams)


def _core(facts: OutputFacts, tiles: tuple[AxisTile, ...]) -> Region:
    cores = [tile.cores[facts.name] for tile in tiles]
    return Region(tuple(low for low, _ in cores), tuple(max(low, high) for low, high in cores))


def _block(plan: Plan, chance: random.Random, mask: Mask | None) -> tuple[int, ...]:
    """Return the block, over space, about which a tile is to lie: any, or under a mask one of a wanted cell."""
    if mask is None or plan.mask is None:
        return tuple(chance.randrange(tiling.n_blocks) for tiling in plan.tilings)
    wanted = np.flatnonzero(mask.cells)
    cell = np.unravel_index(wanted[chance.randrange(len(wanted))], mask.cells.shape)
    places = zip(cell, plan.mask.cell, plan.tilings, strict=True)
    return tuple(min(int(i) * n // tiling.block, tiling.n_blocks - 1) for i, n, tiling in places)


def _is_done(plan: Plan, output: Output, tiles: tuple[AxisTile, ...], item: tuple[int, ...]) -> bool:
    """Say whether every block that these tiles touch is stored."""
    spans = []
    for tile, tiling in zip(tiles, plan.tilings, strict=True):
        touched = [
            range(low // size, -(-high // size))
            for name, (low, high) in tile.cores.items()
            if (size := tiling.block_sizes[name]) and high > low
        ]
        spans.append((min(r.start for r in touched), max(r.stop for r in touched)))
    batch = [range(i // axis.block, i // axis.block + 1) for i, axis in zip(item, plan.batches, strict=True)]
    indices = product(*batch, *(range(low, high) for low, high in spans))
    return all(output.ledger.state(plan.graph.task(0, i)) in (State.DONE, State.SKIPPED) for i in indices)


def _seams(plan: Plan, facts: OutputFacts, pairs: list[tuple[np.ndarray, np.ndarray]]) -> OutputSeams:
    if not pairs:
        return OutputSeams(0, 0.0, 0, 0.0, 0.0, False)
    computed = np.concatenate([ours.ravel() for ours, _ in pairs])
    stored = np.concatenate([theirs.ravel() for _, theirs in pairs])
    is_same = (computed == stored) | (np.isnan(computed) & np.isnan(stored) if computed.dtype.kind == "f" else False)
    difference = np.abs(computed[~is_same].astype(np.float64) - stored[~is_same].astype(np.float64))
    largest = float(np.nanmax(np.abs(computed.astype(np.float64)), initial=0.0))
    n_different = int((~is_same).sum())
    worst = float(np.nanmax(difference, initial=0.0)) if not np.isnan(difference).any() else float("inf")
    if np.dtype(facts.dtype).kind == "f":
        holds = worst <= TOLERANCE[plan.model.precision] * max(largest, 1e-30)
    else:
        holds = n_different <= LABEL_TOLERANCE * computed.size
    return OutputSeams(computed.size, worst, n_different, largest, float(np.nanstd(computed.astype(np.float64))), holds)
