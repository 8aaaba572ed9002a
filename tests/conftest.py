"""What tests share: one small local Ray per session, started when the first test asks for it."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("unhurried", deadline=None)  # no test asserts a time: these machines are shared
hypothesis.settings.load_profile("unhurried")

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # so that `tests.faults` can be imported however pytest was called
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)  # in Ray's workers too


def pytest_collection_modifyitems(items):
    """Keep each file on one worker, and all files that ask for Ray on one and the same: there is one cluster.

    That one comes first, for it is the longest; then the files from last to first, which leaves small ones for the end.
    """
    with_ray = {item.path for item in items if "local_ray" in getattr(item, "fixturenames", ())}
    places = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (item.path not in with_ray, -places[item.path]))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in with_ray else str(item.path)))


@pytest.fixture
def engine(capsys, monkeypatch):
    """The command line in this process; what it sets for its own is set back."""
    from tests.command import Commands

    torch_logger, handler = logging.getLogger("torch"), signal.getsignal(signal.SIGTERM)
    level = torch_logger.level
    yield Commands(capsys, monkeypatch)
    logging.captureWarnings(False)
    torch_logger.setLevel(level)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def local_ray():
    """A local Ray of 2 CPUs, without a dashboard; runners without an address use it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        from engine.runtime import cluster

        assert cluster.connect(None, n_cpus=2, is_debug=False)
    yield ray
    ray.shutdown()
