"""The command line end to end: every command helps, and the path from a file to a certified output works."""

import json

import nibabel
import numpy as np
import pytest
import typer
import zarr

from engine.cli import app
from tests import bad_models
from tests.command import apart
from tests.stored import checksums, stored, whole

COMMANDS = {
    "items": ["MANIFEST", "--model", "--output", "--memory", "--workers", "--threads", "--batch", "--voxels", "--runner"],
    "ingest": ["PATHS", "--spacing", "--variables", "--threads", "--append"],
    "check": ["MODEL", "--weights", "--channels", "--space", "--device"],
    "plan": [
        *[
            "SOURCE",
            "MODEL",
            "--weights",
            "--memory",
            "--workers",
            "--threads",
            "--tile",
            "--block",
            "--batch",
            "--edge",
        ],
        *["--nan", "--precision", "--device", "--axes", "--tissue", "--mpp", "--no-pyramid", "--no-extend", "--json"],
    ],
    "run": [
        *[
            "SOURCE",
            "MODEL",
            "OUTPUT",
            "--weights",
            "--memory",
            "--workers",
            "--threads",
            "--tile",
            "--block",
            "--batch",
        ],
        *[
            "--edge",
            "--nan",
            "--precision",
            "--device",
            "--axes",
            "--no-pyramid",
            "--no-extend",
            "--plan",
            "--runner",
            "--address",
        ],
        "--verify",
    ],
    "resume": ["OUTPUT", "--source", "--model", "--plan", "--device", "--runner", "--address", "--verify"],
    "verify": ["OUTPUT", "--tiles", "--seed", "--source", "--model", "--device"],
    "status": ["OUTPUT"],
    "report": ["OUTPUT", "--budget", "--term", "--source", "--model", "--json"],
    "tissue": ["SOURCE", "PICTURE_FILE", "--tissue"],
    "objects": [
        *["OUTPUT", "--labels", "--threshold", "--channel", "--method", "--min-area", "--measured", "--name"],
        *["--workers", "--runner", "--address"],
    ],
    "score": ["OUTPUT", "AGGREGATOR", "--features"],
    "measure": [
        *["REFERENCE", "RESULT", "--mask", "--csv", "--parquet", "--picture", "--json", "--threads", "--labels"],
        *["--surface", "--tolerance", "--spacing"],
    ],
    "thickness": [
        *["LABELS", "OUTPUT", "--layer", "--beneath", "--max-mm", "--spacing", "--axes", "--picture", "--csv", "--json"],
    ],
    "batch": [
        *["SLIDES", "--model", "--output", "--weights", "--memory", "--workers", "--threads", "--tile", "--block"],
        *["--batch-size", "--precision", "--device", "--tissue", "--mpp", "--no-pyramid", "--objects"],
        *["--object-method", "--min-area", "--measured", "--score", "--features", "--only-failed", "--runner"],
        *["--address", "--patience", "--verify"],
    ],
    "export": [
        *["OUTPUT", "--nifti", "--dicom-seg", "--series", "--montage", "--image", "--labels", "--axis", "--slices"],
        "--window",
    ],
}
MODEL = f"{bad_models.__file__}:solid"


@pytest.mark.parametrize(("command", "words"), COMMANDS.items())
def test_help_names_every_argument_and_option(command, words, engine):
    text = engine.well(command, "--help")
    for word in words:
        assert word.lower() in text.lower()


def test_these_are_all_the_commands(engine):
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)
    text = engine.well("--help")
    assert all(command in text for command in COMMANDS)


def test_a_command_line_of_nothing_shows_the_help(engine):
    answer = engine()
    assert answer.code == 2
    assert "Commands:" in answer.out
    assert "needs a command" in answer.line


@pytest.fixture
def scan(tmp_path):
    voxels = np.random.default_rng(3).integers(-900, 900, (40, 36, 32)).astype("int16")
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.8, 0.9, 2.5, 1])), tmp_path / "scan.nii")
    return tmp_path / "scan.nii", voxels.transpose(2, 1, 0)


def test_from_a_file_to_a_certified_output(scan, tmp_path, engine):
    path, voxels = scan
    volume, out, saved, report = (tmp_path / name for name in ("scan.zarr", "out.zarr", "plan.json", "report.json"))
    options = ("--tile", 16, "--block", 16, "--batch", 1, "--memory", "2G", "--threads", 2)  # nothing left to timing

    text = engine.well("ingest", path, volume)
    assert "z (space, 2.5 millimeter)" in text
    assert "int16" in text
    assert np.array_equal(zarr.open_array(f"{volume}/0", mode="r")[...], voxels)

    text = engine.well("check", MODEL)
    assert "proved" in text
    assert "1 + 1" in text

    text = engine.well("plan", volume, MODEL, *options, "--json", saved)
    assert "z 1+1, jump 1" in text
    plan = json.loads(saved.read_text())
    assert plan["source"]["shape"] == [32, 36, 40]
    assert not out.exists()

    text = engine.well("run", volume, MODEL, out, *options, "--runner", "serial")
    assert "holds" in text
    expected = whole(bad_models.solid(), voxels[None])[0]
    assert expected.std() > 0
    np.testing.assert_allclose(stored(out).squeeze(), expected, atol=1e-3)  # of values to 2,000

    text = engine.well("status", out)
    assert "failed" in text
    assert "holds" in text

    text = engine.well("verify", out, "--tiles", 3, "--seed", 1)
    assert "holds: 3 tiles" in text

    text = engine.well("report", out, "--json", report)
    assert "seam certificate" in text
    facts = json.loads(report.read_text())
    assert facts["certificate"]["holds"]
    assert facts["summary"]["n_failed"] == 0
    assert facts["plan"]["outputs"][0]["name"] == "output"

    before = checksums(out)
    text = engine.well("resume", out, "--runner", "serial", "--plan", saved)
    assert "0 stored" in text
    assert checksums(out) == before

    again = tmp_path / "again.zarr"
    engine.well("run", volume, MODEL, again, "--plan", saved, "--runner", "serial")
    assert np.array_equal(stored(again), stored(out))


def test_ingest_again_changes_nothing(scan, tmp_path, engine):
    engine.well("ingest", scan[0], tmp_path / "scan.zarr")
    before = checksums(tmp_path / "scan.zarr")
    engine.well("ingest", scan[0], tmp_path / "scan.zarr")
    assert checksums(tmp_path / "scan.zarr") == before


def test_a_process_of_its_own_succeeds_without_a_word_on_standard_error(tmp_path):
    answer = apart("check", f"{bad_models.__file__}:good")
    assert (answer.code, answer.err) == (0, "")
    assert "halo before + after" in answer.out
