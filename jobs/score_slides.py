"""Score slides: which of a collection hold a lesion, and where, learnt from slide labels alone.

    generated slides --batch: encoder--> features --attention MIL, trained here--> score, heat map, table

Half of the slides have lesions planted: discs crowded with large, dark nuclei. The labels say only which
slides; the attention must find where. Nothing is downloaded. This shows the machinery, and no medicine.
"""

import argparse
import csv
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tissue
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file
from torch.nn import functional as F

from engine.collection.batch import batch, check_all_done, serial_pool
from engine.collection.pool import ray_pool
from engine.errors import EngineError
from engine.geometry.region import Region
from engine.models.mil import GatedAttention
from engine.prepare import Options
from engine.show import print_rows
from engine.slides import slide_score, wanted_voxels
from engine.storage.features import bag_of
from engine.storage.volume import open_volume

HERE = Path(__file__).resolve().parent
MODEL = f"{HERE / 'patch_encoder.py'}:encoder"
FEATURES = "output"
SEED, EPOCHS, RATE = 0, 60, 1e-3

console = Console()


@dataclass(frozen=True)
class LesionTissue(tissue.Tissue):
    """Tissue with discs that are crowded with large, dark nuclei."""

    n_lesions: int = 0

    @cached_property
    def lesions(self) -> NDArray[np.float64]:
        """Rows of (y, x, radius) in pixels, each well inside tissue."""
        chance, found = np.random.default_rng(self.seed + 1000), []
        for _ in range(10_000):
            if len(found) == self.n_lesions:
                break
            y, x = chance.uniform(0.1, 0.9, 2) * self.size
            radius = chance.uniform(0.05, 0.08) * self.size
            rim = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            points = np.column_stack([y + radius * np.sin(rim), x + radius * np.cos(rim)])
            if self._cover.at(points).min() > 0.9:
                found.append((y, x, radius))
        return np.array(found).reshape(-1, 3)

    @cached_property
    def nuclei(self) -> NDArray[np.float64]:
        """The tissue's own nuclei, and those of the lesions; see :class:`tissue.Tissue`."""
        own, chance = tissue.Tissue(self.size, self.seed).nuclei, np.random.default_rng(self.seed + 2000)
        rows = [own]
        for y, x, radius in self.lesions:
            n = int(radius**2 * np.pi / 22**2)
            angle, reach = chance.uniform(0, 2 * np.pi, n), radius * np.sqrt(chance.uniform(0, 1, n))
            at = np.column_stack([y + reach * np.sin(angle), x + reach * np.cos(angle)])
            along = chance.uniform(11, 15, n)
            shape = [along, along * chance.uniform(0.6, 1, n), chance.uniform(0, np.pi, n), chance.uniform(2.6, 3.4, n)]
            rows.append(np.column_stack([at, *shape]))
        found = np.concatenate(rows)
        return found[np.argsort(found[:, 0], kind="stable")]


@dataclass(frozen=True)
class Case:
    """One slide, and what is known of it."""

    name: str
    tissue: LesionTissue
    is_held_out: bool

    @property
    def label(self) -> int:
        """1 where a lesion was planted."""
        return int(len(self.tissue.lesions) > 0)


def main() -> int:
    """Run the job; 0 if held-out slides with lesions are ranked above all without."""
    asked = parse()
    try:
        result = score_slides(asked.output, n_slides=asked.slides, size=asked.size, runner=asked.runner)
    except EngineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print_rows([(k, f"{v:.3f}" if isinstance(v, float) else str(v)) for k, v in result.items()], title="Held out")
    return 0 if result["AUC"] == 1.0 else 1


def parse() -> argparse.Namespace:
    """Return what was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("score-output"), help="folder to write to [score-output]")
    parser.add_argument("--slides", type=int, default=20, help="slides, half of them with lesions [20]")
    parser.add_argument("--size", type=int, default=4096, help="pixels along each side of a slide [4096]")
    parser.add_argument("--runner", choices=("ray", "serial"), default="ray", help="ray, or a plain loop here [ray]")
    return parser.parse_args()


def score_slides(folder: Path, *, n_slides: int, size: int, runner: str) -> dict[str, float | int]:
    """Make the collection, encode it, learn from one half, score the other, and return how well that went."""
    began = time.monotonic()
    cases = make_slides(folder / "slides", n_slides=n_slides, size=size)
    console.print(f"{len(cases)} slides of {size} x {size}, {sum(c.label for c in cases)} with lesions")
    pool = ray_pool() if runner == "ray" else serial_pool
    results = folder / "results"
    report = batch([str(folder / "slides" / "manifest.csv")], MODEL, str(results), options=Options(), runner=pool)
    check_all_done(report)
    console.print(f"encoded: see {report.table}")
    weights = folder / "attention.safetensors"
    train([case for case in cases if not case.is_held_out], results, weights)
    held = [case for case in cases if case.is_held_out]
    scores = {}
    for case in held:
        scores[case.name] = slide_score(f"{results}/{case.name}.zarr", f"clam@{weights}", features=FEATURES)
    figures = assess(held, results, {name: s.probabilities[1] for name, s in scores.items()})
    draw(folder / "scores.png", held, results)
    console.print(f"heat maps: {results}/*.zarr/score/attention.png and {folder / 'scores.png'}")
    return {**figures, "seconds": time.monotonic() - began}


def make_slides(folder: Path, *, n_slides: int, size: int) -> list[Case]:
    """Write the slides that are missing, and the manifest; every fourth of a kind and the next are held out."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for number in range(n_slides):
        made = LesionTissue(size, seed=10 * number, n_lesions=2 * (number % 2))
        cases.append(Case(f"slide-{number:02}", made, is_held_out=number % 5 in (3, 4)))
        path = folder / f"slide-{number:02}.tiff"
        if not path.exists():
            tissue.write_slide(path, made.strips(), size=size, mpp=tissue.MPP)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "id", "label", "split"])
        writer.writerows([f"{c.name}.tiff", c.name, c.label, "test" if c.is_held_out else "train"] for c in cases)
    return cases


