"""Makes the worker inside its own process: what an actor is sent instead of an open model and open files."""

from dataclasses import dataclass, replace

import torch

from engine.models.allocator import keep_freed_memory
from engine.models.canvas import Painter
from engine.models.fitted import set_constants
from engine.models.forward import Forward, pick_device
from engine.models.load import Model, load_model
from engine.models.stages import part_model, unfold
from engine.plan import Plan
from engine.runtime.masking import Mask
from engine.runtime.worker import BlockWorker, Stages
from engine.storage.arrays import configure_codecs
from engine.storage.cells import read_cells
from engine.storage.output import WANTED, open_output
from engine.storage.source_url import parse_source
from engine.storage.volume import Readable, open_volume


@dataclass(frozen=True)
class BlockWorkerFactory:
    """Opens the model, the source and the outputs of a plan. Picklable."""

    plan: Plan
    output_url: str
    model: str | torch.nn.Module
    """A specification, or the module itself where there is none."""
    weights: str | None
    axes: str | None
    device: str
    n_threads: int

    def __call__(self) -> BlockWorker:
        """Return a worker, ready to run blocks."""
        ready_process(self.n_threads)
        model = load_model(self.model, weights=self.weights)
        return open_worker(self.plan, model, self.output_url, axes=self.axes, device=pick_device(self.device))


def ready_process(n_threads: int) -> None:
    """Set this process up for computing: its threads, its memory, its codecs."""
    torch.set_num_threads(n_threads)
    keep_freed_memory()
    configure_codecs(n_threads)


def open_worker(
    plan: Plan,
    model: Model,
    output_url: str,
    *,
    axes: str | None,
    device: torch.device,
    stages: Stages | None = None,
) -> BlockWorker:
    """Return a worker for a loaded model; where the plan has constants, for a copy that is given them."""
    source = open_source(plan, output_url, axes=axes)
    if plan.model.constants:
        model = model.own()
        set_constants(model.module, plan.model.constants)
    forward = forward_of(plan, model, device)
    mask = Mask(plan, read_cells(f"{output_url}/{WANTED}") > 0) if plan.mask is not None else None
    return BlockWorker(plan, forward, source, dict(open_output(output_url).volumes), mask=mask, stages=stages)


def open_source(plan: Plan, output_url: str, *, axes: str | None) -> Readable:
    """Return the source of a plan; where each step is made from the one before, these are read from the output."""
    url = parse_source(plan.source.url)
    if plan.graph.is_chain:
        url = replace(url, views=replace(url.views, state=f"{output_url}/{plan.outputs[0].name}"))
    return open_volume(str(url), axes=axes)


def forward_of(plan: Plan, model: Model, device: torch.device) -> Forward:
    """Return what runs the plan's model on a device."""
    stages = unfold(model.module) if plan.geometry.canvas is not None else None
    if stages is None:
        return Forward(model.module, model.dtype, device, plan.model.precision, plan.batch_size)
    network = part_model(model, stages.network).module
    return Painter(network, model.dtype, device, plan.model.precision, plan.batch_size, stages=stages)
