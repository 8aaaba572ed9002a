"""Ingested voxels equal what each field's own reader gives; a broken ingest goes on and leaves the same bits."""

import gzip
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import openslide
import pytest
import tifffile
import xarray as xr

from engine.errors import EngineError, IngestError, VolumeError
from engine.geometry.edges import EdgeKind
from engine.geometry.region import Region
from engine.storage.ingest import ingest
from engine.storage.pyramid import reduce_mean
from engine.storage.volume import open_volume

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = pytest.mark.skipif(not DATA.exists(), reason=f"the real volumes are not beside the repository, at {DATA.name}")
SMALL = {"chunk_shape": (3, 64, 64), "shard_shape": (3, 128, 128)}


def write_slide(path: Path, *, shape=(300, 420), resolution=20000) -> Path:
    pixels = np.random.default_rng(3).integers(0, 255, (*shape, 3)).astype("uint8")
    said = {"resolution": (resolution, resolution), "resolutionunit": "CENTIMETER"} if resolution else {}
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", **said)
    return path


def write_scan(path: Path, *, shape=(40, 50, 70), dtype="int16", slope=None) -> Path:
    voxels = np.random.default_rng(3).integers(-900, 900, shape).astype(dtype)
    image = nibabel.Nifti1Image(voxels, np.diag([0.8, 0.9, 2.5, 1]))
    image.header.set_xyzt_units("mm", "sec")
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


def write_climate(path: Path, *, first_time=0, lon=None, lat=None, lon_first=False, units="degrees_east") -> Path:
    lon = np.arange(0, 360, 15.0) if lon is None else lon
    lat = np.linspace(85, -85, 9) if lat is None else lat
    fields = np.random.default_rng(first_time).normal(size=(2, 3, len(lat), len(lon))).astype("float32")
    if np.isclose(lon[-1] - lon[0], 360):
        fields[..., -1] = fields[..., 0]
    fields[0, 1, 2, 3] = np.nan
    dataset = xr.Dataset(
        {
            "t": (("time", "lev", "lat", "lon"), fields, {"units": "K", "standard_name": "air_temperature"}),
            "ps": (("time", "lat", "lon"), fields[:, 0] + 5, {"units": "hPa"}),
            "gw": (("lat",), np.cos(np.radians(lat))),
        },
        coords={
            "time": ("time", first_time + np.arange(2.0), {"units": "days since 2001-01-01"}),
            "lev": ("lev", [850.0, 500.0, 250.0], {"units": "hPa"}),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": units} if units else {}),
        },
    )
    dataset = dataset.transpose("time", "lon", "lev", "lat") if lon_first else dataset
    dataset.to_netcdf(path)
    return path


def whole(volume):
    return volume.read(Region.whole(volume.shape))


def slide_oracle(path):
    with openslide.OpenSlide(path) as slide:
        pixels = slide.read_region((0, 0), 0, slide.dimensions)
    from PIL import Image

    canvas = Image.new("RGB", pixels.size, "white")
    canvas.paste(pixels, mask=pixels)
    return np.asarray(canvas).transpose(2, 0, 1)


def objects(url) -> dict[str, str]:
    root = Path(url)
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def check_slide(path, tmp_path, **options):
    volume = ingest(path, str(tmp_path / "out.zarr"), **options)
    oracle = slide_oracle(path)
    assert oracle.std() > 0
    assert volume.levels[0].grid.n_cells > 3
    assert np.array_equal(whole(volume), oracle)
    for level in range(1, len(volume.levels)):
        oracle = reduce_mean(oracle, (1, 2, 2))
        assert np.array_equal(volume.read(Region.whole(oracle.shape), level=level), oracle)
    return volume


def test_a_slide_equals_openslide(tmp_path):
    volume = check_slide(write_slide(tmp_path / "a.tiff"), tmp_path, n_levels=3, **SMALL)
    assert [axis.spacing for axis in volume.axes] == [1, 0.5, 0.5]
    assert volume.axes[1].unit == "micrometer"


