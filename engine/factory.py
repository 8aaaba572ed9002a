"""Makes the worker inside its own process: what an actor is sent instead of an open model and open files."""

from dataclasses import dataclass

import torch

from engine.models.allocator import keep_freed_memory
from engine.models.forward import Forward, pick_device
from engine.models.load import Model, load_model
from engine.plan import Plan
from engine.runtime.worker import BlockWorker
from engine.storage.arrays import configure_codecs
from engine.storage.output import open_output
from engine.storage.volume import open_volume


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
        torch.set_num_threads(self.n_threads)
        keep_freed_memory()
        configure_codecs(self.n_threads)
        model = load_model(self.model, weights=self.weights)
        return open_worker(self.plan, model, self.output_url, axes=self.axes, device=pick_device(self.device))


def open_worker(plan: Plan, model: Model, output_url: str, *, axes: str | None, device: torch.device) -> BlockWorker:
    """Return a worker for a loaded model."""
    source = open_volume(plan.source.url, axes=axes)
    forward = Forward(model.module, model.dtype, device, plan.model.precision, plan.batch_size)
    return BlockWorker(plan, forward, source, dict(open_output(output_url).volumes))
