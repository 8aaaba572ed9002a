"""Convection on real columns: a published column network run over ERA5, to the heating of each column in W m-2.

    python jobs/convection_columns.py [--output convection-output]

    ERA5, 37 levels --interpolated to 30--> columns, one by one, through the network --sum of cp rho dz dT--> W m-2

All of that is one module: the engine proves that it sees nothing of the neighbouring cells, tiles it, runs it, and
recomputes tiles of it. The network (``yog21_network.py``) learnt from a cloud-resolving model of an ocean planet. Its
known answer is reproduced first. Over mountains and ice it is asked about columns that it never saw: inputs beyond 3
sigma are counted, and drawn beside the result. Where the data is not beside the repository, a network and a globe are
made up: the figures are then none of the atmosphere.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr
from column_picture import Drawn, draw
from era5_columns import era5, pascal
from era5_columns import made_up as made_up_globe
from job import DATA, Clock, Row, answer, console, emptied, near
from numpy.typing import NDArray
from torch import nn
from yog21_network import HEAT_CAPACITY, N_FEATURES, N_LEVELS, Sounding, Yog21, made_up, published

from engine.geometry.region import Region
from engine.measure.area import cosine_weights
from engine.measure.budget import ChannelBudget, channel_budgets
from engine.models.column_beside import Beside
from engine.models.column_interpolated import Interpolated
from engine.models.columns import Columns
from engine.models.physics import ColumnIntegral
from engine.prepare import Options
from engine.run import Report, check_complete, run
from engine.show import print_rows
from engine.storage.ingest import ingest
from engine.storage.volume import open_volume

ERA5 = DATA / "climate" / "era5_tl31_19590102T00.nc"
NETWORK = DATA / "models" / "yog21_column"

SIGMA = 3.0
SECONDS_PER_DAY = 86400.0

CF = {
    "heating": {
        "units": "W m-2",
        "long_name": "column integral of the temperature tendency by radiation and microphysics",
    },
    "heating_rate": {"units": "K s-1", "long_name": "temperature tendency by radiation and microphysics"},
    "n_beyond": {"units": "1", "long_name": "inputs of the column beyond 3 standard deviations of the training data"},
}
"""Attributes of each output."""


@dataclass(frozen=True)
class Found:
    """What came out."""

    heating: ChannelBudget
    """W m-2."""
    share_beyond: float
    """Of all inputs of the network."""
    report: Report


class Convection(nn.Module):
    """The pipeline: temperature and water at the source's levels, and the distance, to the heating of columns."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Yog21, sounding: Sounding, levels: tuple[float, ...]) -> None:
        """Take the network, what it works on, and the source's levels in Pa."""
        super().__init__()
        self.register_buffer("mean", network.features_mean[:, None, None].clone())
        self.register_buffer("std", network.features_std[:, None, None].clone())
        self.levels = Beside(Interpolated(variables=2, source=levels, target=sounding.pressure), last=1)
        self.columns = Columns(network, variables=2, levels=N_LEVELS, scalars=1, order="surface_first")
        self.integral = ColumnIntegral(sounding.mass, {"heating_rate": "K s-1"}, heat_capacity=HEAT_CAPACITY)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs of :data:`CF`, each (batch, channel, lat, lon), for ``x`` (batch, 75, lat, lon)."""
        inputs = self.levels(x)
        rate = self.columns(inputs)[:, :N_LEVELS]
        is_beyond = (inputs - self.mean).abs() > SIGMA * self.std
        return {
            "heating": self.integral(rate),
            "heating_rate": rate,
            "n_beyond": is_beyond.to(x.dtype).sum(dim=1, keepdim=True),
        }


def main() -> int:
    """Run the job; 0 if every block is stored and the certificate holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("convection-output"), help="folder [convection-output]")
    return answer(show, parser.parse_args())