@pytest.mark.real
@REAL
def test_the_real_slide_equals_openslide(tmp_path):
    volume = check_slide(DATA / "slide/CMU-1-Small-Region.svs", tmp_path)
    assert volume.axes[1].spacing == 0.499
    assert len(volume.levels) == 4


def check_scan(path, tmp_path, **options):
    volume = ingest(path, str(tmp_path / "out.zarr"), **options)
    image = nibabel.load(path)
    oracle = np.asarray(image.dataobj).T
    assert oracle.std() > 0
    assert np.array_equal(whole(volume), oracle.astype(volume.dtype))
    scan = volume.attributes["scan"]
    assert np.array_equal(scan["affine"], image.affine)
    assert tuple(scan["axcodes"]) == nibabel.aff2axcodes(image.affine)
    assert scan["format"] == "nifti"
    assert scan["nifti"]["sform_code"] == image.header["sform_code"]
    return volume


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_a_scan_equals_nibabel(tmp_path, name):
    options = {"chunk_shape": (16, 16, 16), "shard_shape": (32, 32, 32), "n_levels": 2}
    volume = check_scan(write_scan(tmp_path / name), tmp_path, **options)
    assert volume.dtype == np.dtype("int16")
    assert [round(axis.spacing, 6) for axis in volume.axes] == [2.5, 0.9, 0.8]
    assert volume.levels[0].grid.n_cells == 12


def test_a_scaled_scan_in_time_equals_nibabel(tmp_path):
    path = write_scan(tmp_path / "a.nii.gz", shape=(20, 21, 22, 3), slope=(0.25, -3.0))
    volume = check_scan(path, tmp_path)
    assert volume.dtype == np.dtype("float32")
    assert [axis.name for axis in volume.axes] == ["t", "z", "y", "x"]


@pytest.mark.real
@REAL
@pytest.mark.parametrize("name", ["totalsegmentator_example_ct.nii.gz", "t1_brain.nii.gz"])
def test_real_scans_equal_nibabel(tmp_path, name):
    check_scan(DATA / "ct" / name, tmp_path)


def check_climate(paths, tmp_path, variables, **options):
    volume = ingest(paths, str(tmp_path / "out.zarr"), variables=variables, **options)
    opened = xr.open_zarr(volume.url, consolidated=False, decode_times=False)
    oracles = [xr.open_dataset(path, decode_times=False) for path in paths]
    for channel, record in enumerate(volume.attributes["channels"]):
        at = {record["axis"]: record["index"]} if "axis" in record else {}
        fields = [o[record["variable"]].isel(at).rename({}) for o in oracles]
        names = [n for n in ("time", "lat", "latitude", "lon", "longitude") if n in fields[0].dims]
        oracle = np.concatenate([f.transpose(*names).values for f in fields], axis=0)
        assert np.nanstd(oracle) > 0
        found = opened["values"].isel(channel=channel)
        assert np.array_equal(found.values, oracle[..., : found.shape[-1]], equal_nan=True)
        assert str(found.channel_name.values) == record["name"]
    return volume, opened


@pytest.mark.parametrize("lon_first", [False, True])
def test_a_climate_grid_equals_xarray(tmp_path, lon_first):
    paths = [write_climate(tmp_path / f"{i}.nc", first_time=2 * i, lon_first=lon_first) for i in range(3)]
    volume, opened = check_climate(paths, tmp_path, None)
    assert volume.shape == (6, 4, 9, 24)
    assert {k: e.kind for k, e in volume.edges.items()} == {"lon": EdgeKind.WRAP}
    assert list(opened.channel_name.values) == ["t_850", "t_500", "t_250", "ps"]
    assert list(opened.time.values) == [0, 1, 2, 3, 4, 5]
    assert opened.lat.attrs["standard_name"] == "latitude"
    assert opened.time.attrs["units"] == "days since 2001-01-01"
    assert "gw" in opened.coords
    assert np.isnan(opened["values"].values).sum() == 3


