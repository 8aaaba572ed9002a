"""Draws a pocket: slices of its densities, coloured by channel, and the contacts that were found or are there."""

from pathlib import Path

import numpy as np
import torch
from interaction_net import COARSE, interactions
from interactions import LABELS
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from pocket_examples import Contacts

from engine.models.atom_types import GNINA_LIGAND, GNINA_RECEPTOR
from engine.models.voxeliser import Voxeliser

COLOURS = {
    "Carbon": (0.55, 0.55, 0.55),
    "Nitrogen": (0.25, 0.4, 0.95),
    "Oxygen": (0.9, 0.2, 0.2),
    "Sulfur": (0.85, 0.75, 0.1),
}
"""Of a receptor's channels, by what their first type is called."""

OTHER, LIGAND = (0.7, 0.4, 0.8), {"Carbon": (0.1, 0.65, 0.25)}
"""Of all else; and of a ligand's carbon, so that the two are told apart."""

LINES = dict(zip(LABELS, ("tab:blue", "tab:cyan", "tab:orange", "tab:purple", "tab:pink", "tab:red"), strict=True))
N_SLICES = 3
STEP = 3.0
"""Angstrom from one slice to the next."""


def draw(one: Contacts, path: Path, *, n_voxels: int, spacing: float) -> None:
    """Write a picture of a pose: planes across z, what was found as lines, and what there is as dots."""
    atoms, truth = one.seen(n_voxels)
    x = torch.from_numpy(atoms)[None]
    with torch.inference_mode():
        grid = Voxeliser(n=n_voxels, spacing=spacing)(x)[0].numpy()
        found = interactions()(x)["contacts"][0].numpy()
    half = (n_voxels - 1) / 2 * spacing
    figure = Figure(figsize=(4.2 * N_SLICES, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, axes in enumerate(figure.subplots(1, N_SLICES)):
        height = (i - N_SLICES // 2) * STEP
        plane = round((height + half) / spacing)
        axes.imshow(coloured(grid[:, plane]), origin="lower", extent=(-half, half, -half, half))
        mark(axes, found[:, plane // COARSE], truth[:, plane // COARSE], half)
        axes.set(title=f"z = {height:+.0f} Å", xlabel="x, Å", ylabel="y, Å" if i == 0 else "")
    shown = [label for k, label in enumerate(LABELS) if truth[k].any() or (found[k] > 0.5).any()]
    keys = [Line2D([], [], color=LINES[label], label=label.replace("_", " ")) for label in shown]
    keys += [Line2D([], [], color="grey", marker=".", linestyle="", label="what the rules find")]
    keys += [Line2D([], [], color=LIGAND["Carbon"], linewidth=6, label="ligand's carbon")]
    figure.legend(handles=keys, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"{one.pose.name}: densities by channel, and the contacts that the network finds (lines)")
    figure.savefig(path, dpi=110)


def mark(axes, found: NDArray[np.floating], truth: NDArray[np.bool_], half: float) -> None:  # noqa: ANN001 -- matplotlib's
    """Draw lines around what was found on a plane, and dots on what there is."""
    steps = np.linspace(-half, half, found.shape[-1])
    for k, label in enumerate(LABELS):
        if (found[k] > 0.5).any():
            axes.contour(steps, steps, found[k], levels=[0.5], colors=[LINES[label]], linewidths=1.8)
        rows, columns = np.nonzero(truth[k])
        axes.plot(steps[columns], steps[rows], ".", color=LINES[label], markersize=3)


def coloured(plane: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return (y, x, rgb) of densities (channel, y, x): each channel takes its colour's complement off white."""
    shown = np.ones((*plane.shape[1:], 3))
    for channel, density in enumerate(plane):
        colour = np.array(colour_of(channel))
        shown *= 1 - (1 - colour) * np.clip(density, 0, 1)[..., None]
    return shown


def colour_of(channel: int) -> tuple[float, float, float]:
    """Return the colour of a channel of gnina's grid."""
    is_ligand = channel >= len(GNINA_RECEPTOR)
    name = GNINA_LIGAND[channel - len(GNINA_RECEPTOR)][0] if is_ligand else GNINA_RECEPTOR[channel][0]
    kind = next((kind for kind in COLOURS if kind in name), "")
    return LIGAND.get(kind, COLOURS.get(kind, OTHER)) if is_ligand else COLOURS.get(kind, OTHER)
