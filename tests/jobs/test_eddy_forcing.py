"""The job that shows the seam: refused as published, equal to one pass wrapped, and far from it cut."""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import pytest

JOBS = Path(__file__).parents[2] / "jobs"
sys.path.insert(0, str(JOBS))

import eddy_forcing  # noqa: E402


def test_the_wrap_leaves_no_seam_and_the_cut_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(eddy_forcing, "WEIGHTS", tmp_path / "none")
    rows = dict(eddy_forcing.show(argparse.Namespace(output=tmp_path, field="NCEP")))
    whole_difference = float(rows["tiles beside one pass"].split()[-2])
    assert whole_difference <= 1e-6
    first_column = float(rows["without the wrap"].split()[4])
    assert first_column > 0.1
    wrapped, cut, between = (float(text) for text in re.findall(r"\d+\.\d+", rows["step over Greenwich"]))
    assert wrapped < 2 * between < cut
    assert (tmp_path / "seam.png").stat().st_size > 10_000


def test_the_network_is_refused_as_published_for_its_mean_and_then_for_its_last_layer(tmp_path):
    source = eddy_forcing.written(eddy_forcing.made_up_winds(), tmp_path / "winds.nc")
    (_, mean), (_, padding) = eddy_forcing.refusals(source, is_real=False)
    assert "takes 'mean' over the whole of space" in mean
    assert "pads with 'zeros'" in padding


def test_made_up_winds_go_round_the_globe():
    field = eddy_forcing.made_up_winds()
    step = np.abs(np.diff(field, axis=-1)).mean()
    assert np.abs(field[..., 0].to_numpy() - field[..., -1].to_numpy()).mean() < 2 * step
    assert float(field.std()) > 0


@pytest.mark.real
def test_real_winds_are_two_levels_of_a_globe():
    for name, (path, _) in eddy_forcing.WINDS.items():
        if not path.exists():
            pytest.skip(f"needs the real volumes beside the repository: {path} is not there")
        field = eddy_forcing.winds(name)
        assert field.dims == ("level", "lat", "lon")
        assert field.sizes["level"] == 2
        assert np.isfinite(field).all()