@pytest.mark.real
@REAL
def test_real_climate_grids_equal_xarray(tmp_path):
    variables = ["sea_surface_temperature", "temperature"]
    era = [DATA / "climate/era5_tl31_19590102T00.nc"]
    volume, opened = check_climate(era, tmp_path, variables)
    assert volume.shape == (38, 32, 64)
    assert volume.edges["lon"].kind is EdgeKind.WRAP
    assert "time" in opened.coords


@pytest.mark.parametrize(
    ("lon", "is_periodic", "n"),
    [
        (np.arange(0, 360, 15.0), True, 24),  # round the globe
        (np.arange(0, 361, 15.0), True, 24),  # with the first column repeated
        (np.arange(-20, 40, 5.0), False, 12),  # a region
        (np.r_[np.arange(0, 180, 15.0), np.arange(-180, 0, 15.0)], True, 24),  # with the date line inside
        (np.array([0.0, 10, 30, 350]), False, 4),  # uneven
    ],
)
def test_longitude_is_periodic_where_equal_steps_go_round(tmp_path, lon, is_periodic, n):
    volume = ingest(write_climate(tmp_path / "a.nc", lon=lon, units=None), str(tmp_path / "out.zarr"))
    assert ("lon" in volume.edges) == is_periodic
    assert volume.shape[-1] == n
    assert ("notes" in volume.attributes["haloengine"]["source"]) == (n < len(lon))


BAD = {
    "slide that is missing": (lambda p: p / "a.svs", "nothing is at"),
    "slide of zero bytes": (lambda p: touch(p / "a.svs", b""), "0 bytes"),
    "text named as a slide": (lambda p: touch(p / "a.svs", b"hello"), "unreadable"),
    "slide without a resolution": (lambda p: write_slide(p / "a.tiff", resolution=None), "--spacing"),
    "folder without a slide": (lambda p: p, "is a folder"),
    "ending that nobody knows": (lambda p: touch(p / "a.docx", b"x"), "'.docx'"),
    "truncated scan": (lambda p: truncated(write_scan(p / "a.nii.gz")), "truncated or damaged"),
    "text named as a scan": (lambda p: touch(p / "a.nii.gz", b"hello"), "no such header"),
    "compressed text named as a scan": (lambda p: touch(p / "a.nii.gz", gzip.compress(b"x" * 999)), "no such header"),
    "scan without a spacing": (lambda p: unspaced(write_scan(p / "a.nii"), 0.0), "--spacing"),
    "scan with a spacing of NaN": (lambda p: unspaced(write_scan(p / "a.nii"), float("nan")), "--spacing"),
    "scan of colours": (lambda p: coloured(p / "a.nii"), "voxels must be"),
    "text named as NetCDF": (lambda p: touch(p / "a.nc", b"hello"), "does not open"),
    "NetCDF without a grid": (lambda p: to_netcdf(p / "a.nc", {"v": ("q", [1.0, 2.0])}), "latitude axis"),
}


