"""The command that measures how thick a layer is: thickness."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli_options import AxisNames, JsonFile, numbers
from engine.measure.thickness import save_thickness, thickness
from engine.measure.thickness_picture import draw
from engine.show import print_rows, spinner


def thickness_command(
    labels: Annotated[str, typer.Argument(help="Volume of labels, as out.zarr/labels/label.")],
    output: Annotated[str, typer.Argument(help="Volume to write: the thickness at each voxel, in millimetre.")],
    layer: Annotated[int, typer.Option(help="Label of the layer.")],
    beneath: Annotated[
        int | None, typer.Option(help="Label that it lies on: measure its height over that, not its local thickness.")
    ] = None,
    max_mm: Annotated[float, typer.Option("--max-mm", help="What is thicker is refused.")] = 20.0,
    spacing: Annotated[
        str | None, typer.Option(help="Millimetre per space axis where the volume does not say: 3,0.7,0.7.")
    ] = None,
    axes: AxisNames = None,
    picture_file: Annotated[Path | None, typer.Option("--picture", help="Draw the layer here, as PNG.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Save the statistics here.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure the thickness of a layer in millimetre: minimum, median, maximum, and a map of it."""
    steps = None if spacing is None else numbers(spacing, "--spacing", float)
    with spinner() as tell:
        found = thickness(
            labels,
            output,
            layer=layer,
            beneath=beneath,
            max_mm=max_mm,
            axes=axes,
            spacing=steps,
            progress=lambda done, total: tell(f"{done} of {total} blocks"),
        )
        for path in (csv_file, json_file):
            if path is not None:
                save_thickness(path, found)
        if picture_file is not None:
            draw(picture_file, found, axes=axes, spacing=steps)
    print_rows(
        [
            ("layer", f"label {layer}, {found.n_voxels:,} voxels"),
            ("method", found.method if beneath is None else f"{found.method} over label {beneath}"),
            ("measured", f"{found.n_measured:,} voxels"),
            ("minimum", f"{found.minimum_mm:.3f} mm, 5th percentile {found.percentile_5_mm:.3f}"),
            ("median", f"{found.median_mm:.3f} mm, mean {found.mean_mm:.3f}"),
            ("maximum", f"{found.maximum_mm:.3f} mm, 95th percentile {found.percentile_95_mm:.3f}"),
            ("map", found.map_url),
        ],
        title="Thickness",
    )
