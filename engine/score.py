"""A slide's score from the features of its patches, with the map of what counted: a volume and a figure."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import floor, log10
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from engine.errors import UsageError, VolumeError
from engine.geometry.axes import Axis, Role, positions
from engine.geometry.region import Region
from engine.models.mil import aggregate
from engine.models.mil_weights import load_aggregator
from engine.storage.create import create_volume
from engine.storage.features import FeatureBag, bag_of, cells_of, on_cells, read_features
from engine.storage.volume import Readable, open_volume

FEATURE_FILES = (".h5", ".hdf5")

THUMBNAIL_SIDE = 2048
"""Pixels along the longest side of the level that the figure lies on, at most, where the pyramid goes so far."""

LARGEST_THUMBNAIL = 2**28
"""Voxels of that level, at most: a slide without a pyramid is not read whole for a figure."""

KEY = "score"
"""The attribute of the attention volume that holds the score."""


@dataclass(frozen=True, slots=True)
class SlideScore:
    """What an aggregator says of a slide."""

    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    """Per class: of a softmax, or of sigmoids where classes do not exclude each other."""
    n_instances: int
    """Patches in the bag."""
    n_effective: float
    """1 / sum of squared attention: how many patches the score rests on, between 1 and n_instances."""
    largest_attention: float
    attention: str
    """URL of the map: float32 on the feature grid, 0 where there is no instance."""
    coverage: str
    """URL of the map of where instances are: uint8, 0 or 1."""
    figure: str
    """Path of the PNG."""


@dataclass(frozen=True, eq=False)
class _Placed:
    """A bag on its grid in physical space."""

    bag: FeatureBag
    positions: NDArray[np.int64]
    """(n, 2): row and column of each instance."""
    axes: tuple[Axis, Axis]
    origin: tuple[float, float]
    """Place of the first cell's centre."""
    on_grid: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.bool_]]]
    """Lays values of the instances on the grid, and says where there are any."""


def score(
    features: str,
    aggregator: Any,  # noqa: ANN401 -- a module, and torch is not known here
    *,
    output: str,
    thumbnail: str | None = None,
    mask: str | NDArray[np.bool_] | None = None,
) -> SlideScore:
    """Score a slide from its features, and write the attention as a volume, its coverage, and a figure.

    Args:
        features: URL of a feature grid (c, y, x), or path of a feature file (.h5) as CLAM and TRIDENT write it.
        aggregator: A module, ``clam@weights``, ``dsmil@weights`` or ``file.py:factory[@weights]``.
        output: Folder for ``attention``, ``coverage`` and ``attention.png``; none of them may exist.
        thumbnail: URL of the slide as a volume, for the figure to lie on.
        mask: Which cells of a feature grid belong to the bag: (y, x), or the URL of such a volume. All, where not
            given: a feature vector is never left out for its values, be they all zero.

    Raises:
        ModelError: If the aggregator cannot be loaded, or does not fit the features.
        UsageError: If a mask is given beside a feature file.
        VolumeError: If features, mask or thumbnail cannot be read, or the output cannot be written.
    """
    slide = open_volume(thumbnail) if thumbnail else None
    if features.endswith(FEATURE_FILES):
        if mask is not None:
            raise UsageError(
                f"a mask chooses cells of a grid, and '{features}' is a file of chosen patches. Leave it out."
            )
        placed = _from_file(features, slide)
    else:
        placed = _from_grid(features, mask)
    module = load_aggregator(aggregator)
    scored = aggregate(module, placed.bag.features, placed.positions)
    result = SlideScore(
        logits=tuple(map(float, scored.logits)),
        probabilities=tuple(map(float, scored.probabilities)),
        n_instances=len(placed.bag),
        n_effective=float(1 / np.square(scored.attention, dtype=np.float64).sum()),
        largest_attention=float(scored.attention.max()),
        attention=f"{output}/attention",
        coverage=f"{output}/coverage",
        figure=f"{output}/attention.png",
    )
    attention, is_covered = placed.on_grid(scored.attention)
    name = aggregator if isinstance(aggregator, str) else type(module).__name__
    facts = {**asdict(result), "features": features, "aggregator": name}
    _store(result.attention, attention, placed, {KEY: facts})
    _store(result.coverage, is_covered.astype(np.uint8), placed, {})
    draw(result.figure, placed.on_grid(percentiles(scored.attention)), placed.axes, placed.origin, slide=slide)
    return result


