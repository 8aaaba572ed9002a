"""One generated field, and the files of each format that hold it."""

from pathlib import Path

import eccodes
import numpy as np
import xarray as xr

LEVELS = (850.0, 500.0, 250.0)


def globe(*, first_time=0, n_times=2, lat=None, lon=None, variables=("t", "u"), seed=0) -> xr.Dataset:
    """Return a field (time, level, lat, lon) of each variable, and surface pressure, float32, on a CF grid."""
    lat = np.linspace(90, -90, 7) if lat is None else np.asarray(lat)
    lon = np.arange(0, 360, 30.0) if lon is None else np.asarray(lon)
    said = {
        "t": {"units": "K", "standard_name": "air_temperature", "cell_methods": "time: mean"},
        "u": {"units": "m s-1", "standard_name": "eastward_wind"},
    }
    random = np.random.default_rng([seed, first_time])
    shape = (n_times, len(LEVELS), len(lat), len(lon))
    fields = {
        name: (("time", "level", "lat", "lon"), random.normal(250, 20, shape).astype("float32"), said[name])
        for name in variables
    }
    return xr.Dataset(
        {
            **fields,
            "sp": (
                ("time", "lat", "lon"),
                random.normal(1e5, 1e3, (n_times, *shape[2:])).astype("float32"),
                {"units": "Pa", "standard_name": "surface_air_pressure"},
            ),
        },
        coords={
            "time": (
                "time",
                first_time + np.arange(n_times),
                {"units": "days since 2001-01-01", "standard_name": "time"},
            ),
            "level": ("level", np.array(LEVELS), {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}),
            "lat": ("lat", lat, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", lon, {"units": "degrees_east", "standard_name": "longitude"}),
        },
        attrs={"title": "a made-up globe", "Conventions": "CF-1.6"},
    )


def to_netcdf(dataset: xr.Dataset, path: Path) -> Path:
    dataset.to_netcdf(path)
    return path


def to_zarr(dataset: xr.Dataset, path: Path, *, zarr_format: int) -> Path:
    """Write a store as ARCO-ERA5 and WeatherBench2 have it: a globe and all its levels in a chunk, one per step."""
    chunks = {
        name: {"chunks": (1, *array.shape[1:])} for name, array in dataset.data_vars.items() if "time" in array.dims
    }
    dataset.to_zarr(path, encoding=chunks, zarr_format=zarr_format, consolidated=zarr_format == 2)
    return path


def to_grib(
    dataset: xr.Dataset,
    path: Path,
    *,
    hours: dict[int, int] | None = None,
    member: int | None = None,
    pv: np.ndarray | None = None,
) -> Path:
    """Write a GRIB 2 file, a message per field, its numbers as they are (IEEE).

    Args:
        dataset: The fields; a time is a day of January 2001.
        path: Where.
        hours: By time, hours of a forecast that began on the first of January, where it is one.
        member: Of an ensemble.
        pv: Coefficients of hybrid levels: levels are such, by their number, and not pressures.
    """
    with path.open("wb") as file:
        for name, array in dataset.data_vars.items():
            for step in range(dataset.sizes["time"]):
                fields = array.isel(time=step)
                for level in fields["level"].values if "level" in fields.dims else [None]:
                    one = fields if level is None else fields.sel(level=level)
                    day = int(dataset["time"].values[step])
                    hour = (hours or {}).get(day)
                    when = {"dataDate": 20010101 + (day if hour is None else 0), "stepRange": str(hour or 0)}
                    _write_message(file, str(name), one, when=when, level=level, member=member, pv=pv)
    return path


def _write_message(
    file, name: str, field: xr.DataArray, *, when: dict, level: float | None, member: int | None, pv: np.ndarray | None
) -> None:
    lat, lon = field["lat"].values, field["lon"].values
    message = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
    ensemble = {} if member is None else {"productDefinitionTemplateNumber": 1, "perturbationNumber": member}
    keys = {
        "Ni": len(lon),
        "Nj": len(lat),
        "latitudeOfFirstGridPointInDegrees": lat[0],
        "latitudeOfLastGridPointInDegrees": lat[-1],
        "longitudeOfFirstGridPointInDegrees": lon[0],
        "longitudeOfLastGridPointInDegrees": lon[-1],
        "iDirectionIncrementInDegrees": lon[1] - lon[0],
        "jDirectionIncrementInDegrees": abs(lat[1] - lat[0]),
        **ensemble,
        **when,
        "dataTime": 0,
        "typeOfLevel": "surface" if level is None else "isobaricInhPa" if pv is None else "hybrid",
        "level": 0 if level is None else int(level),
        "shortName": name,
        "packingType": "grid_ieee",
    }
    for key, value in keys.items():
        eccodes.codes_set(message, key, value.item() if isinstance(value, np.generic) else value)
    if pv is not None and level is not None:
        eccodes.codes_set(message, "PVPresent", 1)
        eccodes.codes_set_double_array(message, "pv", pv)
    eccodes.codes_set_values(message, field.values.astype("float64").ravel())
    eccodes.codes_write(message, file)
    eccodes.codes_release(message)
