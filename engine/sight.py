"""What a run looks at: the source at the model's resolution, the part of it that is wanted, and its statistics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch

from engine.errors import ModelError
from engine.geometry.axes import Role, positions
from engine.models.fitted import Voxels, constants, fit_all, unfitted
from engine.models.load import Model, submodule_name
from engine.models.pixels import Pixels
from engine.models.resolution import declared_mpp
from engine.models.streamed import Streamed
from engine.models.summarised import Summarised
from engine.plan import MaskFacts, Plan
from engine.runtime.masking import Mask
from engine.runtime.statistics import histogram, over_blocks
from engine.storage.readable import Readable
from engine.storage.scaled import MICROMETRES
from engine.storage.source_url import TOLERANCE
from engine.storage.view import at_mpp
from engine.storage.volume import open_volume
from engine.tissue.classical import find_tissue
from engine.tissue.wanted import (
    THUMBNAIL_MPP,
    Cells,
    at_pixels,
    cell_of,
    cell_sizes,
    cells_fingerprint,
    thumbnail,
    wanted_cells,
)

CORES = (2048, 1024, 512, 256)
"""Voxels that a tile may decide along each axis of a slide of which only part is wanted."""


@dataclass(frozen=True, eq=False)
class Sight:
    """A source as one model is to see it."""

    url: str
    """The source, with the resolution at which it is read."""
    method: str | None
    """How its wanted part is found; None where all is wanted."""
    cell: tuple[int, ...]
    """Voxels of a cell of it, per space axis."""
    cells: Cells | None
    constants: Mapping[str, Any]
    """Statistics of the source that the model was fitted with."""

    def best_core(self, lost: tuple[int, ...]) -> int | None:
        """Return about how much a tile should decide along each axis; None where all is wanted.

        Long tiles compute little halo, short ones leave out more background: of :data:`CORES`, the length is
        taken that computes least, share of tiles that touch anything wanted times voxels per voxel decided.

        Args:
            lost: Voxels of a tile that decide nothing, per axis.
        """
        if self.cells is None:
            return None
        computed = {core: self._share(core) * prod((core + n) / core for n in lost) for core in CORES}
        return min(CORES, key=lambda core: (computed[core], -core))

    def _share(self, core: int) -> float:
        """Return the share of the source that lies in squares of ``core`` voxels that hold a wanted cell."""
        assert self.cells is not None
        touched, area = self.cells, np.ones((1,) * self.cells.ndim)
        for axis, n in enumerate(self.cell):
            starts = np.arange(0, touched.shape[axis], max(1, core // n))
            lengths = np.diff([*starts, touched.shape[axis]])
            area = area * lengths.reshape([-1 if i == axis else 1 for i in range(touched.ndim)])
            touched = np.add.reduceat(touched, starts, axis=axis) > 0
        return float((touched * area).sum() / area.sum())

    def on(self, plan: Plan) -> tuple[Plan, Mask | None]:
        """Return the plan with its mask, and the mask: none where all is wanted."""
        if self.cells is None or self.method is None:
            return plan, None
        n_wanted = int(self.cells.sum())
        facts = MaskFacts(self.method, self.cell, self.cells.shape, n_wanted, cells_fingerprint(self.cells))
        masked = replace(plan, mask=facts)
        return masked, Mask(masked, self.cells)


def sight(
    url: str,
    model: Model,
    *,
    tissue: str | None = None,
    axes: str | None = None,
    nan: str = "refuse",
    tell: Callable[[str], None] = lambda _: None,
) -> Sight:
    """Return what ``model`` is to see of the volume at ``url``, and fit the model's statistics to it, in place.

    They are fitted to the tissue of a slide at low resolution, and to all voxels of any other volume, in one pass
    over its blocks where it has one channel and not more than a million different values, else in a pass or two for
    each module that is fitted.

    Args:
        url: A volume or a slide, at the model's resolution: see :func:`at_resolution`.
        model: The model.
        tissue: How the wanted part is found; see ``tissue/wanted.py``.
        axes: Names of a bare array's axes.
        nan: ``refuse`` or ``keep``: the voxels that are not finite, which are then left out of the statistics.
        tell: Is told, line by line, what goes on.

    Raises:
        EngineError: If the source has no such resolution, holds nothing wanted, or cannot be fitted to.
    """
    cells: Cells | None = None
    cell: tuple[int, ...] = ()
    if tissue is not None:
        tell("looking for tissue")
        cell = cell_of(url)
        cells = wanted_cells(url, tissue, cell=cell)
    found: Mapping[str, Any] = {}
    if unfitted(model.module):
        volume = open_volume(url, axes=axes)
        if _is_slide(volume, model):
            tell("fitting the model's statistics to the slide")
            voxels: Voxels = Pixels(tissue_pixels(url, cells, cell=cell).to(model.dtype))
        else:
            voxels = _voxels(volume, model, nan=nan, tell=tell)
        fit_all(model.module.get_submodule("model"), voxels)
        found = constants(model.module)
    return Sight(url, tissue, cell, cells, found)


def _is_slide(volume: Readable, model: Model) -> bool:
    """Say whether statistics are those of a slide's tissue: of 8-bit RGB whose unit is known, or wanted by pixels.

    Raises:
        ModelError: If a module is fitted to the pixels of a slide, and this is none.
    """
    names = tuple(axis.name for axis in volume.axes)
    is_rgb = names == ("c", "y", "x") and volume.shape[0] == 3 and volume.dtype == np.uint8
    by_pixels = [(name, part) for name, part in unfitted(model.module) if not isinstance(part, Summarised)]
    if by_pixels and not is_rgb:
        raise ModelError(
            f"{submodule_name(*by_pixels[0])} is fitted to the tissue of a slide, 8-bit RGB along (c, y, x), and "
            f"'{volume.url}' is {volume.dtype} of {volume.shape} along {names}. Leave it out, or give a slide."
        )
    return is_rgb and (bool(by_pixels) or volume.axes[1].unit in MICROMETRES)


def _voxels(volume: Readable, model: Model, *, nan: str, tell: Callable[[str], None]) -> Voxels:
    """Return all voxels of a volume: as its histogram, where that holds all that is to be known, else in passes."""
    channel, n_space = positions(volume.axes, Role.CHANNEL), len(positions(volume.axes, Role.SPACE))
    tell("fitting the model's statistics in a pass over the volume")
    if not channel or volume.shape[channel[0]] == 1:
        found = histogram(volume, nan=nan)
        if found is not None:
            rows = torch.from_numpy(found.values).to(model.dtype).reshape(-1, 1)
            return Pixels(rows, found.counts, n_space=n_space, nan=nan)
        tell("too many different values for a histogram: a pass over the volume for each module that is fitted")
    return Streamed(partial(over_blocks, volume, nan=nan), model.dtype, n_space, nan)


def at_resolution(source: str, model: Model, *, mpp: float | None) -> str:
    """Return the URL of the source at the resolution that is asked for, else declared by the model, else its own."""
    declared = declared_mpp(model.module)
    wanted = mpp if mpp is not None else declared[0] if declared else None
    tolerance = declared[1] if declared else TOLERANCE
    return source if wanted is None else at_mpp(source, wanted, tolerance)


def tissue_pixels(url: str, cells: Cells | None, *, cell: tuple[int, ...]) -> torch.Tensor:
    """Return the tissue of a slide at low resolution: (pixel, channel) float32 in the source's units.

    Args:
        url: The slide as it is to be run.
        cells: What is wanted of it, where that is not all.
        cell: Voxels of a cell, per space axis.
    """
    picture, mpp = thumbnail(url, mpp=THUMBNAIL_MPP)
    is_tissue = find_tissue(picture, mpp=mpp[0])
    if cells is not None:
        sizes = cell_sizes(open_volume(url), cell)
        is_tissue &= at_pixels(cells, cell_size=sizes, shape=is_tissue.shape, spacing=mpp)
    return torch.from_numpy(np.ascontiguousarray(picture[:, is_tissue].T.astype(np.float32)))
