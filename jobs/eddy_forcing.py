"""Eddy forcing over a globe by a published network, with and without the wrap in longitude: where the seam would be.

    python jobs/eddy_forcing.py [--output eddy-output] [--field ncep.nc]

    two levels of wind --scaled--> CNN (sees 10 cells to each side) --> forcing, CF Zarr, the seam drawn

The network (``eddy_network.py``) is refused as it was published: it takes the mean over all of the globe, and its last
layer pads with zeros. Both are named; without them it runs, tiles equal the pass over the whole globe, and the first
column continues the last. It learnt from an idealised ocean: on real winds it shows the seam, and no physics.
"""

import argparse
import sys
from pathlib import Path

import eddy_network
import numpy as np
import torch
import xarray as xr
from eddy_network import EddyNetwork
from eddy_picture import draw
from job import DATA, Clock, Row, answer, console, emptied, near
from numpy.typing import NDArray

from engine.errors import EngineError
from engine.geometry.edges import Edge, EdgeKind
from engine.geometry.region import Region
from engine.prepare import Options
from engine.run import Report, check_complete, run
from engine.show import print_rows
from engine.storage.volume import open_volume

WEIGHTS = DATA / "models" / "pyqg_fcnn" / "0" / "weights.pt"
WINDS = {
    "NCEP": (DATA / "climate" / "NCEP_06_climo.nc", "U"),
    "ERA5": (DATA / "climate" / "era5_tl31_19590102T00.nc", "u_component_of_wind"),
}
LEVELS = (850.0, 250.0)
"""hPa, for the network's two layers."""

POLES = Edge(EdgeKind.POLE, around="lon", odd_channels=(0, 1))
WRAPPED = {"lat": POLES, "lon": Edge(EdgeKind.WRAP)}
CUT = {"lat": Edge(EdgeKind.CONSTANT), "lon": Edge(EdgeKind.CONSTANT)}
"""As a network that pads with zeros sees a globe: it ends at Greenwich and at the poles."""

TILE = (28, 36)