def touch(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def truncated(path: Path) -> Path:
    return touch(path, path.read_bytes()[: path.stat().st_size // 2])


def unspaced(path: Path, step: float) -> Path:
    data = bytearray(path.read_bytes())
    data[80:84] = np.float32(step).tobytes()
    return touch(path, bytes(data))


def coloured(path: Path) -> Path:
    voxels = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def to_netcdf(path: Path, variables) -> Path:
    xr.Dataset(variables).to_netcdf(path)
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_bad_source_is_refused_in_one_line_and_leaves_nothing(tmp_path, case):
    build, words = BAD[case]
    with pytest.raises(IngestError) as caught:
        ingest(build(tmp_path), str(tmp_path / "out.zarr"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.real
@REAL
def test_the_real_broken_slide_is_refused(tmp_path):
    with pytest.raises(IngestError, match="damaged"):
        ingest(DATA / "slide/broken.svs", str(tmp_path / "out.zarr"))


def test_a_spacing_by_hand_helps(tmp_path):
    slide = ingest(write_slide(tmp_path / "a.tiff", resolution=None), str(tmp_path / "a.zarr"), spacing=(0.25,))
    assert [axis.spacing for axis in slide.axes] == [1, 0.25, 0.25]
    scan = ingest(unspaced(write_scan(tmp_path / "a.nii"), 0.0), str(tmp_path / "b.zarr"), spacing=(3, 1, 2))
    assert [axis.spacing for axis in scan.axes] == [3, 1, 2]


def test_files_of_different_grids_are_not_joined(tmp_path):
    first, second = (
        write_climate(tmp_path / "a.nc"),
        write_climate(tmp_path / "b.nc", lat=np.linspace(80, -80, 9), first_time=2),
    )
    with pytest.raises(IngestError, match=r"axis 'lat' of '.*b.nc' has 9 values, 80 to -80.*a.nc' 9 values, 85 to -85"):
        ingest([first, second], str(tmp_path / "out.zarr"))
    with pytest.raises(IngestError, match="follow each other in time"):
        ingest([first, first], str(tmp_path / "out.zarr"))
    with pytest.raises(IngestError, match="Did you mean 'ps'"):
        ingest(first, str(tmp_path / "out.zarr"), variables=["pss"])


def test_a_broken_ingest_goes_on_with_the_same_bits(tmp_path):
    source, options = write_slide(tmp_path / "a.tiff"), {"n_levels": 3, **SMALL}
    ingest(source, str(tmp_path / "whole.zarr"), **options)
    url, told = str(tmp_path / "broken.zarr"), []

    def stop(done, total, n_bytes):
        told.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, url, progress=stop, **options)
    with pytest.raises(VolumeError, match="broken off"):
        open_volume(url)
    other = write_slide(tmp_path / "b.tiff", shape=(301, 420))
    with pytest.raises(IngestError, match=r"another source.*files, sha256 differ"):
        ingest(other, url, **options)
    ingest(source, url, progress=lambda *now: told.append(now[:2]), **options)
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))
    undisturbed, resumed = objects(tmp_path / "whole.zarr"), objects(url)
    assert len(set(undisturbed.values())) > 10
    assert {k: v for k, v in resumed.items() if k != "zarr.json"} == {
        k: v for k, v in undisturbed.items() if k != "zarr.json"
    }
    ingest(source, url, progress=lambda *now: pytest.fail("a finished volume is not made again"), **options)


def test_a_lost_shard_is_not_read_as_zeros(tmp_path):
    volume = ingest(write_slide(tmp_path / "a.tiff"), str(tmp_path / "out.zarr"), **SMALL)
    (tmp_path / "out.zarr/0/c/0/1/2").unlink()
    assert volume.read(Region((0, 0, 0), (3, 128, 128))).std() > 0
    with pytest.raises(VolumeError, match=r"0/c/0/1/2' is missing"):
        volume.read(Region((0, 0, 0), (3, 200, 300)))


KILLED = """
import sys, os, signal
from engine.storage.ingest import ingest
def kill(done, total, n_bytes):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
ingest(sys.argv[1], sys.argv[2], progress=kill, chunk_shape=(16, 16, 16), shard_shape=(32, 32, 32), n_levels=2)
"""


def test_a_killed_ingest_goes_on_with_the_same_bits(tmp_path):
    source, url = write_scan(tmp_path / "a.nii.gz"), str(tmp_path / "killed" / "a.zarr")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(source), url], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    options = {"chunk_shape": (16, 16, 16), "shard_shape": (32, 32, 32), "n_levels": 2}
    ingest(source, str(tmp_path / "a.zarr"), **options)
    ingest(source, url, **options)
    assert objects(url) == objects(tmp_path / "a.zarr")


def test_a_target_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(EngineError, match=r"out\.zarr"):
        ingest(write_slide(tmp_path / "a.tiff"), str(tmp_path / "out.zarr"))