def show(asked: argparse.Namespace) -> Found:
    """Reproduce the known answer, run the network over the globe, and say what came out."""
    clock, folder = Clock(), asked.output
    is_real = ERA5.exists() and NETWORK.exists()

    with clock.stage("the network and its known answer"):
        network, sounding = published(NETWORK) if is_real else made_up()
        if is_real:
            console.print(f"differs from its known answer by {known_answer_error(network):.1e} of each kind's largest")
        else:
            console.print("the published network is not here: this one is made up, and so is the globe")

    with clock.stage("a globe of columns"):
        globe = era5(ERA5) if is_real else made_up_globe()
        path = emptied(folder / "columns.nc")
        globe.to_netcdf(path)
        source = ingest(path, str(emptied(folder / "columns.zarr")))
        console.print(f"{near(Path(source.url))}: {dict(globe.sizes)}", markup=False)

    with clock.stage("run, then the seam certificate"):
        pipeline = Convection(network, sounding, pascal(globe)).eval()
        found = run_columns(source.url, pipeline, emptied(folder / "convection.zarr"))

    with clock.stage("a picture"):
        picture = emptied(folder / "convection.png")
        draw(picture, drawn(found.report.url, globe, sounding))

    console.print()
    print_rows(closing_rows(found, clock, is_real=is_real), title="What was done", console=console)
    console.print(f"\nSee {near(picture)} and {near(Path(found.report.url))}.", markup=False)
    return found


def known_answer_error(network: Yog21) -> float:
    """Return the largest difference from the published answer to 61 ones, as a share of its kind's largest number."""
    wanted = torch.from_numpy(np.loadtxt(NETWORK / "nn_ones.txt"))
    with torch.inference_mode():
        found = network.answer(torch.ones(1, N_FEATURES))[0].double()
    kinds = (N_LEVELS, N_LEVELS - 1, N_LEVELS - 1, N_LEVELS, N_LEVELS)
    pairs = zip(found.split(kinds), wanted.split(kinds), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def run_columns(source: str, pipeline: nn.Module, output: Path) -> Found:
    """Run the pipeline over a globe, certify it, give the outputs their units, and take the means over the globe."""
    report = run(source, pipeline, str(output), options=Options(workers=1))
    check_complete(report)
    for name, attributes in CF.items():
        zarr.open_group(f"{output}/{name}", mode="r+")[name].attrs.update(attributes)
    weights = cosine_weights(zarr.open_group(source, mode="r")["lat"][:])
    (heating,) = channel_budgets(open_volume(f"{output}/heating"), weights, names=["heating"])
    return Found(heating, float(read(f"{output}/n_beyond").mean()) / N_FEATURES, report)


def read(url: str) -> NDArray[np.float64]:
    """Return a small stored volume (channel, lat, lon) whole."""
    volume = open_volume(url)
    return volume.read(Region.whole(volume.shape)).astype(np.float64)


def drawn(output: str, globe: xr.Dataset, sounding: Sounding) -> Drawn:
    """Return what the picture shows."""
    return Drawn(
        latitude=globe["latitude"].values,
        longitude=globe["longitude"].values,
        pressure=np.array(sounding.pressure) / 100,
        heating=read(f"{output}/heating")[0],
        rate=read(f"{output}/heating_rate").mean(2) * SECONDS_PER_DAY,
        beyond=read(f"{output}/n_beyond")[0],
    )


def closing_rows(found: Found, clock: Clock, *, is_real: bool) -> list[Row]:
    """Return what was done, as pairs of what and how much; the certificate is the last."""
    one, geometry, certificate = found.heating, found.report.plan.geometry, found.report.certificate
    assert certificate is not None
    largest = max(output.max_difference for output in certificate.outputs.values())
    halos = {program.widest_halo for program in geometry.programs}
    return [
        ("data", "ERA5 and the published network" if is_real else "made up, and so is the network"),
        ("geometry", f"{geometry.evidence}, halo {', '.join(map(str, halos))}"),
        ("column heating, area mean", f"{one.mean:.1f} W m-2"),
        ("least and most", f"{one.low:.0f} and {one.high:.0f} W m-2"),
        ("inputs beyond 3 sigma", f"{found.share_beyond:.1%}"),
        ("seconds", clock.told),
        ("seams", f"largest difference {largest:.1e}; {certificate.n_tiles} tiles recomputed on a shifted grid"),
    ]


if __name__ == "__main__":
    sys.exit(main())