def bag(results: Path, case: Case) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return the features of a slide's tissue, (n, feature), and the row and column of each."""
    output = f"{results}/{case.name}.zarr"
    found = bag_of(open_volume(f"{output}/{FEATURES}"), mask=wanted_voxels(output, FEATURES))
    return torch.from_numpy(found.features), found.coords[:, ::-1]


def train(cases: list[Case], results: Path, weights: Path) -> None:
    """Fit gated attention to the slides' labels: cross-entropy, Adam, one slide a step, and save it as safetensors.

    Features are brought to mean 0 and spread 1 over the training slides; that is folded into the first layer.
    """
    torch.manual_seed(SEED)
    bags = [bag(results, case)[0] for case in cases]
    labels = torch.tensor([case.label for case in cases])
    every = torch.cat(bags)
    mean, spread = every.mean(0), every.std(0).clamp_min(1e-6)
    model = GatedAttention(every.shape[1], 2, n_hidden=32, n_attention=16)
    optimiser = torch.optim.Adam(model.parameters(), RATE, weight_decay=1e-4)
    for epoch in range(EPOCHS):
        for i in torch.randperm(len(bags), generator=torch.Generator().manual_seed(epoch)).tolist():
            x = (bags[i] - mean) / spread
            loss = F.cross_entropy(model(x, torch.zeros(len(x), 2)).logits[None], labels[i : i + 1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    first = model.attention_net[0]
    with torch.no_grad():
        first.bias -= first.weight @ (mean / spread)
        first.weight /= spread
    save_file(model.state_dict(), weights)


def assess(cases: list[Case], results: Path, scores: dict[str, float]) -> dict[str, float | int]:
    """Return how the held-out slides are ranked, and how much of the attention lies on the lesions."""
    planted = [scores[c.name] for c in cases if c.label]
    clean = [scores[c.name] for c in cases if not c.label]
    pairs = [(a > b) + 0.5 * (a == b) for a in planted for b in clean]
    inside = [attention_inside(case, results) for case in cases if case.label]
    return {
        "slides": len(cases),
        "AUC": float(np.mean(pairs)),
        "lowest score with a lesion": min(planted),
        "highest score without": max(clean),
        "attention mass inside lesions": float(np.mean([mass for mass, _ in inside])),
        "share of tissue inside lesions": float(np.mean([area for _, area in inside])),
    }


def attention_inside(case: Case, results: Path) -> tuple[float, float]:
    """Return the attention mass on patches that touch a lesion, and the share of the patches that do."""
    attention = open_volume(f"{results}/{case.name}.zarr/score/attention")
    mass = attention.read(Region.whole(attention.shape))
    tissue_cells = wanted_voxels(f"{results}/{case.name}.zarr", FEATURES)
    step = attention.axes[0].spacing / tissue.MPP
    y, x = (np.indices(mass.shape) + 0.5) * step
    touches = np.zeros(mass.shape, bool)
    for cy, cx, radius in case.tissue.lesions:
        touches |= np.hypot(y - cy, x - cx) < radius + step / 2
    return float(mass[touches].sum() / mass.sum()), float(tissue_cells[touches].sum() / tissue_cells.sum())


def draw(path: Path, cases: list[Case], results: Path) -> None:
    """Draw each held-out slide's attention, with its lesions as circles."""
    figure = Figure(figsize=(3 * len(cases) / 2, 6.4), layout="constrained")
    plots = figure.subplots(2, -(-len(cases) // 2), squeeze=False)
    for plot, case in zip(plots.flat, sorted(cases, key=lambda c: c.label), strict=False):
        attention = open_volume(f"{results}/{case.name}.zarr/score/attention")
        values = attention.read(Region.whole(attention.shape))
        um = case.tissue.size * tissue.MPP / 1000
        plot.imshow(np.log10(values + values[values > 0].min()), cmap="magma", extent=(0, um, um, 0))
        for y, x, radius in case.tissue.lesions * tissue.MPP / 1000:
            angle = np.linspace(0, 2 * np.pi, 60)
            plot.plot(x + radius * np.cos(angle), y + radius * np.sin(angle), color="#35d0a0", linewidth=1.5)
        plot.set_title(f"{case.name}, {'lesions planted' if case.label else 'clean'}", fontsize=9)
        plot.set_xlabel("mm", fontsize=8)
    for plot in plots.flat[len(cases) :]:
        plot.set_axis_off()
    figure.suptitle("log attention of held-out slides; circles: planted lesions, which training never saw")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
