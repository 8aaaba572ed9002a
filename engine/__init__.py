"""Run any CNN over a volume that fits on no machine, and get the answer that you would have got had it fitted.

    import engine

    report = engine.run("slide.zarr", "network.py:unet@weights.safetensors", "result.zarr")
    print(report.certificate)
"""

import engine.process  # noqa: F401 -- first: it must come before torch
from engine.check import check
from engine.errors import EngineError
from engine.models.load import load_model
from engine.predict import predict
from engine.prepare import Options, prepare
from engine.reopen import resume, status, verify
from engine.run import run
from engine.storage.ingest import ingest
from engine.storage.volume import open_volume

__all__ = [
    "EngineError",
    "Options",
    "check",
    "ingest",
    "load_model",
    "open_volume",
    "predict",
    "prepare",
    "resume",
    "run",
    "status",
    "verify",
]
