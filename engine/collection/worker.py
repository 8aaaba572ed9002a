"""What a pool's worker does for a collection: opens slides, runs their blocks, and concludes them."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from engine.collection.job import CONCLUDE, FIRST_BLOCK, OPEN, CollectionJob, step_of
from engine.collection.measures import conclude_slide
from engine.describe import describe
from engine.factory import open_worker, ready_process
from engine.models.fitted import unfitted
from engine.models.forward import pick_device
from engine.models.load import Model, load_model
from engine.plan import Plan
from engine.plan_json import plan_from_json, plan_to_json
from engine.planner import make_plan
from engine.prepare import Options, Prepared, source_facts
from engine.reopen import reopen
from engine.runtime.events import Failure, Receipt
from engine.runtime.masking import Mask
from engine.runtime.worker import BlockWorker, Stages
from engine.sight import at_resolution, sight
from engine.storage import arrays
from engine.storage.create import remove
from engine.storage.output import open_output
from engine.storage.volume import open_volume

MOST_OPEN = 4
"""Slides that a worker keeps open: more than it works on at once."""


@dataclass(frozen=True)
class CollectionWorkerFactory:
    """Makes the worker in its own process. Picklable."""

    job: CollectionJob

    def __call__(self) -> "CollectionWorker":
        """Return a worker, ready for any slide."""
        ready_process(self.job.n_threads)
        return CollectionWorker(self.job, load_model(self.job.model))


class CollectionWorker:
    """Does the steps of any slide: holds the model once, and a few slides open."""

    def __init__(self, job: CollectionJob, model: Model) -> None:
        self._job = job
        self._model = model
        self._device = pick_device(job.device)
        self._needs_fit = bool(unfitted(model.module))
        self._stages = Stages()
        self._open: OrderedDict[int, BlockWorker] = OrderedDict()
        self._lock = Lock()

    @property
    def n_in_flight(self) -> int:
        """Calls of :meth:`run` that make sense at once."""
        return self._job.wishes.n_in_flight

    def run(self, task: int, attempt: int) -> Receipt:
        """Do one step of one slide; never raises."""
        slide, step = step_of(task)
        try:
            if step == OPEN:
                self._plan(slide)
                return Receipt(task, attempt)
            if step == CONCLUDE:
                self._conclude(slide)
                return Receipt(task, attempt)
            done = self._worker(slide).run(step - FIRST_BLOCK, attempt)
            return replace(done, task=task)
        except Exception as error:  # noqa: BLE001 -- the worker's rim: one slide's failure is its own
            with self._lock:
                self._open.pop(slide, None)
            return Receipt(task, attempt, error=Failure.of(error))

    def _plan(self, slide: int) -> None:
        """Open a slide, plan its run and describe its output; or see that the output that is there is its own."""
        job, url = self._job, self._job.output(slide)
        model = self._model_of_a_slide()
        place = at_resolution(job.entries[slide].url, model, mpp=job.mpp)
        if arrays.exists(url):
            prepared, _, _ = reopen(url, source=place, model=model)
            open_output(url).record(plan=plan_to_json(prepared.plan))  # it says where the slide lies now
            return
        seen = sight(place, model, tissue=job.tissue_of(slide), axes=job.axes, nan=job.wishes.nan)
        source = open_volume(seen.url, axes=job.axes)
        plan = make_plan(source_facts(source, seen.url), job.facts, job.geometry, job.cost, job.wishes)
        plan = replace(plan, model=replace(plan.model, constants=seen.constants))
        plan, mask = seen.on(plan)
        draft = job.draft(slide)
        remove(draft)  # of a worker that died
        describe(self._prepared(plan, model, mask), draft, options=Options(axes=job.axes))
        Path(draft).rename(url)

    def _prepared(self, plan: Plan, model: Model, mask: Mask | None) -> Prepared:
        source = open_volume(plan.source.url, axes=self._job.axes)
        return Prepared(plan, model, source, self._device, self._job.n_threads, mask)

    def _model_of_a_slide(self) -> Model:
        """Return the model; where it is fitted to each slide, a copy with the same parameters and other statistics."""
        return self._model.own() if self._needs_fit else self._model

    def _worker(self, slide: int) -> BlockWorker:
        with self._lock:
            if slide in self._open:
                self._open.move_to_end(slide)
                return self._open[slide]
            url = self._job.output(slide)
            worker = open_worker(
                plan_from_json(open_output(url).provenance["plan"]),
                self._model_of_a_slide(),
                url,
                axes=self._job.axes,
                device=self._device,
                stages=self._stages,
            )
            self._open[slide] = worker
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return worker

    def _conclude(self, slide: int) -> None:
        """Certify and measure a slide."""
        worker = self._worker(slide)
        prepared = self._prepared(worker.plan, self._model_of(worker), worker.mask)
        with self._stages.compute.lock:  # the certificate computes, and blocks of other slides would compute beside it
            self._stages.computer.submit(conclude_slide, self._job, slide, prepared).result()
        with self._lock:
            self._open.pop(slide, None)

    def _model_of(self, worker: BlockWorker) -> Model:
        return replace(self._model, module=worker.forward.module)


