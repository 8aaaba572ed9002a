"""Makes the pool of Ray actors for a collection."""

from math import prod

from engine.collection.batch import RunnerMaker
from engine.collection.job import CONCLUDE, CollectionJob, step_of
from engine.collection.worker import CollectionWorkerFactory
from engine.runtime.actors import RayRunner
from engine.runtime.events import Runner
from engine.runtime.seats import Patience

SHORTEST_PATIENCE = 300.0
"""Seconds: a slow disk is no hung decoder."""

PATIENCE_PER_BLOCK = 20.0
"""Times the projected seconds of all blocks that a worker has at once."""

PATIENCE_OF_A_SLIDE = 48.0
"""Times that of a block, for the step that finds all objects of a slide, or scores it."""


def ray_pool(address: str | None = None, *, patience: float | None = None) -> RunnerMaker:
    """Return what makes the pool: on the cluster at ``address``, or on a Ray of this machine.

    Args:
        address: The cluster to join; None for a local Ray.
        patience: Seconds after which a block without an answer takes its worker with it.
    """

    def make(factory: CollectionWorkerFactory) -> Runner:
        job = factory.job
        is_cuda = job.device.startswith("cuda")
        return RayRunner(
            factory,
            n_workers=job.wishes.n_workers,
            n_cpus_per_worker=1 if is_cuda else job.n_threads,
            n_gpus_per_worker=1 if is_cuda else 0,
            n_in_flight=job.wishes.n_in_flight,
            address=address,
            patience=patience_of(job, patience or default_patience(job)),
        )

    return make


def patience_of(job: CollectionJob, seconds: float) -> Patience:
    """Return the patience with each step: ``seconds``, and more where a whole slide is gone through at once."""
    is_long = job.objects is not None or job.score is not None
    return lambda task: seconds * (PATIENCE_OF_A_SLIDE if is_long and step_of(task)[1] == CONCLUDE else 1.0)


def default_patience(job: CollectionJob) -> float:
    """Return the seconds after which no answer means that there will be none."""
    voxels = prod(job.wishes.block or (1,))
    seconds = voxels * job.cost.seconds_per_voxel(prod(job.wishes.tile or (1,)) * (job.wishes.batch_size or 1))
    return max(SHORTEST_PATIENCE, PATIENCE_PER_BLOCK * seconds * job.wishes.n_in_flight)
