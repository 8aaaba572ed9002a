"""Makes the pool of Ray actors that a plan asks for."""

from engine.factory import BlockWorkerFactory
from engine.plan import Plan
from engine.run import RunnerMaker
from engine.runtime.actors import RayRunner
from engine.runtime.events import Runner


def ray_runner(address: str | None = None) -> RunnerMaker:
    """Return what makes the actors of a plan: on the cluster at ``address``, or on a Ray of this machine."""

    def make(factory: BlockWorkerFactory, plan: Plan) -> Runner:
        is_cuda = factory.device.startswith("cuda")
        return RayRunner(
            factory,
            n_workers=plan.n_workers,
            n_cpus_per_worker=1 if is_cuda else factory.n_threads,
            n_gpus_per_worker=1 if is_cuda else 0,
            n_in_flight=plan.n_in_flight,
            address=address,
        )

    return make
