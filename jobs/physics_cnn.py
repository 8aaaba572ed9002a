"""A network that looks sideways, then up and down, with physics behind it: heating of columns whose truth is known.

    python jobs/physics_cnn.py [--output physics-output]

    made-up globe --3 convolutions, round the globe--> --each column, a GRU--> K day-1 --sum of cp dT dp / g--> W m-2

The convolutions pad with zeros; the engine fetches what lies beyond the first and the last column from the other side
(edge ``wrap``), so there is no seam. The globe is one that the network did not learn from (``physics_globe.py``); its
rule says what every column's heating is: the latent heat of its rain. So the error is told beside what needs no
network, and whether the budget of the globe closes: heating found, less the latent heat of the rain.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from job import Clock, Row, answer, console, emptied, near
from matplotlib.figure import Figure
from numpy.typing import NDArray
from physics_globe import LATENT_HEAT, LEVELS, Globe, dataset, globe, latitudes
from physics_network import heating
from train_physics import HELD_OUT, TRAINED, Scores, along, line_of, mean_of, scores

from engine.geometry.region import Region
from engine.measure.area import cosine_weights
from engine.measure.budget import ChannelBudget, Closure, channel_budgets, closure
from engine.prepare import Options
from engine.run import Report, check_complete, run
from engine.show import print_rows
from engine.storage.ingest import ingest
from engine.storage.volume import open_volume

N_FITTED = 4
"""Globes from which the trivial baselines are made."""

CF = {
    "heating": {"units": "W m-2", "long_name": "latent heating of the column"},
    "heating_rate": {"units": "K day-1", "long_name": "temperature tendency by latent heating"},
}
"""Attributes of each output."""

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What came out."""

    network: Scores
    """Against the truth, in W m-2."""
    baselines: dict[str, Scores]
    heating: ChannelBudget
    """W m-2, as it is stored."""
    budget: Closure
    report: Report


def main() -> int:
    """Run the job; 0 if every block is stored and the certificate holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("physics-output"), help="folder [physics-output]")
    return answer(show, parser.parse_args())


def show(asked: argparse.Namespace) -> Found:
    """Run the network over a globe, and say how far it is from the truth and from the trivial."""
    clock, folder = Clock(), asked.output

    with clock.stage("a globe that the network did not learn from"):
        made = globe(HELD_OUT[0])
        path = emptied(folder / "globe.nc")
        dataset(made).to_netcdf(path)
        source = ingest(path, str(emptied(folder / "globe.zarr")))
        console.print(f"{near(Path(source.url))}: {source.shape} of channel, lat, lon", markup=False)

    with clock.stage("run, wrapped round in longitude, then the seam certificate"):
        quarter = tuple(n // 2 for n in made.rain.shape)
        report = run_globe(source.url, emptied(folder / "heating.zarr"), block=quarter)
        console.print(f"edges: {', '.join(f'{t.name} {t.edge.kind}' for t in report.plan.tilings)}")

    with clock.stage("beside the truth, and what needs no network"):
        found = compared(report, made)
        picture = emptied(folder / "heating.png")
        draw(picture, read(f"{report.url}/heating")[0], made.column_heating)

    console.print()
    print_rows(closing_rows(found, clock), title="What was done", console=console)
    console.print(f"\nSee {near(picture)} and {near(Path(report.url))}.", markup=False)
    return found


def run_globe(source: str, output: Path, *, block: tuple[int, ...]) -> Report:
    """Run the trained network over a globe in blocks, certify it, and give the outputs their units."""
    report = run(source, heating(), str(output), options=Options(workers=1, block=block))
    check_complete(report)
    for name, attributes in CF.items():
        zarr.open_group(f"{output}/{name}", mode="r+")[name].attrs.update(attributes)
    return report


def read(url: str) -> Field:
    """Return a small stored volume (channel, lat, lon) whole."""
    volume = open_volume(url)
    return volume.read(Region.whole(volume.shape)).astype(np.float64)


def compared(report: Report, made: Globe) -> Found:
    """Return the errors of the network and of the baselines, and the budget of the globe."""
    truth, weights = made.column_heating, cosine_weights(latitudes(len(made.rain)))
    learnt = [globe(seed) for seed in TRAINED[:N_FITTED]]
    trivial = np.full_like(truth, mean_of(learnt))
    fields = {"a line through the column's own numbers": along(line_of(learnt), made), "the mean everywhere": trivial}
    (stored,) = channel_budgets(open_volume(f"{report.url}/heating"), weights, names=["heating"])
    rain = float(np.average(made.rain.mean(1), weights=weights))
    return Found(
        network=scores(read(f"{report.url}/heating"), truth[None]),
        baselines={name: scores(field[None], truth[None]) for name, field in fields.items()},
        heating=stored,
        budget=closure(heating=stored.mean, latent_heat_of_rain=-LATENT_HEAT * rain),
        report=report,
    )


def draw(path: Path, found: Field, truth: Field) -> None:
    """Write a PNG of what was found, the truth, and their difference, W m-2 (lat, lon)."""
    figure = Figure(figsize=(9, 11), layout="constrained")
    most, far = float(np.percentile(truth, 99.5)), float(np.percentile(np.abs(found - truth), 99.5))
    panels = {
        "Found by the network, stitched from tiles": (found, 0, most, "viridis"),
        "Truth: latent heat of the rain": (truth, 0, most, "viridis"),
        "Found, less truth": (found - truth, -far, far, "RdBu_r"),
    }
    longitudes = np.arange(truth.shape[1]) * 360 / truth.shape[1]
    for axes, (title, (field, low, high, colours)) in zip(figure.subplots(3, 1), panels.items(), strict=True):
        mesh = axes.pcolormesh(longitudes, latitudes(len(truth)), field, vmin=low, vmax=high, cmap=colours)
        axes.set(title=title, ylabel="degrees north", aspect="equal")
        figure.colorbar(mesh, ax=axes, label="W m-2")
    axes.set_xlabel("degrees east")
    figure.savefig(path, dpi=110)


def closing_rows(found: Found, clock: Clock) -> list[Row]:
    """Return what was done, as pairs of what and how much; the certificate is the last."""
    certificate, geometry = found.report.certificate, found.report.plan.geometry
    assert certificate is not None
    largest = max(output.max_difference for output in certificate.outputs.values())
    terms, one, stored = found.budget.terms, found.network, found.heating
    others = {name: f"{other.rmse:.1f} W m-2, {other.share:.1%}" for name, other in found.baselines.items()}
    return [
        ("geometry", f"{geometry.evidence}, halo {geometry.programs[0].widest_halo}, {len(LEVELS)} levels in a column"),
        ("error (RMSE, by area)", f"{one.rmse:.1f} W m-2, {one.share:.1%} of the variance explained"),
        *((f"error of {name}", told) for name, told in others.items()),
        ("global mean, found and true", f"{terms['heating']:.2f} and {-terms['latent_heat_of_rain']:.2f} W m-2"),
        ("budget left over", f"{found.budget.residual:+.2f} W m-2, {found.budget.share:.1%}"),
        ("columns that it cools", f"{stored.n_negative} of {stored.n}; least {stored.low:.1f} W m-2"),
        ("seconds", clock.told),
        ("seams", f"largest difference {largest:.1e}; {certificate.n_tiles} tiles recomputed on a shifted grid"),
    ]


if __name__ == "__main__":
    sys.exit(main())
