"""The same bits whoever computes them: one thread, three blocks in flight, actors, any order, killed and resumed."""

from functools import partial
from importlib import import_module

import numpy as np
import pytest
import xarray as xr

import engine
from engine.factory import BlockWorkerFactory
from engine.plan import Plan
from engine.plan_json import plan_hash, plan_to_json
from engine.run import Report
from engine.runtime.actors import RayRunner
from engine.runtime.events import Runner, TaskDone
from engine.runtime.schedule import drive
from engine.runtime.serial import SerialRunner
from tests.stored import checksums, smooth, store, stored


def one_by_one(factory: BlockWorkerFactory, plan: Plan) -> Runner:
    return SerialRunner(factory, n_in_flight=1)


def three_in_flight(factory: BlockWorkerFactory, plan: Plan) -> Runner:
    return SerialRunner(factory, n_in_flight=3)


def actors(n_workers: int):
    """Return what makes that many Ray actors on the Ray of this session."""

    def make(factory: BlockWorkerFactory, plan: Plan) -> Runner:
        return RayRunner(factory, n_workers=n_workers, n_cpus_per_worker=1, n_in_flight=2)

    return make


def interrupted_after(n_tasks: int):
    """Return a listener that breaks the run off, as Ctrl-C does, when so many tasks are done."""
    done = []

    def listen(event: object) -> None:
        done.extend([event] if isinstance(event, TaskDone) else [])
        if len(done) == n_tasks:
            raise KeyboardInterrupt

    return listen


def slide(folder) -> tuple[str, str, engine.Options]:
    pixels = (smooth((3, 1100, 900), n_passes=3) * 30 + 190).clip(0, 255).astype(np.uint8)
    options = engine.Options(tile=(136, 136), block=(256, 256), threads=2, batch=2)
    return store(folder / "slide.zarr", pixels, "cyx", chunk=128), "tests.pipelines:labelled", options


def scan(folder) -> tuple[str, str, engine.Options]:
    options = engine.Options(tile=(32, 32, 32), block=(32, 32, 32), threads=2, batch=1)
    return store(folder / "scan.zarr", smooth((70, 66, 60)), "zyx"), "tests.pipelines:scan", options


front_door = import_module("engine.run")  # `engine.run` itself is the function
WAYS = ("three in flight", "one actor", "two actors", "any order", "interrupted and resumed")


def _run(way: str, case, url: str, monkeypatch) -> Report:
    source, model, options = case
    match way:
        case "one by one":
            return engine.run(source, model, url, options=options, runner=one_by_one, n_certified=0)
        case "three in flight":
            return engine.run(source, model, url, options=options, runner=three_in_flight, n_certified=0)
        case "one actor":
            return engine.run(source, model, url, options=options, runner=actors(1), n_certified=0)
        case "two actors":
            return engine.run(source, model, url, options=options, runner=actors(2), n_certified=0)
        case "any order":
            monkeypatch.setattr(front_door, "drive", partial(drive, shuffle_seed=7))
            return engine.run(source, model, url, options=options, runner=three_in_flight, n_certified=0)
        case _:
            with pytest.raises(KeyboardInterrupt):
                engine.run(source, model, url, options=options, runner=one_by_one, listener=interrupted_after(5))
            assert len(checksums(url)) > 0
            return engine.resume(url, runner=three_in_flight, n_certified=0)


@pytest.mark.parametrize("case", [pytest.param(slide, marks=pytest.mark.slow), scan])
def test_every_way_to_run_stores_the_same_bits(tmp_path, case, local_ray, monkeypatch):
    made = case(tmp_path)
    first = _run("one by one", made, str(tmp_path / "first.zarr"), monkeypatch)
    wanted = checksums(tmp_path / "first.zarr")
    assert first.is_complete
    assert first.plan.graph.n_blocks >= 12
    assert len(wanted) >= first.plan.graph.n_tasks
    assert len(set(wanted.values())) > 0.5 * len(wanted)
    if case is slide:
        assert first.plan.graph.n_levels > 1
        assert set(np.unique(stored(tmp_path / "first.zarr", "label"))) == {0, 1}
    for way in WAYS:
        with monkeypatch.context() as patch:
            report = _run(way, made, str(tmp_path / f"{way}.zarr"), patch)
        assert report.is_complete, way
        assert plan_hash(plan_to_json(report.plan)) == plan_hash(plan_to_json(first.plan)), way
        assert checksums(tmp_path / f"{way}.zarr") == wanted, way


def test_the_parts_of_a_chunk_are_read_by_one_of_two_actors(tmp_path, local_ray):
    n_steps, n_parts, readers = 20, 4, set()
    field = smooth((n_steps, 24, 32))
    coordinates = {"time": np.arange(n_steps), "lat": np.linspace(-86.25, 86.25, 24), "lon": np.arange(32) * 11.25}
    grid = xr.Dataset({"t": (("time", "lat", "lon"), field)}, coordinates)
    grid.to_zarr(tmp_path / "in.zarr", encoding={"t": {"chunks": (1, 24, 32)}}, consolidated=False)
    options = engine.Options(tile=(24, 16), block=(24, 8), threads=2, workers=10)

    def listen(event: object) -> None:
        if isinstance(event, TaskDone):
            readers.add((event.receipt.worker, event.receipt.task // n_parts))

    report = engine.run(
        str(tmp_path / "in.zarr"), "tests.pipelines:scan2d", str(tmp_path / "out.zarr"),
        options=options, runner=actors(2), listener=listen,
    )  # fmt: skip
    assert report.is_complete
    assert report.plan.graph.n_tasks == n_steps * n_parts
    assert len({worker for worker, _ in readers}) == 2
    assert n_steps <= len(readers) <= n_steps + 2
