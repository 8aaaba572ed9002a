"""Column integrals beside what is known: NCEP's archived water, and the published column network's answer on ERA5."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import Result
from engine.measure.area import cosine_weights, gaussian_weights
from tests.columns_of_water import NCEP, errors, integrated, made_up, masked, mean_times_depth, ncep
from tests.real_models import DATA

JOBS = Path(__file__).resolve().parents[1] / "jobs"


def main() -> list[Result]:
    """Return the tables; real data where it is there, made-up data beside it."""
    results = [_waters("a made-up globe whose water is a formula", made_up())]
    if (DATA / NCEP).exists():
        results = [_waters("NCEP, June", ncep(DATA / NCEP)), _means(), *results, _columns()]
    return results


def _waters(title, water):
    ways = {
        "mid-level interfaces, cut at the surface": integrated(water),
        "the same, not cut": integrated(water, is_clipped=False),
        "levels above the surface only, no partial layer": masked(water),
        "mean over levels times depth": mean_times_depth(water),
    }
    rows = []
    for name, found in ways.items():
        one = errors(found, water)
        rows.append((name, f"{one.bias:+.2f}", f"{one.rmse:.2f}", f"{one.worst:.1f}", f"{one.r:.4f}"))
    note = "Beside the archived or exact water, by area. Wanted of the first: RMSE at most 0.6, r at least 0.999."
    columns = ("column integral", "bias", "RMSE", "worst", "r")
    return Result(f"Precipitable water, kg m-2: {title}", columns, tuple(rows), note)


def _means():
    water = ncep(DATA / NCEP)
    found = integrated(water).mean(1)
    n_lat = len(found)
    nodes = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(n_lat)[0]))
    ways = {
        "no weights": np.full(n_lat, 1 / n_lat),
        "the file's Gaussian weights": water.weights / water.weights.sum(),
        "gaussian_weights": gaussian_weights(nodes),
        "cosine_weights": cosine_weights(nodes),
    }
    rows = tuple((name, f"{found @ weights:.2f}") for name, weights in ways.items())
    return Result("Mean water over the globe, kg m-2", ("weights", "mean"), rows, "A plain mean over rows is none.")


def _columns():
    sys.path.insert(0, str(JOBS))
    import convection_columns as job  # noqa: PLC0415 -- a job's folder is on the path only when it is run

    network, sounding = job.published(job.NETWORK)
    globe = job.era5(job.ERA5)
    with tempfile.TemporaryDirectory() as folder:
        globe.to_netcdf(Path(folder) / "columns.nc")
        source = job.ingest(Path(folder) / "columns.nc", f"{folder}/columns.zarr")
        pipeline = job.Convection(network, sounding, job.pascal(globe)).eval()
        found = job.run_columns(source.url, pipeline, Path(folder) / "out.zarr")
    seams = found.report.certificate.outputs.values()
    rows = (
        ("largest difference from the known answer, of each kind's largest", f"{job.known_answer_error(network):.1e}"),
        ("column heating, area mean", f"{found.heating.mean:.1f} W m-2"),
        ("least and most", f"{found.heating.low:.0f} and {found.heating.high:.0f} W m-2"),
        ("inputs beyond 3 sigma", f"{found.share_beyond:.1%}"),
        ("largest difference of tiles", f"{max(one.max_difference for one in seams):.1e}"),
    )
    note = "Wanted: the known answer to 1e-5; heating near -100 W m-2."
    return Result("The published column network on ERA5", ("what", "found"), rows, note)