def _from_grid(url: str, mask: str | NDArray[np.bool_] | None) -> _Placed:
    volume = open_volume(url)
    chosen = _read_mask(mask) if isinstance(mask, str) else mask
    bag = bag_of(volume, mask=chosen)
    cells = bag.coords[:, ::-1]
    shape = volume.shape[1:]

    def on_grid(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        grid, is_covered = np.zeros(shape, np.float32), np.zeros(shape, bool)
        grid[cells[:, 0], cells[:, 1]] = values
        is_covered[cells[:, 0], cells[:, 1]] = True
        return grid, is_covered

    _, y, x = volume.levels[0].translation
    return _Placed(bag, cells, (volume.axes[1], volume.axes[2]), (y, x), on_grid)


def _read_mask(url: str) -> NDArray[np.bool_]:
    volume = open_volume(url)
    if tuple(axis.role for axis in volume.axes) != (Role.SPACE, Role.SPACE):
        names = tuple(axis.name for axis in volume.axes)
        raise VolumeError(f"a mask has axes (y, x), not {names} as '{url}'. Name a volume without channels.")
    found: NDArray[np.bool_] = volume.read(Region.whole(volume.shape)) != 0
    return found


def _from_file(path: str, slide: Readable | None) -> _Placed:
    """Return the bag of a feature file; its pixels are those of the slide, where one is given."""
    bag = read_features(path)
    cells = cells_of(bag)
    yx = [slide.axes[i] for i in positions(slide.axes, Role.SPACE)] if slide else [Axis(n, Role.SPACE) for n in "yx"]
    start = [slide.levels[0].translation[i] for i in positions(slide.axes, Role.SPACE)] if slide else [0.0, 0.0]
    side = int(bag.attributes.get("patch_size_level0", 0)) or cells.step[0]
    axes = [replace(axis, spacing=axis.spacing * step) for axis, step in zip(yx, cells.step, strict=True)]
    centre = [s + (o + (side - 1) / 2) * axis.spacing for s, o, axis in zip(start, cells.origin, yx, strict=True)]
    return _Placed(
        bag, cells.positions, (axes[0], axes[1]), (centre[0], centre[1]), lambda values: on_cells(cells, values)
    )


def _store(url: str, grid: NDArray[Any], placed: _Placed, attributes: dict[str, Any]) -> None:
    chunk = tuple(min(512, n) for n in grid.shape)
    volume = create_volume(
        url,
        axes=placed.axes,
        dtype=grid.dtype,
        shape=grid.shape,
        chunk_shape=chunk,
        origin=placed.origin,
        attributes=attributes,
    )
    volume.write(Region.whole(grid.shape), grid)


def percentiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each value the share of values below it, equal ones counting half: between 0 and 1.

    >>> percentiles(np.array([5, 1, 5, 9], np.float32)).tolist()
    [0.5, 0.125, 0.5, 0.875]
    """
    ordered = np.sort(values)
    below, not_above = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return ((below + not_above) / (2 * len(values))).astype(np.float32)


def draw(
    path: str,
    ranked: tuple[NDArray[np.float32], NDArray[np.bool_]],
    axes: tuple[Axis, Axis],
    origin: tuple[float, float],
    *,
    slide: Readable | None,
) -> None:
    """Draw ranked attention as colour, over the slide where one is given, with a scale bar; needs no display.

    Raises:
        VolumeError: If the slide cannot be read, or the file not be written.
    """
    figure = Figure(figsize=(8, 8), layout="constrained")
    plot = figure.add_subplot()
    if slide is not None:
        _draw_slide(plot, slide)
        plot.autoscale(False)  # the figure shows the whole slide, not the grid's box only
    shown = np.ma.masked_where(~ranked[1], ranked[0])
    box = _box(ranked[0].shape, tuple(axis.spacing for axis in axes), origin)
    mapped = plot.imshow(
        shown, cmap="magma", vmin=0, vmax=1, alpha=0.6 if slide else 1.0, extent=box, interpolation="nearest"
    )
    if slide is None:
        plot.set_facecolor("0.9")
    plot.set_xticks([])
    plot.set_yticks([])
    _draw_scale_bar(plot, axes[1].unit)
    figure.colorbar(mapped, ax=plot, label="attention (percentile among the slide's patches)", shrink=0.7)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=150, bbox_inches="tight")
    except OSError as error:
        raise VolumeError(
            f"cannot write the figure '{path}': {error}. Give a local folder that you may write."
        ) from error


def _box(
    shape: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """Return (left, right, bottom, top) of an array whose first voxel's centre is at ``origin``, (y, x)."""
    (n_rows, n_columns), (dy, dx), (y, x) = shape, spacing, origin
    return x - dx / 2, x + (n_columns - 0.5) * dx, y + (n_rows - 0.5) * dy, y - dy / 2


def _draw_slide(plot: Any, slide: Readable) -> None:  # noqa: ANN401 -- matplotlib's axes
    space = positions(slide.axes, Role.SPACE)
    fits = (n for n, level in enumerate(slide.levels) if max(level.shape[i] for i in space) <= THUMBNAIL_SIDE)
    number = next(fits, len(slide.levels) - 1)
    level = slide.levels[number]
    if len(space) != 2 or len(slide.axes) != 3 or np.prod(level.shape) > LARGEST_THUMBNAIL:
        names = tuple(axis.name for axis in slide.axes)
        raise VolumeError(
            f"a thumbnail needs a slide (c, y, x) with a small level, not {names} of {level.shape} as '{slide.url}'. "
            "Ingest it with a pyramid."
        )
    colours = np.moveaxis(slide.read(Region.whole(level.shape), level=number), 0, -1)
    colours = colours[..., :3] if colours.shape[-1] >= 3 else colours[..., 0]
    spacing, origin = (tuple(values[i] for i in space) for values in (level.spacing, level.translation))
    plot.imshow(colours, cmap="gray", extent=_box(colours.shape[:2], spacing, origin), interpolation="antialiased")


def _draw_scale_bar(plot: Any, unit: str | None) -> None:  # noqa: ANN401 -- matplotlib's axes
    (left, right), (bottom, top) = plot.get_xlim(), plot.get_ylim()
    length = round_length((right - left) / 5)
    x, y = left + (right - left) * 0.04, bottom - (bottom - top) * 0.04
    thickness = (bottom - top) * 0.012
    plot.add_patch(Rectangle((x, y - thickness), length, thickness, facecolor="black", edgecolor="white"))
    said = f"{length / 1000:g} mm" if unit == "micrometer" and length >= 1000 else f"{length:g} {unit or 'pixels'}"
    text = said.replace("micrometer", "µm")
    plot.text(
        x, y - 2 * thickness, text, va="bottom", color="black", bbox={"facecolor": "white", "alpha": 0.7, "lw": 0}
    )


def round_length(longest: float) -> float:
    """Return the longest of 1, 2, 5 times a power of ten that is no longer.

    >>> round_length(730), round_length(21.0)
    (500.0, 20.0)
    """
    power = 10.0 ** floor(log10(longest))
    return next(step * power for step in (5, 2, 1) if step * power <= longest)