def main() -> int:
    """Run the job; 0 if tiles equal the whole globe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("eddy-output"), help="folder to write to [eddy-output]")
    parser.add_argument("--field", choices=tuple(WINDS), default="NCEP", help="whose winds [NCEP]")
    return answer(show, parser.parse_args())


def show(asked: argparse.Namespace) -> list[Row]:
    """Be refused, run with and without the wrap, and say what differs."""
    clock, folder = Clock(), asked.output
    is_real = WEIGHTS.exists() and WINDS[asked.field][0].exists()

    with clock.stage("winds on a globe"):
        source = written(winds(asked.field) if is_real else made_up_winds(), emptied(folder / "winds.nc"))
        console.print(f"{near(source)}: {'real' if is_real else 'made up, and so is the network'}", markup=False)

    with clock.stage("the network as it was published"):
        for name, reason in refusals(source, is_real=is_real):
            console.print(f"[bold]{name}[/bold]: refused. {reason}")

    with clock.stage("run: wrapped, and cut at Greenwich"):
        network = loaded(is_real=is_real)
        wrapped = ran(source, network, WRAPPED, emptied(folder / "forcing.zarr"))
        cut = ran(source, network, CUT, emptied(folder / "cut.zarr"))

    with clock.stage("the whole globe in one pass, and a picture"):
        fields = forcing(wrapped), forcing(cut)
        whole = in_one_pass(source, network)
        draw(emptied(folder / "seam.png"), *fields, coordinates(source))

    rows = closing_rows(*fields, whole, wrapped, clock)
    console.print()
    print_rows(rows, title="What was done", console=console)
    console.print(f"\nSee {near(folder / 'seam.png')}.", markup=False)
    return rows


def winds(name: str) -> xr.DataArray:
    """Return the eastward wind at two levels, (channel, lat, lon)."""
    path, variable = WINDS[name]
    with xr.open_dataset(path, decode_times=False, mask_and_scale=False) as file:  # winds have no gaps
        field = file[variable].squeeze(drop=True)
        level = next(str(dim) for dim in field.dims if str(dim).startswith("lev"))
        lat, lon = (next(str(dim) for dim in field.dims if str(dim).startswith(start)) for start in ("lat", "lon"))
        found = field.sel({level: list(LEVELS)}, method="nearest").transpose(level, lat, lon).load()
    return found.rename({level: "level", lat: "lat", lon: "lon"})


def made_up_winds() -> xr.DataArray:
    """Return waves that go round a globe of 64 x 128 cells."""
    lat, lon = np.linspace(-87.1875, 87.1875, 64), np.arange(128) * 2.8125
    chance = np.random.default_rng(0)
    phase = np.deg2rad(lon)[None] * np.arange(1, 9)[:, None] + chance.uniform(0, 2 * np.pi, 8)[:, None]
    rows = np.cos(np.deg2rad(lat))[None, :, None]
    waves = (chance.standard_normal((2, 8, 64)).cumsum(-1)[..., None] * np.sin(phase)[None, :, None]).sum(1) * rows
    return xr.DataArray(waves, dims=("level", "lat", "lon"), coords={"level": list(LEVELS), "lat": lat, "lon": lon})


def written(field: xr.DataArray, path: Path) -> Path:
    """Write winds, each level scaled to a standard deviation of 1, as CF NetCDF; return the path."""
    scaled = (field / field.std(("lat", "lon"))).astype("float32").rename("wind")
    scaled.attrs = {"standard_name": "eastward_wind", "units": "1"}
    named = {
        "lat": ("latitude", "degrees_north"),
        "lon": ("longitude", "degrees_east"),
        "level": ("air_pressure", "hPa"),
    }
    for axis, (standard_name, units) in named.items():
        scaled[axis].attrs = {"standard_name": standard_name, "units": units}
    scaled.to_netcdf(path)
    return path


def loaded(*, is_real: bool, is_published: bool = False) -> EddyNetwork:
    """Return the network, all its layers circular unless asked for as published."""
    if is_real:
        return eddy_network.trained(WEIGHTS, is_published=is_published)
    return eddy_network.made_up(is_published=is_published)


def refusals(source: Path, *, is_real: bool) -> list[tuple[str, str]]:
    """Return why the published network is refused, and why it still is without its mean."""
    published, meanless = (loaded(is_real=is_real, is_published=True) for _ in range(2))
    meanless.is_published = False
    found = []
    for name, network in (("as published", published), ("without the mean", meanless)):
        try:
            run(str(source), network, str(source.with_name("refused.zarr")), options=Options(edges=WRAPPED, tile=TILE))
        except EngineError as error:
            found.append((name, str(error)))
    return found


def ran(source: Path, network: EddyNetwork, edges: dict[str, Edge], output: Path) -> Report:
    """Run in tiles that do not divide the grid.

    Raises:
        EngineError: If the plan is refused, a block failed, or the seam certificate does not hold.
    """
    report = run(str(source), network, str(output), options=Options(edges=edges, tile=TILE, block=TILE, workers=1))
    check_complete(report)
    return report


def forcing(report: Report) -> NDArray[np.float64]:
    """Return what a run stored, (lat, lon)."""
    volume = open_volume(f"{report.url}/output")
    return np.asarray(volume.read(Region.whole(volume.shape))[0], np.float64)


def in_one_pass(source: Path, network: EddyNetwork) -> NDArray[np.float64]:
    """Return the network's forcing over the whole globe, continued beyond its edges by NumPy, in one pass."""
    with xr.open_dataset(source) as file:
        field = file["wind"].to_numpy()
    n = 16
    half = field.shape[-1] // 2
    south, north = (-np.roll(rows[:, ::-1], half, -1) for rows in (field[:, :n], field[:, -n:]))
    globe = np.pad(np.concatenate([south, field, north], 1), ((0, 0), (0, 0), (n, n)), mode="wrap")
    with torch.inference_mode():
        y = network(torch.from_numpy(np.ascontiguousarray(globe))[None])[0, 0]
    return np.asarray(y[n:-n, n:-n].numpy(), np.float64)


def coordinates(source: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latitudes and longitudes in degrees."""
    with xr.open_dataset(source) as file:
        return file["lat"].to_numpy(), file["lon"].to_numpy()


def closing_rows(
    wrapped: NDArray[np.float64], cut: NDArray[np.float64], whole: NDArray[np.float64], report: Report, clock: Clock
) -> list[Row]:
    """Return what was done; differences are in standard deviations of the forcing."""
    std, plan = whole.std(), report.plan
    wrong, step = np.abs(cut - whole) / std, np.abs(np.diff(whole, axis=1)).mean() / std
    jumps = [np.abs(field[:, 0] - field[:, -1]).mean() / std for field in (wrapped, cut)]
    reach = plan.geometry.programs[1].widest_halo
    return [
        ("tiles", f"{plan.n_tiles} of {' x '.join(map(str, plan.tile_shape))}, halo {reach[0]} + {reach[1]}"),
        ("tiles beside one pass", f"differ by at most {np.abs(wrapped - whole).max() / std:.1e} std"),
        ("without the wrap", f"first column off by {wrong[:, 0].mean():.2f} std, {wrong[:, 0].max():.2f} at most"),
        ("", f"{(wrong > 0.01).mean():.0%} of all cells are off by more than 0.01 std"),
        ("step over Greenwich", f"{jumps[0]:.2f} std wrapped, {jumps[1]:.2f} cut; between neighbours {step:.2f}"),
        ("seconds", clock.told),
    ]


if __name__ == "__main__":
    sys.exit(main())
