"""What a plan computes of one block, whichever way its model works: tile by tile, or over a canvas."""

from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from engine.geometry.canvas import CanvasTiling
from engine.geometry.canvas_work import CanvasWork, canvas_work
from engine.geometry.region import Region
from engine.models.canvas import Painter
from engine.models.forward import Forward, Held
from engine.plan import Plan
from engine.runtime.stitch import block_jobs, block_shapes


def compute_block(
    plan: Plan,
    forward: Forward,
    held: Held,
    index: tuple[int, ...],
    wanted: Mapping[str, NDArray[np.bool_]] | None = None,
) -> tuple[Held, int]:
    """Compute a block of level 0 from what it read, and count its tiles.

    Args:
        plan: The plan.
        forward: What runs its model: see :func:`engine.factory.forward_of`.
        held: What the block read, on the device.
        index: The block.
        wanted: Per output, which voxels are wanted, over space. Over a canvas all are computed.
    """
    if isinstance(forward, Painter):
        work = block_work(plan, index)
        return forward.paint(held, work, block_shapes(plan, index)), work.n_tiles * plan.items(index).n_voxels
    jobs = block_jobs(plan, index, wanted)
    return forward.run(held, jobs, block_shapes(plan, index)), len(jobs)


def block_work(plan: Plan, index: tuple[int, ...]) -> CanvasWork:
    """Return what a block of a plan with a canvas is made of."""
    _, space = plan.split(index)
    tilings = cast(tuple[CanvasTiling, ...], plan.tilings)
    spans = [tiling.interval(i) for tiling, i in zip(tilings, space, strict=True)]
    return canvas_work(tilings, Region(tuple(low for low, _ in spans), tuple(high for _, high in spans)))
