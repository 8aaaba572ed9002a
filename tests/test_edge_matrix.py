"""Every edge of a global grid at every awkward size, from file to store: tiles equal one pass over the whole.

    wrap     longitude goes round, and the network pads latitude in each layer
    clamp    the network pads both in each layer
    cap      the network crosses the poles in each layer, in bands all round the globe
    pole     the network pads nothing: rows beyond a pole are gathered from half way round
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import engine
from engine.errors import EngineError
from engine.geometry.edges import MODEL_EDGE, Edge, EdgeKind
from engine.models.globe import PadGlobe
from tests.stored import smooth

EDGES = {"wrap": {}, "clamp": {"lon": MODEL_EDGE}, "cap": {}, "pole": {"lat": Edge(EdgeKind.POLE, around="lon")}}


@dataclass(frozen=True)
class Case:
    """A grid, and the tiles and blocks that it is run in; a band of ``cap`` has their rows."""

    shape: tuple[int, int] = (12, 16)
    tile: tuple[int, int] = (12, 12)
    block: tuple[int, int] = (4, 4)
    step: int = 1
    """By which the network shrinks, and grows again."""
    is_descending: bool = False
    first_lon: float = 0.0
    is_doubled: bool = False


CASES = {
    "even": Case(),
    "odd rows": Case(shape=(13, 16)),
    "odd columns": Case(shape=(12, 15)),
    "smaller than what is seen": Case(shape=(6, 6), block=(2, 2)),
    "steps that divide": Case(step=2, tile=(20, 20)),
    "steps that do not divide the rows": Case(step=2, shape=(13, 16), tile=(20, 20)),
    "steps that do not divide the columns": Case(step=2, shape=(12, 15), tile=(20, 20)),
    "blocks that do not divide": Case(shape=(14, 18)),
    "one tile": Case(tile=(32, 32), block=(12, 16)),
    "tiles of one cell": Case(shape=(6, 8), tile=(9, 9), block=(1, 1)),
    "latitude downwards": Case(is_descending=True),
    "longitude from 20.5": Case(first_lon=20.5),
    "a doubled column": Case(is_doubled=True),
    "all three": Case(is_descending=True, first_lon=20.5, is_doubled=True),
}

REFUSED = {
    ("odd columns", "cap"): "an even number of columns, not 12 x 15",
    ("odd columns", "pole"): "even number of columns to cross a pole on 'lat', not 15",
    ("steps that do not divide the columns", "wrap"): "its 15 voxels must be a multiple of the model's step 2",
    ("steps that do not divide the columns", "cap"): "an even number of columns, not 12 x 15",
    ("steps that do not divide the columns", "pole"): "even number of columns to cross a pole on 'lat', not 15",
}


def network(edge: str, step: int) -> nn.Module:
    """Return a network of two channels, the second odd, that sees 4 cells to each side, or 6 where it steps by 2."""
    torch.manual_seed(4)
    rows, columns = edge in ("wrap", "clamp"), edge == "clamp"
    parts = []
    for n_in, n_out, reach in ((2, 4, 2), (4, 4, 1), (4, 1, step)):
        parts += [PadGlobe(reach, odd=(1,) if n_in == 2 else ())] if edge == "cap" else []
        parts += [nn.Conv2d(n_in, n_out, 2 * reach + 1, padding=(rows * reach, columns * reach)), nn.ReLU()]
    if step == 2:
        middle = len(parts) // 3
        parts = [*parts[:middle], nn.MaxPool2d(2), *parts[middle : 2 * middle], nn.Upsample(scale_factor=2), *parts[-middle:]]
    return nn.Sequential(*parts[:-1]).eval()


def over_poles(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """Pad rows of (time, channel, lat, lon) by stepping over the poles, each time to the other side."""
    n_rows, n_columns = x.shape[-2:]
    rows = []
    for row in range(-before, n_rows + after):
        n_crossed, at = divmod(row, n_rows)
        line = np.roll(x[..., n_rows - 1 - at if n_crossed % 2 else at, :], n_crossed * (n_columns // 2), -1)
        rows.append(line * np.array([[1], [(-1) ** n_crossed]], x.dtype))
    return np.stack(rows, -2)


def whole(x: np.ndarray, edge: str, step: int) -> np.ndarray:
    """Return one pass over (time, channel, lat, lon), padded where the network pads nothing."""
    n_rows, reach = x.shape[-2], 6 if step == 2 else 4
    if edge == "pole":
        x = over_poles(x, reach, reach + n_rows % step)
    if edge in ("wrap", "pole"):
        x = np.pad(x, [(0, 0)] * 3 + [(reach, reach)], mode="wrap")
    with torch.inference_mode():
        return network(edge, step)(torch.from_numpy(np.ascontiguousarray(x))).numpy()[..., :n_rows, :]


def write(path, x: np.ndarray, case: Case) -> None:
    """Write (time, channel, lat, lon) as a file of a temperature and a wind."""
    n_lat, n_lon = case.shape
    lat = ((np.arange(n_lat) + 0.5) / n_lat - 0.5) * 180
    lon = case.first_lon + np.arange(n_lon + case.is_doubled) * 360 / n_lon
    x = x[..., np.arange(n_lon + case.is_doubled) % n_lon]
    fields = {
        name: (("time", "lat", "lon"), x[:, i], {"standard_name": kind})
        for i, (name, kind) in enumerate({"t": "air_temperature", "v": "northward_wind"}.items())
    }
    xr.Dataset(fields, {"time": [0.0], "lat": lat[::-1] if case.is_descending else lat, "lon": lon}).to_netcdf(path)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", CASES)
def test_tiles_of_a_globe_equal_the_whole_pass(tmp_path, name, edge):
    case = CASES[name]
    n_lat, n_lon = case.shape
    x = smooth((1, 2, n_lat, n_lon))
    write(tmp_path / "in.nc", x, case)
    tile, block = ((n[0], n_lon) if edge == "cap" else n for n in (case.tile, case.block))
    options = engine.Options(tile=tile, block=block, edges=EDGES[edge], threads=2)
    url, model = str(tmp_path / "out.zarr"), network(edge, case.step)
    if (name, edge) in REFUSED:
        with pytest.raises(EngineError, match=REFUSED[name, edge]):
            engine.run(str(tmp_path / "in.nc"), model, url, options=options)
        return
    report = engine.run(str(tmp_path / "in.nc"), model, url, options=options)
    found = xr.open_zarr(f"{url}/output", consolidated=False)["output"].to_numpy()
    wanted = whole(x, edge, case.step)
    assert report.is_complete
    assert (report.plan.n_tiles == 1) == (name == "one tile")
    assert wanted.std(axis=(-1, -2)).min() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-6)
