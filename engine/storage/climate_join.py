"""Whether the files of a climate source fit together, and whether a doubled column is one."""

import numpy as np

from engine.errors import IngestError
from engine.storage.climate_channels import ChannelSet, find_channels
from engine.storage.climate_choice import ClimateChoice
from engine.storage.climate_files import ClimateFiles
from engine.storage.climate_grid import GlobeGrid, check_same_grid, find_grid


def check_alike(files: ClimateFiles, grid: GlobeGrid, channels: ChannelSet, *, choice: ClimateChoice) -> None:
    """Refuse files that do not go on with what the first one holds.

    Raises:
        IngestError: If one lies on another grid, or holds other channels.
    """
    first, names = files.places[0], channels.variables
    wanted = ClimateChoice(names, choice.levels, choice.level)
    for number, path in enumerate(files.places[1:], start=1):
        dataset = files.dataset(number)
        other = find_grid(dataset, path=path, variables=names, box=choice.box)
        check_same_grid(grid, other, paths=(first, path))
        found = find_channels(dataset, other, path=path, choice=wanted).channels
        if found != channels.channels:
            pairs = zip(channels.channels, found, strict=False)
            differing = [b.name for a, b in pairs if a != b] or len(found)
            raise IngestError(
                f"files that are joined in time must hold the same channels, and those of '{path}' differ from "
                f"those of '{first}' ({differing}). Choose common ones with --variables."
            )


def check_cyclic_column(files: ClimateFiles, grid: GlobeGrid, channels: ChannelSet) -> None:
    """Refuse a doubled longitude whose last column is not a copy of the first; the first moment is looked at.

    Raises:
        IngestError: If it is none.
    """
    if not grid.has_cyclic_column:
        return
    at = {grid.lon: [0, -1]} | ({grid.time: 0} if grid.time else {})
    for variable in channels.variables:
        ends = files.dataset(0)[variable].isel(at, missing_dims="ignore").transpose(grid.lon, ...)
        first, last = np.asarray(ends.values)
        if not np.array_equal(first, last, equal_nan=first.dtype.kind == "f"):
            raise IngestError(
                f"longitude '{grid.lon}' of '{files.places[0]}' ends where it began, so its last column must "
                f"repeat the first, and that of '{variable}' does not. Remove the last column."
            )
